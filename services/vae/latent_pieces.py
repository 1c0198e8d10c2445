"""Latents that come in pieces, from the request stream to the job."""

from __future__ import annotations

from collections.abc import AsyncIterator

from acestage import tensors
from acestage.checks import Checks
from acestage.errors import InvalidArgumentError
from acestage.planning import MAX_BATCH_SIZE
from acestage.tensors import ITEM_BYTES, WireTensor
from services.runtime.jobs.feed import Feed
from services.runtime.workers.messages import Message


class LatentPieces:
    """Takes the pieces of one call, checks each, and feeds them to its job.

    Attributes:
        feed: has every piece but the first.
    """

    def __init__(self, pieces: AsyncIterator[WireTensor], frame_count: int, channel_count: int) -> None:
        """Takes nothing yet.

        Args:
            pieces: tensors "latents" [items, some frames, channels], each with the frames that follow.
            frame_count: frames of all pieces together.
            channel_count: channels of the model's latents.
        """
        self._pieces = pieces
        self._frame_count = frame_count
        self._channel_count = channel_count
        self._first: WireTensor | None = None
        self._come_count = 0
        self.feed = Feed()

    async def start(self, frame_count: int) -> WireTensor:
        """The first piece, once there are at least `frame_count` frames.

        Raises:
            InvalidArgumentError: a piece is wrong, or there are no more.
            TensorCorruptError: a piece does not match its checksum.
        """
        while self._come_count < frame_count:
            await self._take()
        assert self._first is not None
        first = self._first
        frame_bytes = first.shape[0] * first.shape[2] * ITEM_BYTES[first.dtype]
        self.feed.tensor_bytes = frame_bytes * (self._frame_count - first.shape[1])
        return first

    async def feed_rest(self) -> None:
        """Feeds what is still to come; errors as of `start`."""
        while self._come_count < self._frame_count:
            await self._take()
        async for piece in self._pieces:
            self._check(piece)

    async def _take(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise InvalidArgumentError.at(
                "tensor.latents",
                f"ended after {self._come_count} frames; accepted: the {self._frame_count} of "
                "parameters.frame_count",
            )
        self._check(piece)
        self._come_count += piece.shape[1]
        if self._first is None:
            self._first = piece
        else:
            self.feed.put(Message("latents", tensors=(piece,)))

    def _check(self, piece: WireTensor) -> None:
        items = self._first.shape[0] if self._first else None
        tensors.require({"latents": piece}, "latents", items, None, self._channel_count)
        checks = Checks()
        checks.at_most(piece.shape[0], "items", "tensor.latents.shape", MAX_BATCH_SIZE)
        left = self._frame_count - self._come_count
        checks.at_most(piece.shape[1], f"frames after {self._come_count}", "tensor.latents.shape", left)
        if self._first is not None:
            dtype = self._first.dtype
            is_same = piece.dtype == dtype
            checks.require(
                is_same,
                "tensor.latents.data_type",
                f"is {piece.dtype}; accepted: {dtype}, as of the first piece",
            )
        checks.done()
