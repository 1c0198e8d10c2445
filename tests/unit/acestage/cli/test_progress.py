"""The bars of a running generation."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from acestage.cli.progress import ProgressView
from acestage.generation import GenerationEvent, JobQueued, StageProgress, StageStarted, StageWaiting


def started(stage: str) -> StageStarted:
    return StageStarted(stage, "cpu", "float32", "l1", 1, 0.0, "none", 1 << 20, was_warm=False)


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
