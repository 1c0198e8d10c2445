"""A model that overflows float16, through the services: its stages finish in float32, and say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from acestage.checkpoints.opening import EMBEDDED_PATH
from tests.running_stack import RunningStack

OVERSIZED = {
    "condition_encoder": "lyric_encoder.layers.0.mlp.down_proj.weight",
    "transformer": "layers.1.mlp.down_proj.weight",
}


def test_stages_that_overflow_float16_finish_in_float32(tmp_path: Path) -> None:
    checkpoint = tmp_path / "oversized"
    shutil.copytree(EMBEDDED_PATH, checkpoint)
    for component, key in OVERSIZED.items():
        path = checkpoint / component / "diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        tensors[key] = tensors[key] * 1e5
        save_file(tensors, path, {"format": "pt"})
    with (
        RunningStack.start(checkpoint, tmp_path / "stack", ACESTAGE_DTYPE="float16") as stack,
        stack.client() as client,
    ):
        generation, _, third = (client.generate("piano", duration_s=10, seed=seed) for seed in (1, 2, 3))
    adapted = {stage.stage: stage.adaptations for stage in generation.stages}
    for stage in ("text_encoder", "dit"):
        (adaptation,) = adapted[stage]
        assert adaptation.kind == "float32"
        assert "overflow float16" in adaptation.cause
    assert adapted["vae"] == ()
    assert generation.settings.dtype == "float32"
    assert np.isfinite(generation.tracks[0].audio).all()
    # The third song knows from the first two that float16 is of no use, and says so all the same.
    assert [len(stage.adaptations) for stage in third.stages if stage.stage == "dit"] == [1]
    assert stack.log_path.read_text().count("dit: the latents after step 1") == 2
