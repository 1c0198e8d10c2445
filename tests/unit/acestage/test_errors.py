from __future__ import annotations

from acestage.errors import FieldViolation, InvalidArgumentError


def other_words(wrong: FieldViolation) -> FieldViolation:
    return FieldViolation(wrong.field.upper(), f"{wrong.description}!")


def test_what_is_wrong_with_each_field_is_told_in_other_words() -> None:
    error = InvalidArgumentError.of([FieldViolation("a", "is 1"), FieldViolation("b", "is 2")])
    told = error.retold(other_words)
    assert told.violations == (FieldViolation("A", "is 1!"), FieldViolation("B", "is 2!"))
    assert told.message == "A: is 1!; B: is 2!"


def test_an_error_of_no_field_keeps_its_words() -> None:
    told = InvalidArgumentError("came too late").retold(other_words)
    assert (told.message, told.violations) == ("came too late", ())
