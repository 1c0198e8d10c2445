"""The timbre of silence: computed by the first prompt alone, and the same bits for all that come after it."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest
import torch
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepTimbreEncoder

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.opening import EMBEDDED_PATH
from acestage.errors import NonFiniteError
from acestage.planning import Quantization
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.prompt import Prompt
from services.text_encoder.silent_timbre import SilentTimbres
from services.text_encoder.worker import TextEncoderWorker, load

CPU = torch.device("cpu")
WIDTH = 48
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
JOB = EncodeJob(Prompt(caption="piano", lyrics="rain"), frame_count=50)


def worker_of() -> TextEncoderWorker:
    return load(open_checkpoint(EMBEDDED_PATH, checkpoints_dir=Path("checkpoints")))


def encode(worker: TextEncoderWorker, reference: torch.Tensor | None = None) -> tuple[torch.Tensor, int]:
    """The hidden states, and how often a timbre was computed for them."""
    with (
        torch.inference_mode(),
        mock.patch.object(
            AceStepTimbreEncoder, "forward", autospec=True, side_effect=AceStepTimbreEncoder.forward
        ) as forward,
    ):
        states = worker.engine.encode(JOB, reference_latents=reference).encoder_hidden_states
    return states, forward.call_count


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_what_is_kept_is_what_would_be_computed(quantization: Quantization) -> None:
    worker = worker_of()
    worker.place(CPU, torch.float32, quantization)
    (first, first_count), (second, second_count) = encode(worker), encode(worker)
    assert (first_count, second_count) == (1, 0)
    worker.engine.silent_timbre = None
    computed, count = encode(worker)
    assert count == 1
    assert torch.equal(first, computed)
    assert torch.equal(second, computed)


def test_a_reference_has_its_own() -> None:
    worker = worker_of()
    worker.place(CPU, torch.float32, "none")
    silent, _ = encode(worker)
    reference = torch.ones(1, 100, worker.engine.condition_encoder.silence_latent.shape[-1])
    for _ in range(2):
        states, count = encode(worker, reference)
        assert count == 1
        assert not torch.equal(states, silent)
    assert torch.equal(encode(worker)[0], silent)


def test_one_that_overflows_is_not_kept() -> None:
    worker = worker_of()
    worker.place(CPU, torch.float16, "none")
    norm = worker.engine.condition_encoder.timbre_encoder.norm.weight
    saved = norm.detach().clone()
    with torch.inference_mode():
        norm.fill_(65_504.0)
    with pytest.raises(NonFiniteError, match="the timbre of silence"):
        encode(worker)
    with torch.inference_mode():
        norm.copy_(saved)
    assert [encode(worker)[1], encode(worker)[1]] == [1, 0]


def test_every_data_type_has_a_place_of_its_own() -> None:
    timbres = SilentTimbres(WIDTH)
    for number, dtype in enumerate(DTYPES):
        slot = timbres.slot(dtype)
        assert slot.get(CPU) is None
        slot.keep(torch.full((1, 1, WIDTH), number, dtype=dtype))
    for number, dtype in enumerate(DTYPES):
        found = timbres.slot(dtype).get(CPU)
        assert found is not None
        assert torch.equal(found, torch.full((1, 1, WIDTH), number, dtype=dtype))


def test_what_a_forked_worker_keeps_is_there_for_the_next_one() -> None:
    preload = worker_of()
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)  # those of this process are not there
        preload.place(CPU, torch.float32, "none")
        os._exit(0 if encode(preload)[1] == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    preload.place(CPU, torch.float32, "none")
    kept, count = encode(preload)
    assert count == 0
    preload.engine.silent_timbre = None
    torch.testing.assert_close(encode(preload)[0], kept)
