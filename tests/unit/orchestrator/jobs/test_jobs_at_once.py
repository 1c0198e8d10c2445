"""How many jobs are in work at the same time, by the devices of the stages."""

from __future__ import annotations

import pytest

from services.orchestrator.jobs.jobs_at_once import jobs_at_once


@pytest.mark.parametrize(
    ("devices", "count"),
    [
        (set(), 1),
        ({"cpu"}, 1),
        ({"cuda:0"}, 4),
        ({"cuda:0", "cuda:1"}, 4),
        ({"cpu", "cuda:0"}, 4),
        ({"fake:0"}, 4),
    ],
)
def test_stages_that_share_the_cpus_have_one_job_between_them(devices: set[str], count: int) -> None:
    assert jobs_at_once(devices) == count
