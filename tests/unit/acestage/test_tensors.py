"""The tensor codec: round trips, chunking, and every way in which a stream can be wrong."""

from __future__ import annotations

import subprocess
import sys

import google_crc32c
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acestage import tensors
from acestage.errors import InvalidArgumentError, TensorCorruptError
from acestage.protos.tensor.v1 import tensor_pb2 as pb
from acestage.tensors import CHUNK_BYTES, TensorDecoder, WireTensor
from services.vae.service import MAX_AUDIO_BYTES

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64)


def decode(chunks: list[pb.TensorChunk]) -> dict[str, WireTensor]:
    decoder = TensorDecoder()
    for chunk in chunks:
        decoder.feed(chunk)
    return decoder.finish()


def wire(name: str = "latents", *shape: int) -> WireTensor:
    return WireTensor.from_torch(
        name, torch.arange(torch.Size(shape or (2, 3)).numel()).reshape(shape or (2, 3)).float()
    )


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_every_tensor_survives_the_wire(shape: list[int], dtype: torch.dtype, seed: int) -> None:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100
    original = noise.to(dtype)
    received = decode(list(tensors.encode(WireTensor.from_torch("x", original))))["x"].to_torch()
    assert received.dtype == dtype
    assert torch.equal(received, original)


def test_large_tensors_travel_in_chunks_of_one_mebibyte() -> None:
    chunks = list(tensors.encode(wire("big", 3, CHUNK_BYTES // 4)))
    assert [len(chunk.data) for chunk in chunks[1:]] == [CHUNK_BYTES] * 3
    assert max(chunk.ByteSize() for chunk in chunks) < 4 << 20


def test_several_tensors_share_a_stream() -> None:
    received = decode([*tensors.encode(wire("a")), *tensors.encode(wire("b", 5))])
    assert {name: tensor.shape for name, tensor in received.items()} == {"a": (2, 3), "b": (5,)}


def test_non_contiguous_tensors_keep_their_values() -> None:
    original = torch.arange(12.0).reshape(3, 4).t()
    assert torch.equal(WireTensor.from_torch("t", original).to_torch(), original)


def spec(**changes: object) -> pb.TensorChunk:
    fields = {
        "name": "x",
        "data_type": pb.DATA_TYPE_FLOAT32,
        "shape": [2],
        "size_bytes": 8,
        "crc32c": google_crc32c.value(b"12345678"),
    } | changes
    return pb.TensorChunk(spec=pb.TensorSpec(**fields))  # type: ignore[arg-type]


def data(value: bytes) -> pb.TensorChunk:
    return pb.TensorChunk(data=value)


@pytest.mark.parametrize(
    ("chunks", "field", "accepted"),
    [
        ([data(b"1234")], "tensor.data", "without a spec"),
        ([pb.TensorChunk()], "tensor.chunk", "expected"),
        ([spec(name="")], "tensor.spec.name", "empty"),
        ([spec(name="x" * 65)], "tensor.spec.name", "has 65 characters; accepted: up to 64"),
        (
            [spec(data_type=pb.DATA_TYPE_UNSPECIFIED)],
            "tensor.x.data_type",
            "float32, float16, bfloat16, int64",
        ),
        ([spec(data_type=99)], "tensor.x.data_type", "99"),
        ([spec(shape=[])], "tensor.x.shape", "at least 1"),
        ([spec(shape=[0])], "tensor.x.shape", "at least 1"),
        ([spec(shape=[-2])], "tensor.x.shape", "at least 1"),
        ([spec(shape=[2**40])], "tensor.x.shape", "up to"),
        ([spec(shape=[2**24 + 1])], "tensor.x.shape", "takes 67108868 bytes; accepted: up to 67108864"),
        ([spec(shape=[1] * 9)], "tensor.x.shape", "has 9 dimensions; accepted: up to 8"),
        ([spec(size_bytes=7)], "tensor.x.size_bytes", "takes 8"),
        ([spec(), data(b"")], "tensor.x.data", "empty"),
        ([spec(), data(b"123456789")], "tensor.x.data", "the spec says 8"),
        ([spec(), data(b"1234")], "tensor.x.data", "ended after 4 of 8"),
        ([spec(), spec()], "tensor.x.data", "a new spec arrived"),
        ([spec(), data(b"12345678"), spec()], "tensor.x.name", "twice"),
    ],
)
def test_a_stream_that_breaks_the_protocol_is_refused(
    chunks: list[pb.TensorChunk], field: str, accepted: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode(chunks)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert accepted in violation.description


def test_flipped_bits_are_detected() -> None:
    with pytest.raises(TensorCorruptError, match=r"tensor\.x\.crc32c"):
        decode([spec(), data(b"12345679")])


@pytest.mark.parametrize(
    ("received", "field"),
    [
        ({}, "tensor.latents"),
        ({"latents": wire("latents", 2, 3)}, "tensor.latents.shape"),
        ({"latents": wire("latents", 2, 3, 4)}, "tensor.latents.shape"),
        ({"latents": WireTensor("latents", "int64", (1, 1, 8), bytes(64))}, "tensor.latents.data_type"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(received: dict[str, WireTensor], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        tensors.require(received, "latents", None, None, 8)
    assert caught.value.violations[0].field == field


def test_an_unknown_name_is_refused_at_its_spec() -> None:
    decoder = TensorDecoder(("latents", "mask"))
    for chunk in tensors.encode(wire("latents")):
        decoder.feed(chunk)
    with pytest.raises(
        InvalidArgumentError, match=r"tensor\.extra: is not expected; accepted: latents, mask"
    ):
        decoder.feed(next(iter(tensors.encode(wire("extra")))))


def test_the_largest_latents_and_the_longest_name_are_accepted() -> None:
    decoder = TensorDecoder()
    shape, name = [8, 15_000, 64], "x" * 64
    decoder.feed(spec(name=name, shape=shape, size_bytes=8 * 15_000 * 64 * 4))
    with pytest.raises(InvalidArgumentError, match="ended after 0 of 30720000 bytes"):
        decoder.finish()


def test_the_codec_does_not_import_torch() -> None:
    code = "import sys, acestage.tensors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_call_may_accept_larger_tensors() -> None:
    """Ten minutes of sound, as only one call takes them."""
    audio = spec(name="audio", shape=[1, 28_800_000, 2], size_bytes=230_400_000)
    TensorDecoder(max_tensor_bytes=MAX_AUDIO_BYTES).feed(audio)
    with pytest.raises(InvalidArgumentError, match="takes 230400000 bytes; accepted: up to 67108864"):
        TensorDecoder().feed(audio)
