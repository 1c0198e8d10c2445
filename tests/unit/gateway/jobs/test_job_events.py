"""What a job says, as progress."""

from __future__ import annotations

from acestage.generation import GenerationEvent, JobQueued, StageProgress, StageWaiting
from services.gateway.jobs.job_events import JobCourse
from services.gateway.jobs.record import Progress
from services.gateway.jobs.work_done import PARTS, WorkDone


def course(*, has_audio: bool) -> JobCourse:
    return JobCourse(WorkDone(dict.fromkeys(PARTS, 1.0), has_audio))


def test_the_vae_reads_a_source_before_the_other_stages_and_decodes_after_them() -> None:
    events: list[GenerationEvent] = [
        JobQueued("abc", 0),
        StageWaiting("vae", 1),
        StageProgress("vae", 1, 6),
        StageProgress("vae", 6, 6),
        StageProgress("vae", 1, 2),  # the reference
        StageProgress("text_encoder", 1, 1),
        StageProgress("dit", 8, 8),
        StageWaiting("vae", 1),
        StageProgress("vae", 1, 6),
    ]
    progress, job = Progress(), course(has_audio=True)
    seen = []
    for event in events:
        progress = job.after(progress, event, 0.0)
        seen.append(progress.is_source)
    assert seen == [False, True, True, True, True, False, False, False, False]


def test_a_song_without_a_source_is_decoded_alone() -> None:
    job = course(has_audio=False)
    progress = job.after(Progress(), StageProgress("dit", 8, 8), 0.0)
    progress = job.after(progress, StageProgress("vae", 1, 6), 0.0)
    assert not progress.is_source
