"""What the text encoder does in its worker process: messages to engine calls and back."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from acestage.checkpoints import Checkpoint
from acestage.checkpoints.component_names import CONDITION_ENCODER, TEXT_ENCODER
from acestage.checkpoints.loading import load_condition_encoder, load_text_encoder, load_tokenizer
from acestage.checkpoints.modules import build_module
from acestage.planning import Quantization, StageMemory
from acestage.tensors import WireTensor
from services.runtime.messages import Message
from services.runtime.placement import place
from services.text_encoder.engine import TextEncoderEngine
from services.text_encoder.memory import LongestPrompt, measure
from services.text_encoder.prompt import Prompt

COMPONENTS = (TEXT_ENCODER, CONDITION_ENCODER)
"""What the stage uses of a checkpoint."""

OUTPUTS = ("encoder_hidden_states", "null_condition", "context_latents")


def load(checkpoint: Checkpoint) -> TextEncoderWorker:
    """Maps the weights of Qwen3 and of the condition encoder."""
    engine = TextEncoderEngine(
        load_tokenizer(checkpoint),
        load_text_encoder(checkpoint),
        load_condition_encoder(checkpoint),
        latent_frame_rate_hz=checkpoint.model.latent_frame_rate_hz,
    )
    return TextEncoderWorker(engine)


def without_weights(checkpoint: Checkpoint) -> TextEncoderWorker:
    """The same on the meta device, which is all that `memory` needs: no file with weights need be there."""
    engine = TextEncoderEngine(
        LongestPrompt(),
        build_module(checkpoint.component(TEXT_ENCODER)),
        build_module(checkpoint.component(CONDITION_ENCODER)),
        latent_frame_rate_hz=checkpoint.model.latent_frame_rate_hz,
    )
    return TextEncoderWorker(engine)


class TextEncoderWorker:
    def __init__(self, engine: TextEncoderEngine) -> None:
        self.engine = engine

    def modules(self) -> list[torch.nn.Module]:
        return [self.engine.text_encoder, self.engine.condition_encoder]

    def memory(self, dtype: torch.dtype, cpu_thread_count: int | None = None) -> StageMemory:
        return measure(self, dtype, cpu_thread_count)

    def place(self, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> None:
        for module in self.modules():
            place(module, device, dtype, quantization)

    def run(self, request: Message) -> Iterator[Message]:
        encoded = self.engine.encode(Prompt(**request.fields["prompt"]), request.fields["frame_count"])
        tensors = tuple(WireTensor.from_torch(name, getattr(encoded, name)) for name in OUTPUTS)
        yield Message("conditioning", tensors=tensors)
