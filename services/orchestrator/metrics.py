"""What Prometheus hears of the orchestrator: counters of events, and gauges that are read at a scrape."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from acestage.generation import STAGES
from acestage.protobuf_times import seconds
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.status import CANCELLED, FAILED, SUCCEEDED, EndedJob

log = logging.getLogger(__name__)

StageEvent = stage_pb2.StageStarted | stage_pb2.StageReport

SNAPSHOT_TIMEOUT_S = 8.0
"""A scrape waits 10 s by default; stages that do not answer cost 2 s."""

_WAIT_BUCKETS_S = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LOAD_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COMPUTE_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """The counters, and the registry that everything is in."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lease_wait_s = self._histogram(
            "acestage_lease_wait_seconds", "Time that jobs of a stage waited for the device.", _WAIT_BUCKETS_S
        )
        self._load_s = self._histogram(
            "acestage_stage_load_seconds", "Time until the weights were on the device.", _LOAD_BUCKETS_S
        )
        self._compute_s = self._histogram(
            "acestage_stage_compute_seconds", "Time that a stage computed for a job.", _COMPUTE_BUCKETS_S
        )
        self._swaps = Counter(
            "acestage_swaps",
            "Times that a stage took the device without its weights being there.",
            ["stage"],
            registry=self.registry,
        )
        self._jobs = Counter(
            "acestage_jobs", "Jobs that ended, by outcome.", ["outcome"], registry=self.registry
        )
        self._failures = Counter(
            "acestage_job_failures", "Jobs that failed, by reason.", ["reason"], registry=self.registry
        )
        # A series that appears with its first event has lost that event to every rate().
        for stage in STAGES:
            for metric in (self._lease_wait_s, self._load_s, self._compute_s, self._swaps):
                metric.labels(stage)
        for outcome in (SUCCEEDED, FAILED, CANCELLED):
            self._jobs.labels(outcome)

    def count_stage_event(self, stage: str, event: StageEvent) -> None:
        """Counts a job's start on the device, and its report."""
        if isinstance(event, stage_pb2.StageStarted):
            self._lease_wait_s.labels(stage).observe(seconds(event.lease_wait))
            if not event.was_warm:
                self._swaps.labels(stage).inc()
        else:
            if load_s := seconds(event.load_time):  # a warm stage loads nothing
                self._load_s.labels(stage).observe(load_s)
            self._compute_s.labels(stage).observe(seconds(event.compute_time))

    def count_job(self, job: EndedJob) -> None:
        """Counts a job that ended."""
        self._jobs.labels(job.kind).inc()
        if job.kind == FAILED:
            self._failures.labels(job.outcome).inc()

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["stage"], buckets=buckets, registry=self.registry)


class StatusCollector(Collector):
    """The gauges, made from the orchestrator's status at the time of a scrape, in a thread of the server."""

    def __init__(
        self, status: Callable[[], Awaitable[pb.GetStatusResponse]], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Asks `status`, which runs on `loop`."""
        self._status = status
        self._loop = loop

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Empty where the status does not come in time, so that a scrape at least gets the counters."""
        asking = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            status = asking.result(SNAPSHOT_TIMEOUT_S)
        except (TimeoutError, CancelledError) as error:
            asking.cancel()
            log.warning("a scrape got no gauges: %s", type(error).__name__)
            return
        yield from gauges(status)

    async def _ask(self) -> pb.GetStatusResponse:
        return await self._status()


def gauges(status: pb.GetStatusResponse) -> Iterator[GaugeMetricFamily]:
    """The gauges that `status` fills."""
    yield _gauge("acestage_jobs_running", "Jobs in work.", status.queue.running_count)
    yield _gauge("acestage_jobs_queued", "Jobs that wait for their turn.", status.queue.queued_count)
    up = {stage.stage: float(stage.is_serving) for stage in status.stages}
    yield _gauges("acestage_stage_up", "1 where the stage answers.", "stage", up)
    yield _placed_gauge(status)
    yield from _device_gauges(status)
    yield from _process_gauges(status)


def _placed_gauge(status: pb.GetStatusResponse) -> GaugeMetricFamily:
    text = "1 where weights of the model lie on the device."
    family = GaugeMetricFamily("acestage_stage_model_placed", text, labels=["stage", "model"])
    for stage in status.stages:
        for hosted in stage.info.models:
            is_placed = hosted.model.name == stage.info.placed_model
            family.add_metric([stage.stage, hosted.model.name], float(is_placed))
    return family


def _device_gauges(status: pb.GetStatusResponse) -> Iterator[GaugeMetricFamily]:
    ledger = status.ledger
    measured = [stage.info.device_memory for stage in status.stages if stage.info.HasField("device_memory")]
    free = {memory.device: memory.free_bytes for memory in measured}
    total = {memory.device: memory.total_bytes for memory in measured}
    total |= {known.device: known.total_bytes for known in ledger.devices if known.total_bytes}
    devices = {*total, *(lease.device for lease in ledger.leases)}
    leased = dict.fromkeys(devices, 0)
    for lease in ledger.leases:
        leased[lease.device] += lease.vram_bytes
    waiting = dict.fromkeys({*devices, *(waiter.device for waiter in ledger.waiters)}, 0)
    for waiter in ledger.waiters:
        waiting[waiter.device] += 1
    for name, text, values in (
        ("total_bytes", "Bytes of the device, as the ledger counts them.", total),
        ("leased_bytes", "Bytes of all leases on the device.", leased),
        ("free_bytes", "Bytes of the device that are free, as a stage measures them.", free),
    ):
        yield _gauges(f"acestage_device_{name}", text, "device", values)
    yield _gauges("acestage_lease_waiters", "Holders that wait for the device.", "device", waiting)


def _process_gauges(status: pb.GetStatusResponse) -> Iterator[GaugeMetricFamily]:
    processes = [process for stage in status.stages for process in stage.info.processes]
    processes.append(status.orchestrator_memory)
    for name, text in (
        ("rss_bytes", "Resident memory; mapped weights count."),
        ("anonymous_bytes", "Resident memory that the kernel cannot drop, shared pages by their share."),
        ("device_bytes", "Memory on a CUDA device, where the driver tells."),
    ):
        values: defaultdict[str, float] = defaultdict(float)
        for process in processes:
            values[process.name] += getattr(process, name)
        yield _gauges(f"acestage_process_{name}", text, "process", values)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    items: Iterable[tuple[str, float]] = sorted(values.items())
    for key, value in items:
        family.add_metric([key], value)
    return family
