"""What the model can be asked for: the tasks, the instruction that opens the prompt of each, what each takes.

Instructions are those that ACE-Step 1.5 was trained with: `TASK_INSTRUCTIONS` of
`diffusers.pipelines.ace_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TEXT_TO_MUSIC = "text2music"
COVER = "cover"
COVER_WITHOUT_CODES = "cover-nofsq"
REPAINT = "repaint"
EXTRACT = "extract"
LEGO = "lego"
COMPLETE = "complete"

COVERS = (COVER, COVER_WITHOUT_CODES)


@dataclass(frozen=True, slots=True)
class Task:
    """What sets a task apart.

    Attributes:
        instruction: opens the prompt; `{TRACK}` stands for the tracks in capitals.
        instruction_without_track: the same where no track is named; empty for tasks that name none.
        has_source: it works on audio.
        needs_tracks_model: only models that were trained on single tracks know it.
        takes_window: a part of the source can be named.
        takes_codes: audio codes can stand in for the source.
    """

    instruction: str
    instruction_without_track: str = ""
    has_source: bool = True
    needs_tracks_model: bool = False
    takes_window: bool = False
    takes_codes: bool = False


_COVER_INSTRUCTION = "Generate audio semantic tokens based on the given conditions:"

TASKS: dict[str, Task] = {
    TEXT_TO_MUSIC: Task(
        "Fill the audio semantic mask based on the given conditions:", has_source=False, takes_codes=True
    ),
    COVER: Task(_COVER_INSTRUCTION, takes_codes=True),
    COVER_WITHOUT_CODES: Task(_COVER_INSTRUCTION),
    REPAINT: Task("Repaint the mask area based on the given conditions:", takes_window=True),
    EXTRACT: Task(
        "Extract the {TRACK} track from the audio:",
        "Extract the track from the audio:",
        needs_tracks_model=True,
    ),
    LEGO: Task(
        "Generate the {TRACK} track based on the audio context:",
        "Generate the track based on the audio context:",
        needs_tracks_model=True,
        takes_window=True,
    ),
    COMPLETE: Task(
        "Complete the input track with {TRACK}:", "Complete the input track:", needs_tracks_model=True
    ),
}


def instruction(task: str, tracks: Sequence[str]) -> str:
    """What opens the prompt of `task` about `tracks`, of which there may be none."""
    found = TASKS[task]
    if not tracks:
        return found.instruction_without_track or found.instruction
    return found.instruction.format(TRACK=" | ".join(track.upper() for track in tracks))
