"""The player that is found, and what it is told of the samples that it will get."""

from __future__ import annotations

from pathlib import Path

import pytest

from acestage.cli.players import PLAYERS, Player, find_player
from acestage.errors import FailedPreconditionError


def install(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def test_the_first_in_order_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for player in reversed(PLAYERS):
        install(tmp_path, player.name)
        assert find_player() is player


def test_without_any_the_error_names_what_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedPreconditionError) as caught:
        find_player()
    assert all(player.name in caught.value.message for player in PLAYERS)


@pytest.mark.parametrize("player", PLAYERS, ids=lambda player: player.name)
def test_a_player_is_told_rate_channels_and_type_or_gets_a_header(player: Player) -> None:
    command = " ".join(player.command(44_100, 1))
    if player.takes_wav:
        assert "wav" in command
        assert "44100" not in command
    else:
        assert "44100" in command
        assert any(word in command.lower() for word in ("f32", "float32le", "float_le", "floating-point"))
    assert "{" not in command
