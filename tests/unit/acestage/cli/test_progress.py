"""The bars of a running generation."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from acestage.cli.progress import ProgressView
from acestage.generation import (
    GenerationEvent,
    JobQueued,
    StageCompleted,
    StageProgress,
    StageStarted,
    StageWaiting,
)


def started(stage: str) -> StageStarted:
    return StageStarted(stage, "cpu", "float32", "l1", 1, 0.0, "none", 1 << 20, was_warm=False)


def completed(stage: str) -> StageCompleted:
    now = datetime.now(UTC)
    return StageCompleted(stage, "l1", 1, now, now, 0.0, 1.0, (), 0, 0, (), "")


def shown(*events: GenerationEvent, is_terminal: bool) -> str:
    file = io.StringIO()
    with ProgressView(Console(file=file, width=200, force_terminal=is_terminal)) as view:
        for event in events:
            view.hear(event)
    return file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_stages_that_were_heard_of_have_a_bar(is_terminal: bool) -> None:
    """The text encoder has nothing to do where the prompt is remembered."""
    text = shown(
        JobQueued("7", 0),
        StageWaiting("dit", 1),
        started("dit"),
        StageProgress("dit", 3, 8),
        started("vae"),
        is_terminal=is_terminal,
    )
    assert "3/8" in text
    assert "vae" in text
    assert "text_encoder" not in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_job_that_is_refused_shows_no_bars(is_terminal: bool) -> None:
    assert shown(is_terminal=is_terminal) == ""


def test_a_stage_that_works_again_after_a_preview_has_a_new_clock_and_other_steps() -> None:
    now_s = 0.0
    file = io.StringIO()
    with ProgressView(Console(file=file, width=200), clock=lambda: now_s) as view:
        for begin_s, step_count in ((0.0, 8), (100.0, 30)):
            now_s = begin_s
            view.hear(started("dit"))
            now_s += step_count
            view.hear(StageProgress("dit", step_count, step_count))
            view.hear(completed("dit"))
        now_s = 200.0
    assert "30/30 0:00:30 done" in file.getvalue()


def test_no_steps_of_the_preview_are_shown_where_the_song_begins() -> None:
    steps = StageProgress("dit", 8, 8)
    text = shown(started("dit"), steps, completed("dit"), started("dit"), is_terminal=False)
    assert "0/?" in text
