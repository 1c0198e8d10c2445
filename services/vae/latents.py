"""Latents of which the last frames may still be on their way."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from acestage.errors import InvalidArgumentError


class Latents:
    """Latents [items, frames, channels] on the CPU; frames that are not there yet are waited for."""

    def __init__(
        self, first: torch.Tensor, frame_count: int | None = None, later: Iterable[torch.Tensor] = ()
    ) -> None:
        """Takes what is there.

        Args:
            first: [items, frames, channels], from the first frame on.
            frame_count: frames of the song; None where `first` has all of it.
            later: pieces [items, some frames, channels] with the frames that follow; taken one after the
                other as they are needed, each of which may take its time.
        """
        self._come_count = first.shape[1]
        self._frames = first
        if frame_count is not None and frame_count > self._come_count:
            self._frames = first.new_empty(first.shape[0], frame_count, first.shape[2])
            self._frames[:, : self._come_count] = first
        self._later = iter(later)

    @property
    def item_count(self) -> int:
        return self._frames.shape[0]

    @property
    def frame_count(self) -> int:
        """Frames of the whole song, those on their way included."""
        return self._frames.shape[1]

    def window(self, item_index: int, start: int, stop: int) -> torch.Tensor:
        """Frames [start, stop) of an item, [1, frames, channels], once they are there.

        Raises:
            InvalidArgumentError: no more frames come, or too slowly.
        """
        while self._come_count < stop:
            try:
                piece = next(self._later, None)
            except TimeoutError as error:
                raise self._incomplete(f"waiting for more took over {error}") from error
            if piece is None:
                raise self._incomplete("no more came")
            come_count = self._come_count + piece.shape[1]
            self._frames[:, self._come_count : come_count] = piece
            self._come_count = come_count
        return self._frames[item_index, None, start:stop]

    def _incomplete(self, what: str) -> InvalidArgumentError:
        return InvalidArgumentError.at(
            "tensor.latents", f"has {self._come_count} of {self.frame_count} frames, and {what}"
        )
