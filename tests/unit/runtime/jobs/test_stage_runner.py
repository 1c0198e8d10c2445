"""The jobs of a stage, with a fake host and a fake ledger: order, warmth, the line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import weakref

import pytest

from acestage import errors
from acestage.planning import MIB
from acestage.tensors import WireTensor
from services.runtime.jobs import job_line, job_plans
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.stage_event import Queued, Report, Started
from services.runtime.jobs.stage_runner import WorkerState
from services.runtime.workers.messages import Message, error_message
from tests.unit.runtime.jobs.stage_running import NOT_FINITE, collect, report_of, started_of, within
from tests.unit.stage_fakes import DONE, FRAMES, MODEL, PLACED, STEP, Stage, denoise_request
from tests.unit.waiting import until


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
    hold, *jobs = stage.workers[0].sent
    assert (hold.kind, [message.kind for message in jobs]) == ("hold", ["job", "job"])
    assert hold.fields == {
        "fencing_token": 7,
        "is_exclusive": True,
        "vram_bytes": (10 + 200 + 2 * FRAMES) * MIB,
        "context_bytes": 10 * MIB,
        "model": MODEL,
        "dtype": "float32",
        "quantization": "none",
    }
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


def test_a_job_tells_how_long_it_waited_for_the_device() -> None:
    waited_s = 0.1

    async def test(stage: Stage) -> None:
        stage.leases.may_grant.clear()
        job = asyncio.create_task(stage.run())
        await until(lambda: bool(stage.leases.asked_bytes))
        await asyncio.sleep(waited_s)
        stage.leases.may_grant.set()
        (started,) = started_of(await job)
        assert started.lease_wait_s >= waited_s

    within(lambda: Stage([PLACED, DONE]), test)


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


@pytest.mark.parametrize(
    "answer", [DONE, NOT_FINITE, error_message(errors.InvalidArgumentError.at("tensor", "is wrong"))]
)
def test_a_job_that_ended_leaves_no_tensors_behind(answer: Message) -> None:
    async def test(stage: Stage) -> None:
        data = memoryview(bytearray(8 * FRAMES))
        tensor = WireTensor("context_latents", "float32", (1, FRAMES, 2), data)
        others = denoise_request().tensors[1:]
        request = dataclasses.replace(denoise_request(), tensors=(tensor, *others))
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


@pytest.mark.parametrize(
    ("refusal", "asked_count"),
    [(errors.ServiceUnreachableError("no ledger"), 1), (errors.VramBudgetExceededError("too small"), 2)],
)
def test_a_ledger_out_of_reach_fails_all_who_wait_and_one_that_refuses_the_first(
    refusal: errors.AcestageError, asked_count: int
) -> None:
    async def test(stage: Stage) -> None:
        stage.leases.refusal = refusal
        results = await asyncio.gather(stage.run(), stage.run(), return_exceptions=True)
        assert [type(result) for result in results] == [type(refusal)] * 2

    stage = within(lambda: Stage(), test)
    assert len(stage.leases.asked_bytes) == asked_count


def test_a_stage_that_cannot_load_says_why() -> None:
    async def test(stage: Stage) -> None:
        stage.host.is_ready = False
        stage.host.error = errors.CheckpointError("a file is damaged")
        for _ in range(2):
            with pytest.raises(errors.CheckpointError, match="a file is damaged"):
                await stage.run()

    within(lambda: Stage(), test)


def test_a_stage_that_still_loads_says_when_to_try_again() -> None:
    async def test(stage: Stage) -> None:
        stage.host.is_ready = False
        with pytest.raises(errors.UnavailableError, match="still being loaded") as caught:
            await stage.run()
        assert caught.value.retry_delay_s == job_plans.LOADING_RETRY_S

    stage = within(lambda: Stage(), test)
    assert stage.leases.asked_bytes == []


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
        # Those that left take no room.
        await stage.run(denoise_request(frames=100))

    within(lambda: Stage([PLACED, DONE, DONE, DONE]), test)


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
