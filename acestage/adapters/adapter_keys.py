"""Names of tensors in the files of LoRA adapters, as different trainers write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from acestage.checkpoints.component_names import TRANSFORMER
from acestage.checkpoints.key_schemes import KeyScheme, module_key

Part = Literal["down", "up", "alpha"]

# PEFT around the original transformer; diffusers; and what other programs put in front.
_PREFIXES = re.compile(r"(?:(?:base_model\.model|transformer|diffusion_model|decoder)\.)*")
_OF_PEFT = "base_model.model."
# PEFT may write the name of the adapter behind the part.
_PARTS: dict[Part, re.Pattern[str]] = {
    "down": re.compile(r"\.lora_(?:A(?:\.[A-Za-z]\w*)?|down)\.weight$"),
    "up": re.compile(r"\.lora_(?:B(?:\.[A-Za-z]\w*)?|up)\.weight$"),
    "alpha": re.compile(r"\.alpha$"),
}


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """What a tensor of an adapter is.

    Attributes:
        module: the layer that it changes, in the names of diffusers' transformer, such as
            `layers.0.self_attn.to_q`.
        stored_module: the same in the names of the file, without what stands in front.
        wrapped_module: the same in the names of the model that PEFT was put around, such as
            `decoder.layers.0.self_attn.q_proj`.
        part: "down" is the first matrix [rank, inputs], often called A; "up" the second, [outputs, rank];
            "alpha" a number: it divided by the rank is the scale.
    """

    module: str
    stored_module: str
    wrapped_module: str
    part: Part


def parse_key(key: str) -> AdapterKey | None:
    """What the tensor called `key` is; None where it is no part of a LoRA adapter."""
    for part, pattern in _PARTS.items():
        found = pattern.search(key)
        if found:
            full = key[: found.start()]
            stored = full[_PREFIXES.match(full).end() :]  # type: ignore[union-attr]
            # The original transformer has other names for projections; those of diffusers stay as they are.
            module = module_key(KeyScheme.ORIGINAL, TRANSFORMER, f"decoder.{stored}.weight")
            return AdapterKey(str(module).removesuffix(".weight"), stored, full.removeprefix(_OF_PEFT), part)
    return None
