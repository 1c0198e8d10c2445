"""Where a command's audio goes, as its flags say, checked before any work begins."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from acestage.audio_file import AudioFormat, BitDepth, check_format, format_of
from acestage.cli.flags import JsonFlag, at_home
from acestage.cli.output import check_file, check_output
from acestage.cli.players import Player, find_player
from acestage.cli.sinks import STDOUT, FileSink, PlayerSink, Sink


class Format(StrEnum):
    wav = "wav"
    flac = "flac"
    raw = "raw"


class Depth(StrEnum):
    pcm_16 = "16"
    pcm_24 = "24"
    float_32 = "32f"


StreamFlag = Annotated[
    str | None,
    typer.Option(
        "--stream",
        help="Write audio here as it comes, in float32 before normalisation; - is stdout.",
        callback=at_home,
    ),
]
PlayFlag = Annotated[bool, typer.Option("--play", help="Play audio as it comes.")]
OutputFlag = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write, .wav or .flac.", callback=at_home)
]
FormatFlag = Annotated[
    Format | None, typer.Option("--format", help="wav or flac; wav or raw (f32le) with --stream.")
]
DepthFlag = Annotated[Depth, typer.Option(help="Of the file: 16, 24, or 32f (wav only).")]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where the audio goes.

    Attributes:
        file: name of the file; None for one that the seed gives.
        has_file: whether one is written at all; streams alone need none.
        stream: a path, "-" for stdout, or None.
        stream_has_header: as a WAV file; else samples alone.
        player: what plays it, or None.
        as_json: the result is printed on stdout as JSON.
    """

    file: Path | None
    has_file: bool
    file_format: AudioFormat
    bit_depth: BitDepth
    stream: str | None
    stream_has_header: bool
    player: Player | None
    as_json: bool

    def sink(self) -> Sink | None:
        """Where audio goes as it comes."""
        if self.stream is not None:
            return FileSink(self.stream, with_header=self.stream_has_header)
        return None if self.player is None else PlayerSink(self.player)


@dataclass(frozen=True, slots=True)
class OutputFlags:
    """The flags of a command that makes a song, or gets one."""

    stream: StreamFlag = None
    play: PlayFlag = False
    output: OutputFlag = None
    audio_format: FormatFlag = None
    bit_depth: DepthFlag = Depth.pcm_16
    as_json: JsonFlag = False

    @property
    def is_given(self) -> bool:
        """Whether they say where audio is to go."""
        return self.stream is not None or self.play or self.output is not None

    def options(self, take_count: int | None = None) -> OutputOptions:
        """What they mean.

        Args:
            take_count: how many takes are asked for; None where it is not known.

        Raises:
            typer.BadParameter: flags that do not go together, or a file that cannot be written.
            InvalidArgumentError: a format that cannot be written in that depth.
            FailedPreconditionError: no player is there.
        """
        is_live = self.stream is not None or self.play
        has_file = self.output is not None or not is_live
        file_format = _file_format(None if self.stream is not None else self.audio_format, self.output)
        if self.stream is not None:
            _check_stream(self.stream, self.audio_format, self.play, self.as_json)
        if is_live and take_count is not None and take_count > 1:
            flag = "--play" if self.play else "--stream"
            raise typer.BadParameter(f"{flag} is for one take; --batch is {take_count}", param_hint=flag)
        if has_file:
            check_format(file_format, self.bit_depth.value)
            check_output(self.output)
        return OutputOptions(
            file=self.output,
            has_file=has_file,
            file_format=file_format,
            bit_depth=self.bit_depth.value,
            stream=self.stream,
            stream_has_header=self.audio_format is not Format.raw,
            player=find_player() if self.play else None,
            as_json=self.as_json,
        )


def _check_stream(stream: str, audio_format: Format | None, play: bool, as_json: bool) -> None:
    if play:
        raise typer.BadParameter("not together with --play; give one of them", param_hint="--stream")
    if audio_format is Format.flac:
        raise typer.BadParameter("is flac; a stream is wav or raw", param_hint="--format")
    if stream != STDOUT:
        check_file(Path(stream), "--stream")
    elif as_json:
        raise typer.BadParameter("- is stdout, which --json prints on; name a file", param_hint="--stream")
    elif sys.stdout is None:
        raise typer.BadParameter("- is stdout, which is closed here; name a file", param_hint="--stream")
    elif sys.stdout.isatty():
        raise typer.BadParameter(
            "- is stdout, which is a terminal here; pipe it, name a file, or give --play",
            param_hint="--stream",
        )


def _file_format(audio_format: Format | None, output: Path | None) -> AudioFormat:
    if audio_format is Format.raw:
        raise typer.BadParameter("raw is for --stream; a file is wav or flac", param_hint="--format")
    asked: AudioFormat | None = None
    if audio_format is not None:
        asked = "flac" if audio_format is Format.flac else "wav"
    if output is None:
        return asked or "wav"
    try:
        return format_of(output, asked)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
