"""From decoded chunks to the chunks that listeners get, and to what there is to say of each track."""

from __future__ import annotations

from collections.abc import Iterable

from acestage.errors import InternalError
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.vae.v1.vae_pb2 import AudioChunk, TileCompleted
from acestage.song_audio import CHANNEL_COUNT
from services.orchestrator.song.assembly import Assembly, Samples
from services.orchestrator.song.audio_meter import AudioMeter
from services.orchestrator.song.generation_settings import GenerationSettings
from services.orchestrator.song.timeline import Span

_STAGE = "vae"
_FRAME_BYTES = 4 * CHANNEL_COUNT


class TrackWriter:
    """The tracks of one decode."""

    def __init__(
        self, settings: GenerationSettings, source: Samples | None, model: Model, frame_count: int
    ) -> None:
        """Prepares.

        Args:
            settings: what the job makes.
            source: [samples, channels]; None without one.
            model: the one that makes them.
            frame_count: latent frames of the song.
        """
        self._settings = settings
        self._meters = [AudioMeter() for _ in settings.seeds]
        self._assemblies: list[Assembly] = []
        if settings.timeline is not None and source is not None:
            self._assemblies = [
                Assembly(settings.timeline, source, index, model.sample_rate_hz)
                for index in range(len(settings.seeds))
            ]
        self._cost = pb.DecodeCost()
        self._sample_rate_hz = model.sample_rate_hz
        wanted = self.wanted_frames or Span(0, frame_count)
        self._next_samples = [wanted.start * model.hop_sample_count for _ in settings.seeds]
        self._end_sample = wanted.stop * model.hop_sample_count

    @property
    def wanted_frames(self) -> Span | None:
        """The latent frames whose audio is of use, a sample on each side of a window included; None: all."""
        timeline = self._settings.timeline
        if timeline is None or not self._settings.keeps_source:
            return None
        hop, window = timeline.hop_sample_count, timeline.window
        first = max(window.start - 1, 0) // hop
        return Span(first, min(window.stop // hop + 1, timeline.frame_count))

    def add(self, decoded: AudioChunk) -> list[AudioChunk]:
        """The chunks that can be sent once `decoded` is there; chunks of an item must come in order.

        Raises:
            InternalError: it is not what comes next of one of the items.
        """
        self._check(decoded)
        chunks: Iterable[AudioChunk] = [decoded]
        if self._assemblies:
            chunks = self._assemblies[decoded.item_index].add(decoded)
        sent = list(chunks)
        for chunk in sent:
            self._meters[chunk.item_index].add(chunk)
        return sent

    def count(self, tile: TileCompleted) -> None:
        """Notes what a tile cost."""
        self._cost.tile_count += 1
        self._cost.frame_count += tile.frame_count
        self._cost.halo_frame_count += tile.halo_frame_count

    def tracks(self, warnings: Iterable[str] = ()) -> tuple[pb.Track, ...]:
        """What there is to say once all is decoded, with the `warnings` of the whole job.

        Raises:
            InternalError: not all of it is there.
        """
        for index, sample in enumerate(self._next_samples):
            if sample != self._end_sample:
                raise _wrong(f"the audio of item {index} ended at sample {sample} of {self._end_sample}")
        tracks = tuple(
            meter.track(index, seed, keeps_level=self._settings.keeps_source)
            for index, (meter, seed) in enumerate(zip(self._meters, self._settings.seeds, strict=True))
        )
        for track in tracks:
            track.warnings.extend(warnings)
        return tracks

    def cost(self) -> pb.DecodeCost:
        return self._cost

    def _check(self, decoded: AudioChunk) -> None:
        """Checks that `decoded` goes on where the audio of its item is."""
        index, start, count = decoded.item_index, decoded.start_sample, len(self._next_samples)
        if not 0 <= index < count:
            raise _wrong(f"it sent audio of item {index}; expected: 0 to {count - 1}")
        is_stereo = decoded.channel_count == CHANNEL_COUNT and not len(decoded.samples) % _FRAME_BYTES
        if not is_stereo or decoded.sample_rate_hz != self._sample_rate_hz:
            raise _wrong(
                f"it sent {len(decoded.samples)} bytes of {decoded.channel_count} channels at "
                f"{decoded.sample_rate_hz} Hz; expected: {CHANNEL_COUNT} at {self._sample_rate_hz} Hz"
            )
        stop = start + len(decoded.samples) // _FRAME_BYTES
        if start != self._next_samples[index] or stop > self._end_sample:
            raise _wrong(
                f"it sent samples {start} to {stop} of item {index}; expected: from "
                f"{self._next_samples[index]} on, up to {self._end_sample}"
            )
        self._next_samples[index] = stop


def _wrong(what: str) -> InternalError:
    return InternalError(f"{_STAGE} gave a wrong answer: {what}", metadata={"stage": _STAGE})
