"""Single stages on devices that are too small for the plain way, or for any: planned, found out, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.errors import VramBudgetExceededError, WorkerCrashedError
from acestage.planning import GIB, StageMemory
from acestage.protos.lease.v1 import lease_pb2, lease_pb2_grpc
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from services.runtime.devices.fake_device.spec import Fault, strike_count
from tests.chaos.by_hand import ByHand, OneStage, started
from tests.chaos.chaos_stack import steady
from tests.chaos.stage_calls import Heard, decode, denoise
from tests.published_workers import measured
from tests.running_stack import THREADS

FRAMES = 250
LONG_FRAMES = 6_000
KIB = 1 << 10
REQUEST_BYTES = 64 * KIB
"""The tensors of a request: on a real device they stay on the host, but a fake one counts them."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Stages, each on a device that is as large as it says.

    Attributes:
        services: that run.
        ample: the DiT with room for everything.
        split: the DiT without room for both halves of guidance at once.
        int8: the DiT with room for its weights in INT8 alone.
        tiles: the VAE without room for a tile as large as it may have.
        memories: what the DiT and the VAE need.
    """

    services: ByHand
    ample: OneStage
    split: OneStage
    int8: OneStage
    tiles: OneStage
    memories: dict[str, StageMemory]

    def address(self, stage: OneStage) -> str:
        return self.services.addresses[stage.device]


@pytest.fixture(scope="module")
def devices(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    base = checkpoints["base/diffusers"]
    checkpoint = open_checkpoint(str(base), checkpoints_dir=base.parent)
    memories = {stage: measured(stage, checkpoint, torch.float32, THREADS) for stage in ("dit", "vae")}
    dit, vae = memories["dit"], memories["vae"]
    ample = OneStage("dit", "fake:0", 4 * GIB, base)
    split = OneStage("dit", "fake:1", dit.total_bytes("single", FRAMES) + KIB, base)
    int8 = OneStage("dit", "fake:2", dit.total_bytes("single", FRAMES, "int8") + KIB, base)
    tile_bytes = vae.total_bytes("tile", 64 + 2 * vae.halo_frame_count)
    tiles = OneStage("vae", "fake:3", tile_bytes + KIB, base)
    folder = tmp_path_factory.mktemp("devices")
    with started(folder, ample, split, int8, tiles) as services:
        yield Devices(services, ample, split, int8, tiles, memories)


@pytest.fixture(scope="module")
def plain(devices: Devices) -> Heard:
    """The DiT's result with room for everything."""
    heard = asyncio.run(denoise(devices.address(devices.ample), FRAMES))
    assert heard.adaptations == []
    return heard


def _info(address: str) -> stage_pb2.GetStageInfoResponse:
    with grpc.insecure_channel(address) as channel:
        stub = stage_pb2_grpc.StageServiceStub(channel)
        return stub.GetStageInfo(stage_pb2.GetStageInfoRequest(), timeout=10)


def test_a_stage_says_what_it_needs(devices: Devices) -> None:
    said = StageMemory.from_pb(_info(devices.address(devices.ample)).models[0].memory)
    assert said == devices.memories["dit"]


def assert_within_plan(heard: Heard, memory: StageMemory) -> None:
    """What was counted, weights included, is within what was planned, even without the margin."""
    planned_bytes = heard.report.planned_bytes - memory.context_bytes - memory.reserve_bytes
    assert 0 < heard.report.peak_device_bytes <= planned_bytes + REQUEST_BYTES


def test_guidance_is_split_by_plan_where_both_halves_do_not_fit(devices: Devices, plain: Heard) -> None:
    heard = asyncio.run(denoise(devices.address(devices.split), FRAMES))
    assert heard.adaptations == []
    assert heard.report.planned_bytes < plain.report.planned_bytes
    assert heard.report.planned_bytes <= devices.split.total_bytes
    assert heard.report.peak_device_bytes < plain.report.peak_device_bytes
    assert _distance(heard, plain) < 1e-5
    for one in (heard, plain):
        assert_within_plan(one, devices.memories["dit"])


def test_weights_are_int8_by_plan_where_they_do_not_fit_as_they_are(devices: Devices, plain: Heard) -> None:
    heard = asyncio.run(denoise(devices.address(devices.int8), FRAMES))
    assert [start.quantization for start in heard.started] == ["int8"]
    assert_within_plan(heard, devices.memories["dit"])
    assert _distance(heard, plain) < 0.1


def test_tiles_are_smaller_by_plan_where_large_ones_do_not_fit(devices: Devices) -> None:
    heard = asyncio.run(decode(devices.address(devices.tiles), FRAMES))
    memory = devices.memories["vae"]
    assert heard.report.planned_bytes == memory.total_bytes("tile", 64 + 2 * memory.halo_frame_count)
    assert_within_plan(heard, memory)


def test_what_fits_in_no_way_is_refused_with_the_bytes_it_needs(devices: Devices) -> None:
    with pytest.raises(
        VramBudgetExceededError, match=r"dit needs at least \d+ MiB on fake:2 .*int8"
    ) as caught:
        asyncio.run(denoise(devices.address(devices.int8), LONG_FRAMES))
    memory = devices.memories["dit"]
    assert caught.value.metadata["needed_bytes"] == str(memory.total_bytes("single", LONG_FRAMES, "int8"))
    assert caught.value.metadata["device_bytes"] == str(devices.int8.total_bytes)
    assert asyncio.run(denoise(devices.address(devices.int8), FRAMES)).adaptations == []


def test_a_dit_out_of_memory_splits_guidance(devices: Devices, plain: Heard) -> None:
    devices.services.fail(devices.ample, Fault("dit", "out_of_memory", at=2))
    heard = asyncio.run(denoise(devices.address(devices.ample), FRAMES))
    assert heard.adaptations == ["SPLIT_GUIDANCE"]
    assert _distance(heard, plain) < 1e-5


def test_a_dit_that_is_out_of_memory_again_takes_int8(devices: Devices, plain: Heard) -> None:
    devices.services.fail(devices.ample, Fault("dit", "out_of_memory", at=2, times=2))
    heard = asyncio.run(denoise(devices.address(devices.ample), FRAMES))
    assert heard.adaptations == ["SPLIT_GUIDANCE", "INT8"]
    assert _distance(heard, plain) < 0.1


def test_a_dit_that_is_always_out_of_memory_says_what_it_tried(devices: Devices, plain: Heard) -> None:
    devices.services.fail(devices.ample, Fault("dit", "out_of_memory", at=1, times=99))
    with pytest.raises(VramBudgetExceededError) as caught:
        asyncio.run(denoise(devices.address(devices.ample), FRAMES))
    for way in ("weights none; ", "weights none, guidance split; ", "weights int8, guidance split. "):
        assert way in caught.value.message
    devices.services.fail(devices.ample)
    heard = asyncio.run(denoise(devices.address(devices.ample), FRAMES))
    np.testing.assert_array_equal(heard.result, plain.result)


def test_two_devices_work_at_the_same_time(devices: Devices) -> None:
    """One ledger for each: nobody waits for the other."""
    pair = (devices.split, devices.int8)

    async def both() -> tuple[Heard, Heard]:
        first, second = (denoise(devices.address(stage), FRAMES, step_count=8) for stage in pair)
        return await asyncio.gather(first, second)

    for stage in pair:
        devices.services.fail(stage, *steady("dit", 0.2, 8))
    heard = asyncio.run(both())
    starts, ends = zip(*((one.report.start_time, one.report.end_time) for one in heard), strict=True)
    overlap_s = min(end.ToNanoseconds() for end in ends) - max(start.ToNanoseconds() for start in starts)
    assert overlap_s > 0.8e9  # half of what a job takes at least
    with grpc.insecure_channel(devices.services.orchestrator) as channel:
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        leases = stub.ListLeases(lease_pb2.ListLeasesRequest(), timeout=10).leases
    assert {lease.device for lease in leases} >= {stage.device for stage in pair}


def test_a_fault_of_one_device_leaves_the_other_alone(devices: Devices) -> None:
    devices.services.fail(devices.split, Fault("dit", "crash", at=2))
    devices.services.fail(devices.int8)
    asyncio.run(denoise(devices.address(devices.int8), FRAMES))
    assert strike_count(devices.services.run_dir, devices.split.device) == 0
    with pytest.raises(WorkerCrashedError, match="exit code 70"):
        asyncio.run(denoise(devices.address(devices.split), FRAMES))
    assert asyncio.run(denoise(devices.address(devices.split), FRAMES)).adaptations == []


def _distance(one: Heard, other: Heard) -> float:
    """Root mean square of the difference, relative to `other`."""
    assert one.result is not None
    assert other.result is not None
    return float(np.linalg.norm(one.result - other.result) / np.linalg.norm(other.result))
