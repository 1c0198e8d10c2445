"""The text that the encoder reads, in the exact form that the model was trained on.

Reference: `AceStepPipeline._format_prompt` and `_build_metadata_string` in diffusers. Every newline counts.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT_TO_MUSIC_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"

MAX_TEXT_TOKENS = 256
MAX_LYRICS_TOKENS = 2048
_UNKNOWN = "N/A"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the music should be.

    Attributes:
        caption: what it is like.
        lyrics: empty for an instrumental.
        language: code of the lyrics' language.
        duration_s: length in seconds; the prompt states whole seconds.
        bpm: beats a minute, or None.
        key_scale: for example "C major", or empty.
        time_signature: "2", "3", "4" or "6", or empty.
        instruction: opens the prompt; empty means that of the text-to-music task.
    """

    caption: str
    lyrics: str = ""
    language: str = "en"
    duration_s: float = 60.0
    bpm: int | None = None
    key_scale: str = ""
    time_signature: str = ""
    instruction: str = ""

    def text(self) -> str:
        """Instruction, caption and metadata, for the text encoder."""
        instruction = self.instruction or TEXT_TO_MUSIC_INSTRUCTION
        if not instruction.endswith(":"):
            instruction += ":"
        metadata = {
            "bpm": self.bpm if self.bpm is not None else _UNKNOWN,
            "timesignature": self.time_signature or _UNKNOWN,
            "keyscale": self.key_scale or _UNKNOWN,
            "duration": f"{int(self.duration_s)} seconds",
        }
        lines = "".join(f"- {name}: {value}\n" for name, value in metadata.items())
        sections = [
            f"# Instruction\n{instruction}",
            f"# Caption\n{self.caption}",
            f"# Metas\n{lines}<|endoftext|>\n",
        ]
        return "\n\n".join(sections)

    def lyrics_text(self) -> str:
        """Language and lyrics, for the lyric encoder."""
        return f"# Languages\n{self.language}\n\n# Lyric\n{self.lyrics}<|endoftext|>"
