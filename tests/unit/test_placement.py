"""Weights on their way to a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import (
    load_condition_encoder,
    load_decoder,
    load_text_encoder,
    load_transformer,
)
from services.runtime.placement import place

CPU = torch.device("cpu")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))


@pytest.mark.parametrize("load", [load_transformer, load_condition_encoder, load_text_encoder, load_decoder])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_that_the_checkpoint_holds_takes_the_data_type(load: object, dtype: torch.dtype) -> None:
    module = load(TINY)  # type: ignore[operator]
    place(module, CPU, dtype)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {dtype}


def test_rotary_frequencies_keep_their_precision() -> None:
    before = load_text_encoder(TINY).rotary_emb.inv_freq
    module = load_text_encoder(TINY)
    place(module, CPU, torch.bfloat16)
    assert torch.equal(module.rotary_emb.inv_freq, before)


def test_placing_in_the_stored_type_copies_nothing() -> None:
    module = load_transformer(TINY)
    before = [parameter.data_ptr() for parameter in module.parameters()]
    place(module, CPU, torch.float32)
    assert [parameter.data_ptr() for parameter in module.parameters()] == before
