"""The VAE by itself: audio to latents and back, ranges, and latents that come in pieces."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import torch

from acestage import tensors
from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_encoder
from acestage.errors import AcestageError, InvalidArgumentError
from acestage.protos.vae.v1 import vae_pb2 as pb
from acestage.protos.vae.v1 import vae_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from acestage.tensors import TensorDecoder, WireTensor
from tests.running_stack import RunningStack, wait_until

HOP, CHANNELS = 1920, 8
HALO = 9
PIECE_TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _services_live_on(turbo_stack: RunningStack) -> Iterator[None]:
    """After each test nothing is held, nothing runs, and all stages serve."""
    yield
    wait_until(turbo_stack.is_idle, "nothing runs", timeout_s=10.0)
    assert turbo_stack.is_serving()


def sound(frames: int) -> torch.Tensor:
    return 0.3 * torch.randn(1, frames * HOP, 2, generator=torch.Generator().manual_seed(frames))


def noise(items: int, frames: int) -> torch.Tensor:
    return torch.randn(items, frames, CHANNELS, generator=torch.Generator().manual_seed(frames))


def encode(stack: RunningStack, audio: WireTensor, tile_frame_count: int = 0) -> list[pb.EncodeResponse]:
    parameters = pb.EncodeParameters(tile_frame_count=tile_frame_count)
    requests = [pb.EncodeRequest(parameters=parameters)]
    requests += [pb.EncodeRequest(tensor=chunk) for chunk in tensors.encode(audio)]
    with grpc.insecure_channel(stack.address("vae")) as channel:
        try:
            return list(vae_pb2_grpc.VaeServiceStub(channel).Encode(iter(requests), timeout=120))
        except grpc.RpcError as error:
            raise from_rpc_error(error, target="vae") from error


def latents_of(responses: Sequence[pb.EncodeResponse]) -> torch.Tensor:
    decoder = TensorDecoder()
    for response in responses:
        if response.HasField("tensor"):
            decoder.feed(response.tensor)
    return decoder.finish()["latents"].to_torch()


@torch.no_grad()
def test_audio_becomes_the_mean_of_the_posterior(turbo_stack: RunningStack) -> None:
    audio = sound(100)
    responses = encode(turbo_stack, WireTensor.from_torch("audio", audio), 40)
    encoder = load_encoder(open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))).double()
    mean = encoder(audio.double().transpose(1, 2)).chunk(2, dim=1)[0].transpose(1, 2)
    found = latents_of(responses)
    assert found.shape == (1, 100, CHANNELS)
    # In float32 diffusers is 1e-6 off this as well: rounding, in an order of its own.
    assert (found - mean).abs().max() < 2e-6 * mean.abs().max()
    tiles = [response.tile for response in responses if response.HasField("tile")]
    assert [(tile.tile, tile.tile_count) for tile in tiles] == [(1, 3), (2, 3), (3, 3)]
    assert [(tile.frame_count, tile.halo_frame_count) for tile in tiles] == [(40, 7), (40, 14), (20, 7)]
    assert responses[-1].HasField("report")


@pytest.mark.parametrize(
    ("audio", "field", "accepted"),
    [
        (torch.zeros(1, HOP + 1, 2), "tensor.audio.shape", "multiples of 1920 up to 28800000"),
        (torch.zeros(1, 15_001 * HOP, 2), "tensor.audio.shape", "multiples of 1920 up to 28800000"),
        (torch.zeros(1, HOP, 1), "tensor.audio.shape", "[1, any, 2]"),
        (torch.zeros(2, HOP, 2), "tensor.audio.shape", "[1, any, 2]"),
        (torch.zeros(HOP, 2), "tensor.audio.shape", "[1, any, 2]"),
        (torch.zeros(1, HOP, 2, dtype=torch.float16), "tensor.audio.data_type", "float32"),
        (
            torch.zeros(1, HOP, 2).index_fill(1, torch.tensor(7), float("nan")),
            "tensor.audio",
            "is nan at sample 7 of channel 0; accepted: -1e+06 to 1e+06",
        ),
        (torch.full((1, HOP, 2), float("inf")), "tensor.audio", "is inf at sample 0 of channel 0"),
    ],
)
def test_wrong_audio_is_named(
    turbo_stack: RunningStack, audio: torch.Tensor, field: str, accepted: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encode(turbo_stack, WireTensor.from_torch("audio", audio))
    (violation,) = caught.value.violations
    assert violation.field == field
    assert accepted in violation.description


def test_an_encode_without_audio_or_with_wrong_parameters_is_named(turbo_stack: RunningStack) -> None:
    audio = WireTensor.from_torch("audio", sound(1))
    with pytest.raises(InvalidArgumentError, match=r"parameters\.tile_frame_count"):
        encode(turbo_stack, audio, -1)
    with grpc.insecure_channel(turbo_stack.address("vae")) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Encode(iter([pb.EncodeRequest(parameters=pb.EncodeParameters())]), timeout=60))
    assert isinstance(from_rpc_error(caught.value, target="vae"), InvalidArgumentError)
    assert "tensor.audio" in caught.value.details()


class Decode:
    """A decode to which latents are sent one piece after the other, while its audio is listened to."""

    def __init__(self, stack: RunningStack, **parameters: int) -> None:
        self.audio: list[pb.AudioChunk] = []
        self.tiles: list[pb.TileCompleted] = []
        self.error: AcestageError | None = None
        self._messages: list[pb.DecodeRequest | None] = []
        self._sent = threading.Condition()
        self._put(pb.DecodeRequest(parameters=pb.DecodeParameters(**parameters)))
        self._address = stack.address("vae")
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def send(self, latents: torch.Tensor) -> None:
        for chunk in tensors.encode(WireTensor.from_torch("latents", latents)):
            self._put(pb.DecodeRequest(tensor=chunk))

    def finish(self) -> npt.NDArray[np.float32]:
        """The audio of all items, one after the other, [samples, channels]."""
        self._put(None)
        self._listening.join(120)
        if self.error is not None:
            raise self.error
        return np.concatenate([np.frombuffer(c.samples, "<f4").reshape(-1, 2) for c in self.audio])

    def _put(self, message: pb.DecodeRequest | None) -> None:
        with self._sent:
            self._messages.append(message)
            self._sent.notify()

    def _requests(self) -> Iterator[pb.DecodeRequest]:
        while True:
            with self._sent:
                assert self._sent.wait_for(lambda: bool(self._messages), PIECE_TIMEOUT_S)
                message = self._messages.pop(0)
            if message is None:
                return
            yield message

    def _listen(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            try:
                for response in vae_pb2_grpc.VaeServiceStub(channel).Decode(self._requests(), timeout=120):
                    if response.HasField("audio"):
                        self.audio.append(response.audio)
                    elif response.HasField("tile"):
                        self.tiles.append(response.tile)
            except grpc.RpcError as error:
                self.error = from_rpc_error(error, target="vae")


def decode(stack: RunningStack, *pieces: torch.Tensor, **parameters: Any) -> npt.NDArray[np.float32]:
    call = Decode(stack, **parameters)
    for piece in pieces:
        call.send(piece)
    return call.finish()


def test_sound_starts_before_the_last_latents_are_there(turbo_stack: RunningStack) -> None:
    latents = noise(2, 120)
    call = Decode(turbo_stack, frame_count=120, tile_frame_count=32)
    call.send(latents[:, :10])
    call.send(latents[:, 10 : 16 + HALO])
    wait_until(lambda: len(call.tiles) == 1, "the first tile is decoded")
    call.send(latents[:, 16 + HALO : 60])
    wait_until(lambda: len(call.tiles) == 2, "the second tile is decoded")
    call.send(latents[:, 60:])
    audio = call.finish()
    assert [chunk.start_sample for chunk in call.audio[:2]] == [0, 16 * HOP]
    assert [tile.tile for tile in call.tiles] == list(range(1, call.tiles[-1].tile_count + 1))
    np.testing.assert_array_equal(audio, decode(turbo_stack, latents, tile_frame_count=32))


def test_the_cost_of_halos_is_told(turbo_stack: RunningStack) -> None:
    call = Decode(turbo_stack, tile_frame_count=40)
    call.send(noise(1, 100))
    call.finish()
    costs = [(tile.frame_count, tile.halo_frame_count) for tile in call.tiles]
    assert costs == [(16, HALO), (32, 2 * HALO), (40, 2 * HALO), (12, HALO)]


def test_a_range_has_its_place_in_the_song_and_the_same_sound(turbo_stack: RunningStack) -> None:
    latents = noise(1, 100)
    whole = decode(turbo_stack, latents)
    call = Decode(turbo_stack, start_frame=30, stop_frame=70)
    call.send(latents)
    found = call.finish()
    assert call.audio[0].start_sample == 30 * HOP
    assert len(found) == 40 * HOP
    assert np.abs(found - whole[30 * HOP : 70 * HOP]).max() < 1e-6 * np.abs(whole).max()
    pieces = (latents[:, :60], latents[:, 60:])
    np.testing.assert_array_equal(
        decode(turbo_stack, *pieces, frame_count=100, start_frame=30, stop_frame=70), found
    )


@pytest.mark.parametrize(
    ("pieces", "parameters", "field"),
    [
        ([noise(1, 30)], {"frame_count": 60}, "tensor.latents"),
        ([noise(1, 10)], {"frame_count": 60}, "tensor.latents"),
        ([], {"frame_count": 60}, "tensor.latents"),
        ([noise(1, 30), noise(1, 31)], {"frame_count": 60}, "tensor.latents.shape"),
        ([noise(1, 30), noise(2, 30)], {"frame_count": 60}, "tensor.latents.shape"),
        ([noise(1, 30), noise(1, 30).half()], {"frame_count": 60}, "tensor.latents.data_type"),
        ([noise(9, 30)], {"frame_count": 60}, "tensor.latents.shape"),
        ([noise(1, 30)], {"frame_count": 15_001}, "parameters.frame_count"),
        ([noise(1, 30)], {"start_frame": 30}, "parameters.start_frame"),
        ([noise(1, 30)], {"start_frame": 20, "stop_frame": 20}, "parameters.start_frame"),
        ([noise(1, 30)], {"stop_frame": 31}, "parameters.stop_frame"),
        ([noise(1, 30)], {"stop_frame": -1}, "parameters.stop_frame"),
        ([noise(1, 30)], {"frame_count": 60, "stop_frame": 61}, "parameters.stop_frame"),
    ],
)
def test_wrong_pieces_and_ranges_are_named_and_the_worker_works_on(
    turbo_stack: RunningStack, pieces: list[torch.Tensor], parameters: dict[str, int], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode(turbo_stack, *pieces, **parameters)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert len(decode(turbo_stack, noise(1, 3))) == 3 * HOP
