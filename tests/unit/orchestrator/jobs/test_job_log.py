"""The events of a job: everyone gets all of them in order, at their own pace, and the job's own error."""

from __future__ import annotations

import asyncio

import pytest

from acestage.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError
from services.orchestrator.jobs.job_log import JobEnd, JobLog
from tests.unit.job_events import EVENT_BYTES, Listener, event, run
from tests.unit.waiting import until

SUCCEEDED = JobEnd("succeeded", 0.0)


def test_listeners_get_what_was_and_what_comes_until_the_end() -> None:
    async def scenario() -> None:
        log, early, late, after = JobLog("1"), Listener(), Listener(), Listener()
        first = asyncio.create_task(log.send(early.write, timeout_s=5))
        await until(lambda: log.listener_count == 1)
        log.append(event(3))
        log.append(event(2))
        await until(lambda: early.heard == [3, 2])
        second = asyncio.create_task(log.send(late.write, timeout_s=5))
        await until(lambda: late.heard == [3, 2])
        log.append(event(1))
        log.end(SUCCEEDED)
        await asyncio.gather(first, second)
        await log.send(after.write, timeout_s=5)
        assert early.heard == late.heard == after.heard == [3, 2, 1]
        assert log.listener_count == 0
        assert log.size_bytes == 3 * EVENT_BYTES

    run(scenario())


def test_a_slow_listener_holds_up_neither_the_job_nor_others() -> None:
    async def scenario() -> None:
        log, slow, fast = JobLog("1"), Listener(), Listener()
        slow.reads.clear()
        waiting = asyncio.create_task(log.send(slow.write, timeout_s=5))
        log.append(event(1))
        await until(lambda: log.listener_count == 1)
        for position in range(2, 50):
            log.append(event(position))
        log.end(SUCCEEDED)
        await log.send(fast.write, timeout_s=5)
        assert fast.heard == list(range(1, 50))
        assert (slow.heard, waiting.done()) == ([], False)
        slow.reads.set()
        await waiting
        assert slow.heard == fast.heard

    run(scenario())


def test_a_listener_that_reads_nothing_is_given_up_and_the_log_stays() -> None:
    async def scenario() -> None:
        log, stuck, other = JobLog("1"), Listener(), Listener()
        stuck.reads.clear()
        log.append(event(1))
        log.end(SUCCEEDED)
        with pytest.raises(DeadlineExceededError, match=r"read nothing for 0\.01 s"):
            await log.send(stuck.write, timeout_s=0.01)
        assert (log.listener_count, log.was_read) == (0, False)
        await log.send(other.write, timeout_s=5)
        assert other.heard == [1]
        assert log.was_read

    run(scenario())


def test_who_has_read_all_is_done_though_the_log_is_dropped() -> None:
    async def scenario() -> None:
        log, listener = JobLog("1"), Listener()
        listener.reads.clear()
        log.append(event(1))
        log.end(SUCCEEDED)
        reading = asyncio.create_task(log.send(listener.write, timeout_s=5))
        await until(lambda: log.listener_count == 1)
        log.drop()
        listener.reads.set()
        await reading
        assert (listener.heard, log.was_read) == ([1], True)

    run(scenario())


def test_every_listener_gets_the_error_of_the_job_after_its_events() -> None:
    async def scenario() -> None:
        log, listener = JobLog("1"), Listener()
        error = InvalidArgumentError("x: y", violations=[FieldViolation("x", "y")], retry_delay_s=2.0)
        log.append(event(1))
        log.end(JobEnd(error.reason, 0.0, error))
        caught = []
        for _ in range(2):
            with pytest.raises(InvalidArgumentError, match="x: y") as info:
                await log.send(listener.write, timeout_s=5)
            caught.append(info.value)
        assert listener.heard == [1, 1]
        assert [found.violations for found in caught] == [error.violations] * 2
        assert [found.retry_delay_s for found in caught] == [2.0, 2.0]
        assert error.__traceback__ is None

    run(scenario())


def test_a_listener_that_goes_is_not_counted_any_more() -> None:
    async def scenario() -> None:
        log, listener = JobLog("1"), Listener()
        task = asyncio.create_task(log.send(listener.write, timeout_s=5))
        await until(lambda: log.listener_count == 1)
        task.cancel()
        await asyncio.wait([task])
        assert (log.listener_count, log.was_read, task.cancelled()) == (0, False, True)

    run(scenario())
