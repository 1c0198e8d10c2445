"""Audio codes as text, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.song import audio_codes


@given(st.lists(st.integers(0, 63_999)))
def test_codes_come_back(codes: list[int]) -> None:
    assert audio_codes.parse(audio_codes.join(codes)) == tuple(codes)


def test_white_space_between_codes_is_fine() -> None:
    assert audio_codes.parse(" <|audio_code_1|>\n <|audio_code_22|> ") == (1, 22)


@given(st.text(max_size=60))
def test_anything_else_is_refused_with_words(text: str) -> None:
    if not text.strip():
        assert audio_codes.parse(text) == ()
    else:
        with pytest.raises(ValueError, match="accepted: codes such as"):
            audio_codes.parse(text)


def test_the_place_of_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match=r"'<\|audio_code_x\|>' after 2 codes"):
        audio_codes.parse("<|audio_code_1|><|audio_code_2|><|audio_code_x|>")
