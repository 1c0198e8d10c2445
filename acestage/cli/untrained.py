"""What is said of models that make no music."""

from __future__ import annotations

from rich.console import Console

from acestage.cli.terminal import print_label


def note_untrained(console: Console, name: str) -> None:
    """Says that the model `name` is untrained, and where there are others."""
    note = f"{name} is untrained: what it makes is noise that proves the path, not music. For music: "
    print_label(console, "Note:", f"{note}acestage models pull turbo, then --checkpoint turbo")
