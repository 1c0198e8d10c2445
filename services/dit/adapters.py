"""LoRA adapters on the transformer, for the time of a job."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from acestage.adapters import Adapter
from acestage.errors import CheckpointError, InvalidArgumentError
from services.dit.adapter_weights import Matrices, load_matrices, read_again
from services.dit.parameters import AdapterUse
from services.runtime.finite import check_finite

if TYPE_CHECKING:
    from diffusers import AceStepTransformer1DModel


class Adapters:
    """Puts adapters onto the transformer, and takes them off.

    PEFT adds what an adapter gives to what a layer gives, so weights stay as they are, in INT8 too, and give
    the same bits as before once the adapter is off. Between jobs nothing of an adapter stays: a worker that
    rests holds no more than was planned, and a file that was changed is read anew.
    """

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        self._transformer = transformer
        # Before PEFT has wrapped any of them.
        self._paths = {
            path for path, part in transformer.named_modules() if isinstance(part, torch.nn.Linear)
        }
        self._loaded: list[str] = []

    @contextmanager
    def applied(self, uses: Sequence[AdapterUse]) -> Iterator[None]:
        """Within, the transformer computes with all of `uses`.

        Raises:
            InvalidArgumentError: one of them is not for this model, or its file has changed or has values
                that are not finite. The transformer is as it was.
            NonFiniteError: its values overflow float16.
        """
        self._take_off()
        # None at all is not the same bits as nothing added.
        wanted = [(index, use) for index, use in enumerate(uses) if use.scale != 0.0]
        try:
            for index, use in wanted:
                try:
                    self._put_on(f"adapter_{index}", use)
                except CheckpointError as error:
                    raise InvalidArgumentError.at(
                        f"parameters.adapters[{index}].name", error.message
                    ) from error
            if wanted:
                self._transformer.set_adapters(self._loaded, [use.scale for _, use in wanted])
            yield
        finally:
            self._take_off()

    def _put_on(self, name: str, use: AdapterUse) -> None:
        adapter = read_again(use)
        self._check(adapter)
        state = self._placed(load_matrices(adapter), use.name)
        with warnings.catch_warnings():
            # That there is another adapter, and that int8 weights cannot be merged: both are meant to be so.
            warnings.filterwarnings("ignore", category=UserWarning, module="peft")
            self._transformer.load_lora_adapter(state, prefix=None, adapter_name=name, low_cpu_mem_usage=True)
        self._loaded.append(name)

    def _take_off(self) -> None:
        if self._loaded:
            # What PEFT put around the layers goes, too: layers are told apart by what they are.
            self._transformer.unload_lora()
            self._loaded = []

    def _check(self, adapter: Adapter) -> None:
        """Raises `CheckpointError` where a layer is not there, or is of another shape."""
        for layer in adapter.layers:
            if layer.module not in self._paths:
                raise CheckpointError(
                    f"{adapter.file}: {layer.module[:200]} is no linear layer of this model; "
                    "accepted: adapters of this model"
                )
            part = self._transformer.get_submodule(layer.module)
            expected = (part.in_features, part.out_features)
            if (layer.down.shape[1], layer.up.shape[0]) != expected:
                raise CheckpointError(
                    f"{adapter.file}: {layer.module} takes {layer.down.shape[1]} and gives "
                    f"{layer.up.shape[0]} features; accepted: {expected[0]} and {expected[1]}, as in "
                    "adapters of this model"
                )

    def _placed(self, layers: Iterable[Matrices], name: str) -> dict[str, torch.Tensor]:
        """The matrices as PEFT names them, on the device in the type of the model.

        PEFT moves those of a layer that is not placed to where that is, in its type.
        """
        device, dtype = self._transformer.device, self._transformer.dtype
        state = {}
        for layer in layers:
            for part, matrix in (("A", layer.down), ("B", layer.up)):
                placed = matrix.to(device, dtype)
                check_finite(placed, "dit", f"the weights of the adapter {name}")
                state[f"{layer.module}.lora_{part}.weight"] = placed
        return state
