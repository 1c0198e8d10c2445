"""Puts a track together: the source's own samples outside the window, decoded ones inside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from acestage.tensors import CHUNK_BYTES
from services.orchestrator.song.timeline import Span, Timeline

CROSSFADE_S = 0.01
"""Long enough that no step can be heard at the edge of a window, short enough not to be heard itself."""

Samples = npt.NDArray[np.float32]


class Assembly:
    """One track of a song with a source. Feed it the decoded chunks in order.

    At an edge where the source goes on, decoded audio fades in or out against it within the window, so that
    outside of the window every sample is the source's own.
    """

    def __init__(self, timeline: Timeline, source: Samples, item_index: int, sample_rate_hz: int) -> None:
        """Prepares.

        Args:
            timeline: what lies where.
            source: [samples, channels].
            item_index: of the track.
            sample_rate_hz: of source and track.
        """
        self._timeline = timeline
        self._source = source
        self._item_index = item_index
        self._sample_rate_hz = sample_rate_hz
        self._done = 0

    def add(self, chunk: AudioChunk) -> Iterator[AudioChunk]:
        """The chunks of the track that can be sent once `chunk` is decoded."""
        window = self._timeline.window
        decoded = np.frombuffer(chunk.samples, dtype="<f4").reshape(-1, chunk.channel_count)
        start = max(chunk.start_sample, window.start)
        stop = min(chunk.start_sample + len(decoded), window.stop)
        if start >= stop:
            return
        yield from self._from_source(start)
        samples = decoded[start - chunk.start_sample : stop - chunk.start_sample]
        yield from self._chunks(self._blended(Span(start, stop), samples))
        if stop == window.stop:
            yield from self._from_source(self._timeline.sample_count)

    def _from_source(self, stop: int) -> Iterator[AudioChunk]:
        """The source's samples from where the track is up to `stop`."""
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
        """`decoded` samples of `span`, faded against the source near the edges of the window."""
        timeline, source = self._timeline, self._timeline.source
        length = min(round(CROSSFADE_S * self._sample_rate_hz), len(timeline.window) // 2)
        positions = np.arange(span.start, span.stop)
        share = np.ones(len(positions), np.float32)  # of the decoded audio
        if timeline.window.start > source.start:
            share = np.minimum(share, (positions - timeline.window.start + 1) / (length + 1))
        if timeline.window.stop < source.stop:
            share = np.minimum(share, (timeline.window.stop - positions) / (length + 1))
        # Beyond the source's end there is nothing to fade against.
        fades = (share < 1) & (positions >= source.start) & (positions < source.stop)
        if not fades.any():
            return decoded
        blended = decoded.copy()
        share = share[fades, None].astype(np.float32)
        blended[fades] = share * decoded[fades] + (1 - share) * self._source[positions[fades] - source.start]
        return blended
