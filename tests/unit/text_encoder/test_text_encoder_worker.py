"""The text encoder's worker: audio codes, what it borrows for them, and checkpoints that have none."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import OPTIONAL
from acestage.checkpoints.modules import build_module
from acestage.errors import FailedPreconditionError, InvalidArgumentError
from acestage.planning import ActivationCurve, Quantization
from acestage.tensors import WireTensor
from services.runtime.jobs.job_budget import Resources
from services.runtime.weights.placement import placed_bytes
from services.runtime.workers.messages import Message
from services.text_encoder import audio_codec
from services.text_encoder.budget import TextEncoderBudget
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.engine import LEFT_OUT
from services.text_encoder.prompt import Prompt
from services.text_encoder.worker import TextEncoderWorker, load, without_weights
from tests.published_workers import architecture

CPU = torch.device("cpu")
MODELS = Path("checkpoints")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=MODELS)
FRAMES = 23
PROMPT = Prompt("piano")


def source(frame_count: int = FRAMES, value: float | None = None) -> WireTensor:
    latents = torch.randn(1, frame_count, 8, generator=torch.Generator().manual_seed(1))
    if value is not None:
        latents[0, -1, -1] = value
    return WireTensor.from_torch("source_latents", latents)


def encode(frame_count: int = FRAMES, *tensors: WireTensor, **changes: Any) -> Message:
    fields = {**EncodeJob(PROMPT, frame_count, **changes).to_fields(), "quantization": ""}
    return Message("encode", fields, tensors)


def tokenize(tensor: WireTensor) -> Message:
    return Message("tokenize", {"frame_count": tensor.shape[1], "quantization": ""}, (tensor,))


@torch.no_grad()
def run(worker: TextEncoderWorker, request: Message) -> Message:
    (answer,) = worker.run(request)
    return answer


@pytest.fixture
def without_codec(tmp_path: Path) -> Path:
    folder = tmp_path / "no-codes"
    shutil.copytree(TINY.path, folder, ignore=shutil.ignore_patterns(*OPTIONAL))
    return folder


def test_codes_are_plain_numbers_one_for_every_group_begun() -> None:
    codes = run(load(TINY), tokenize(source())).fields["codes"]
    assert len(codes) == 5
    assert all(type(code) is int and 0 <= code < TINY.model.audio_code_count for code in codes)


def test_plain_states_are_sent_only_where_they_are_asked_for() -> None:
    names = [tensor.name for tensor in run(load(TINY), encode()).tensors]
    assert names == ["encoder_hidden_states", "null_condition", "context_latents"]
    names = [tensor.name for tensor in run(load(TINY), encode(with_plain=True)).tensors]
    assert names[3:] == ["plain_hidden_states"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("request_of", [tokenize, lambda tensor: encode(FRAMES, tensor)])
def test_values_that_are_not_finite_are_refused(request_of: Any, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"tensor\.source_latents: has values that are too large"):
        run(load(TINY), request_of(source(value=value)))


def test_the_codec_is_borrowed_by_jobs_with_codes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    borrowed = audio_codec.borrowed
    names: list[str] = []
    current: list[str] = []

    @contextmanager
    def noted(module: torch.nn.Module, *where: Any) -> Iterator[torch.nn.Module]:
        assert not current, "one module at a time is on the device"
        current.append(type(module).__name__)
        with borrowed(module, *where) as placed:
            yield placed
        names.append(current.pop())

    monkeypatch.setattr(audio_codec, "borrowed", noted)
    worker = load(TINY)
    codec = worker.engine.audio_codec
    assert codec is not None
    assert codec.tokenizer not in worker.modules()
    assert codec.detokenizer not in worker.modules()
    worker.place(CPU, torch.bfloat16, "none")
    run(worker, encode(FRAMES, source()))
    assert names == []
    run(worker, tokenize(source()))
    assert names == ["AceStepAudioTokenizer"]
    run(worker, encode(FRAMES, source(), through_codes=True))
    assert names[1:] == ["AceStepAudioTokenizer", "AceStepAudioTokenDetokenizer"]
    run(worker, encode(25, audio_codes=(1, 2, 3, 4, 5)))
    assert names[3:] == ["_AceStepResidualFSQ", "AceStepAudioTokenDetokenizer"]
    assert {parameter.dtype for parameter in codec.tokenizer.parameters()} == {torch.float32}


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_what_few_prompts_need_is_not_placed(quantization: Quantization) -> None:
    """The table of all tokens, and the timbre encoder."""
    worker = load(TINY)
    before = {name: part.data_ptr() for name, part in left_out(worker)}
    assert {name.split(".")[0] for name in before} == set(LEFT_OUT)
    worker.place(CPU, torch.bfloat16, quantization)
    run(worker, encode(FRAMES, source()))
    assert {name: part.data_ptr() for name, part in left_out(worker)} == before
    assert {part.dtype for _, part in left_out(worker)} == {torch.float32}
    assert worker.engine.text_encoder.layers[0].input_layernorm.weight.dtype == torch.bfloat16


def left_out(worker: TextEncoderWorker) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, parameter)
        for module in worker.modules()
        for name, parameter in module.named_parameters()
        if name.split(".")[0] in LEFT_OUT
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_codes_work_in_every_data_type(dtype: torch.dtype) -> None:
    worker = load(TINY)
    worker.place(CPU, dtype, "none")
    context = run(worker, encode(FRAMES, source(), through_codes=True)).tensor_map()["context_latents"]
    assert context.dtype == str(dtype).removeprefix("torch.")
    assert context.to_torch().isfinite().all()


def test_a_checkpoint_without_a_codec_does_all_but_codes(without_codec: Path) -> None:
    checkpoint = open_checkpoint(without_codec, checkpoints_dir=MODELS)
    worker = load(checkpoint)
    assert run(worker, encode(FRAMES, source())).tensor_map()["context_latents"].shape == (1, FRAMES, 16)
    with pytest.raises(FailedPreconditionError, match="need an audio tokenizer and detokenizer"):
        run(worker, encode(FRAMES, source(), through_codes=True))
    with pytest.raises(FailedPreconditionError, match="need an audio tokenizer and detokenizer"):
        run(worker, tokenize(source()))
    modes = {mode for mode, _ in without_weights(checkpoint).memory(torch.float32, 1).activations}
    assert modes == {"encode"}


def test_jobs_with_codes_are_planned_with_what_they_borrow() -> None:
    memory = without_weights(TINY).memory(torch.float32, 1)
    # The codec of the tiny model is so small that the prompt outweighs it.
    curves = {
        key: ActivationCurve(tuple((frames, size + (key[0] == "codes")) for frames, size in curve.points))
        for key, curve in memory.activations.items()
    }
    memories = {"float32": dataclasses.replace(memory, activations=curves)}

    def vram_bytes(request: Message) -> int:
        resources = Resources("cpu", 1 << 40, "tiny-turbo", "float32", "none", memories, 128)
        (rung,) = TextEncoderBudget().rungs(request, resources, "float32")
        return rung.attempt.vram_bytes

    plain = vram_bytes(encode(FRAMES, source()))
    assert vram_bytes(encode(FRAMES, source(), through_codes=True)) == plain + 1
    assert vram_bytes(encode(25, audio_codes=(1, 2, 3, 4, 5))) == plain + 1
    assert vram_bytes(tokenize(source())) == plain + 1


def test_the_codec_of_the_published_models_counts_only_with_codes() -> None:
    memory = without_weights(architecture("turbo", layer_count=2)).memory(torch.bfloat16)
    encode_bytes = memory.activation_bytes("encode", 250)
    largest = max(
        placed_bytes([module], torch.bfloat16)
        for module in map(build_module, architecture("turbo").components)
        if type(module).__name__ in ("AceStepAudioTokenizer", "AceStepAudioTokenDetokenizer")
    )
    assert largest > 200e6
    assert encode_bytes < largest < memory.activation_bytes("codes", 250) < largest + encode_bytes
    assert memory.activation_bytes("codes", 15_000) < 1.1 * memory.activation_bytes("codes", 1280)
