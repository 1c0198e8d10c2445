"""What the page says of a job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from acestage.limits import Limit, Limits
from acestage.status import Status
from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobState, Progress
from services.gateway.page import views
from services.gateway.page.languages import TEXTS
from services.gateway.page.restoring import Restored
from tests.unit.gateway.gateway_records import START, ended_record


def gateway(starts_in_s: float | None = None) -> Gateway:
    return cast(Gateway, SimpleNamespace(book=SimpleNamespace(starts_in_s=lambda position: starts_in_s)))


def said(record: Any, language: str = "en", starts_in_s: float | None = None) -> str:
    return views.progress(Job(record, Path()), gateway(starts_in_s), TEXTS[language])


RUNNING = ended_record("abc", state=JobState.RUNNING)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(), "Starting."),
        (Progress("vae", done_count=1, total_count=6, is_source=True), "Reading the source: 1 of 6."),
        (Progress("vae", done_count=1, total_count=6), "Decoder: 1 of 6."),
        (
            Progress("dit", done_count=3, total_count=8, stage_left_s=9.6),
            "Diffusion: 3 of 8. About 10 s left in this stage.",
        ),
        (Progress("vae", done_count=6, total_count=6, stage_left_s=0.0), "Decoder: 6 of 6."),
        (Progress("vae", done_count=6, total_count=6, is_writing=True), "Writing the files."),
    ],
)
def test_each_part_of_the_work_has_words(progress: Progress, text: str) -> None:
    assert said(replace(RUNNING, progress=progress)) == text


def test_a_place_in_the_queue_comes_with_a_time_where_one_is_known() -> None:
    queued = replace(RUNNING, state=JobState.QUEUED, progress=Progress(queue_position=2))
    assert said(queued) == "In the queue, number 2."
    assert said(queued, starts_in_s=92.4) == "In the queue, number 2. Starts in about 92 s."
    assert said(queued, starts_in_s=0.0) == "In the queue, number 2."


def test_a_song_is_done_when_its_files_are_there() -> None:
    record = ended_record("abc", ended_s=12.3)
    assert said(record).startswith("Done in 12.3 s.")
    assert said(replace(record, started_at=None)).startswith("Done in 1.5 s.")
    assert said(record, "pt").startswith("Pronto em 12,3 s.")
    assert record.ended_at == START + timedelta(seconds=12.3)


def test_the_last_songs_are_listed_and_the_one_that_is_shown() -> None:
    jobs = [Job(ended_record(f"job-{number}"), Path()) for number in range(200)]
    book = SimpleNamespace(jobs=lambda: jobs)
    choices = views.history_choices(cast(Gateway, SimpleNamespace(book=book)), TEXTS["en"], "job-150")
    newest = [f"job-{number}" for number in range(100)]
    assert [job_id for _, job_id in choices] == [*newest, "job-150"]


def test_stages_hold_the_device_by_their_names_and_others_by_theirs() -> None:
    leases = [SimpleNamespace(holder=name) for name in ("text_encoder@vm:23062", "vae@vm:1", "test")]
    status = cast(Status, SimpleNamespace(devices=(), leases=leases))
    limits = Limits(Limit(600, "the model"), Limit(8, "the model"), (), "cpu", 0, "", "planner")
    assert "Held by Text encoder, Decoder, test" in views.machine(status, limits, TEXTS["en"])


def test_what_has_not_come_back_into_the_fields_is_named() -> None:
    labels = {"source": "Source audio", "reference": "Reference", "seed": "Seed", "title": "Title"}
    fieldless = [*(f"odd_{number}" for number in range(views.MAX_NAMED_COUNT - 1)), "x" * 81, "beyond"]
    back = Restored({}, {"seed": 2**70, "title": "y" * 81}, fieldless, ["source", "reference"])
    assert views.restored(back, labels, TEXTS["en"]).splitlines() == [
        "The settings are back in the fields, but for:",
        "Source audio: choose the file again",
        "Reference: choose the file again",
        f"Seed: {2**70} is not possible here, so this stays as it was",
        f"Title: {'y' * 80} is not possible here, so this stays as it was",
        *(f"{name}: has no field on this page" for name in [*fieldless[:-2], "x" * 80]),
    ]


def test_that_all_settings_have_come_back_is_said() -> None:
    assert views.restored(Restored({"seed": 7}, {}, [], []), {}, TEXTS["en"]) == TEXTS["en"].restored


def test_long_names_are_cut_off_in_the_list_of_songs() -> None:
    order = replace(RUNNING.order, title="x" * 100)
    book = SimpleNamespace(jobs=lambda: [Job(replace(RUNNING, order=order), Path())])
    gateway = cast(Gateway, SimpleNamespace(book=book))
    ((label, job_id),) = views.history_choices(gateway, TEXTS["en"], shown_id="")
    assert (label.rpartition(" ")[2], job_id) == ("x" * 60, "abc")
