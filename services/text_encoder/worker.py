"""What the text encoder does in its worker process: messages to engine calls and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TEXT_ENCODER,
)
from acestage.checkpoints.loading import load_component, load_tokenizer
from acestage.checkpoints.modules import build_module
from acestage.planning import Quantization, StageMemory
from acestage.tensors import WireTensor
from services.runtime.kernels.kernel import Kernel
from services.runtime.weights.int8_weights import Int8Weights
from services.runtime.weights.placement import place
from services.runtime.workers.messages import Message
from services.runtime.workers.received import received_tensors
from services.text_encoder.attention import repeat_keys
from services.text_encoder.audio_codec import AudioCodec
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.engine import LEFT_OUT, TextEncoderEngine
from services.text_encoder.memory import LongestPrompt, measure
from services.text_encoder.prompt_cuts import prompt_cuts
from services.text_encoder.silent_timbre import SilentTimbres

OUTPUTS = ("encoder_hidden_states", "null_condition", "context_latents", "plain_hidden_states")


def load(checkpoint: Checkpoint) -> TextEncoderWorker:
    """Maps the weights of Qwen3, of the condition encoder and of the audio codec, if there is one."""
    engine = _engine(checkpoint, load_tokenizer(checkpoint), partial(load_component, checkpoint))
    return TextEncoderWorker(engine, SilentTimbres(engine.condition_encoder.null_condition_emb.shape[-1]))


def without_weights(checkpoint: Checkpoint) -> TextEncoderWorker:
    """The same on the meta device, which is all that `memory` needs: no file with weights need be there."""
    return TextEncoderWorker(
        _engine(checkpoint, LongestPrompt(), lambda name: build_module(checkpoint.component(name)))
    )


class TextEncoderWorker:
    def __init__(self, engine: TextEncoderEngine, silent_timbres: SilentTimbres | None = None) -> None:
        self.engine = engine
        self._silent_timbres = silent_timbres

    def modules(self) -> list[torch.nn.Module]:
        return [self.engine.text_encoder, self.engine.condition_encoder]

    def borrowed_modules(self) -> list[torch.nn.Module]:
        codec = self.engine.audio_codec
        timbre_encoder = self.engine.condition_encoder.timbre_encoder
        return [timbre_encoder, *(() if codec is None else (codec.tokenizer, codec.detokenizer))]

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[Kernel]:
        return ()

    def memory(self, dtype: torch.dtype, cpu_thread_count: int | None = None) -> StageMemory:
        return measure(self, dtype, cpu_thread_count)

    def place(self, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
        # The audio codec is there for the jobs that need it alone.
        for module in self.modules():
            place(module, device, dtype, quantization, left_out=LEFT_OUT)
        if device.type == "cuda":
            repeat_keys(self.engine)
        if self._silent_timbres is not None:
            self.engine.silent_timbre = self._silent_timbres.slot(dtype)

    def prepared_weights(self, quantization: Quantization) -> Int8Weights | None:
        return Int8Weights(self.modules(), LEFT_OUT) if quantization == "int8" else None

    def run(self, request: Message) -> Iterator[Message]:
        latents = received_tensors(request)
        if request.kind == "tokenize":
            yield Message("codes", {"codes": self.engine.tokenize(latents["source_latents"])})
            return
        job = EncodeJob.from_fields(request.fields)
        encoded = self.engine.encode(job, **latents)
        found = ((name, getattr(encoded, name)) for name in OUTPUTS)
        yield Message(
            "conditioning",
            {"prompt_cuts": prompt_cuts(self.engine.tokenizer, job.prompt)},
            tuple(WireTensor.from_torch(name, tensor) for name, tensor in found if tensor is not None),
        )


def _engine(checkpoint: Checkpoint, tokenizer: Any, module: Callable[[str], Any]) -> TextEncoderEngine:
    """The engine whose components `module` makes, each by its name."""
    return TextEncoderEngine(
        tokenizer,
        module(TEXT_ENCODER),
        module(CONDITION_ENCODER),
        AudioCodec(module(AUDIO_TOKENIZER), module(AUDIO_TOKEN_DETOKENIZER))
        if checkpoint.model.audio_code_count
        else None,
        latent_frame_rate_hz=checkpoint.model.latent_frame_rate_hz,
    )
