"""The jobs of a stage where memory is short: the ways to do with less, and what is said of them."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from acestage import errors
from acestage.planning import MIB, ActivationCurve
from services.dit.budget import DitBudget
from services.runtime.jobs import lessons, stay
from services.runtime.jobs.job_budget import AdaptationKind
from services.runtime.jobs.stage_event import StageEvent
from services.runtime.workers.messages import Message
from tests.unit.runtime.jobs.stage_running import NOT_FINITE, OUT_OF_MEMORY, report_of, started_of, within
from tests.unit.stage_fakes import DONE, PLACED, STEP, Stage, denoise_request, memory
from tests.unit.waiting import until


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


def dtypes(events: list[StageEvent]) -> list[str]:
    return [start.dtype for start in started_of(events)]


def test_a_model_that_overflows_time_and_again_begins_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some cards do in any song; else each would start two workers."""

    async def test(stage: Stage) -> None:
        for _ in range(2):
            assert dtypes(await stage.run()) == ["float16", "float32"]
        events = await stage.run()
        assert dtypes(events) == ["float32"]
        (adaptation,) = report_of(events).adaptations
        assert adaptation.kind is AdaptationKind.FLOAT32
        assert adaptation.cause == "in an earlier job: dit in float16: step 1 is not finite"
        monkeypatch.setattr(lessons, "time", SimpleNamespace(monotonic=lambda: math.inf))
        assert dtypes(await stage.run()) == ["float16"]

    workers = ([PLACED, NOT_FINITE], [PLACED, DONE], [PLACED, NOT_FINITE], [PLACED, DONE, DONE])
    within(lambda: Stage(*workers, [PLACED, DONE], dtype="float16"), test)


def test_jobs_that_waited_while_others_overflowed_begin_in_float32_too() -> None:
    async def test(stage: Stage) -> None:
        jobs = await asyncio.gather(*(stage.run() for _ in range(3)))
        assert [dtypes(events) for events in jobs] == [["float16", "float32"]] * 2 + [["float32"]]

    workers = ([PLACED, NOT_FINITE], [PLACED, DONE], [PLACED, NOT_FINITE], [PLACED, DONE, DONE])
    within(lambda: Stage(*workers, dtype="float16"), test)


def test_an_overflow_now_and_then_is_the_songs_own() -> None:
    async def test(stage: Stage) -> None:
        found = [dtypes(await stage.run()) for _ in range(4)]
        assert found == [["float16", "float32"], ["float16"], ["float16", "float32"], ["float16"]]

    overflow = [PLACED, NOT_FINITE], [PLACED, DONE]
    workers = (*overflow, [PLACED, DONE, NOT_FINITE], [PLACED, DONE], [PLACED, DONE])
    within(lambda: Stage(*workers, dtype="float16"), test)


def test_an_adapter_that_overflows_is_no_fault_of_its_model() -> None:
    async def test(stage: Stage) -> None:
        request = denoise_request()
        adapted = replace(
            request, fields={**request.fields, "adapters": [{"widest": 1, "parameter_count": 1}]}
        )
        for _ in range(2):
            assert dtypes(await stage.run(adapted)) == ["float16", "float32"]
        assert dtypes(await stage.run()) == ["float16"]

    overflow = [PLACED, NOT_FINITE], [PLACED, DONE]
    within(lambda: Stage(*overflow, *overflow, [PLACED, DONE], dtype="float16"), test)


def test_a_song_that_fits_in_float16_alone_is_tried_so_whatever_overflowed_before() -> None:
    async def test(stage: Stage) -> None:
        short, long = denoise_request(frames=50), denoise_request(frames=100)
        for _ in range(2):
            assert dtypes(await stage.run(short))[-1] == "float32"
        events = await stage.run(long)
        assert dtypes(events) == ["float16"]
        assert report_of(events).adaptations == ()
        assert dtypes(await stage.run(short)) == ["float32"]

    overflow, done = ([PLACED, NOT_FINITE], [PLACED, DONE]), [PLACED, DONE]
    within(lambda: Stage(*overflow, *overflow, done, done, dtype="float16", device_mib=205), test)


def test_values_that_are_not_finite_in_float32_are_an_error() -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(errors.NonFiniteError):
            await stage.run()

    within(lambda: Stage([PLACED, NOT_FINITE]), test)


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


def test_out_of_memory_beside_others_is_answered_by_a_lease_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages may look at the same free bytes before either takes its own."""
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [4096, 300, 4096]
        assert report_of(await stage.run(denoise_request(frames=100))).adaptations == ()

    stage = within(lambda: Stage([PLACED, OUT_OF_MEMORY], [PLACED, DONE], is_exclusive=False), test)
    assert stage.leases.asked_bytes == [410 * MIB, (410 + 110) * MIB]


def test_out_of_memory_since_a_program_took_some_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [4096, 300]
        for _ in range(2):
            (adaptation,) = report_of(await stage.run(denoise_request(frames=100))).adaptations
            assert adaptation.kind is AdaptationKind.SPLIT_GUIDANCE
            assert "only 300 of 4096 MiB are free" in adaptation.cause

    within(lambda: Stage([PLACED, OUT_OF_MEMORY], [PLACED, DONE, DONE]), test)


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


def test_what_other_programs_left_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every job would wait for more, and start a worker anew."""
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [300]
        both = await asyncio.gather(*(stage.run(denoise_request(frames=100)) for _ in range(2)))
        later = await stage.run(denoise_request(frames=100))
        for events in (*both, later):
            (adaptation,) = report_of(events).adaptations
            assert adaptation.kind is AdaptationKind.SPLIT_GUIDANCE
            assert "only 300 of 4096 MiB are free" in adaptation.cause
        stage.free_mib[:] = [4096]
        monkeypatch.setattr(lessons, "time", SimpleNamespace(monotonic=lambda: math.inf))
        assert report_of(await stage.run(denoise_request(frames=100))).adaptations == ()

    within(lambda: Stage([PLACED, DONE, DONE, DONE, DONE]), test)


def with_prompt(stage: Stage) -> Stage:
    """Has what is kept of the prompt take 20 MiB, beside 410 MiB of the plain way."""
    plain = stage.host.memories["float32"]
    kept = ActivationCurve(((1, 20 * MIB),))
    activations = {key: kept if key[0] == "prompt" else curve for key, curve in plain.activations.items()}
    stage.host.memories["float32"] = replace(plain, activations=activations)
    return stage


def keeps_prompt(stage: Stage) -> list[bool]:
    """Of each job that the workers were told to do."""
    sent = (message for worker in stage.workers for message in worker.sent)
    return [job.fields["fields"]["keeps_prompt"] for job in sent if job.kind == "job"]


def test_the_prompt_is_not_kept_where_other_programs_have_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The music is the same, so it is no adaptation."""
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [410 - stay.FREE_BYTES_SLACK // MIB]
        for _ in range(2):  # the second begins so
            report = report_of(await stage.run(denoise_request(frames=100)))
            assert report.adaptations == ()
            assert report.planned_bytes == 410 * MIB

    stage = within(lambda: with_prompt(Stage([PLACED, DONE, DONE])), test)
    assert keeps_prompt(stage) == [False, False]
    assert stage.leases.asked_bytes == [430 * MIB]


def test_a_shortage_of_more_than_the_prompt_takes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [409 - stay.FREE_BYTES_SLACK // MIB]
        (adaptation,) = report_of(await stage.run(denoise_request(frames=100))).adaptations
        assert adaptation.kind is AdaptationKind.SPLIT_GUIDANCE
        assert (adaptation.before, adaptation.after) == (
            "float32, weights none",
            "float32, weights none, guidance split",
        )

    stage = within(lambda: with_prompt(Stage([PLACED, DONE])), test)
    assert keeps_prompt(stage) == [True]


def test_a_way_that_takes_more_than_was_planned_is_not_tried_without_the_prompt() -> None:
    async def test(stage: Stage) -> None:
        (adaptation,) = report_of(await stage.run()).adaptations
        assert adaptation.kind is AdaptationKind.SPLIT_GUIDANCE

    stage = within(lambda: with_prompt(Stage([PLACED, OUT_OF_MEMORY], [PLACED, DONE])), test)
    assert keeps_prompt(stage) == [True, True]


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


def test_a_job_that_waits_again_stays_before_those_that_came_later() -> None:
    async def test(stage: Stage) -> None:
        first = asyncio.create_task(stage.run())
        await until(lambda: len(stage.host.forked) == 1)
        second = asyncio.create_task(stage.run(denoise_request(frames=50)))
        await until(lambda: stage.runner.active_job_count == 2)
        stage.workers[0].answers.put_nowait(NOT_FINITE)
        await asyncio.gather(first, second)

    def make() -> Stage:
        stage = Stage([PLACED], [PLACED, DONE, DONE], [PLACED, DONE], dtype="float16")
        stage.leases.grows = False
        return stage

    stage = within(make, test)
    assert stage.leases.asked_bytes[:2] == [310 * MIB, 410 * MIB]


def test_a_shortage_that_nothing_helps_against_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "FREE_TIMEOUT_S", 0.0)

    async def test(stage: Stage) -> None:
        stage.free_mib[:] = [10]
        with pytest.raises(errors.DeviceShortageError, match=r"other programs have the rest; tried: .*int8"):
            await stage.run()

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


class PartsBudget(DitBudget):
    """Of a stage whose messages are parts of the result, which are not made again."""

    def remaining(self, request: Message, event: Message) -> Message:
        return replace(request)


@pytest.mark.parametrize(
    ("answers", "first", "kernels"),
    [([STEP], "eager", "mixed"), ([STEP], "compiled", "compiled"), ([], "eager", "compiled")],
)
def test_kernels_are_mixed_where_another_worker_made_a_part_of_the_result(
    answers: list[Message], first: str, kernels: str
) -> None:
    async def test(stage: Stage) -> None:
        assert report_of(await stage.run()).kernels == kernels

    def placed(kernels: str) -> Message:
        return Message("placed", {"kernels": kernels})

    workers = ([placed(first), *answers, OUT_OF_MEMORY], [placed("compiled"), STEP, DONE])
    within(lambda: Stage(*workers, budget=PartsBudget()), test)


def test_a_worker_says_when_its_kernels_run_another_way() -> None:
    async def test(stage: Stage) -> None:
        assert report_of(await stage.run()).kernels == "eager"
        events = await stage.run()
        assert report_of(events).kernels == "compiled"
        assert [event.kind for event in events if isinstance(event, Message)] == [STEP.kind]

    changed = Message("kernels", {"kernels": "compiled"})
    within(lambda: Stage([PLACED, STEP, DONE, changed, STEP, DONE]), test)
