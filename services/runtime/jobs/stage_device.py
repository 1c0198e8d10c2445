"""The device of a stage, as its gRPC process sees it: without touching it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestage.setting_types import QuantizationChoice
from services.runtime.devices.device_memory import DeviceMemory, read_device_memory
from services.runtime.jobs.job_budget import Resources
from services.runtime.preload.facts import MappedModel
from services.runtime.stage_config import StageConfig


@dataclass(frozen=True, slots=True)
class StageDevice:
    """Where a stage runs, and how it may use it.

    Attributes:
        name: "cpu", "cuda:N" or "fake:N".
        total_bytes: its size, or that of the smaller one that is simulated.
        max_bytes: of a simulated device; None for the real one.
        run_dir: folder of the device locks.
        quantization: how weights may be held.
        tile_frame_count: the most latent frames in a tile of the VAE.
    """

    name: str
    total_bytes: int
    max_bytes: int | None
    run_dir: Path
    quantization: QuantizationChoice
    tile_frame_count: int

    @classmethod
    def of(cls, config: StageConfig) -> StageDevice:
        """Blocks for milliseconds.

        Raises:
            UnavailableError: the driver does not answer.
        """
        run_dir = Path(config.run_dir)
        memory = read_device_memory(config.device, config.max_device_bytes, run_dir)
        return cls(
            name=config.device,
            total_bytes=memory.total_bytes,
            max_bytes=config.max_device_bytes,
            run_dir=run_dir,
            quantization=config.quantization,
            tile_frame_count=config.tile_frame_count,
        )

    def resources(self, model: MappedModel) -> Resources:
        """What there is to work with for `model`."""
        return Resources(
            device=self.name,
            device_bytes=self.total_bytes,
            weights_of=model.weights_of,
            dtype=model.dtype,
            quantization=self.quantization,
            memories=model.memories,
            tile_frame_count=self.tile_frame_count,
        )

    def read_memory(self) -> DeviceMemory:
        """Its bytes now. Blocks for milliseconds, so not for the event loop."""
        return read_device_memory(self.name, self.max_bytes, self.run_dir)
