"""Peak memory of a computation, found from its shapes alone: fake tensors, no weights, no device.

Modules are copied with fake tensors in the place of their weights, so the very code that a worker runs can be
run on shapes, in milliseconds and without a thread. What is counted is what torch's allocator would be
asked for.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from acestage.planning import Quantization
from services.runtime.memory.kernel_scratch import Scratch, scratch_of
from services.runtime.stage_worker import StageWorker
from services.runtime.weights.borrowed import replacements
from services.runtime.weights.placement import place as place_weights

Worker = TypeVar("Worker", bound=StageWorker)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Within, every tensor that is made is fake, and nothing is computed."""
    with torch.no_grad(), FakeTensorMode():
        yield


@dataclass(frozen=True, slots=True)
class Stack:
    """A module that runs its `layers`, alike but for their types, one after the other.

    A layer frees all but its result before the next one starts, so the first layers that include every type
    have the peak of all of them, in a fraction of the time.
    """

    module: torch.nn.Module
    layer_types: Sequence[str]

    @property
    def kept_count(self) -> int:
        """Layers that are enough."""
        return max(2, 1 + max(self.layer_types.index(kind) for kind in set(self.layer_types)))


def placed_copy(
    worker: Worker,
    dtype: torch.dtype,
    quantization: Quantization,
    stacks: Sequence[Stack] = (),
    place: Callable[[Worker, torch.device, torch.dtype, Quantization], None] | None = None,
) -> Worker:
    """Copies `worker` with fake tensors, and places the copy as a worker process places the real one.

    Call it within `fake_tensors`. Weights on the meta device are fine. The device is the CPU, because fake
    tensors of a CUDA device need one.

    Args:
        worker: what is copied.
        dtype: the data type to place the copy in.
        quantization: how the copy's weights are held.
        stacks: repeated layers, of which the copy has as many as each says.
        place: what places the copy; None for the copy's own `place`.
    """
    memo: dict[int, Any] = {}
    for module in (*worker.modules(), *worker.borrowed_modules()):
        memo |= replacements(module, _fake)
    for stack in stacks:
        layers: Any = stack.module.layers
        memo[id(layers)] = copy.deepcopy(layers[: stack.kept_count], memo)
    placed = copy.deepcopy(worker, memo)
    (place or type(placed).place)(placed, torch.device("cpu"), dtype, quantization)
    return placed


def count_as_copied(modules: Iterable[torch.nn.Module]) -> None:
    """Has what is borrowed of `modules`, which are fake, take memory whatever the type that is computed in.

    On a device with memory of its own it does.
    """
    for module in modules:
        place_weights(module, torch.device("cpu"), torch.float64)  # which no stage computes in


def peak_bytes(work: Callable[[], object], *, cpu_thread_count: int | None) -> int:
    """The most bytes that live at once while `work` runs, without those of tensors that were there before.

    Args:
        work: runs on fake tensors; call this within `fake_tensors`.
        cpu_thread_count: threads of the kernels, where they are the CPU's; None for a CUDA device.
    """
    counter = LiveBytes(cpu_thread_count)
    with counter:
        work()
    return counter.peak_bytes


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that are made while it is entered, until they are freed.

    Attributes:
        live_bytes: what those take that are there now.
        peak_bytes: the most that they took at once.
    """

    def __init__(self, cpu_thread_count: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._cpu_thread_count = cpu_thread_count
        self.live_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "prim":  # asks a tensor what it is
            return func(*args)
        if func is torch.ops.aten._local_scalar_dense.default and _is_fake_truth(args[0]):
            return True  # a check for overflow looks at a value, which fake tensors do not have: all is well
        # A storage that is met first as an argument was there before.
        for tensor in _tensors(args):
            self._meet(tensor, is_new=False)
        before_bytes = self.live_bytes
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._meet(tensor, is_new=True)
        scratch = scratch_of(func, args, result, self._cpu_thread_count)
        self._note_peak(before_bytes, self.live_bytes, scratch)
        return result

    def on_growth(self) -> None:
        """Called with every new storage; for subclasses that allow only so much."""

    def _note_peak(self, before_bytes: int, after_bytes: int, scratch: Scratch) -> None:
        self.peak_bytes = max(
            self.peak_bytes,
            before_bytes + scratch.before_result_bytes,
            after_bytes + scratch.beside_result_bytes,
        )

    def _meet(self, tensor: torch.Tensor, *, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size_bytes = storage.nbytes() if is_new else 0
        self.live_bytes += size_bytes
        weakref.finalize(storage, self._forget, key, size_bytes).atexit = False
        self.on_growth()

    def _forget(self, key: int, size_bytes: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size_bytes


def _is_fake_truth(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.dtype == torch.bool


def _tensors(values: object) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
