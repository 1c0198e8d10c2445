from __future__ import annotations

from services.gateway.page.fields import visibility
from services.gateway.page.song_form import REPAINT, SHOWN_IN


def test_fields_that_appear_have_the_values_that_they_had() -> None:
    values = {name: None for name in SHOWN_IN} | {"end_s": 7.5}
    shown = dict(zip(SHOWN_IN, visibility(REPAINT, *values.values()), strict=True))
    assert [name for name, update in shown.items() if update["visible"]] == ["source", "start_s", "end_s"]
    assert {name: update["value"] for name, update in shown.items()} == values
