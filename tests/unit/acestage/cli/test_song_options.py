"""What the options of sampling ask for."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from acestage.cli.song_options import Method, SamplingOptions, Weights, text_or_file
from acestage.generation_options import Adapter


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (SamplingOptions(), {}),
        (SamplingOptions(adapter=["warm"]), {"adapters": [Adapter("warm", 1.0)]}),
        (
            SamplingOptions(adapter=["warm:0.5", "a:b:-2", "dry"]),
            {"adapters": [Adapter("warm", 0.5), Adapter("a:b", -2.0), Adapter("dry", 1.0)]},
        ),
        (SamplingOptions(seeds="3,1, 4"), {"seeds": [3, 1, 4]}),
        (SamplingOptions(seed=7, batch=2), {"seed": 7, "batch_size": 2}),
        (SamplingOptions(method=Method.sde), {"infer_method": "sde"}),
        (SamplingOptions(method=Method.ode), {"infer_method": "ode"}),
        (SamplingOptions(quantization=Weights.int8), {"quantization": "int8"}),
        (SamplingOptions(timesteps="1,0.8,0.5"), {"timesteps": [1.0, 0.8, 0.5]}),
        (SamplingOptions(preview=True, clamp=True), {"preview": True, "clamp": True}),
        (SamplingOptions(steps=0, guidance_scale=0.0), {"step_count": 0, "guidance_scale": 0.0}),
    ],
)
def test_a_request_holds_what_was_given_and_no_more(options: SamplingOptions, asked: dict[str, Any]) -> None:
    assert {name: value for name, value in options.request().items() if value is not None} == asked


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (SamplingOptions(), 1),
        (SamplingOptions(batch=3), 3),
        (SamplingOptions(seeds="5"), 1),
        (SamplingOptions(seeds="3,1,4"), 3),
        (SamplingOptions(seeds="3,1", batch=8), 2),
    ],
)
def test_takes_are_those_of_the_seeds_else_of_the_batch(options: SamplingOptions, count: int) -> None:
    assert options.take_count == count


@pytest.mark.parametrize(
    ("options", "flag", "words"),
    [
        (SamplingOptions(adapter=["dry", "warm:loud"]), "--adapter", "'warm:loud' is not NAME or NAME:SCALE"),
        (SamplingOptions(adapter=["warm:"]), "--adapter", "'warm:' is not NAME or NAME:SCALE"),
        (SamplingOptions(seeds="3,x"), "--seeds", "'3,x' is not a list of numbers such as 3,1,4"),
        (SamplingOptions(seeds="1.5"), "--seeds", "'1.5' is not a list of numbers"),
        (SamplingOptions(timesteps="1;0.5"), "--timesteps", "'1;0.5' is not a list of numbers"),
    ],
)
def test_what_cannot_be_read_is_named(options: SamplingOptions, flag: str, words: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        options.request()
    assert caught.value.param_hint == flag
    assert words in caught.value.message


@pytest.fixture(params=["file", "stdin"])
def given(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes], str]:
    """Puts bytes where a value can name them, and returns that value."""

    def put(content: bytes) -> str:
        if request.param == "file":
            (tmp_path / "text").write_bytes(content)
            return f"@{tmp_path / 'text'}"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return "@-"

    return put


def test_a_text_of_windows_is_read_as_any_other(given: Callable[[bytes], str]) -> None:
    assert text_or_file(given("\ufeffpão\r\nla\rlá\n".encode()), "--lyrics") == "pão\nla\nlá\n"


def test_a_text_that_is_no_utf_8_is_refused(given: Callable[[bytes], str]) -> None:
    with pytest.raises(typer.BadParameter, match=r"cannot read .*'utf-8' codec can't decode") as caught:
        text_or_file(given("pão".encode("latin-1")), "--lyrics")
    assert caught.value.param_hint == "--lyrics"


def test_an_input_that_is_closed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(typer.BadParameter, match="stdin is closed"):
        text_or_file("@-", "--lyrics")
