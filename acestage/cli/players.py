"""Programs that play audio from their standard input."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from acestage.errors import FailedPreconditionError


@dataclass(frozen=True, slots=True)
class Player:
    """A program and its arguments, with places for `rate` and `channels`.

    Attributes:
        takes_wav: it wants a WAV header before the float32 samples, rather than flags that say what they are.
    """

    name: str
    arguments: str
    takes_wav: bool = False

    def command(self, sample_rate_hz: int, channel_count: int) -> list[str]:
        arguments = self.arguments.format(rate=sample_rate_hz, channels=channel_count)
        return [self.name, *arguments.split()]


PLAYERS = (
    # The flags for bare samples differ between versions of ffplay; a header means the same to all of them.
    Player("ffplay", "-loglevel error -nodisp -autoexit -f wav -i pipe:0", takes_wav=True),
    Player("pw-cat", "--playback --raw --format f32 --rate {rate} --channels {channels} -"),
    Player("paplay", "--raw --format=float32le --rate={rate} --channels={channels}"),
    Player("aplay", "-q -t raw -f FLOAT_LE -r {rate} -c {channels} -"),
    Player("play", "-q -t raw -e floating-point -b 32 -L -r {rate} -c {channels} -"),
)
"""In the order in which they are looked for. "play" is that of SoX."""


def find_player() -> Player:
    """The first of `PLAYERS` in PATH.

    Raises:
        FailedPreconditionError: there is none.
    """
    for player in PLAYERS:
        if shutil.which(player.name) is not None:
            return player
    names = ", ".join(player.name for player in PLAYERS)
    raise FailedPreconditionError(
        f"--play: none of these players is in PATH: {names} (of SoX). Install one of ffmpeg, pipewire, "
        "pulseaudio-utils, alsa-utils or sox, or pipe --stream - into a player of your own"
    )
