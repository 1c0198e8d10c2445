"""What Prometheus is told, and the server that tells it."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from acestage.errors import FailedPreconditionError
from acestage.protobuf_times import duration
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.status import EndedJob
from services.orchestrator import metrics as module
from services.orchestrator import metrics_server as metrics_server_module
from services.orchestrator.metrics import Metrics, StatusCollector, gauges
from services.orchestrator.metrics_server import metrics_server
from tests.statuses import MIB, status_message

Samples = dict[tuple[str, str], float]


def parsed(text: str) -> Samples:
    """Values by name and by the value of the one label, "" where there is none; buckets are left out."""
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def samples_of(registry: CollectorRegistry) -> Samples:
    return parsed(generate_latest(registry).decode())


def ended(outcome: str) -> EndedJob:
    return EndedJob("x", datetime.now(UTC), 1.0, outcome, duration_s=10.0, batch_size=1)


def test_everything_that_can_be_zero_is_there_from_the_start() -> None:
    samples = samples_of(Metrics().registry)
    for stage in ("text_encoder", "dit", "vae"):
        assert samples["acestage_swaps_total", stage] == 0
        for name in ("lease_wait", "stage_load", "stage_compute"):
            assert samples[f"acestage_{name}_seconds_count", stage] == 0
    for outcome in ("succeeded", "failed", "cancelled"):
        assert samples["acestage_jobs_total", outcome] == 0


def test_a_start_counts_the_wait_and_is_a_swap_unless_the_stage_was_warm() -> None:
    metrics = Metrics()
    metrics.count_stage_event("dit", stage_pb2.StageStarted(lease_wait=duration(1.5)))
    metrics.count_stage_event("dit", stage_pb2.StageStarted(lease_wait=duration(0.25), was_warm=True))
    samples = samples_of(metrics.registry)
    assert samples["acestage_swaps_total", "dit"] == 1
    assert samples["acestage_lease_wait_seconds_count", "dit"] == 2
    assert samples["acestage_lease_wait_seconds_sum", "dit"] == 1.75
    assert samples["acestage_swaps_total", "vae"] == 0


def test_a_report_counts_load_and_compute() -> None:
    metrics = Metrics()
    metrics.count_stage_event("vae", stage_pb2.StageReport(load_time=duration(0.5), compute_time=duration(7)))
    samples = samples_of(metrics.registry)
    assert samples["acestage_stage_load_seconds_sum", "vae"] == 0.5
    assert samples["acestage_stage_compute_seconds_sum", "vae"] == 7
    assert samples["acestage_stage_compute_seconds_count", "vae"] == 1
    assert samples["acestage_swaps_total", "vae"] == 0


def test_jobs_are_counted_by_outcome_and_failures_by_reason() -> None:
    metrics = Metrics()
    for outcome in ("succeeded", "succeeded", "cancelled", "WORKER_CRASHED", "QUEUE_FULL", "QUEUE_FULL"):
        metrics.count_job(ended(outcome))
    samples = samples_of(metrics.registry)
    counts = {
        outcome: samples["acestage_jobs_total", outcome] for outcome in ("succeeded", "cancelled", "failed")
    }
    assert counts == {"succeeded": 2, "cancelled": 1, "failed": 3}
    reasons = {
        label: value for (name, label), value in samples.items() if name == "acestage_job_failures_total"
    }
    assert reasons == {"WORKER_CRASHED": 1, "QUEUE_FULL": 2}


def gauges_of(status: pb.GetStatusResponse) -> dict[str, dict[str, float]]:
    return {
        family.name: {"".join(sample.labels.values()): sample.value for sample in family.samples}
        for family in gauges(status)
    }


def test_gauges_say_what_the_status_says() -> None:
    found = gauges_of(status_message())
    assert found["acestage_jobs_running"] == {"": 1}
    assert found["acestage_jobs_queued"] == {"": 2}
    assert found["acestage_stage_up"] == {"text_encoder": 1, "dit": 1, "vae": 0}
    assert found["acestage_stage_model_placed"] == {
        "text_encoderacestep-v15-turbo": 1,
        "ditacestep-v15-turbo": 1,
    }
    assert found["acestage_device_total_bytes"] == {"cuda:0": 4000 * MIB, "cuda:1": 24576 * MIB}
    assert found["acestage_device_leased_bytes"] == {"cuda:0": 3705 * MIB, "cuda:1": 0}
    assert found["acestage_device_free_bytes"] == {"cuda:0": 596 * MIB}
    assert found["acestage_lease_waiters"] == {"cuda:0": 1, "cuda:1": 0}
    assert found["acestage_process_device_bytes"]["dit/worker"] == 3333 * MIB
    assert found["acestage_process_anonymous_bytes"]["dit/worker"] == 800 * MIB
    assert found["acestage_process_rss_bytes"]["orchestrator"] == 64 * MIB


def test_workers_of_one_name_are_one_series() -> None:
    status = status_message()
    status.stages[1].info.processes.append(status.stages[1].info.processes[-1])
    assert gauges_of(status)["acestage_process_rss_bytes"]["dit/worker"] == 6400 * MIB


def test_names_follow_the_conventions() -> None:
    for family in gauges(status_message()):
        assert isinstance(family, GaugeMetricFamily)
        assert family.name.startswith("acestage_")
        assert not family.name.endswith("_total")
        assert family.documentation.endswith(".")


async def read(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as response:
            text: bytes = response.read()
            return text.decode()

    return await asyncio.to_thread(get)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_the_server_asks_for_the_status_on_the_loop_and_closes_its_port() -> None:
    async def scenario() -> None:
        loop_thread = threading.get_ident()
        asked_in: list[int] = []

        async def status() -> pb.GetStatusResponse:
            asked_in.append(threading.get_ident())
            return status_message()

        metrics = Metrics()
        metrics.registry.register(StatusCollector(status, asyncio.get_running_loop()))
        port = free_port()
        async with metrics_server(metrics.registry, "127.0.0.1", port):
            samples = parsed(await read(f"http://127.0.0.1:{port}/metrics"))
        assert samples["acestage_jobs_running", ""] == 1
        assert samples["acestage_jobs_total", "failed"] == 0
        assert asked_in == [loop_thread]
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", port)) != 0

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_status_that_does_not_come_leaves_the_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        cancelled = asyncio.Event()

        async def status() -> pb.GetStatusResponse:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        metrics = Metrics()
        metrics.registry.register(StatusCollector(status, asyncio.get_running_loop()))
        samples = await asyncio.to_thread(samples_of, metrics.registry)
        assert samples["acestage_jobs_total", "succeeded"] == 0
        assert ("acestage_jobs_running", "") not in samples
        await cancelled.wait()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_connection_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_server_module, "REQUEST_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        port = free_port()
        async with metrics_server(CollectorRegistry(), "127.0.0.1", port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_is_named() -> None:
    async def scenario(port: int) -> None:
        async with metrics_server(CollectorRegistry(), "127.0.0.1", port):
            raise AssertionError("it started")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FailedPreconditionError, match=f"metrics_port: cannot bind 127.0.0.1:{port}"):
            asyncio.run(scenario(port))
