"""What a stage gives the runtime: an object that lives in its preload and is used in forked workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Protocol

import torch

from acestage.planning import Quantization, StageMemory
from services.runtime.kernels.kernel import AnyKernel
from services.runtime.workers.messages import Message

LayerTensors = Mapping[str, Mapping[str, torch.Tensor]]
"""What the weights of layers consist of, by the layer's name."""


class PreparedWeights(Protocol):
    """Weights that `StageWorker.place` makes of a checkpoint's, which takes longer than moving them.

    Attributes:
        libraries: the packages that decide what they become.
        code: the source of our modules that do, as they were imported: a file may have changed since.
    """

    libraries: Sequence[str]
    code: Sequence[str]

    def layer_names(self) -> Set[str]:
        """The layers that have such weights."""
        ...

    def tensors(self) -> LayerTensors:
        """What `restore` needs, of layers that are prepared, whose memory it shares."""
        ...

    def restore(self, kept: LayerTensors, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the layers of a model that computes in `dtype` what they were once prepared, on `device`.

        On the CPU they are where `kept` is.

        Raises:
            RuntimeError: torch does not take it; each layer is either restored or as it was.
        """
        ...


class StageWorker(Protocol):
    """A stage's model, mapped in the preload process, and its work, done in a worker process.

    Each stage has a module `services.<stage>.worker` with a function
    `load(checkpoint: Checkpoint) -> StageWorker`, and `without_weights`, which returns the same on the meta
    device, to be asked for its `memory`. They use the components that `COMPONENTS_OF_STAGES` has:
    checkpoints in which these are equal share one worker, and those in which they are built alike need the
    same memory.
    """

    def modules(self) -> list[torch.nn.Module]:
        """The modules whose weights the device holds, but for what is looked up on the host or borrowed."""
        ...

    def borrowed_modules(self) -> list[torch.nn.Module]:
        """The modules, or parts of `modules`, that are on the device for a part of a job alone."""
        ...

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[AnyKernel]:
        """The kernels that the stage computes with on `device` in `dtype`; none where it has none."""
        ...

    def memory(self, dtype: torch.dtype, cpu_thread_count: int | None = None) -> StageMemory:
        """What the stage needs on a device in `dtype`, measured from the architecture with fake tensors.

        Called in the preload: it must not compute anything.

        Args:
            dtype: of weights and activations.
            cpu_thread_count: of a worker, where the device is the CPU, whose kernels take memory by the
                thread; None where it is a CUDA device.
        """
        ...

    def place(self, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
        """Moves the weights to the device in `dtype`, quantized as they arrive. Called once, in a worker.

        What was restored of `prepared_weights` is there already, and stays as it is.
        """
        ...

    def prepared_weights(self, quantization: Quantization) -> PreparedWeights | None:
        """Those that `place` makes; None where it does nothing but move them."""
        ...

    def run(self, request: Message) -> Iterator[Message]:
        """Does the work that `request` asks for, with a message for each step, tile or result.

        The worker looks between two messages whether the work was cancelled.
        """
        ...
