"""Logs of jobs: held while they must be, kept for a while, dropped in order."""

from __future__ import annotations

import asyncio

import pytest

from acestage.errors import DeadlineExceededError, NotFoundError
from services.orchestrator.jobs.job_log import JobEnd, JobLog
from services.orchestrator.jobs.job_registry import JobRegistry, LogBounds
from tests.unit.job_events import EVENT_BYTES, Listener, event, run
from tests.unit.waiting import until

BOUNDS = LogBounds(
    held_bytes=5 * EVENT_BYTES,
    read_s=90.0,
    kept_s=60.0,
    kept_count=3,
    kept_bytes=4 * EVENT_BYTES + EVENT_BYTES // 2,
)


def log_of(name: str, event_count: int, ended_at_s: float | None = None) -> JobLog:
    log = JobLog(name)
    for _ in range(event_count):
        log.append(event(1))
    if ended_at_s is not None:
        log.end(JobEnd("succeeded", ended_at_s))
    return log


def registry_of(*logs: JobLog) -> JobRegistry:
    registry = JobRegistry(BOUNDS)
    for log in logs:
        registry.add(log)
    return registry


def known(registry: JobRegistry, *names: str) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(registry.find(name).job_id)
        except NotFoundError:
            continue
    return found


def test_an_unknown_job_is_refused_with_what_is_kept() -> None:
    registry = JobRegistry(LogBounds())
    expected = r"'nope'.*15 min, the last 100 of them and 512 MiB at most, and none from before the orch"
    with pytest.raises(NotFoundError, match=expected):
        registry.find("nope")


def test_ended_jobs_are_kept_for_their_time_and_running_ones_until_they_end() -> None:
    running = log_of("running", 1)
    registry = registry_of(running, log_of("a", 1, ended_at_s=0.0), log_of("b", 1, ended_at_s=20.0))
    assert registry.prune(59.0) == 1.0
    assert known(registry, "running", "a", "b") == ["running", "a", "b"]
    assert registry.prune(60.0) == 20.0
    assert known(registry, "running", "a", "b") == ["running", "b"]
    assert registry.prune(1e9) is None
    assert known(registry, "running", "a", "b") == ["running"]


def test_beyond_the_count_the_job_that_ended_first_is_dropped() -> None:
    ends = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 2.0}
    registry = registry_of(*(log_of(name, 1, ended_at_s=end) for name, end in ends.items()))
    registry.prune(5.0)
    assert known(registry, *ends) == ["a", "c", "d"]


def test_beyond_the_bytes_the_job_that_ended_first_is_dropped() -> None:
    registry = registry_of(log_of("a", 2, 1.0), log_of("b", 2, 2.0), log_of("c", 2, 3.0))
    registry.prune(5.0)
    assert known(registry, "a", "b", "c") == ["b", "c"]


def test_the_last_job_is_kept_whatever_its_size_until_it_was_read() -> None:
    async def scenario() -> None:
        large = log_of("large", 9, 2.0)
        registry = registry_of(log_of("small", 1, 1.0), large)
        registry.prune(5.0)
        assert known(registry, "small", "large") == ["large"]
        await large.send(Listener().write, timeout_s=5)
        registry.prune(5.0)
        assert known(registry, "large") == []

    run(scenario())


def test_a_log_is_not_torn_from_its_reader() -> None:
    async def scenario() -> None:
        log, listener = log_of("a", 6, 0.0), Listener()
        listener.reads.clear()
        registry = registry_of(log, log_of("b", 4, 1.0))
        reading = asyncio.create_task(log.send(listener.write, timeout_s=5))
        await until(lambda: log.listener_count)
        assert registry.prune(59.0) == 2.0
        assert known(registry, "a", "b") == ["a", "b"]
        registry.prune(1e9)
        assert known(registry, "a", "b") == ["a"]
        listener.reads.set()
        await reading
        registry.prune(1e9)
        assert known(registry, "a", "b") == []

    run(scenario())


def test_a_job_of_which_nobody_heard_is_not_kept() -> None:
    registry = registry_of(log_of("refused", 0, 0.0), log_of("new", 0))
    registry.prune(0.0)
    assert known(registry, "refused", "new") == ["new"]


def test_jobs_begin_while_what_runs_and_what_is_read_leaves_them_room() -> None:
    async def scenario() -> None:
        read, listener = log_of("read", 2, 0.0), Listener()
        listener.reads.clear()
        first, second, third = (log_of(name, 1) for name in ("first", "second", "third"))
        registry = registry_of(read, first, second, third)
        reading = asyncio.create_task(read.send(listener.write, timeout_s=5))
        await until(lambda: read.listener_count)
        assert registry.begin(first, 2 * EVENT_BYTES, 5.0)
        assert not registry.begin(second, 2 * EVENT_BYTES, 5.0)
        assert registry.begin(second, 1 * EVENT_BYTES, 5.0)
        assert registry.held_bytes(5.0) == 5 * EVENT_BYTES
        listener.reads.set()
        await reading
        assert registry.begin(third, 2 * EVENT_BYTES, 5.0)

    run(scenario())


def test_who_reads_for_too_long_after_the_end_loses_the_log_once_a_job_needs_the_room() -> None:
    async def scenario() -> None:
        log, listener = log_of("a", 4, 10.0), Listener()
        listener.reads.clear()
        running, small, large = log_of("running", 1), log_of("small", 1), log_of("large", 1)
        registry = registry_of(log, running, small, large)
        assert registry.begin(running, EVENT_BYTES, 10.0)
        reading = asyncio.create_task(log.send(listener.write, timeout_s=5))
        await until(lambda: log.listener_count)
        assert registry.prune(20.0) == 80.0  # then there may be room
        assert not registry.begin(small, EVENT_BYTES, 99.0)
        registry.prune(100.0)
        assert known(registry, "a") == ["a"]  # as long as nobody needs its room
        assert registry.begin(small, EVENT_BYTES, 100.0)
        assert known(registry, "a") == []
        listener.reads.set()
        with pytest.raises(DeadlineExceededError, match=r"job a: .* other jobs need their room"):
            await reading
        assert len(listener.heard) == 1

    run(scenario())


def test_a_job_is_not_torn_from_its_readers_while_it_runs_however_long() -> None:
    async def scenario() -> None:
        log, listener = log_of("a", 4), Listener()
        waiting = log_of("waiting", 1)
        registry = registry_of(log, waiting)
        assert registry.begin(log, 4 * EVENT_BYTES, 0.0)
        reading = asyncio.create_task(log.send(listener.write, timeout_s=5))
        await until(lambda: len(listener.heard) == 4)
        assert not registry.begin(waiting, 2 * EVENT_BYTES, 1e9)
        log.end(JobEnd("succeeded", 1e9))
        await reading

    run(scenario())


def test_a_job_counts_with_all_that_it_will_write_and_then_with_what_it_wrote() -> None:
    log, waiting = log_of("a", 0), log_of("b", 0)
    registry = registry_of(log, waiting)
    assert registry.held_bytes(5.0) == 0
    assert registry.begin(log, 4 * EVENT_BYTES, 5.0)
    assert not registry.begin(waiting, 2 * EVENT_BYTES, 5.0)
    log.append(event(1))
    assert registry.held_bytes(5.0) == 4 * EVENT_BYTES
    log.end(JobEnd("succeeded", 1.0))
    assert registry.held_bytes(5.0) == 0
    assert registry.begin(waiting, 2 * EVENT_BYTES, 5.0)


def test_a_job_larger_than_all_room_runs_alone() -> None:
    large, small = log_of("large", 1), log_of("small", 1)
    registry = registry_of(large, small)
    assert registry.begin(small, EVENT_BYTES, 5.0)
    assert not registry.begin(large, 50 * EVENT_BYTES, 5.0)
    small.end(JobEnd("succeeded", 1.0))
    assert registry.begin(large, 50 * EVENT_BYTES, 5.0)


def test_kept_logs_make_room_for_a_job_those_first_that_were_read_and_then_the_oldest() -> None:
    async def scenario() -> None:
        logs = {name: log_of(name, 1, end) for name, end in {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}.items()}
        await logs["b"].send(Listener().write, timeout_s=5)
        jobs = [log_of(name, 1) for name in ("first", "second", "third")]
        registry = registry_of(*logs.values(), *jobs)
        assert registry.begin(jobs[0], EVENT_BYTES, 5.0)
        assert known(registry, *logs) == ["a", "b", "c", "d"]
        assert registry.begin(jobs[1], EVENT_BYTES, 5.0)
        assert known(registry, *logs) == ["a", "c", "d"]
        assert registry.begin(jobs[2], 2 * EVENT_BYTES, 5.0)
        assert known(registry, *logs) == ["d"]

    run(scenario())
