"""What operators see of services that run: the status, the last jobs, the metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from acestage.local_stack import free_ports
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.status import Status
from tests.integration.test_failures import during_denoising
from tests.running_stack import RunningStack, wait_until
from tests.unit.orchestrator.test_metrics import Samples, parsed

SIMULATED_GB = 4
STAGES = ("text_encoder", "dit", "vae")


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_ports()["orchestrator"]


@pytest.fixture(scope="module")
def stack(metrics_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Services with metrics and a simulated device, after one song and one job whose worker was killed."""
    settings = {"ACESTAGE_METRICS_PORT": str(metrics_port), "MAX_CUDA_VRAM": str(SIMULATED_GB)}
    with RunningStack.start("tiny-turbo", tmp_path_factory.mktemp("monitored"), **settings) as running:
        with running.client() as client:
            client.generate("piano", duration_s=10, seed=1, batch_size=2)
        during_denoising(running, "kill worker")
        wait_until(lambda: running.is_idle(), "nothing is held", 20)
        yield running


@pytest.fixture
def status(stack: RunningStack) -> Status:
    with stack.client() as client:
        return client.status()


@pytest.fixture
def samples(stack: RunningStack, metrics_port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        return parsed(response.read().decode())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acestage", *arguments],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_last_jobs_are_remembered_with_their_outcome(status: Status) -> None:
    failed, succeeded = status.recent_jobs
    assert (failed.outcome, failed.duration_s, failed.batch_size) == ("WORKER_CRASHED", 300, 1)
    assert (succeeded.outcome, succeeded.duration_s, succeeded.batch_size) == ("succeeded", 10, 2)
    assert status.started_at < succeeded.ended_at < failed.ended_at < status.taken_at
    for job in status.recent_jobs:
        assert 0 < job.total_s < (status.taken_at - status.started_at).total_seconds()
    assert (status.queue.succeeded_count, status.queue.failed_count, status.queue.cancelled_count) == (
        1,
        1,
        0,
    )


def test_the_simulated_device_is_told_by_every_stage_and_listed_once(status: Status) -> None:
    (device,) = status.devices
    assert (device.device, device.total_bytes) == ("cpu", SIMULATED_GB << 30)
    assert device.name
    assert device.used_bytes >= 0
    assert device.used_bytes + device.free_bytes == device.total_bytes
    for stage in status.stages:
        assert stage.device_memory is not None
        assert stage.device_memory.total_bytes == SIMULATED_GB << 30


@pytest.mark.parametrize("with_memory", [False, True])
def test_a_stage_looks_at_memory_only_where_that_is_asked_for(stack: RunningStack, with_memory: bool) -> None:
    """For it takes time from a job that runs; every generation asks stages what they are."""
    with grpc.insecure_channel(stack.address("dit")) as channel:
        info = stage_pb2_grpc.StageServiceStub(channel).GetStageInfo(
            stage_pb2.GetStageInfoRequest(with_memory=with_memory), timeout=10
        )
    assert (bool(info.processes), info.HasField("device_memory")) == (with_memory, with_memory)
    assert info.device_bytes == SIMULATED_GB << 30


def test_memory_that_cannot_be_dropped_is_told_of_every_process(status: Status) -> None:
    processes = [process for stage in status.stages for process in stage.processes]
    assert {f"{stage}/{kind}" for stage in STAGES for kind in ("service", "preload")} <= {
        p.name for p in processes
    }
    for process in (*processes, status.orchestrator):
        assert 0 < process.anonymous_bytes < process.rss_bytes <= process.peak_rss_bytes
        assert process.device_bytes == 0


def test_events_are_counted_once(samples: Samples) -> None:
    counts = {
        outcome: samples["acestage_jobs_total", outcome] for outcome in ("succeeded", "failed", "cancelled")
    }
    assert counts == {"succeeded": 1, "failed": 1, "cancelled": 0}
    failures = {
        label: value for (name, label), value in samples.items() if name == "acestage_job_failures_total"
    }
    assert failures == {"WORKER_CRASHED": 1}
    # The second job came as far as the DiT.
    expected_starts = {"text_encoder": 2, "dit": 2, "vae": 1}
    for stage, started in expected_starts.items():
        assert samples["acestage_lease_wait_seconds_count", stage] == started
        assert 1 <= samples["acestage_swaps_total", stage] <= started
        completed = 1 if stage == "dit" else started
        for phase in ("load", "compute"):
            assert samples[f"acestage_stage_{phase}_seconds_count", stage] == completed
            assert 0 < samples[f"acestage_stage_{phase}_seconds_sum", stage] < 60


def test_gauges_are_read_at_the_scrape(samples: Samples) -> None:
    assert samples["acestage_jobs_running", ""] == 0
    assert samples["acestage_jobs_queued", ""] == 0
    assert samples["acestage_device_total_bytes", "cpu"] == SIMULATED_GB << 30
    assert 0 < samples["acestage_device_free_bytes", "cpu"] <= SIMULATED_GB << 30
    assert samples["acestage_lease_waiters", "cpu"] == 0
    for stage in STAGES:
        assert samples["acestage_stage_up", stage] == 1
        assert samples["acestage_process_anonymous_bytes", f"{stage}/preload"] > 0
    assert samples["acestage_process_rss_bytes", "orchestrator"] > 0


def test_the_status_shows_it_all(stack: RunningStack) -> None:
    said = json.loads((ended := run("status", "--target", stack.target, "--json")).stdout)
    assert ended.returncode == 0
    assert [job["outcome"] for job in said["recent_jobs"]] == ["WORKER_CRASHED", "succeeded"]
    assert said["devices"][0]["total_bytes"] == SIMULATED_GB << 30
    assert said["stages"][1]["processes"][0]["anonymous_bytes"] > 0
    ended = run("status", "--target", stack.target)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 80
    for words in ("4096 MiB", "WORKER_CRASHED", "2 x 10 s", "vae/preload", "1 succeeded, 1 failed"):
        assert words in ended.stdout


def test_a_metrics_port_that_is_taken_ends_the_start(
    metrics_port: int, stack: RunningStack, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "services.orchestrator", "--port=0", f"--metrics-port={metrics_port}"]
    ended = subprocess.run(
        [*command, f"--run-dir={tmp_path}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert f"metrics_port: cannot bind 127.0.0.1:{metrics_port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_metrics_port_that_is_none_is_refused(port: str) -> None:
    command = [sys.executable, "-m", "services.orchestrator", f"--metrics-port={port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "metrics_port" in ended.stderr
