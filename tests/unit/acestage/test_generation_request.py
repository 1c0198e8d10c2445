"""Options become a message, or an error that names what no message can hold."""

from __future__ import annotations

from typing import Any, cast

import pytest

from acestage.errors import InvalidArgumentError
from acestage.generation_options import Adapter, GenerationOptions
from acestage.generation_request import request_to_pb
from acestage.protos.dit.v1 import dit_pb2
from acestage.protos.generation.v1 import generation_pb2 as pb


def to_pb(caption: str = "x", **options: Any) -> pb.GenerateRequest:
    return request_to_pb(caption, cast(GenerationOptions, options))


def test_options_are_taken_as_they_are_and_none_is_left_out() -> None:
    made = to_pb(seed=0, bpm=None, seeds=[3, 1], clamp=True, adapters=[Adapter("warm", 0.5)])
    adapters = [dit_pb2.Adapter(name="warm", scale=0.5)]
    assert made == pb.GenerateRequest(caption="x", seed=0, seeds=[3, 1], clamp=True, adapters=adapters)
    assert not made.HasField("bpm")


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"seed": 99999999999999999999}, "seed", "is 99999999999999999999; .*to 9223372036854775807"),
        ({"batch_size": 3_000_000_000}, "batch_size", "is 3000000000; .*-2147483648 to 2147483647"),
        ({"bpm": 96.5}, "bpm", "is 96.5; accepted: whole numbers"),
        ({"shift": "steep"}, "shift", "is 'steep'; accepted: numbers"),
        ({"caption": "caf\udce9"}, "caption", r"is 'caf\\udce9'; accepted: text that UTF-8 can encode"),
        ({"seeds": [1, 2**64]}, r"seeds[1]", "is 18446744073709551616"),
        ({"track_classes": ["drums", "\ud800"]}, "track_classes[1]", "UTF-8"),
        ({"adapters": [Adapter("\ud800")]}, "adapters[0]", "UTF-8"),
        ({"adapters": ["warm"]}, "adapters[0]", "is 'warm'; accepted: an Adapter"),
        ({"steps": 8}, "steps", "is no option"),
    ],
)
def test_what_no_message_can_hold_is_named(options: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        to_pb(**options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        to_pb("\udc80", bpm=3_000_000_000, seed=2**63)
    assert [violation.field for violation in caught.value.violations] == ["caption", "bpm", "seed"]
