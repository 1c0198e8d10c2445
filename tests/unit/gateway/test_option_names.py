from __future__ import annotations

from services.gateway.option_names import renamed


def test_options_get_other_names_but_plain_words_stay() -> None:
    names = {"repaint_end_s": "end", "task": "mode"}
    text = "is before repaint_end_s; accepted: any task without repaint_end_sample"
    assert renamed(text, names) == "is before end; accepted: any task without repaint_end_sample"
