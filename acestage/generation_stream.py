"""From the messages of a job to the client's events and its result."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC

import numpy as np
import numpy.typing as npt

from acestage.errors import DataLossError, InternalError
from acestage.generation import (
    Adaptation,
    AudioChunk,
    DecodeCost,
    Generation,
    GenerationEvent,
    JobQueued,
    PreviewAudio,
    PreviewCompleted,
    ProcessMemory,
    StageCompleted,
    StageProgress,
    StageStarted,
    StageWaiting,
    Track,
)
from acestage.generation_options import Adapter, Model, Settings
from acestage.limits import Clamped
from acestage.protobuf_times import seconds
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.vae.v1 import vae_pb2


def makes_tracks(response: pb.GenerateResponse) -> bool:
    """Whether reading `response` puts tracks together, which for long ones takes a good part of a second."""
    return response.WhichOneof("event") in ("completed", "preview_completed")


class GenerationStream:
    """Reads one job's messages in order, from the first on; keeps its audio and reports for the result."""

    def __init__(self) -> None:
        self._song = _Audio()
        self._preview = _Audio()
        self._stages: list[StageCompleted] = []

    def read(self, response: pb.GenerateResponse) -> GenerationEvent:
        """The event that `response` carries; the last one is the `Generation`.

        Raises:
            DataLossError: the audio that arrived is not what was sent.
        """
        match response.WhichOneof("event"):
            case "queued":
                return JobQueued(response.queued.job_id, response.queued.position)
            case "stage_waiting":
                return StageWaiting(response.stage_waiting.stage, response.stage_waiting.position)
            case "stage_started":
                return _started(response.stage_started)
            case "progress":
                progress = response.progress
                return StageProgress(progress.stage, progress.done_count, progress.total_count)
            case "stage_completed":
                self._stages.append(_completed(response.stage_completed))
                return self._stages[-1]
            case "audio":
                chunk = response.audio
                samples = self._song.add(chunk)
                return AudioChunk(chunk.item_index, chunk.start_sample, samples, chunk.sample_rate_hz)
            case "preview_audio":
                chunk = response.preview_audio
                samples = self._preview.add(chunk)
                return PreviewAudio(chunk.item_index, chunk.start_sample, samples, chunk.sample_rate_hz)
            case "preview_completed":
                preview = response.preview_completed
                return PreviewCompleted(self._preview.tracks(preview.tracks), preview.step_count)
            case "completed":
                return self._generation(response.completed)
            case unknown:
                raise InternalError(
                    f"an event of unknown kind {unknown!r}: is this client older than the server?"
                )

    def _generation(self, completed: pb.JobCompleted) -> Generation:
        memory = _memory([completed.orchestrator_memory])
        # A stage that worked twice tells of the same processes twice; the last word counts.
        processes = {(found.name, found.pid): found for stage in self._stages for found in stage.processes}
        return Generation(
            job_id=completed.job_id,
            tracks=self._song.tracks(completed.tracks),
            settings=_settings(completed.settings),
            stages=tuple(self._stages),
            total_s=seconds(completed.total_time),
            run_s=seconds(completed.run_time),
            processes=(*memory, *processes.values()),
            clamped=tuple(Clamped.from_pb(clamped) for clamped in completed.clamped),
            decode_cost=_decode_cost(completed),
        )


class _Item:
    """Samples of one item as they come."""

    def __init__(self) -> None:
        self.chunks: list[npt.NDArray[np.float32]] = []
        self.sample_count = 0
        self.digest = hashlib.sha256()


class _Audio:
    """Samples as they come, until the message that tells their tracks."""

    def __init__(self) -> None:
        self._items: defaultdict[int, _Item] = defaultdict(_Item)

    def add(self, chunk: vae_pb2.AudioChunk) -> npt.NDArray[np.float32]:
        """Keeps the samples of `chunk` and returns them: [n, channels]."""
        data = chunk.samples
        samples = np.frombuffer(data, dtype="<f4").reshape(-1, chunk.channel_count)
        item = self._items[chunk.item_index]
        item.chunks.append(samples)
        item.sample_count += len(samples)
        item.digest.update(data)
        return samples

    def tracks(self, tracks: Iterable[pb.Track]) -> tuple[Track, ...]:
        return tuple(self._track(track) for track in tracks)

    def _track(self, track: pb.Track) -> Track:
        item = self._items.pop(track.item_index, _Item())
        if (item.sample_count, item.digest.digest()) != (track.sample_count, track.samples_sha256):
            raise DataLossError(
                f"track {track.item_index}: {item.sample_count} samples arrived with checksum "
                f"{item.digest.hexdigest()}; {track.sample_count} were sent with {track.samples_sha256.hex()}"
            )
        audio = np.concatenate(item.chunks)
        audio *= np.float32(track.gain)
        return Track(
            item_index=track.item_index,
            seed=track.seed,
            audio=audio,
            sample_rate_hz=track.sample_rate_hz,
            gain=track.gain,
            peak=track.peak,
            rms=track.rms,
            samples_sha256=item.digest.hexdigest(),
            warnings=tuple(track.warnings),
        )


def _decode_cost(completed: pb.JobCompleted) -> DecodeCost | None:
    if not completed.HasField("decode_cost"):
        return None
    cost = completed.decode_cost
    return DecodeCost(cost.tile_count, cost.frame_count, cost.halo_frame_count)


def _started(message: pb.StageStarted) -> StageStarted:
    started = message.started
    return StageStarted(
        stage=message.stage,
        device=started.device,
        dtype=started.dtype,
        lease_id=started.lease_id,
        fencing_token=started.fencing_token,
        lease_wait_s=seconds(started.lease_wait),
        quantization=started.quantization,
        vram_bytes=started.vram_bytes,
        was_warm=started.was_warm,
    )


def _completed(message: pb.StageCompleted) -> StageCompleted:
    report = message.report
    return StageCompleted(
        stage=message.stage,
        lease_id=report.lease_id,
        fencing_token=report.fencing_token,
        started_at=report.start_time.ToDatetime(UTC),
        ended_at=report.end_time.ToDatetime(UTC),
        load_s=seconds(report.load_time),
        compute_s=seconds(report.compute_time),
        processes=_memory(report.processes),
        peak_device_bytes=report.peak_device_bytes,
        planned_bytes=report.planned_bytes,
        adaptations=tuple(_adaptation(adaptation) for adaptation in report.adaptations),
        kernels=report.kernels,
    )


def _adaptation(adaptation: stage_pb2.Adaptation) -> Adaptation:
    kind = stage_pb2.AdaptationKind.Name(adaptation.kind).removeprefix("ADAPTATION_KIND_").lower()
    return Adaptation(kind, adaptation.before, adaptation.after, adaptation.cause)


def _settings(settings: pb.Settings) -> Settings:
    model = settings.model
    return Settings(
        caption=settings.caption,
        lyrics=settings.lyrics,
        language=settings.language,
        duration_s=settings.duration_s,
        bpm=settings.bpm if settings.HasField("bpm") else None,
        key_scale=settings.key_scale,
        time_signature=settings.time_signature,
        seed=settings.seed,
        step_count=settings.step_count,
        shift=settings.shift,
        guidance_scale=settings.guidance_scale,
        cfg_interval_start=settings.cfg_interval_start,
        cfg_interval_end=settings.cfg_interval_end,
        timesteps=tuple(settings.timesteps),
        instruction=settings.instruction,
        batch_size=settings.batch_size,
        model=Model(model.name, model.is_turbo, model.is_untrained),
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        task=settings.task,
        seeds=tuple(settings.seeds),
        source_id=settings.source_id,
        reference_id=settings.reference_id,
        audio_codes=settings.audio_codes,
        audio_cover_strength=settings.audio_cover_strength,
        cover_noise_strength=settings.cover_noise_strength,
        repaint_start_s=settings.repaint_start_s if settings.HasField("repaint_start_s") else None,
        repaint_end_s=settings.repaint_end_s if settings.HasField("repaint_end_s") else None,
        track_name=settings.track_name,
        track_classes=tuple(settings.track_classes),
        infer_method=settings.infer_method,
        adapters=tuple(Adapter.from_pb(adapter) for adapter in settings.adapters),
        kernels=settings.kernels,
    )


def _memory(processes: Iterable[stage_pb2.ProcessMemory]) -> tuple[ProcessMemory, ...]:
    return tuple(ProcessMemory.from_pb(process) for process in processes)
