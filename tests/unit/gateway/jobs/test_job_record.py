from __future__ import annotations

import json
from dataclasses import replace

import pytest

from services.gateway.jobs.record import JobRecord, JobState
from tests.unit.gateway.gateway_records import START, ended_record


def test_a_record_survives_json() -> None:
    record = ended_record("abc")
    assert JobRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_failed_record_survives_json() -> None:
    record = replace(ended_record("abc"), takes=(), settings=None).failed("WORKER_CRASHED", "it died", START)
    again = JobRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert again.failure is not None
    assert again.failure.reason == "WORKER_CRASHED"


def test_what_a_newer_version_wrote_besides_is_left_out() -> None:
    record = ended_record("abc")
    failed = record.failed("WORKER_CRASHED", "it died", START)
    for one in (record, failed):
        values = json.loads(json.dumps(one.to_dict()))
        assert values["takes"]
        parts = [values, values["order"], values["progress"], *values["takes"]]
        for part in [*parts, values["failure"]] if one is failed else parts:
            part["of_tomorrow"] = 1
        assert JobRecord.from_dict(values) == one


@pytest.mark.parametrize(
    ("state", "is_final"),
    [
        (JobState.QUEUED, False),
        (JobState.RUNNING, False),
        (JobState.SUCCEEDED, True),
        (JobState.FAILED, True),
        (JobState.CANCELLED, True),
    ],
)
def test_three_states_are_final(state: JobState, is_final: bool) -> None:
    assert state.is_final is is_final
