"""By which names a request finds a model, and what it hears where it finds none."""

from __future__ import annotations

import pytest

from acestage.checkpoints.model_names import find_name
from acestage.errors import FieldViolation, InvalidArgumentError

NAMES = ("acestep-v15-turbo", "tiny-turbo", "acestep-v15-xl-base")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", "acestep-v15-turbo"),
        ("tiny-turbo", "tiny-turbo"),
        ("turbo", "acestep-v15-turbo"),
        ("xl-base", "acestep-v15-xl-base"),
    ],
)
def test_a_name_or_the_short_one_of_a_published_model_is_found(asked: str, found: str) -> None:
    assert find_name(NAMES, asked, "model") == found


def test_a_folder_that_is_called_like_a_published_model_wins_over_it() -> None:
    assert find_name(("acestep-v15-turbo", "turbo"), "turbo", "model") == "turbo"


@pytest.mark.parametrize("asked", ["base", "Turbo", "gpt-9", " "])
def test_any_other_name_is_refused_with_those_that_there_are(asked: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        find_name(NAMES, asked, "parameters.model")
    words = f"is {asked!r}; accepted: {', '.join(NAMES)}"
    assert refused.value.violations == (FieldViolation("parameters.model", words),)
