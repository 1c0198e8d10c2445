from __future__ import annotations

from typing import Any, cast

import pytest

from acestage.limits import Limit, Limits
from acestage.status import Status
from services.gateway.page.fields import limited, lowered, visibility
from services.gateway.page.languages import TEXTS
from services.gateway.page.restoring import Served
from services.gateway.page.song_form import CUSTOM, REPAINT, SHOWN_IN


def test_fields_that_appear_have_the_values_that_they_had() -> None:
    values = {name: None for name in SHOWN_IN} | {"end_s": 7.5}
    shown = dict(zip(SHOWN_IN, visibility(REPAINT, *values.values()), strict=True))
    assert [name for name, update in shown.items() if update["visible"]] == ["source", "start_s", "end_s"]
    assert {name: update["value"] for name, update in shown.items()} == values


class OneModel:
    """The status of services with a model for songs alone."""

    has_tracks_model = False
    served_models = ("turbo",)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ((60, 4, "lego"), {"duration_s": 30, "take_count": 1, "mode": CUSTOM}),
        ((12.5, 1, REPAINT), {}),
        ((3, None, REPAINT), {}),  # it is being typed
    ],
)
def test_values_beyond_what_the_machine_allows_are_lowered_to_it(
    given: tuple[float, int | None, str], values: dict[str, Any]
) -> None:
    limits = Limits(Limit(30, "a"), Limit(1, "b"), (), "cpu", 0, "", "planner")
    status = cast(Status, OneModel())
    assert lowered(Served.of(limits, status), *given) == values
    duration, takes, mode, _ = limited(limits, status, values, TEXTS["en"])
    assert (duration["maximum"], takes["maximum"]) == (30, 1)
    updates = {"duration_s": duration, "take_count": takes, "mode": mode}
    assert {name: update["value"] for name, update in updates.items() if "value" in update} == values
