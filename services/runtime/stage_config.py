"""What the processes of a stage must know, as one value that travels from the service to its preload."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from acestage.planning import DEFAULT_TILE_FRAMES
from acestage.setting_types import QuantizationChoice
from acestage.settings import Settings
from services.runtime.processes.usable_cpus import usable_core_count


@dataclass(frozen=True, slots=True)
class StageConfig:
    """The part of the settings that the preload and the workers of a stage use.

    Attributes:
        stage: "text_encoder", "dit" or "vae".
        checkpoints: folders or names; the first is the default.
        checkpoints_dir: where a name is looked up.
        variant: which model of an original-layout folder.
        device: resolved: "cpu" or "cuda:N".
        dtype: "auto" or a data type name.
        run_dir: folder of the device locks.
        cache_dir: folder of what takes long to find out and can be found again.
        log_level: least severity that is logged.
        threads: CPU threads of a worker; None takes `usable_core_count`.
        quantization: "auto", "none" or "int8".
        max_device_bytes: treat the device as one of this size; None takes it as it is.
        tile_frame_count: the most latent frames in a tile of the VAE.
        cuda_allocator: value of PYTORCH_CUDA_ALLOC_CONF for the preload and its workers; None: as inherited.
    """

    stage: str
    checkpoints: tuple[str, ...]
    checkpoints_dir: str
    variant: str | None
    device: str
    dtype: str
    run_dir: str
    cache_dir: str
    log_level: str
    threads: int | None = None
    quantization: QuantizationChoice = "auto"
    max_device_bytes: int | None = None
    tile_frame_count: int = DEFAULT_TILE_FRAMES
    cuda_allocator: str | None = None

    @classmethod
    def from_settings(cls, stage: str, settings: Settings, device: str) -> StageConfig:
        return cls(
            stage=stage,
            checkpoints=settings.checkpoints,
            checkpoints_dir=str(settings.checkpoints_dir),
            variant=settings.variant,
            device=device,
            dtype=settings.dtype,
            run_dir=str(settings.run_dir),
            cache_dir=str(settings.cache_dir),
            log_level=settings.log_level,
            threads=settings.threads,
            quantization=settings.quantization,
            max_device_bytes=settings.max_device_bytes,
            tile_frame_count=settings.vae_tile_frame_count or DEFAULT_TILE_FRAMES,
            cuda_allocator=settings.pytorch_cuda_alloc_conf,
        )

    def thread_count(self) -> int:
        """CPU threads of a worker."""
        return self.threads or usable_core_count()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StageConfig:
        fields = json.loads(text)
        return cls(**fields | {"checkpoints": tuple(fields["checkpoints"])})
