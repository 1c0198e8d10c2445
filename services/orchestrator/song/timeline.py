"""Where a source lies in the song, and which part of the song is new: arithmetic of samples and frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acestage.protos.stage.v1.stage_pb2 import Model


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Timeline:
    """A song and its source. Samples are per channel and count from the start of the song.

    Attributes:
        sample_count: of the song.
        frame_count: latent frames that cover the song; the last one may reach beyond it.
        hop_sample_count: samples of a frame.
        source: where the source's samples lie.
        window_frames: the frames to be generated; all where no window was asked for.
        window: the samples that are new, no more than were asked for. They lie within `window_frames`.
    """

    sample_count: int
    frame_count: int
    hop_sample_count: int
    source: Span
    window_frames: Span
    window: Span

    def source_audio(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`samples` [source samples, channels] in their place, [whole frames, channels]; silence around."""
        audio = np.zeros((self.frame_count * self.hop_sample_count, samples.shape[1]), np.float32)
        audio[self.source.start : self.source.stop] = samples
        return audio


def whole_song(source_sample_count: int, model: Model) -> Timeline:
    """The timeline where the song is as long as its source and new from end to end."""
    hop = model.hop_sample_count
    frame_count = math.ceil(source_sample_count / hop)
    song = Span(0, source_sample_count)
    return Timeline(source_sample_count, frame_count, hop, song, Span(0, frame_count), song)


def with_window(
    source_sample_count: int, start_s: float | None, end_s: float | None, model: Model
) -> Timeline:
    """The timeline where [start_s, end_s) of the source is new.

    None is the source's start or end. A start below 0 puts silence before the source, in whole frames, and
    an end beyond the source's end puts some behind it. All frames that the window touches are generated, so
    that none of it is left old (`AceStepPipeline._build_chunk_mask` of diffusers leaves the last one out).

    Times are rounded to samples before frames are counted: 4.6 s times 25 frames a second is a little less
    than the frame that is meant, and -1e-7 s is the source's start.

    The window must touch the source, and must not be empty; `requests.check` sees to that.
    """
    hop, rate_hz = model.hop_sample_count, model.sample_rate_hz
    asked_start = round((start_s or 0.0) * rate_hz)
    before = -min(0, asked_start // hop) * hop
    source = Span(before, before + source_sample_count)
    start = max(0, asked_start)
    stop = source.stop if end_s is None else before + round(end_s * rate_hz)
    frame_count = math.ceil(max(source.stop, stop) / hop)
    first_frame = min(start // hop, frame_count - 1)
    if stop < source.stop:
        last_frame = min(max(math.ceil(stop / hop), first_frame + 1), frame_count)
        sample_count = source.stop
    else:
        last_frame = frame_count
        sample_count = source.stop if stop == source.stop else frame_count * hop
        stop = sample_count
    return Timeline(
        sample_count, frame_count, hop, source, Span(first_frame, last_frame), Span(min(start, stop), stop)
    )
