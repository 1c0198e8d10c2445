"""What `acestage up --help` says."""

from __future__ import annotations

import typer.main

from acestage.cli import app


def test_no_two_options_are_explained_in_the_same_words() -> None:
    up = typer.main.get_command(app).commands["up"]  # type: ignore[attr-defined]
    texts = [option.help for option in up.params if getattr(option, "help", None)]
    assert len(texts) > 20
    assert len(set(texts)) == len(texts)
