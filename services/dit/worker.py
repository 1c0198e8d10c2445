"""What the DiT does in its worker process: messages to engine calls and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.loading import load_component
from acestage.checkpoints.modules import build_module
from acestage.planning import Quantization, StageMemory
from acestage.tensors import WireTensor
from services.dit.engine import Conditioning, DitEngine, StepDone
from services.dit.kernels import kernels_for
from services.dit.memory import measure
from services.dit.parameters import AdapterUse, DenoiseParameters
from services.dit.time_embeddings import EMBEDDERS
from services.runtime.kernels.kernel import AnyKernel
from services.runtime.weights.int8_weights import Int8Weights
from services.runtime.workers.messages import Message
from services.runtime.workers.received import received_tensors


def load(checkpoint: Checkpoint) -> DitWorker:
    """Maps the transformer's weights."""
    return DitWorker(DitEngine(load_component(checkpoint, TRANSFORMER)))


def without_weights(checkpoint: Checkpoint) -> DitWorker:
    """The same on the meta device, which is all that `memory` needs: no file with weights need be there."""
    return DitWorker(DitEngine(build_module(checkpoint.component(TRANSFORMER))))


class DitWorker:
    def __init__(self, engine: DitEngine) -> None:
        self.engine = engine

    def modules(self) -> list[torch.nn.Module]:
        return [self.engine.transformer]

    def borrowed_modules(self) -> list[torch.nn.Module]:
        return [self.engine.transformer.get_submodule(name) for name in EMBEDDERS]

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[AnyKernel]:
        return kernels_for(device, dtype)

    def memory(self, dtype: torch.dtype, cpu_thread_count: int | None = None) -> StageMemory:
        return measure(self, dtype, cpu_thread_count)

    def place(self, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
        self.engine.place(device, dtype, quantization)

    def prepared_weights(self, quantization: Quantization) -> Int8Weights | None:
        return Int8Weights(self.modules()) if quantization == "int8" else None

    def run(self, request: Message) -> Iterator[Message]:
        conditioning = Conditioning(**received_tensors(request))
        for event in self.engine.denoise(conditioning, _parameters(request)):
            if isinstance(event, StepDone):
                yield Message("step", {"step": event.step, "step_count": event.step_count})
            else:
                yield Message("latents", tensors=(WireTensor.from_torch("latents", event),))


def _parameters(request: Message) -> DenoiseParameters:
    # JSON made lists of the tuples. How weights are held, and whose, was settled before.
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in request.fields.items()
        if name not in ("quantization", "model")
    }
    fields["adapters"] = tuple(AdapterUse(**use) for use in fields.get("adapters", ()))
    return DenoiseParameters(**fields)
