"""Options that all commands have that make a song, in groups, and what they mean for a request."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from acestage.cli.flags import EnvFile, Target, at_home
from acestage.generation_options import Adapter
from acestage.setting_types import expand_user

T = TypeVar("T")


class Weights(StrEnum):
    none = "none"
    int8 = "int8"


class Method(StrEnum):
    ode = "ode"
    sde = "sde"


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What the music should be, beside its caption."""

    lyrics: Annotated[str, typer.Option(help="Lyrics, or @FILE to read them from.")] = ""
    language: Annotated[str | None, typer.Option(help="Language code of the lyrics.")] = None
    bpm: Annotated[int | None, typer.Option(help="Beats a minute, 30 to 300.")] = None
    key: Annotated[str | None, typer.Option(help='For example "F# minor".')] = None
    time_signature: Annotated[str | None, typer.Option(help="2, 3, 4 or 6.")] = None
    instruction: Annotated[str | None, typer.Option(help="Replaces the prompt's instruction.")] = None
    reference: Annotated[
        str | None,
        typer.Option(
            help="Audio whose timbre the music is to have: a file, or an uploaded id.", callback=at_home
        ),
    ] = None

    def request(self) -> dict[str, Any]:
        return {
            "lyrics": text_or_file(self.lyrics, "--lyrics"),
            "language": self.language,
            "bpm": self.bpm,
            "key_scale": self.key,
            "time_signature": self.time_signature,
            "instruction": self.instruction,
        }


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the music is made."""

    model: Annotated[
        str | None, typer.Option(help="One of the models that the services have; else the first.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same audio.")] = None
    batch: Annotated[int | None, typer.Option(help="Takes, with seeds that count up.")] = None
    seeds: Annotated[
        str | None, typer.Option(help='A seed for each take, for example "3,1,4", in the place of both.')
    ] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None
    shift: Annotated[float | None, typer.Option(help="Shift of the timestep schedule.")] = None
    guidance_scale: Annotated[float | None, typer.Option(help="On above 1; not for turbo models.")] = None
    cfg_interval_start: Annotated[float | None, typer.Option(help="Where guidance sets in, 0 to 1.")] = None
    cfg_interval_end: Annotated[float | None, typer.Option(help="Where guidance ends, 0 to 1.")] = None
    timesteps: Annotated[str | None, typer.Option(help='Falling values, for example "1,0.8,0.5,0.2".')] = None
    method: Annotated[Method | None, typer.Option(help="ode, or sde: fresh noise in every step.")] = None
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA adapter of the services' folder, NAME or NAME:SCALE; several are fine."),
    ] = None
    preview: Annotated[
        bool, typer.Option("--preview", help="A short version of few steps first, in a file of its own.")
    ] = False
    quantization: Annotated[
        Weights | None, typer.Option(help="Weights as they are or in INT8; else INT8 where it must be.")
    ] = None
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Lower values to the limits, and say so, rather than fail.")
    ] = False

    @property
    def take_count(self) -> int:
        return len(self._seeds() or ()) or self.batch or 1

    def request(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "seed": self.seed,
            "batch_size": self.batch,
            "seeds": self._seeds(),
            "step_count": self.steps,
            "shift": self.shift,
            "guidance_scale": self.guidance_scale,
            "cfg_interval_start": self.cfg_interval_start,
            "cfg_interval_end": self.cfg_interval_end,
            "timesteps": _numbers(self.timesteps, float, "--timesteps", "1,0.8,0.5"),
            "infer_method": self.method.value if self.method else None,
            "adapters": [_adapter(text) for text in self.adapter or ()] or None,
            "preview": self.preview or None,
            "quantization": self.quantization.value if self.quantization else None,
            "clamp": self.clamp or None,
        }

    def _seeds(self) -> list[int] | None:
        return _numbers(self.seeds, int, "--seeds", "3,1,4")


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Which services do it."""

    checkpoint: Annotated[
        str | None, typer.Option(help="Model, or several as A,B, for services started by this run.")
    ] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:N], for services of this run.")] = (
        None
    )
    dtype: Annotated[str | None, typer.Option(help="Data type, for services of this run.")] = None
    limits: Annotated[str | None, typer.Option(help="planner or tier, for services of this run.")] = None
    env_file: EnvFile = None
    target: Target = None

    def own(self) -> dict[str, Any]:
        """Settings of services that are started for the run."""
        return {
            "checkpoint": self.checkpoint,
            "device": self.device,
            "dtype": self.dtype,
            "limits": self.limits,
        }


def text_or_file(value: str, flag: str) -> str:
    """The value itself, or the content of the file that `@FILE` names ("@-" is stdin)."""
    if not value.startswith("@"):
        return value
    name = value[1:]
    try:
        content = _read_stdin() if name == "-" else expand_user(Path(name)).read_bytes()
        # With or without the mark that Windows puts before a text.
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {name}: {error}", param_hint=flag) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise OSError("stdin is closed")
    return sys.stdin.buffer.read()


def _numbers(value: str | None, kind: Callable[[str], T], flag: str, example: str) -> list[T] | None:
    if value is None:
        return None
    try:
        return [kind(part) for part in value.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is not a list of numbers such as {example}", param_hint=flag
        ) from None


def _adapter(text: str) -> Adapter:
    name, colon, scale = text.rpartition(":")
    if not colon:
        return Adapter(text)
    try:
        return Adapter(name, float(scale))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not NAME or NAME:SCALE", param_hint="--adapter") from None
