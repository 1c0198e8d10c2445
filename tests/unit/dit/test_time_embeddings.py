"""Embeddings of timesteps: those of diffusers, by weights that no worker holds meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component
from services.dit import time_embeddings
from services.dit.engine import DitEngine
from services.dit.time_embeddings import EMBEDDERS, embed_timesteps
from services.runtime.weights.borrowed import borrowed

CPU = torch.device("cpu")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
TIMESTEPS = (1.0, 0.7, 0.125)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("group_count", [1, 2, 32])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_each_is_what_the_transformer_of_diffusers_makes_of_it(
    dtype: torch.dtype, group_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_embeddings, "_GROUP_COUNT", group_count)
    engine = DitEngine(load_component(TINY, "transformer"))
    engine.place(CPU, dtype, "none")
    found = embed_timesteps(engine.transformer, TIMESTEPS)
    assert tuple(found) == TIMESTEPS
    reference = load_component(TINY, "transformer").to(dtype)
    for t, mine in found.items():
        own, difference = torch.full((1,), t, dtype=dtype), torch.zeros(1, dtype=dtype)
        theirs = zip(reference.time_embed(own), reference.time_embed_r(difference), strict=True)
        for ours, (embedding, embedding_r) in zip((mine.embedding, mine.modulation), theirs, strict=True):
            expected = embedding + embedding_r
            assert (ours.dtype, ours.shape) == (dtype, expected.shape)
            assert (ours - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES[1:])
@torch.no_grad()
def test_the_weights_are_placed_for_them_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DitEngine(load_component(TINY, "transformer"))
    engine.place(CPU, dtype, "none")
    parts = [engine.transformer.get_submodule(name) for name in EMBEDDERS]
    placed = []

    def noted(*how: object) -> object:
        placed.append(how)
        return borrowed(*how)  # type: ignore[arg-type]

    monkeypatch.setattr(time_embeddings, "borrowed", noted)
    embed_timesteps(engine.transformer, TIMESTEPS)
    assert placed == [(part, CPU, dtype) for part in reversed(parts)]
    dtypes = {
        is_left_out: {
            weight.dtype
            for name, weight in engine.transformer.named_parameters()
            if (name.split(".")[0] in EMBEDDERS) is is_left_out
        }
        for is_left_out in (True, False)
    }
    assert dtypes == {True: {torch.float32}, False: {dtype}}
