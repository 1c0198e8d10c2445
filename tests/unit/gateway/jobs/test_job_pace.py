from __future__ import annotations

import pytest

from services.gateway.jobs.pace import Pace, StagePace


def test_nothing_is_expected_before_the_first_job() -> None:
    assert Pace().wait_s(3, [1.0]) is None


def test_the_wait_grows_with_the_place_in_line_and_shrinks_with_the_jobs_that_run() -> None:
    pace = Pace()
    pace.add(10.0)
    pace.add(30.0)
    assert pace.mean_run_s == 20.0
    assert pace.wait_s(1, []) == 20.0
    assert pace.wait_s(4, [0.0, 10.0]) == 40.0
    assert pace.wait_s(4, [0.0]) == 80.0


def test_the_wait_counts_down_with_the_work_of_those_that_run() -> None:
    pace = Pace()
    pace.add(20.0)
    assert pace.wait_s(1, [15.0]) == 5.0
    assert pace.wait_s(3, [15.0]) == 45.0
    assert pace.wait_s(2, [15.0, 4.0]) == 16.0
    assert pace.wait_s(3, [15.0, 4.0]) == 25.0
    assert pace.wait_s(1, [90.0]) == 0.0
    assert pace.wait_s(1, []) == 20.0


def test_only_the_last_jobs_count() -> None:
    pace = Pace()
    for run_s in [1_000.0] * 5 + [2.0] * 20:
        pace.add(run_s)
    assert pace.mean_run_s == 2.0


def test_the_first_steps_of_a_stage_say_nothing_of_the_others() -> None:
    pace = StagePace()
    assert [pace.left_s("dit", done, 8, 98.0 + 2 * done) for done in (1, 2)] == [None, None]
    assert pace.left_s("dit", 3, 8, 104.0) == pytest.approx(10.0)
    assert pace.left_s("dit", 8, 8, 114.0) == 0.0
    assert pace.left_s("vae", 1, 5, 120.0) is None


def test_a_long_stage_is_timed_by_five_steps() -> None:
    pace = StagePace()
    assert [pace.left_s("vae", done, 40, float(done)) for done in range(1, 6)] == [None] * 5
    assert pace.left_s("vae", 6, 40, 6.0) == pytest.approx(34.0)


def test_a_stage_that_begins_anew_is_timed_anew() -> None:
    pace = StagePace()
    pace.left_s("dit", 1, 8, 0.0)
    pace.left_s("dit", 6, 8, 5.0)
    assert pace.left_s("dit", 1, 8, 100.0) is None
    assert pace.left_s("dit", 3, 8, 104.0) == pytest.approx(10.0)
