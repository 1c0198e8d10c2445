"""The jobs of a stage that serves several models."""

from __future__ import annotations

import asyncio

import pytest

from acestage import errors
from acestage.planning import MIB
from services.runtime.jobs import stay
from services.runtime.jobs.stage_job import StageJob
from services.runtime.jobs.stage_runner import WorkerState
from tests.unit.runtime.jobs.stage_running import report_of, started_of, within
from tests.unit.stage_fakes import COPY, DONE, LARGE_MODEL, MODEL, PLACED, Stage, denoise_request
from tests.unit.waiting import until


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
        was_gone: list[bool] = []

        def noted(*, is_idle: bool, vram_bytes: int) -> None:
            if not is_idle:
                was_gone.append(large.death.is_set())
            report(is_idle=is_idle, vram_bytes=vram_bytes)

        lease.report = noted  # type: ignore[method-assign]
        await stage.run(denoise_request(model=MODEL))
        assert was_gone
        assert all(was_gone)

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
