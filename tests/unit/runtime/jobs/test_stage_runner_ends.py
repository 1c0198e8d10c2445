"""How jobs of a stage end when something fails, stalls or is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest

from acestage import errors
from services.runtime.devices.device_memory import DeviceMemory
from services.runtime.jobs import stage_runner, stay
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.stage_event import Queued, StageEvent, Started
from services.runtime.preload.facts import PreloadFacts
from services.runtime.workers.messages import Message, error_message
from tests.unit.runtime.jobs.stage_running import collect, started_of, within
from tests.unit.stage_fakes import DONE, PLACED, STEP, Stage, denoise_request
from tests.unit.waiting import until


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class FailingFeed(Feed):
    async def messages(self) -> AsyncIterator[Message]:
        raise RuntimeError("a defect")
        yield


@pytest.mark.parametrize("fails", ["feed", "hurry"])
def test_a_job_whose_feed_fails_fails(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(stage: Stage) -> None:
        worker = stage.workers[0]
        send = worker.send

        async def failing(message: Message) -> None:
            if message.kind == "hurry":
                raise RuntimeError("a defect")
            await send(message)

        monkeypatch.setattr(worker, "send", failing)
        feed = FailingFeed() if fails == "feed" else Feed()
        job = asyncio.create_task(collect(stage.runner.run(denoise_request(), feed)))
        if fails == "hurry":
            await until(lambda: bool(worker.sent[1:]))
            assert stage.leases.lease is not None
            stage.leases.lease.revoked.set()
        with pytest.raises(errors.AcestageError, match="the work ended early"):
            await job
        await until(lambda: not stage.runner.active_job_count)
        assert worker.is_killed

    within(lambda: Stage([PLACED]), test)


def test_an_idle_worker_that_dies_gives_the_lease_back_and_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(stage: Stage) -> None:
        await stage.run()
        stage.workers[0].death.set()
        assert started_of(await stage.run())[0].was_warm is False

    stage = within(lambda: Stage([PLACED, DONE], [PLACED, DONE]), test)
    assert stage.leases.left == ["released", "released"]
    assert warnings(caplog) == [
        f"dit: worker {stage.workers[0].pid} was killed by signal 9 while it had no work"
    ]


def test_a_worker_that_dies_is_reported_with_its_signal_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.WorkerCrashedError, match="was killed by signal 9"):
            await stage.run()
        await stage.run()

    stage = within(lambda: Stage([PLACED, None], [PLACED, DONE]), test)
    assert set(stage.leases.left) == {"released"}
    assert warnings(caplog) == [
        f"dit: worker {stage.workers[0].pid} was killed by signal 9 in the middle of the work"
    ]


def test_a_worker_that_cannot_take_the_device_costs_one_job() -> None:
    refusal = error_message(errors.FailedPreconditionError("run_dir: cannot be used"))

    async def test(stage: Stage) -> None:
        first, second = asyncio.create_task(stage.run()), asyncio.create_task(stage.run())
        with pytest.raises(errors.FailedPreconditionError, match="cannot be used"):
            await first
        assert started_of(await second)[0].was_warm is False

    stage = within(lambda: Stage([refusal, None], [PLACED, DONE]), test)
    assert [worker.is_stopped for worker in stage.workers] == [True, True]


def test_a_worker_without_progress_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.WorkerStalledError, match=str(stage.workers[0].pid)):
            await stage.run()

    stage = within(lambda: Stage([PLACED]), test)
    assert warnings(caplog) == [f"dit: worker {stage.workers[0].pid} did nothing for 0.1 s"]
    assert stage.workers[0].is_killed
    assert stage.leases.left == ["released"]
    assert stage.leases.workers_living_at_the_end == []


def test_a_service_that_was_stopped_hears_what_happened_before_it_blames_the_worker() -> None:
    async def test(stage: Stage) -> None:
        loop = asyncio.get_running_loop()

        def wake_up() -> None:
            """As after SIGCONT: all timers at once, and the news some turns of the loop later."""
            time.sleep(0.3)
            assert stage.leases.lease is not None
            loop.call_soon(loop.call_soon, loop.call_soon, stage.leases.lease.lose, "not renewed")

        async def stop_in_the_middle() -> None:
            async for event in stage.runner.run(denoise_request()):
                if event == STEP:
                    loop.call_soon(wake_up)

        with pytest.raises(errors.LeaseLostError, match="not renewed"):
            await stop_in_the_middle()

    stage = within(lambda: Stage([PLACED, STEP]), test)
    assert stage.workers[0].is_killed


def test_a_worker_that_does_not_read_is_killed() -> None:
    async def test(stage: Stage) -> None:
        stage.workers[0].reads = False
        with pytest.raises(errors.WorkerStalledError):
            await stage.run()

    stage = within(lambda: Stage([]), test)
    assert stage.workers[0].is_killed


def test_leaving_the_runner_ends_its_jobs_and_gives_back_the_lease() -> None:
    async def test(stage: Stage) -> None:
        events = stage.runner.run(denoise_request())
        assert [await anext(events), type(await anext(events))] == [Queued(1), Started]
        await stage.runner.__aexit__()
        assert stage.runner.active_job_count == 0
        with pytest.raises(errors.CancelledError):
            await anext(events)

    stage = within(lambda: Stage([PLACED]), test)
    assert stage.leases.left == ["released"]
    assert stage.leases.workers_living_at_the_end == []


async def begin(stage: Stage) -> asyncio.Task[list[StageEvent]]:
    job = asyncio.create_task(stage.run())
    await until(lambda: stage.runner.active_job_count == 1)
    return job


async def stop_after(
    answer: asyncio.Event, turns: int, stage: Stage, job: asyncio.Task[list[StageEvent]]
) -> None:
    """Stops a stage so many turns of the loop after the answer that its job waits for."""
    for _ in range(10):
        await asyncio.sleep(0)
    answer.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    closing = asyncio.create_task(stage.runner.__aexit__())
    await until(closing.done)
    with pytest.raises(errors.CancelledError):
        await job


@pytest.mark.parametrize("turns", range(5))
def test_a_stage_that_is_stopped_just_as_its_preload_is_ready_stops(turns: int) -> None:
    async def test(stage: Stage) -> None:
        loaded = asyncio.Event()
        facts = await stage.host.ready()

        async def ready() -> PreloadFacts:
            await loaded.wait()
            stage.host.is_ready = True
            return facts

        stage.host.ready = ready  # type: ignore[method-assign]
        job = await begin(stage)
        stage.host.is_ready = False
        await stop_after(loaded, turns, stage, job)

    within(lambda: Stage([PLACED]), test)


def test_jobs_in_line_wait_for_a_lost_preload_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_runner, "LOADING_TIMEOUT_S", 0.01)
    wait_count = 0

    async def never() -> PreloadFacts:
        nonlocal wait_count
        wait_count += 1
        await asyncio.Event().wait()
        raise AssertionError

    async def test(stage: Stage) -> None:
        stage.host.ready = never  # type: ignore[method-assign]
        jobs = [asyncio.create_task(stage.run()) for _ in range(3)]
        await until(lambda: stage.runner.active_job_count == 3)
        stage.host.is_ready = False
        for job in jobs:
            with pytest.raises(errors.UnavailableError, match="still being loaded"):
                await job

    within(lambda: Stage(), test)
    assert wait_count == 1


@pytest.mark.parametrize("turns", range(5))
def test_a_stage_that_is_stopped_just_as_its_driver_answers_stops(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = asyncio.Event()

    async def to_thread(read: Callable[[], DeviceMemory]) -> DeviceMemory:
        await answers.wait()
        return read()

    async def test(stage: Stage) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "to_thread", to_thread)
            await stop_after(answers, turns, stage, await begin(stage))

    within(lambda: Stage([PLACED]), test)


def test_a_lost_lease_kills_the_worker_at_once_and_the_next_job_takes_a_new_one() -> None:
    async def test(stage: Stage) -> None:
        async def lose_it_in_the_middle() -> None:
            async for event in stage.runner.run(denoise_request()):
                if event == STEP:
                    assert stage.leases.lease is not None
                    stage.leases.lease.lose("not renewed")

        with pytest.raises(errors.LeaseLostError, match="not renewed"):
            await lose_it_in_the_middle()
        await stage.run()

    stage = within(lambda: Stage([PLACED, STEP], [PLACED, DONE]), test)
    assert stage.workers[0].is_killed
    assert stage.leases.left == ["lost", "released"]


def test_a_worker_that_does_not_die_leaves_the_device_in_quarantine() -> None:
    async def test(stage: Stage) -> None:
        stage.workers[0].dies = False
        await stage.run()
        assert stage.leases.lease is not None
        stage.leases.lease.revoked.set()
        await until(lambda: bool(stage.leases.left))

    stage = within(lambda: Stage([PLACED, DONE]), test)
    assert stage.leases.left == ["lost"]


def test_closing_the_events_cancels_the_job_and_keeps_the_worker() -> None:
    async def test(stage: Stage) -> None:
        async with contextlib.aclosing(stage.runner.run(denoise_request())) as events:
            async for event in events:
                if isinstance(event, Message):
                    break
        assert stage.workers[0].cancelled_jobs == [1]
        assert stage.runner.active_job_count == 0
        stage.workers[0].answers.put_nowait(DONE)
        assert started_of(await stage.run())[0].was_warm

    within(lambda: Stage([PLACED, STEP]), test)


def test_a_cancelled_worker_that_does_not_stop_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stay, "CANCEL_GRACE_S", 0.05)

    async def test(stage: Stage) -> None:
        stage.workers[0].obeys = False
        async with contextlib.aclosing(stage.runner.run(denoise_request())) as events:
            async for event in events:
                if isinstance(event, Message):
                    break
        stage.workers[0].death.set()  # of that signal
        await until(lambda: bool(stage.leases.left))

    stage = within(lambda: Stage([PLACED, STEP]), test)
    assert stage.workers[0].is_killed
    assert stage.leases.left == ["released"]
    assert warnings(caplog) == []


def test_who_leaves_while_waiting_takes_no_lease() -> None:
    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        events = stage.runner.run(denoise_request())
        assert await anext(events) == Queued(1)
        await events.aclose()
        stage.leases.may_grant.set()
        await stage.run()

    stage = within(lambda: Stage([PLACED, DONE]), test)
    assert len(stage.host.forked) == 1
    assert stage.leases.left == ["released"]


def test_a_job_behind_one_whose_worker_was_killed_gets_a_worker_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stay, "CANCEL_GRACE_S", 0.05)

    async def test(stage: Stage) -> None:
        stage.workers[0].obeys = False
        first = stage.runner.run(denoise_request())
        assert [await anext(first) for _ in range(3)][-1] == STEP
        second = asyncio.create_task(stage.run())
        await until(lambda: stage.runner.active_job_count == 2)
        await first.aclose()
        assert started_of(await second)[0].was_warm is False

    stage = within(lambda: Stage([PLACED, STEP], [PLACED, DONE]), test)
    assert stage.workers[0].is_killed


def test_a_defect_costs_one_job_and_not_the_stage() -> None:
    async def test(stage: Stage) -> None:
        stage.free_mib.clear()  # reading the device fails with an error that nobody expects
        with pytest.raises(errors.InternalError, match="see its log"):
            await stage.run()
        stage.free_mib[:] = [4096]
        await stage.run()

    within(lambda: Stage([PLACED, DONE]), test)


def test_a_request_that_cannot_be_planned_costs_one_job_and_not_the_stage() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.InternalError, match="see its log"):
            await stage.run(Message("denoise"))
        await stage.run()

    within(lambda: Stage([PLACED, DONE]), test)
