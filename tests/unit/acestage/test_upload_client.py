"""What the client tells of an upload by itself: no service answers here."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acestage import Client
from acestage.audio import Upload
from acestage.errors import InvalidArgumentError, ServiceUnreachableError

BYTES_REFUSED = "source: is bytes; accepted: the path of a file, a file open for reading bytes (io.BytesIO"


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("no-such-file.wav", {}, "source: no-such-file.wav cannot be read: No such file or directory"),
        ("/", {}, "source: / cannot be read: Is a directory"),
        (np.zeros(9), {}, "sample_rate_hz: is None; accepted: a number of samples a second"),
        ("x.wav", {"sample_rate_hz": 1}, "sample_rate_hz: is 1; accepted: None"),
        (np.zeros(9, np.int16), {"sample_rate_hz": 48_000}, "source: is int16 of shape [9]; accepted"),
        (np.zeros((1, 9, 2)), {"sample_rate_hz": 48_000}, "source: is float64 of shape [1, 9, 2]; accepted"),
        (np.zeros(9), {"sample_rate_hz": 2**40}, "sample_rate_hz: is 1099511627776; accepted: a whole"),
        (np.zeros(9), {"sample_rate_hz": 44_100.5}, "sample_rate_hz: is 44100.5; accepted: a whole number"),
        (np.zeros(9), {"sample_rate_hz": float("nan")}, "sample_rate_hz: is nan; accepted: a whole number"),
        (np.zeros(9), {"sample_rate_hz": "fast"}, "sample_rate_hz: is 'fast'; accepted: a whole number"),
        (b"RIFF", {}, BYTES_REFUSED),
        (io.StringIO("RIFF"), {}, "source: is StringIO; accepted: the path of a file, a file open for"),
        (None, {}, "source: is NoneType; accepted: the path of a file"),
        (None, {"sample_rate_hz": 1}, "source: is NoneType; accepted: the path of a file"),
        ([0.5, 0.5], {"sample_rate_hz": 48_000}, "source: is list; accepted: the path of a file"),
        ("a\0b", {}, "source: a\0b cannot be read: embedded null byte"),
    ],
)  # fmt: skip
def test_a_source_that_is_none_is_refused_before_anything_is_sent(
    source: Any, options: dict[str, Any], expected: str
) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError) as caught:
        client.upload(source, **options)
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_a_file_that_is_not_open_for_reading_is_refused(mode: str, tmp_path: Path) -> None:
    (tmp_path / "song.wav").touch()
    with (tmp_path / "song.wav").open(mode) as file, Client("127.0.0.1:1") as client:
        if mode == "rb":
            file.close()
        with pytest.raises(InvalidArgumentError, match=r"^source: song\.wav cannot be read: "):
            client.upload(file)  # type: ignore[arg-type]


def test_a_rate_may_be_a_whole_number_of_any_type() -> None:
    for rate in (44_100.0, np.int64(44_100), np.float32(44_100)):
        with Upload(np.zeros(9), rate) as upload:
            assert next(iter(upload)).header.raw.sample_rate_hz == 44_100


def test_an_orchestrator_that_does_not_answer_is_named() -> None:
    with Client("127.0.0.1:1") as client:
        for ask in (lambda: client.upload(np.zeros(9), sample_rate_hz=9), lambda: client.audio("a")):
            with pytest.raises(ServiceUnreachableError, match=r"127\.0\.0\.1:1 does not answer"):
                ask()
