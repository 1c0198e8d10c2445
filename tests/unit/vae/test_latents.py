"""Latents on their way: waited for where they are needed, and no sooner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from acestage.errors import InvalidArgumentError
from services.vae.latents import Latents

WHOLE = torch.arange(2 * 10 * 3).reshape(2, 10, 3).float()


def test_what_is_there_is_not_waited_for() -> None:
    def later() -> Iterator[torch.Tensor]:
        raise AssertionError("nobody needs more")
        yield

    latents = Latents(WHOLE[:, :4], 10, later())
    assert (latents.item_count, latents.frame_count) == (2, 10)
    assert torch.equal(latents.window(1, 1, 4), WHOLE[1:, 1:4])


def test_pieces_are_taken_as_far_as_a_window_needs_them() -> None:
    pieces = iter([WHOLE[:, 4:5], WHOLE[:, 5:9], WHOLE[:, 9:]])
    latents = Latents(WHOLE[:, :4], 10, pieces)
    assert torch.equal(latents.window(0, 2, 7), WHOLE[:1, 2:7])
    assert torch.equal(next(pieces), WHOLE[:, 9:])


def test_all_at_once_needs_no_count() -> None:
    latents = Latents(WHOLE)
    assert latents.frame_count == 10
    assert torch.equal(latents.window(0, 0, 10), WHOLE[:1])


def test_latents_that_end_early_are_named() -> None:
    latents = Latents(WHOLE[:, :4], 10, iter([WHOLE[:, 4:6]]))
    with pytest.raises(InvalidArgumentError, match=r"tensor\.latents: has 6 of 10 frames, and no more came$"):
        latents.window(0, 0, 7)


def test_latents_that_stall_are_named() -> None:
    def later() -> Iterator[torch.Tensor]:
        raise TimeoutError("30 s")
        yield

    with pytest.raises(
        InvalidArgumentError, match=r"has 4 of 10 frames, and waiting for more took over 30 s"
    ):
        Latents(WHOLE[:, :4], 10, later()).window(0, 0, 10)
