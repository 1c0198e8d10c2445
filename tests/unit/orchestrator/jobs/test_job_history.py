"""Jobs that ended: what is remembered, and what is counted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from acestage.status import EndedJob
from services.orchestrator.jobs.job_history import KEPT_COUNT, JobHistory

NOW = datetime(2030, 1, 2, 12, 0, 0, tzinfo=UTC)


def job(number: int, outcome: str = "succeeded") -> EndedJob:
    return EndedJob(f"job{number}", NOW, 1.5, outcome, duration_s=30.0, batch_size=2)


def test_the_newest_come_first_and_the_oldest_are_forgotten_but_counted() -> None:
    history = JobHistory()
    for number in range(KEPT_COUNT + 5):
        history.add(job(number))
    recent = history.recent()
    assert [ended.job_id for ended in recent] == [f"job{n}" for n in range(KEPT_COUNT + 4, 4, -1)]
    assert history.counts == {"succeeded": KEPT_COUNT + 5, "failed": 0, "cancelled": 0}


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("succeeded", "succeeded"),
        ("cancelled", "cancelled"),
        ("WORKER_CRASHED", "failed"),
        ("INTERNAL", "failed"),
    ],
)
def test_every_outcome_counts_as_one_kind(outcome: str, kind: str) -> None:
    history = JobHistory()
    history.add(job(1, outcome))
    assert history.counts == {"succeeded": 0, "failed": 0, "cancelled": 0} | {kind: 1}


def test_what_the_queue_refuses_is_counted_and_pushes_nobody_out() -> None:
    history = JobHistory()
    history.add(job(1))
    for number in range(KEPT_COUNT):
        history.add(job(2 + number, "QUEUE_FULL"))
    assert [ended.job_id for ended in history.recent()] == ["job1"]
    assert history.counts["failed"] == KEPT_COUNT


def test_whoever_listens_hears_of_every_job() -> None:
    heard: list[EndedJob] = []
    history = JobHistory(heard.append)
    history.add(job(1))
    history.add(job(2, "cancelled"))
    assert [ended.job_id for ended in heard] == ["job1", "job2"]


def test_the_message_has_every_field() -> None:
    message = job(1, "QUEUE_FULL").to_pb()
    assert (message.job_id, message.outcome) == ("job1", "QUEUE_FULL")
    assert message.end_time.ToDatetime(UTC) == NOW
    assert message.total_time.ToTimedelta().total_seconds() == 1.5
    assert (message.duration_s, message.batch_size) == (30.0, 2)
