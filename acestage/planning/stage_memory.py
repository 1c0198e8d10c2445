"""What one stage needs on its device: context, weights, activations at their peak, reserve."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from acestage.protos.stage.v1 import stage_pb2

Quantization = Literal["none", "int8"]

MIB = 1 << 20
GIB = 1 << 30
"""What graphics cards call a gigabyte."""


@dataclass(frozen=True, slots=True)
class ActivationCurve:
    """Peak bytes of activations by latent frames.

    Attributes:
        points: (frames, bytes), frames rising, at least one. Between two of them the straight line holds,
            below the first its bytes, and above the last the line through the last two.
    """

    points: tuple[tuple[int, int], ...]

    def bytes_at(self, frame_count: int) -> int:
        """Peak bytes for `frame_count`, at least 1, rounded up."""
        first_frames, first_bytes = self.points[0]
        if frame_count <= first_frames or len(self.points) == 1:
            return first_bytes
        for (start, start_bytes), (stop, stop_bytes) in itertools.pairwise(self.points):
            if frame_count <= stop or (stop, stop_bytes) == self.points[-1]:
                rise = (stop_bytes - start_bytes) * (frame_count - start)
                return start_bytes - (-rise // (stop - start))
        raise AssertionError("the points rise")


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes that a stage needs.

    Attributes:
        context_bytes: what a process takes before the first tensor is on the device.
        reserve_bytes: margin for what the allocator rounds up and libraries take for themselves.
        weights_bytes: by quantization.
        activations: by mode and quantization. Modes: "encode" (text encoder), "codes" (text encoder, with
            audio codes; has the weights in it that are there for them alone), "single" and "guided" (DiT;
            guided does both halves of guidance at once), "item" (DiT: what every item of a batch after the
            first adds), "tile" (VAE, decoding; frames with the halo), "encode_tile" (VAE, encoding; frames
            with the halo; has the encoder's weights in it, which are there for an encode alone).
        halo_frame_count: latent frames on each side of a tile, for the VAE's decoder.
        encoder_halo_frame_count: the same for its encoder.
    """

    context_bytes: int
    reserve_bytes: int
    weights_bytes: Mapping[Quantization, int]
    activations: Mapping[tuple[str, Quantization], ActivationCurve]
    halo_frame_count: int = 0
    encoder_halo_frame_count: int = 0

    def activation_bytes(
        self, mode: str, frame_count: int, quantization: Quantization = "none", item_count: int = 1
    ) -> int:
        """Peak bytes of activations."""
        size = self.activations[mode, quantization].bytes_at(frame_count)
        item = self.activations.get(("item", quantization))
        return size if item is None else size + (item_count - 1) * item.bytes_at(frame_count)

    def resting_bytes(self, quantization: Quantization = "none") -> int:
        """Bytes of a worker that has its weights on the device and no work."""
        return self.context_bytes + self.weights_bytes[quantization] + self.reserve_bytes

    def total_bytes(
        self, mode: str, frame_count: int, quantization: Quantization = "none", item_count: int = 1
    ) -> int:
        """Bytes of the lease for a job."""
        activation_bytes = self.activation_bytes(mode, frame_count, quantization, item_count)
        return self.resting_bytes(quantization) + activation_bytes

    def to_pb(self) -> stage_pb2.StageMemory:
        return stage_pb2.StageMemory(
            context_bytes=self.context_bytes,
            reserve_bytes=self.reserve_bytes,
            weights=[
                stage_pb2.WeightsMemory(quantization=key, weights_bytes=value)
                for key, value in self.weights_bytes.items()
            ],
            activations=[
                stage_pb2.ActivationCurve(
                    mode=mode,
                    quantization=quantization,
                    points=[
                        stage_pb2.ActivationPoint(frame_count=frames, activation_bytes=size)
                        for frames, size in curve.points
                    ],
                )
                for (mode, quantization), curve in self.activations.items()
            ],
            halo_frame_count=self.halo_frame_count,
            encoder_halo_frame_count=self.encoder_halo_frame_count,
        )

    @classmethod
    def from_pb(cls, memory: stage_pb2.StageMemory) -> StageMemory:
        return cls(
            context_bytes=memory.context_bytes,
            reserve_bytes=memory.reserve_bytes,
            weights_bytes={as_quantization(w.quantization): w.weights_bytes for w in memory.weights},
            activations={
                (curve.mode, as_quantization(curve.quantization)): ActivationCurve(
                    tuple((point.frame_count, point.activation_bytes) for point in curve.points)
                )
                for curve in memory.activations
            },
            halo_frame_count=memory.halo_frame_count,
            encoder_halo_frame_count=memory.encoder_halo_frame_count,
        )


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, where all below one that fits do as well; else 0."""
    if not fits(1):
        return 0
    fitting, too_large = 1, most + 1
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if fits(middle):
            fitting = middle
        else:
            too_large = middle
    return fitting


def as_quantization(name: str) -> Quantization:
    """Raises `ValueError` where `name` is no quantization."""
    if name == "none":
        return "none"
    if name == "int8":
        return "int8"
    raise ValueError(f"quantization is {name!r}; expected none or int8")
