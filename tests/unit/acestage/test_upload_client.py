"""What the client tells of an upload by itself: no service answers here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from acestage import Client
from acestage.errors import InvalidArgumentError, ServiceUnreachableError


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("no-such-file.wav", {}, "source: no-such-file.wav cannot be read: No such file or directory"),
        ("/", {}, "source: / cannot be read: Is a directory"),
        (np.zeros(9), {}, "sample_rate_hz: is None; accepted: a number of samples a second"),
        ("x.wav", {"sample_rate_hz": 1}, "sample_rate_hz: is 1; accepted: None"),
        (np.zeros(9, np.int16), {"sample_rate_hz": 48_000}, "source: is int16 of shape [9]; accepted"),
        (np.zeros((1, 9, 2)), {"sample_rate_hz": 48_000}, "source: is float64 of shape [1, 9, 2]; accepted"),
    ],
)  # fmt: skip
def test_a_source_that_is_none_is_refused_before_anything_is_sent(
    source: Any, options: dict[str, Any], expected: str
) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError) as caught:
        client.upload(source, **options)
    assert caught.value.message.startswith(expected)


def test_an_orchestrator_that_does_not_answer_is_named() -> None:
    with Client("127.0.0.1:1") as client:
        for ask in (lambda: client.upload(np.zeros(9), sample_rate_hz=9), lambda: client.audio("a")):
            with pytest.raises(ServiceUnreachableError, match=r"127\.0\.0\.1:1 does not answer"):
                ask()
