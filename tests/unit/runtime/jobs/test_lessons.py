"""What jobs begin with after earlier ones ran out of memory and overflowed."""

from __future__ import annotations

import pytest

from acestage.errors import DeviceShortageError, NonFiniteError
from acestage.planning import MIB
from services.dit.budget import DitBudget
from services.runtime.jobs.job_budget import Resources
from services.runtime.jobs.ladder import Ladder
from services.runtime.jobs.lessons import Lessons
from tests.unit.stage_fakes import MODEL, denoise_request, memory


def plan() -> Ladder:
    """In float16 the job takes from 310 MiB down to 160, in float32 from 410 down to 210."""
    resources = Resources(
        device="cpu",
        device_bytes=4096 * MIB,
        weights_of=MODEL,
        dtype="float16",
        quantization="auto",
        memories={"float16": memory(), "float32": memory(weights_mib=200)},
        tile_frame_count=128,
    )
    return Ladder("dit", DitBudget(), resources, denoise_request(frames=100))


def overflow(lessons: Lessons, *, model: str = MODEL, kind: str = "denoise") -> bool:
    return lessons.overflow(model, kind, NonFiniteError("step 1 is not finite"))


@pytest.mark.parametrize(
    ("free_mib", "way"),
    [
        (4096, "float32, weights none"),
        (309, "float32, weights int8, guidance split"),
        (210, "float32, weights int8, guidance split"),
        (209, "float16, weights int8, guidance split"),
        (1, "float16, weights int8, guidance split"),
    ],
)
def test_after_both_a_job_begins_with_what_fits(free_mib: int, way: str) -> None:
    """In float16 where float32 does not fit; with the least where nothing does."""
    lessons = Lessons()
    assert [overflow(lessons), overflow(lessons)] == [False, True]
    lessons.shortage(DeviceShortageError("other programs"), free_mib * MIB)
    ladder = lessons.apply(plan)
    assert ladder.attempt.way == way
    assert all(adaptation.cause.startswith("in an earlier job: ") for adaptation in ladder.adaptations)


def test_an_overflow_counts_for_its_model_and_kind_of_job_alone() -> None:
    lessons = Lessons()
    assert not overflow(lessons)
    assert not overflow(lessons, model="another")
    assert not overflow(lessons, kind="another")
    lessons.no_overflow(MODEL, "another")
    assert lessons.apply(plan).attempt.dtype == "float16"
    assert overflow(lessons, kind="another") is False
    assert overflow(lessons, kind="another") is True
    assert overflow(lessons, model="another") is True
    assert lessons.apply(plan).attempt.dtype == "float16"
    assert overflow(lessons)
    assert lessons.apply(plan).attempt.dtype == "float32"
