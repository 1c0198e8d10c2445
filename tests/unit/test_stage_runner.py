"""The jobs of a stage, with a fake host and a fake ledger: order, warmth, and what happens on failure."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from acestage import errors
from acestage.planning import MIB
from acestage.tensors import WireTensor
from services.runtime import job_line, job_plans, stay
from services.runtime.feed import Feed
from services.runtime.job_budget import AdaptationKind
from services.runtime.messages import Message, error_message
from services.runtime.stage_event import Queued, Report, Started
from services.runtime.stage_job import StageJob
from services.runtime.stage_runner import WorkerState
from tests.unit.stage_fakes import (
    COPY,
    DONE,
    FRAMES,
    LARGE_MODEL,
    MODEL,
    PLACED,
    STEP,
    Stage,
    denoise_request,
    memory,
    until,
)

OUT_OF_MEMORY = error_message(errors.VramBudgetExceededError("no memory"))
NOT_FINITE = error_message(errors.NonFiniteError("dit in float16: step 1 is not finite"))


def within(make: Callable[[], Stage], test: Callable[[Stage], Awaitable[Any]]) -> Stage:
    """Runs `test` with a stage that is entered and left; none may take long."""

    async def scenario() -> Stage:
        stage = make()
        async with asyncio.timeout(10), stage.runner:
            await test(stage)
        return stage

    return asyncio.run(scenario())


async def collect(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


def started_of(events: list[Any]) -> list[Started]:
    return [event for event in events if isinstance(event, Started)]


def report_of(events: list[Any]) -> Report:
    assert isinstance(events[-1], Report)
    return events[-1]


def test_events_come_in_order_and_the_lease_is_left_after_the_worker() -> None:
    async def test(stage: Stage) -> None:
        queued, started, step, report = await stage.run()
        assert queued == Queued(1)
        assert isinstance(started, Started)
        assert (started.fencing_token, started.dtype, started.was_warm) == (7, "float32", False)
        assert step == STEP
        assert isinstance(report, Report)
        assert report.started_at < report.ended_at
        assert stage.runner.worker_state is WorkerState.WARM
        assert stage.runner.active_job_count == 0

    stage = within(lambda: Stage([PLACED, STEP, DONE]), test)
    assert stage.leases.left == ["released"]
    assert stage.leases.workers_living_at_the_end == []


def test_the_lease_asks_for_what_this_request_needs() -> None:
    async def test(stage: Stage) -> None:
        events = await stage.run(denoise_request(frames=50))
        assert report_of(events).planned_bytes == (10 + 200 + 2 * 50) * MIB

    stage = within(lambda: Stage([PLACED, DONE]), test)
    assert stage.leases.asked_bytes == [(10 + 200 + 2 * 50) * MIB]


def test_a_second_job_finds_the_weights_on_the_device() -> None:
    async def test(stage: Stage) -> None:
        await stage.run()
        started = started_of(await stage.run())
        assert [start.was_warm for start in started] == [True]

    stage = within(lambda: Stage([PLACED, DONE, STEP, DONE]), test)
    assert len(stage.host.forked) == 1
    assert stage.leases.left == ["released"]
    assert [message.kind for message in stage.workers[0].sent] == ["hold", "job", "job"]
    assert [message.fields["number"] for message in stage.workers[0].sent[1:]] == [1, 2]


def test_an_idle_holder_leaves_once_it_is_asked() -> None:
    async def test(stage: Stage) -> None:
        await stage.run()
        assert stage.leases.lease is not None
        stage.leases.lease.revoked.set()
        await stage.workers[0].ended()
        await stage.run()

    stage = within(lambda: Stage([PLACED, DONE], [PLACED, DONE]), test)
    assert stage.leases.left == ["released", "released"]


def test_queued_jobs_run_under_one_lease_though_others_wait() -> None:
    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        jobs = [asyncio.create_task(stage.run()) for _ in range(3)]
        await until(lambda: stage.runner.active_job_count == 3 and bool(stage.leases.asked_bytes))
        stage.leases.may_grant.set()
        await until(lambda: stage.leases.lease is not None)
        assert stage.leases.lease is not None
        stage.leases.lease.revoked.set()
        await asyncio.gather(*jobs)
        await stage.workers[0].ended()

    stage = within(lambda: Stage([PLACED, DONE, DONE, DONE]), test)
    assert stage.leases.left == ["released"]


def test_a_hold_ends_after_its_longest_time_though_jobs_are_queued() -> None:
    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        jobs = [asyncio.create_task(stage.run()) for _ in range(2)]
        await until(lambda: stage.runner.active_job_count == 2 and bool(stage.leases.asked_bytes))
        stage.leases.may_grant.set()
        await until(lambda: stage.leases.lease is not None)
        assert stage.leases.lease is not None
        stage.leases.lease.revoked.set()
        await asyncio.gather(*jobs)

    stage = within(lambda: Stage([PLACED, DONE], [PLACED, DONE], max_hold_s=0.0), test)
    assert stage.leases.left == ["released", "released"]


def test_without_warmth_the_device_is_left_after_each_job() -> None:
    async def test(stage: Stage) -> None:
        await stage.run()
        await stage.workers[0].ended()

    stage = within(lambda: Stage([PLACED, DONE], stays_warm=False), test)
    assert stage.leases.left == ["released"]


def test_a_job_that_needs_more_bytes_than_the_lease_can_get_waits_in_line_for_all_of_them() -> None:
    async def test(stage: Stage) -> None:
        await stage.run(denoise_request(frames=10))
        await stage.run(denoise_request(frames=20))

    def make() -> Stage:
        stage = Stage([PLACED, DONE], [PLACED, DONE])
        stage.leases.grows = False
        return stage

    stage = within(make, test)
    assert stage.leases.asked_bytes == [(210 + 2 * frames) * MIB for frames in (10, 20)]
    assert stage.leases.left == ["released", "released"]


def test_a_job_for_another_model_gets_another_worker_and_the_bytes_of_its_own() -> None:
    async def test(stage: Stage) -> None:
        await stage.run(denoise_request(frames=50))
        assert stage.runner.placed_model == MODEL
        (large,) = started_of(await stage.run(denoise_request(frames=50, model=LARGE_MODEL)))
        assert (large.was_warm, large.vram_bytes) == (False, (10 + 600 + 100) * MIB)
        assert stage.runner.placed_model == LARGE_MODEL
        lease = stage.leases.lease
        assert lease is not None
        await until(lambda: lease.wanted_bytes == (10 + 600) * MIB)
        (small,) = started_of(await stage.run(denoise_request(frames=50)))
        assert (small.was_warm, small.vram_bytes) == (False, (10 + 200 + 100) * MIB)
        await until(lambda: lease.wanted_bytes == (10 + 200) * MIB)

    stage = within(lambda: Stage([PLACED, DONE], [PLACED, DONE], [PLACED, DONE]), test)
    assert [worker.sent[0].fields["model"] for worker in stage.workers] == [MODEL, LARGE_MODEL, MODEL]
    assert stage.leases.grown == [(10 + 600 + 100) * MIB]
    assert stage.leases.left == ["released"]
    assert all(worker.is_stopped for worker in stage.workers)


def test_the_worker_of_one_model_is_gone_before_the_lease_gives_its_bytes_away() -> None:
    async def test(stage: Stage) -> None:
        await stage.run(denoise_request(model=LARGE_MODEL))
        lease, large = stage.leases.lease, stage.workers[0]
        assert lease is not None
        await until(lambda: stage.runner.worker_state is WorkerState.WARM)
        report = lease.report

        def checked(*, is_idle: bool, vram_bytes: int) -> None:
            assert is_idle or large.death.is_set()
            report(is_idle=is_idle, vram_bytes=vram_bytes)

        lease.report = checked  # type: ignore[method-assign]
        await stage.run(denoise_request(model=MODEL))

    within(lambda: Stage([PLACED, DONE], [PLACED, DONE]), test)


def test_a_driver_may_take_its_time_to_free_what_the_model_before_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stay, "FREE_POLL_S", 0.0)

    async def test(stage: Stage) -> None:
        await stage.run(denoise_request(model=LARGE_MODEL))
        stage.free_mib[:] = [10, 100, 4096]
        events = await stage.run(denoise_request(model=MODEL))
        assert report_of(events).adaptations == ()

    within(lambda: Stage([PLACED, DONE], [PLACED, DONE]), test)


async def run_in_line(stage: Stage, *models: str) -> list[bool]:
    """Which of the jobs, in line before the device is there, found their weights in place."""
    stage.leases.may_grant.clear()
    jobs = [asyncio.create_task(stage.run(denoise_request(model=model))) for model in models]
    await until(lambda: stage.runner.active_job_count == len(jobs) and bool(stage.leases.asked_bytes))
    stage.leases.may_grant.set()
    return [started_of(await job)[0].was_warm for job in jobs]


def test_jobs_that_find_their_weights_in_place_pass_others() -> None:
    async def test(stage: Stage) -> None:
        warm = await run_in_line(stage, MODEL, LARGE_MODEL, COPY, LARGE_MODEL)
        assert warm == [False, False, True, True]

    stage = within(lambda: Stage([PLACED, DONE, DONE], [PLACED, DONE, DONE]), test)
    assert [worker.sent[0].fields["model"] for worker in stage.workers] == [MODEL, LARGE_MODEL]
    assert stage.leases.left == ["released"]


def test_a_job_that_was_passed_for_long_enough_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(stage: Stage) -> None:
        first = asyncio.create_task(stage.run())
        await until(lambda: bool(stage.workers[0].sent[1:]))
        large = asyncio.create_task(stage.run(denoise_request(model=LARGE_MODEL)))
        passing = [asyncio.create_task(stage.run()) for _ in range(2)]
        await until(lambda: stage.runner.active_job_count == 4)
        stage.workers[0].answers.put_nowait(DONE)
        await first
        await until(lambda: bool(stage.workers[0].sent[2:]))  # one has passed
        monkeypatch.setattr(StageJob, "passed_s", lambda job: 0.0 if job._passed_at is None else 30.0)
        stage.workers[0].answers.put_nowait(DONE)
        assert not started_of(await large)[0].was_warm
        started = [started_of(await job)[0].was_warm for job in passing]
        assert started == [True, False]

    within(lambda: Stage([PLACED], [PLACED, DONE], [PLACED, DONE]), test)


def test_jobs_pass_nobody_where_a_hold_has_no_time() -> None:
    async def test(stage: Stage) -> None:
        assert not any(await run_in_line(stage, MODEL, LARGE_MODEL, MODEL))

    within(lambda: Stage([PLACED, DONE], [PLACED, DONE], [PLACED, DONE], max_hold_s=0.0), test)


@pytest.mark.parametrize(
    "answer", [DONE, NOT_FINITE, error_message(errors.InvalidArgumentError.at("tensor", "is wrong"))]
)
def test_a_job_that_ended_leaves_no_tensors_behind(answer: Message) -> None:
    async def test(stage: Stage) -> None:
        data = memoryview(bytearray(8 * FRAMES))
        tensor = WireTensor("context_latents", "float32", (1, FRAMES, 2), data)
        request = dataclasses.replace(denoise_request(), tensors=(tensor,))
        kept = weakref.ref(data)
        del data, tensor
        with contextlib.suppress(errors.InvalidArgumentError, errors.NonFiniteError):
            await stage.run(request)
        del request
        stage.workers[0].sent.clear()
        await until(lambda: kept() is None)

    within(lambda: Stage([PLACED, answer]), test)


@pytest.mark.parametrize("is_revoked", [True, False])
def test_a_worker_hears_that_others_wait_while_it_waits_for_its_sender(is_revoked: bool) -> None:
    async def test(stage: Stage) -> None:
        job = asyncio.create_task(collect(stage.runner.run(denoise_request(), Feed())))
        worker = stage.workers[0]
        await until(lambda: bool(worker.sent[1:]))
        lease = stage.leases.lease
        assert lease is not None
        assert worker.sent[2:] == []
        if is_revoked:
            lease.revoked.set()
        else:
            waiting = asyncio.create_task(stage.run())
        await until(lambda: bool(worker.sent[2:]))
        assert worker.sent[2] == Message("hurry", {"number": 1})
        worker.answers.put_nowait(DONE)
        await job
        if not is_revoked:
            worker.answers.put_nowait(DONE)
            await waiting

    within(lambda: Stage([PLACED]), test)


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


def test_a_model_finds_the_weights_that_it_shares_with_another_in_place() -> None:
    async def test(stage: Stage) -> None:
        await stage.run(denoise_request(model=COPY))
        assert stage.runner.placed_model == MODEL
        assert started_of(await stage.run(denoise_request(model=MODEL)))[0].was_warm

    stage = within(lambda: Stage([PLACED, DONE, DONE]), test)
    assert stage.workers[0].sent[0].fields["model"] == MODEL


def test_a_model_that_does_not_fit_is_refused_and_another_is_not() -> None:
    async def test(stage: Stage) -> None:
        await stage.run(denoise_request(frames=10))
        with pytest.raises(errors.VramBudgetExceededError, match=r"at least 320 MiB .* into 300 MiB"):
            await stage.run(denoise_request(frames=10, model=LARGE_MODEL))
        assert started_of(await stage.run(denoise_request(frames=10)))[0].was_warm

    within(lambda: Stage([PLACED, DONE, DONE], device_mib=300), test)


def test_an_idle_worker_that_dies_gives_the_lease_back() -> None:
    async def test(stage: Stage) -> None:
        await stage.run()
        stage.workers[0].death.set()
        assert started_of(await stage.run())[0].was_warm is False

    stage = within(lambda: Stage([PLACED, DONE], [PLACED, DONE]), test)
    assert stage.leases.left == ["released", "released"]


def test_what_does_not_fit_by_plan_is_refused_before_the_device_is_asked_for() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.VramBudgetExceededError, match=r"at least 210 MiB .* into 200 MiB"):
            await stage.run(denoise_request(frames=100))

    stage = within(lambda: Stage(device_mib=200), test)
    assert stage.leases.asked_bytes == []


@pytest.mark.parametrize(
    ("device_mib", "quantization", "split"), [(410, "none", False), (409, "none", True), (309, "int8", True)]
)
def test_the_best_way_that_fits_is_planned(device_mib: int, quantization: str, split: bool) -> None:
    async def test(stage: Stage) -> None:
        events = await stage.run(denoise_request(frames=100))
        assert started_of(events)[0].quantization == quantization
        assert report_of(events).adaptations == ()

    stage = within(lambda: Stage([PLACED, DONE], device_mib=device_mib), test)
    hold, job = stage.workers[0].sent
    assert hold.fields["quantization"] == quantization
    assert job.fields["fields"]["split_guidance"] is split


def test_out_of_memory_is_tried_again_in_the_next_way_and_told() -> None:
    async def test(stage: Stage) -> None:
        events = await stage.run()
        assert [start.quantization for start in started_of(events)] == ["none", "none", "int8"]
        adaptations = report_of(events).adaptations
        assert [a.kind for a in adaptations] == [AdaptationKind.SPLIT_GUIDANCE, AdaptationKind.INT8]
        assert [a.cause for a in adaptations] == ["no memory", "no memory"]
        assert adaptations[0].before == "float32, weights none"
        assert adaptations[0].after == adaptations[1].before == "float32, weights none, guidance split"

    stage = within(lambda: Stage([PLACED, OUT_OF_MEMORY], [OUT_OF_MEMORY], [PLACED, STEP, DONE]), test)
    assert [worker.is_stopped for worker in stage.workers] == [True, True, True]
    assert stage.leases.left == ["released"]


def test_a_way_that_needs_no_less_than_the_one_that_failed_is_skipped() -> None:
    """Where weights are small, splitting guidance saves more than INT8 with guidance at once."""

    async def test(stage: Stage) -> None:
        adaptations = report_of(await stage.run()).adaptations
        assert [a.after for a in adaptations] == [
            "float32, weights none, guidance split",
            "float32, weights int8, guidance split",
        ]
        assert [a.kind for a in adaptations] == [AdaptationKind.SPLIT_GUIDANCE, AdaptationKind.INT8]

    def make() -> Stage:
        stage = Stage([PLACED, OUT_OF_MEMORY], [OUT_OF_MEMORY], [PLACED, DONE])
        stage.host.memories = {"float32": memory(weights_mib=2)}
        return stage

    within(make, test)


def test_when_every_way_is_out_of_memory_the_error_names_them_all() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.VramBudgetExceededError) as caught:
            await stage.run(denoise_request(guidance_scale=1.0))
        assert "no memory; tried: float32, weights none; float32, weights int8." in caught.value.message
        await stage.run(denoise_request(guidance_scale=1.0))  # the next job starts from the best way again

    stage = within(lambda: Stage([PLACED, OUT_OF_MEMORY], [PLACED, OUT_OF_MEMORY], [PLACED, DONE]), test)
    assert stage.workers[2].sent[0].fields["quantization"] == "none"


def test_float16_that_overflows_is_done_in_float32() -> None:
    async def test(stage: Stage) -> None:
        events = await stage.run()
        assert [start.dtype for start in started_of(events)] == ["float16", "float32"]
        (adaptation,) = report_of(events).adaptations
        assert adaptation.kind is AdaptationKind.FLOAT32

    within(lambda: Stage([PLACED, NOT_FINITE], [PLACED, DONE], dtype="float16"), test)


def test_values_that_are_not_finite_in_float32_are_an_error() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.NonFiniteError):
            await stage.run()

    within(lambda: Stage([PLACED, NOT_FINITE]), test)


def test_a_worker_that_dies_is_reported_with_its_signal_and_replaced() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.WorkerCrashedError, match="was killed by signal 9"):
            await stage.run()
        await stage.run()

    stage = within(lambda: Stage([PLACED, None], [PLACED, DONE]), test)
    assert set(stage.leases.left) == {"released"}


def test_a_worker_without_progress_is_killed() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.WorkerStalledError, match=str(stage.workers[0].pid)):
            await stage.run()

    stage = within(lambda: Stage([PLACED]), test)
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


def test_a_cancelled_worker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "CANCEL_GRACE_S", 0.05)

    async def test(stage: Stage) -> None:
        stage.workers[0].obeys = False
        async with contextlib.aclosing(stage.runner.run(denoise_request())) as events:
            async for event in events:
                if isinstance(event, Message):
                    break

    stage = within(lambda: Stage([PLACED, STEP]), test)
    assert stage.workers[0].is_killed
    assert stage.leases.left == ["released"]


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


def test_jobs_behind_the_first_are_told_their_place() -> None:
    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        jobs = [stage.runner.run(denoise_request()) for _ in range(2)]
        waiting = [asyncio.ensure_future(anext(job)) for job in jobs]
        assert await waiting[0] == Queued(1)
        assert await waiting[1] == Queued(2)
        for job in jobs:
            await job.aclose()

    within(lambda: Stage(), test)


def test_a_ledger_out_of_reach_fails_all_who_wait() -> None:
    async def test(stage: Stage) -> None:
        stage.leases.refusal = errors.ServiceUnreachableError("no ledger")
        results = await asyncio.gather(stage.run(), stage.run(), return_exceptions=True)
        assert [type(result) for result in results] == [errors.ServiceUnreachableError] * 2

    within(lambda: Stage(), test)


def test_a_stage_that_still_loads_says_when_to_try_again() -> None:
    async def test(stage: Stage) -> None:
        stage.host.is_ready = False
        with pytest.raises(errors.UnavailableError, match="still being loaded") as caught:
            await stage.run()
        assert caught.value.retry_delay_s == job_plans.LOADING_RETRY_S

    stage = within(lambda: Stage(), test)
    assert stage.leases.asked_bytes == []


def test_a_device_with_less_than_it_granted_is_asked_for_that_much_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other programs have a part that the ledger does not know of: idle stages can make room for it."""
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [300, 4096]
        events = await stage.run(denoise_request(frames=100))
        assert report_of(events).adaptations == ()
        assert report_of(events).planned_bytes == 410 * MIB

        await stage.run(denoise_request(frames=100))  # asks for no more than it needs again

    stage = within(lambda: Stage([PLACED, DONE, DONE], is_exclusive=False), test)
    assert stage.leases.asked_bytes == [410 * MIB, (410 + 110) * MIB]
    assert stage.leases.left == ["released", "released"]


def test_a_device_that_nobody_can_make_room_on_is_done_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [300]
        events = await stage.run(denoise_request(frames=100))
        kinds = [adaptation.kind for adaptation in report_of(events).adaptations]
        assert kinds == [AdaptationKind.SPLIT_GUIDANCE]
        assert "only 300 of 4096 MiB are free" in report_of(events).adaptations[0].cause

    stage = within(lambda: Stage([PLACED, DONE]), test)
    assert stage.leases.left == ["released"]


def test_a_job_that_needs_more_after_a_failure_waits_in_line_for_it() -> None:
    async def test(stage: Stage) -> None:
        events = await stage.run()
        (adaptation,) = report_of(events).adaptations
        assert adaptation.kind is AdaptationKind.FLOAT32

    def make() -> Stage:
        stage = Stage([PLACED, NOT_FINITE], [PLACED, DONE], dtype="float16")
        stage.leases.grows = False
        return stage

    stage = within(make, test)
    assert stage.leases.asked_bytes == [310 * MIB, 410 * MIB]


def test_a_shortage_that_nothing_helps_against_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [10]
        with pytest.raises(errors.DeviceShortageError, match=r"other programs have the rest; tried: .*int8"):
            await stage.run()

    within(lambda: Stage(), test)


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


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_line, "MAX_LINE_COUNT", 2)

    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        jobs = [asyncio.create_task(stage.run()) for _ in range(2)]
        await until(lambda: stage.runner.active_job_count == 2)
        with pytest.raises(errors.QueueFullError, match="accepted: up to 2"):
            await stage.run()
        stage.leases.may_grant.set()
        await asyncio.gather(*jobs)

    within(lambda: Stage([PLACED, DONE, DONE]), test)


def test_a_line_has_an_end_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_line, "MAX_LINE_BYTES", 1000)

    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        waiting = asyncio.create_task(stage.run(denoise_request(frames=100)))
        await until(lambda: stage.runner.active_job_count == 1)
        with pytest.raises(errors.QueueFullError, match=r"1 jobs wait with 800 bytes .*accepted: up to 1000"):
            await stage.run(denoise_request(frames=26))
        small = asyncio.create_task(stage.run(denoise_request(frames=25)))
        stage.leases.may_grant.set()
        await asyncio.gather(waiting, small)

    within(lambda: Stage([PLACED, DONE, DONE]), test)


def test_places_move_up_when_a_job_ahead_leaves() -> None:
    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        first, second = stage.runner.run(denoise_request()), stage.runner.run(denoise_request())
        waiting = [asyncio.ensure_future(anext(job)) for job in (first, second)]
        assert [await place for place in waiting] == [Queued(1), Queued(2)]
        await first.aclose()
        assert await anext(second) == Queued(1)
        await second.aclose()

    within(lambda: Stage(), test)


def test_bytes_that_were_just_given_away_are_asked_for_before_they_are_used() -> None:
    async def test(stage: Stage) -> None:
        await stage.run()
        lease = stage.leases.lease
        assert lease is not None
        await until(lambda: lease.wanted_bytes < lease.vram_bytes)  # idle; the ledger has not answered
        stage.leases.grown.clear()
        await stage.run()
        assert stage.leases.grown == [410 * MIB]

    within(lambda: Stage([PLACED, DONE, DONE]), test)
