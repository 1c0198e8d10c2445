"""Whatever messages carry tensors, they are decoded or refused: no other error comes out.

Examples are the same in every run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import google_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from acestage import tensors
from acestage.errors import InvalidArgumentError, TensorCorruptError
from acestage.protos.tensor.v1 import tensor_pb2 as pb
from acestage.protos.vae.v1.vae_pb2 import DecodeParameters, DecodeRequest
from acestage.tensors import ITEM_BYTES, TensorDecoder, WireTensor
from services.runtime.rpc import tensor_requests

fuzz = settings(derandomize=True, database=None, max_examples=250)

INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.one_of(st.sampled_from(["latents", "mask"]), st.text(max_size=80))
DATA = st.one_of(st.binary(max_size=40), st.sampled_from([bytes(8), bytes(16)]))
CRCS = st.one_of(st.sampled_from([google_crc32c.value(bytes(8)), 0]), st.integers(0, 2**32 - 1))

specs = st.builds(
    pb.TensorSpec,
    name=NAMES,
    data_type=st.one_of(st.integers(0, 4), st.integers(-(2**31), 2**31 - 1)),
    shape=st.lists(st.one_of(st.integers(0, 4), INT64), max_size=10),
    size_bytes=st.one_of(st.integers(0, 32), INT64),
    crc32c=CRCS,
)
sound_tensors = st.builds(
    lambda name, dtype, shape: WireTensor(name, dtype, tuple(shape), bytes(ITEM_BYTES[dtype] * shape[0])),
    NAMES,
    st.sampled_from(list(ITEM_BYTES)),
    st.lists(st.integers(1, 4), min_size=1, max_size=1),
)


@st.composite
def streams(draw: st.DrawFn) -> list[pb.TensorChunk]:
    """Messages of sound tensors, with some of them changed, repeated, lost or made up."""
    chunks: list[pb.TensorChunk] = []
    for tensor in draw(st.lists(sound_tensors, max_size=3)):
        chunks += tensors.encode(tensor)
    made_up = st.one_of(
        st.just(pb.TensorChunk()),
        st.builds(lambda spec: pb.TensorChunk(spec=spec), specs),
        st.builds(lambda data: pb.TensorChunk(data=data), DATA),
    )
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(chunks)))
        chunks[position : position + draw(st.integers(0, 2))] = draw(st.lists(made_up, max_size=2))
    return chunks


@fuzz
@given(chunks=streams(), accepted=st.sampled_from([None, (), ("latents", "mask")]))
def test_streams_of_tensors(chunks: list[pb.TensorChunk], accepted: Sequence[str] | None) -> None:
    decoder = TensorDecoder(accepted)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
        received = decoder.finish()
    except (InvalidArgumentError, TensorCorruptError):
        return
    for name, tensor in received.items():
        assert accepted is None or name in accepted
        assert tuple(tensor.to_torch().shape) == tensor.shape


@fuzz
@given(chunks=streams(), data=st.data())
def test_requests_with_parameters_and_tensors(chunks: list[pb.TensorChunk], data: st.DataObject) -> None:
    messages = [
        DecodeRequest(parameters=DecodeParameters()),
        *(DecodeRequest(tensor=chunk) for chunk in chunks),
    ]
    others = st.sampled_from(
        [DecodeRequest(), DecodeRequest(parameters=DecodeParameters(tile_frame_count=-1))]
    )
    for _ in range(data.draw(st.integers(0, 2))):
        position = data.draw(st.integers(0, len(messages)))
        messages[position : position + data.draw(st.integers(0, 1))] = data.draw(st.lists(others, max_size=1))

    async def stream() -> AsyncIterator[DecodeRequest]:
        for message in messages:
            yield message

    try:
        parameters, received = asyncio.run(tensor_requests.read(stream(), "latents", "mask"))
    except (InvalidArgumentError, TensorCorruptError):
        return
    assert isinstance(parameters, DecodeParameters)
    assert set(received) <= {"latents", "mask"}
