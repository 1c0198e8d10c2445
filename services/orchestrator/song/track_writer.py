"""From decoded chunks to the chunks that listeners get, and to what there is to say of each track."""

from __future__ import annotations

from collections.abc import Iterable

from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.vae.v1.vae_pb2 import AudioChunk, TileCompleted
from services.orchestrator.song.assembly import Assembly, Samples
from services.orchestrator.song.audio_meter import AudioMeter
from services.orchestrator.song.generation_settings import GenerationSettings
from services.orchestrator.song.timeline import Span


class TrackWriter:
    """The tracks of one decode."""

    def __init__(self, settings: GenerationSettings, source: Samples | None, sample_rate_hz: int) -> None:
        """Prepares.

        Args:
            settings: what the job makes.
            source: [samples, channels]; None without one.
            sample_rate_hz: that of the tracks.
        """
        self._settings = settings
        self._meters = [AudioMeter() for _ in settings.seeds]
        self._assemblies: list[Assembly] = []
        if settings.timeline is not None and source is not None:
            self._assemblies = [
                Assembly(settings.timeline, source, index, sample_rate_hz)
                for index in range(len(settings.seeds))
            ]
        self._cost = pb.DecodeCost()

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
        """The chunks that can be sent once `decoded` is there; chunks of an item must come in order."""
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
        """What there is to say once all is decoded, with the `warnings` of the whole job."""
        tracks = tuple(
            meter.track(index, seed, keeps_level=self._settings.keeps_source)
            for index, (meter, seed) in enumerate(zip(self._meters, self._settings.seeds, strict=True))
        )
        for track in tracks:
            track.warnings.extend(warnings)
        return tracks

    def cost(self) -> pb.DecodeCost:
        return self._cost
