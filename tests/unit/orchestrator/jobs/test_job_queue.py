"""Jobs run first come, first served, and hear their place in line."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from acestage.errors import QueueFullError
from services.orchestrator.jobs.job_queue import JobQueue


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 10))


class Job:
    """A job that runs until it is told to finish."""

    def __init__(self, queue: JobQueue) -> None:
        self.positions: list[int] = []
        self.may_begin = True
        self._finish = asyncio.Event()
        self._queue = queue
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._queue.turn(self.positions.append, lambda: self.may_begin):
            await self._finish.wait()

    async def finish(self) -> None:
        self._finish.set()
        await self.task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_jobs_run_in_the_order_they_came() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 1)
        jobs = [Job(queue) for _ in range(3)]
        await settle()
        assert [job.positions for job in jobs] == [[0], [1], [2]]
        await jobs[0].finish()
        await settle()
        assert [job.positions for job in jobs] == [[0], [1, 0], [2, 1]]
        await jobs[1].finish()
        await jobs[2].finish()
        assert (queue.running_count, queue.queued_count) == (0, 0)

    run(scenario())


def test_slots_bound_how_many_run() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 2)
        jobs = [Job(queue) for _ in range(3)]
        await settle()
        assert (queue.running_count, queue.queued_count) == (2, 1)
        for job in jobs:
            await job.finish()

    run(scenario())


def test_as_many_run_as_there_are_slots_when_their_turn_comes() -> None:
    async def scenario() -> None:
        slots = 1
        queue = JobQueue(max_count=10, slot_count=lambda: slots)
        jobs = [Job(queue) for _ in range(4)]
        await settle()
        assert queue.running_count == 1
        slots = 3
        await jobs[0].finish()
        assert (queue.running_count, queue.queued_count) == (3, 0)
        slots = 1
        jobs.append(Job(queue))
        await settle()
        for job in jobs[1:3]:
            await job.finish()
            assert (queue.running_count, queue.queued_count) == (3 - jobs.index(job), 1)
        await jobs[3].finish()
        assert (queue.running_count, queue.queued_count) == (1, 0)
        await jobs[4].finish()
        assert queue.running_count == 0

    run(scenario())


def test_those_who_wait_begin_once_there_are_more_slots() -> None:
    async def scenario() -> None:
        slots = 1
        queue = JobQueue(max_count=10, slot_count=lambda: slots)
        jobs = [Job(queue) for _ in range(3)]
        await settle()
        slots = 2
        queue.admit()
        await settle()
        assert [job.positions[-1] for job in jobs] == [0, 0, 1]
        for job in jobs:
            await job.finish()

    run(scenario())


def test_a_full_queue_refuses_and_says_the_limit() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=1, slot_count=lambda: 1)
        first, second, third = Job(queue), Job(queue), Job(queue)
        await settle()
        with pytest.raises(QueueFullError, match="up to 1"):
            await third.task
        await first.finish()
        await second.finish()

    run(scenario())


def test_a_job_cancelled_in_line_leaves_it() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 1)
        first, second, third = Job(queue), Job(queue), Job(queue)
        await settle()
        second.task.cancel()
        await settle()
        assert third.positions == [2, 1]
        await first.finish()
        await settle()
        assert third.positions == [2, 1, 0]
        await third.finish()

    run(scenario())


def test_a_job_cancelled_as_its_turn_comes_passes_the_slot_on() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 1)
        first, second, third = Job(queue), Job(queue), Job(queue)
        await settle()
        first._finish.set()
        await asyncio.sleep(0)  # the slot is handed to the second job, which has not woken up yet
        second.task.cancel()
        await settle()
        assert third.positions[-1] == 0
        await third.finish()
        assert queue.running_count == 0

    run(scenario())


def test_a_job_that_finishes_as_the_next_is_cancelled_does_not_fail() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 1)
        first, second, third = Job(queue), Job(queue), Job(queue)
        await settle()
        second.task.cancel()
        await first.finish()
        await settle()
        assert third.positions[-1] == 0
        await third.finish()
        assert (queue.running_count, queue.queued_count) == (0, 0)

    run(scenario())


def test_a_cancellation_just_before_the_slot_is_free_does_not_break_it() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 1)
        first, second, third = Job(queue), Job(queue), Job(queue)
        await settle()
        first._finish.set()
        second.task.cancel()
        await settle()
        assert first.task.done()
        assert first.task.exception() is None
        assert third.positions[-1] == 0
        await third.finish()
        assert queue.running_count == 0

    run(scenario())


def test_a_job_that_may_not_begin_waits_at_the_head_of_the_line_and_hears_each_place_once() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 2)
        first, second = Job(queue), Job(queue)
        first.may_begin = False
        await settle()
        queue.admit()
        assert (first.positions, second.positions) == ([1], [2])
        first.may_begin = True
        queue.admit()
        await settle()
        assert (first.positions, second.positions) == ([1, 0], [2, 0])
        for job in (first, second):
            await job.finish()

    run(scenario())


def test_when_a_job_that_may_not_begin_gives_up_the_next_one_begins() -> None:
    async def scenario() -> None:
        queue = JobQueue(max_count=10, slot_count=lambda: 1)
        first, second = Job(queue), Job(queue)
        first.may_begin = False
        await settle()
        first.task.cancel()
        await settle()
        assert second.positions[-1] == 0
        await second.finish()

    run(scenario())
