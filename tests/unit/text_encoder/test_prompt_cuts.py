"""Prompts that are longer than what the model reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_tokenizer
from services.text_encoder.prompt import Prompt
from services.text_encoder.prompt_cuts import prompt_cuts

TOKENIZER = load_tokenizer(open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints")))


def token_count(text: str) -> int:
    return len(TOKENIZER(text).input_ids)


@pytest.mark.parametrize(("field", "most"), [("caption", 256), ("lyrics", 2048)])
def test_what_is_one_token_too_long_is_cut(field: str, most: int) -> None:
    prompt = Prompt("piano", bpm=90)
    text = {"caption": Prompt.text, "lyrics": Prompt.lyrics_text}[field]
    words = " a" * (most - token_count(text(replace(prompt, **{field: "b"}))))
    fits, is_too_long = (replace(prompt, **{field: f"b{words}{rest}"}) for rest in ("", " a"))
    assert token_count(text(fits)) == most
    assert prompt_cuts(TOKENIZER, fits) == []
    cut = {"field": field, "token_count": most + 1, "read_token_count": most}
    assert prompt_cuts(TOKENIZER, is_too_long) == [cut]
