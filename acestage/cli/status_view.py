"""What a status looks like in the terminal, for `acestage status` and `acestage top`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from acestage.cli.amounts import size, span
from acestage.generation import ProcessMemory
from acestage.status import EndedJob, LeaseStatus, StageModel, StageStatus, Status

WIDE_COLUMNS = 100
"""From here on there is room for addresses."""

TWO_SIDES_COLUMNS = 190
"""From here on the tables stand in two columns."""

JOB_COUNT = 10

_OUTCOME_STYLES = {"succeeded": "green", "cancelled": "yellow"}
_STATE_STYLES = {"active": "green", "warm": "cyan"}


@dataclass(frozen=True, slots=True)
class StatusView:
    """A status as tables; two columns of them on a wide terminal."""

    status: Status
    target: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        status = self.status
        yield _head(status, self.target)
        left = [_devices(status), _ledger(status), _stages(status, options.max_width >= WIDE_COLUMNS)]
        right = [_processes(status), _jobs(status)]
        if options.max_width < TWO_SIDES_COLUMNS:
            yield _stack([*left, *right])
            return
        grid = Table.grid(Column(), Column(), padding=(0, 4, 0, 0))
        grid.add_row(_stack(left), _stack(right))
        yield grid


@dataclass(frozen=True, slots=True)
class Outage:
    """The orchestrator cannot be reached: since when, and why."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class OutageView:
    """Says that the orchestrator cannot be reached, above what it said last."""

    outage: Outage
    now: datetime
    target: str
    last: Status | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        since = self.outage.since
        for_s = (self.now - since).total_seconds()
        yield Text(
            f"{self.target} cannot be reached since {_clock(since)} ({span(for_s)}); trying again.",
            "bold red",
        )
        yield Text(self.outage.reason, "red")
        if self.last is not None:
            yield Text(f"\nThis was so at {_clock(self.last.taken_at)}:", "bold")
            yield StatusView(self.last, self.target)


def _head(status: Status, target: str) -> RenderableType:
    queue = status.queue
    up_s = max(0.0, (status.taken_at - status.started_at).total_seconds())
    return Group(
        Text.assemble((f"Acestage {status.version}", "bold"), f" at {target}, up for {span(up_s)}"),
        Text(
            f"Jobs: {queue.running_count} running, {queue.queued_count} of {queue.queue_max_count} queued; "
            f"{queue.succeeded_count} succeeded, {queue.failed_count} failed, "
            f"{queue.cancelled_count} cancelled"
        ),
    )


def _devices(status: Status) -> RenderableType:
    table = _table("device", "name", "total >", "used >", "free >", "leased >", "use")
    ledger = {known.device: known for known in status.ledger_devices}
    measured = {device.device: device for device in status.devices}
    for name in sorted({*ledger, *measured}):
        device, known = measured.get(name), ledger.get(name)
        use = "" if known is None else "one holder" if known.is_exclusive else "shared"
        leased = sum(lease.vram_bytes for lease in status.leases if lease.device == name)
        if device is not None:
            sizes = (device.total_bytes, device.used_bytes, device.free_bytes)
            _add(table, name, device.name, *map(size, sizes), size(leased), use)
        elif known is not None:
            total = size(known.total_bytes) if known.total_bytes else "?"
            _add(table, name, "known to the ledger alone", total, "?", "?", size(leased), use)
    return table if table.row_count else Text("No stage says what its device is.")


def _ledger(status: Status) -> RenderableType:
    table = _table("lease on", "holder", "bytes >", "token >", "state", "for >")
    for lease in status.leases:
        state = _lease_state(lease)
        _add(
            table,
            lease.device,
            lease.holder,
            size(lease.vram_bytes),
            str(lease.fencing_token),
            Text(state, _STATE_STYLES.get(state, "yellow")),
            span(lease.age_s),
        )
    for waiter in status.waiters:
        place = Text(f"waits, place {waiter.position}", "yellow")
        _add(table, waiter.device, waiter.holder, size(waiter.vram_bytes), "", place, span(waiter.waited_s))
    found: RenderableType = table if table.row_count else Text("No lease is held, and nobody waits for one.")
    if not status.grace_remaining_s:
        return found
    grace = f"The ledger has just started: it waits {span(status.grace_remaining_s)} for holders to report."
    return Group(Text(grace, "yellow"), found)


def _lease_state(lease: LeaseStatus) -> str:
    if not lease.is_idle:
        return lease.state
    return "warm" if lease.state == "active" else f"warm, {lease.state}"


def _stages(status: Status, is_wide: bool) -> RenderableType:
    table = _table("stage", "state", "model", "device", "weights >", *(["address"] if is_wide else []))
    for stage in (stage for stage in status.stages if stage.is_serving):
        for index, model in enumerate(stage.models):
            name, weights = _stage_model(stage, model)
            address = [stage.target] if is_wide else []
            if index == 0:
                _add(table, stage.stage, _stage_state(stage), name, stage.device, weights, *address)
            else:
                _add(table, "", "", name, "", weights, *([""] if is_wide else []))
    down = [
        Text(f"{stage.stage} at {stage.target} is down: {stage.error}", "red")
        for stage in status.stages
        if not stage.is_serving
    ]
    return Group(*([table] if table.row_count else []), *down)


def _stage_model(stage: StageStatus, model: StageModel) -> tuple[str, str]:
    """The name and the weights of a model; of several, the one on the device is marked."""
    is_placed = model.name == stage.placed_model
    name = f"{model.name} (placed)" if is_placed and len(stage.models) > 1 else model.name
    kept = f" {stage.quantization}" if is_placed and stage.quantization != "none" else ""
    return name, f"{size(model.weights_bytes)} {model.dtype}{kept}"


def _stage_state(stage: StageStatus) -> Text:
    state = stage.worker_state or ("busy" if stage.active_job_count else "idle")
    if stage.active_job_count:
        state += f", {stage.active_job_count} job{'s' if stage.active_job_count > 1 else ''}"
    return Text(state, "green" if stage.active_job_count else "")


def _processes(status: Status) -> RenderableType:
    table = _table("process", "pid >", "RSS >", "peak RSS >", "anonymous >", "VRAM >")
    processes = [process for stage in status.stages for process in stage.processes]
    processes.append(status.orchestrator)
    for process in processes:
        sizes = map(size, (process.rss_bytes, process.peak_rss_bytes, process.anonymous_bytes))
        _add(table, process.name, str(process.pid), *sizes, _vram(process.device_bytes))
    # Resident sets have no sum: what processes share is in each of them.
    _add(table, Text("together", "bold"), "", "", "", *_sums(processes))
    return table


def _sums(processes: Iterable[ProcessMemory]) -> tuple[str, str]:
    found = tuple(processes)
    anonymous = sum(process.anonymous_bytes for process in found)
    return size(anonymous), _vram(sum(process.device_bytes for process in found))


def _vram(device_bytes: int) -> str:
    return size(device_bytes) if device_bytes else "-"


def _jobs(status: Status) -> RenderableType:
    if not status.recent_jobs:
        return Text("No job has ended yet.")
    table = _table("last jobs", "ended >", "took >", "music >", "outcome")
    for job in status.recent_jobs[:JOB_COUNT]:
        ago_s = max(0.0, (status.taken_at - job.ended_at).total_seconds())
        outcome = Text(job.outcome, _OUTCOME_STYLES.get(job.outcome, "red"))
        _add(table, job.job_id, f"{span(ago_s)} ago", span(job.total_s), _music(job), outcome)
    return table


def _music(job: EndedJob) -> str:
    return span(job.duration_s) if job.batch_size == 1 else f"{job.batch_size} x {span(job.duration_s)}"


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S} UTC"


def _stack(parts: Iterable[RenderableType]) -> Group:
    return Group(*(Padding(part, (1, 0, 0, 0)) for part in parts))


def _table(*headers: str) -> Table:
    """Columns by their headers; " >" after one means amounts: to the right, and never wrapped."""
    columns = [
        Column(
            header.removesuffix(" >"),
            justify="right" if header.endswith(" >") else "left",
            no_wrap=header.endswith(" >"),
            overflow="fold",
            header_style="bold",
        )
        for header in headers
    ]
    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _add(table: Table, *cells: str | Text) -> None:
    """Adds a row; text from elsewhere is no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
