"""Puts a track together: the source's own samples outside the window, decoded ones inside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from acestage.tensors import CHUNK_BYTES
from services.orchestrator.song.timeline import Span, Timeline

FADE_S = 0.01
"""Long enough that no step can be heard at the edge of a window, short enough not to be heard itself."""

Samples = npt.NDArray[np.float32]


class Assembly:
    """One track of a song with a source. Feed it the decoded chunks in order.

    Outside of the window every sample is the source's own, so edges are made smooth within. Where the source
    goes on into the window, decoded audio fades in or out against it. Where it does not, because the song
    goes on beyond its source, the step from the one to the other is added to the decoded audio and fades
    away. For that the samples on both sides of the window should be decoded as well.
    """

    def __init__(self, timeline: Timeline, source: Samples, item_index: int, sample_rate_hz: int) -> None:
        """Prepares.

        Args:
            timeline: what lies where.
            source: [samples, channels].
            item_index: number of the track in its batch.
            sample_rate_hz: that of source and track.
        """
        self._timeline = timeline
        self._source = source
        self._item_index = item_index
        self._sample_rate_hz = sample_rate_hz
        self._done = 0
        self._waiting: Samples = np.empty((0, source.shape[1]), np.float32)
        self._length = min(round(FADE_S * sample_rate_hz), len(timeline.window) // 2)
        self._steps: dict[int, Samples] = {}
        """By the sample beside the window: what the source has more there than the decoded audio."""

    def add(self, chunk: AudioChunk) -> Iterator[AudioChunk]:
        """The chunks of the track that can be sent once `chunk` is decoded."""
        window = self._timeline.window
        decoded = np.frombuffer(chunk.samples, dtype="<f4").reshape(-1, chunk.channel_count)
        here = Span(chunk.start_sample, chunk.start_sample + len(decoded))
        for beside in (window.start - 1, window.stop):
            if here.start <= beside < here.stop and self._has_source(beside, beside + 1):
                step = self._source[beside - self._timeline.source.start] - decoded[beside - here.start]
                self._steps[beside] = step
        start, stop = max(here.start, window.start), min(here.stop, window.stop)
        if start < stop:
            new = decoded[start - here.start : stop - here.start]
            self._waiting = np.concatenate([self._waiting, new])
        if not len(self._waiting):
            return
        yield from self._from_source(window.start)
        # The end of the window waits for the sample behind it, where the step to that one matters.
        is_end_known = here.stop > window.stop or not self._joins_after()
        ready = window.stop if is_end_known else window.stop - self._length
        count = max(0, min(len(self._waiting), ready - self._done))
        span = Span(self._done, self._done + count)
        samples, self._waiting = self._waiting[:count], self._waiting[count:]
        yield from self._chunks(self._blended(span, samples))
        if self._done == window.stop:
            yield from self._from_source(self._timeline.sample_count)

    def _has_source(self, start: int, stop: int) -> bool:
        source = self._timeline.source
        return source.start <= start and stop <= source.stop

    def _fades_after(self) -> bool:
        """Whether the source goes on through the end of the window, so that there is something to fade to."""
        stop = self._timeline.window.stop
        return self._has_source(stop - self._length, stop + 1)

    def _joins_after(self) -> bool:
        """Whether the source begins right behind the window."""
        stop = self._timeline.window.stop
        return self._has_source(stop, stop + 1) and not self._fades_after()

    def _from_source(self, stop: int) -> Iterator[AudioChunk]:
        """The source's samples from where the track is up to `stop`."""
        if self._done < stop:
            first, last = self._done - self._timeline.source.start, stop - self._timeline.source.start
            yield from self._chunks(self._source[first:last])

    def _chunks(self, samples: Samples) -> Iterator[AudioChunk]:
        step = CHUNK_BYTES // (samples.shape[1] * samples.itemsize)
        for start in range(0, len(samples), step):
            part = samples[start : start + step]
            yield AudioChunk(
                item_index=self._item_index,
                start_sample=self._done,
                samples=part.astype("<f4", copy=False).tobytes(),
                channel_count=part.shape[1],
                sample_rate_hz=self._sample_rate_hz,
            )
            self._done += len(part)

    def _blended(self, span: Span, decoded: Samples) -> Samples:
        """`decoded` samples of `span`, made smooth near the edges of the window."""
        window, length = self._timeline.window, self._length
        blended = decoded
        for beside, is_faded, inside in (
            (
                window.start - 1,
                self._has_source(window.start - 1, window.start + length),
                Span(window.start, window.start + length),
            ),
            (window.stop, self._fades_after(), Span(window.stop - length, window.stop)),
        ):
            start, stop = max(span.start, inside.start), min(span.stop, inside.stop)
            if start >= stop or not (is_faded or beside in self._steps):
                continue
            positions = np.arange(start, stop)
            share = (np.abs(positions - beside) / (length + 1)).astype(np.float32)[:, None]  # of the new
            part = decoded[start - span.start : stop - span.start]
            if is_faded:
                there = self._source[positions - self._timeline.source.start]
                smooth = share * part + (1 - share) * there
            else:
                smooth = part + (1 - share) * self._steps[beside]
            blended = blended.copy() if blended is decoded else blended
            blended[start - span.start : stop - span.start] = smooth
        return blended
