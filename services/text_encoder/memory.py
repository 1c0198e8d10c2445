"""What the text encoder needs on its device, measured from its architecture."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from acestage.planning import RESERVE_BYTES, ActivationCurve, Quantization, StageMemory, context_bytes
from services.runtime.memory.memory_probe import Stack, count_as_copied, fake_tensors, peak_bytes, placed_copy
from services.runtime.rpc.request_limits import MAX_FRAME_COUNT
from services.runtime.weights.placement import placed_bytes
from services.text_encoder.attention import repeat_keys
from services.text_encoder.audio_codec import CODES_AT_ONCE, AudioCodec
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.engine import LEFT_OUT, TextEncoderEngine
from services.text_encoder.prompt import Prompt

if TYPE_CHECKING:
    from services.text_encoder.worker import TextEncoderWorker

FRAME_COUNTS = (250, MAX_FRAME_COUNT)
"""Where the curve of "encode" is measured; the context latents alone depend on the song's length."""


class LongestPrompt:
    """In the place of the tokenizer: as many tokens as it lets through, whatever the text."""

    def __call__(self, texts: list[str], *, max_length: int, **settings: Any) -> SimpleNamespace:
        ids = torch.ones(len(texts), max_length, dtype=torch.long)
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))


def measure(worker: TextEncoderWorker, dtype: torch.dtype, cpu_thread_count: int | None) -> StageMemory:
    """Runs the encoders on fake tensors, for the longest prompt.

    Modes are "encode" and, where the checkpoint has an audio codec, "codes": before the prompt, the source
    goes through the codec. The weights that they borrow count.
    """
    engine = copy.copy(worker.engine)
    engine.tokenizer = LongestPrompt()
    tokenless = type(worker)(engine)
    codec_points: list[tuple[int, int]] = []
    weights: dict[Quantization, int] = {}
    activations: dict[tuple[str, Quantization], ActivationCurve] = {}
    quantizations: tuple[Quantization, ...] = ("none", "int8")
    for quantization in quantizations:
        weights[quantization] = placed_bytes(worker.modules(), dtype, quantization, left_out=LEFT_OUT)
        with fake_tensors():
            fake = placed_copy(tokenless, dtype, quantization, _stacks(engine)).engine
            if cpu_thread_count is None:
                repeat_keys(fake)
            timbre_encoder = fake.condition_encoder.timbre_encoder
            count_as_copied([timbre_encoder])
            # It reads the values of a mask, which fake tensors do not have, and takes a few kB.
            timbre_encoder.unpack_timbre_embeddings = _one_item
            points = tuple((frames, _peak_bytes(fake, frames, cpu_thread_count)) for frames in FRAME_COUNTS)
            if quantization == "none" and fake.audio_codec is not None:  # the codec is never quantized
                codec_points = _codec_points(fake, fake.audio_codec, cpu_thread_count)
        encode = ActivationCurve(points)
        activations["encode", quantization] = encode
        if codec_points:
            activations["codes", quantization] = ActivationCurve(
                tuple((frames, max(size, encode.bytes_at(frames))) for frames, size in codec_points)
            )
    return StageMemory(
        context_bytes=context_bytes(cpu_thread_count),
        reserve_bytes=RESERVE_BYTES,
        weights_bytes=weights,
        activations=activations,
    )


def _codec_points(
    engine: TextEncoderEngine, codec: AudioCodec, cpu_thread_count: int | None
) -> list[tuple[int, int]]:
    """Frames, and the peak of a round trip through the fake `codec` of `engine`.

    After the second time that it takes so many codes as it takes at once, every further one adds the same.
    """
    count_as_copied([codec.tokenizer, codec.detokenizer])
    silence = engine.condition_encoder.silence_latent
    at_once = CODES_AT_ONCE * codec.tokenizer.pool_window_size

    def peak(frame_count: int) -> int:
        source = _source(engine, frame_count)
        return peak_bytes(
            lambda: codec.round_trip(source.to(silence), silence), cpu_thread_count=cpu_thread_count
        )

    return [(frames, peak(frames)) for frames in (FRAME_COUNTS[0], at_once, 2 * at_once)]


def _stacks(engine: TextEncoderEngine) -> list[Stack]:
    lyric = engine.condition_encoder.lyric_encoder
    return [
        Stack(lyric, lyric._layer_types),
        Stack(engine.text_encoder, engine.text_encoder.config.layer_types),
    ]


def _one_item(embeddings: torch.Tensor, order_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return embeddings.unsqueeze(1), torch.ones_like(order_mask).unsqueeze(1)


def _peak_bytes(engine: TextEncoderEngine, frame_count: int, cpu_thread_count: int | None) -> int:
    job, source = EncodeJob(Prompt(caption="music"), frame_count), _source(engine, frame_count)
    return peak_bytes(lambda: engine.encode(job, source), cpu_thread_count=cpu_thread_count)


def _source(engine: TextEncoderEngine, frame_count: int) -> torch.Tensor:
    """Latents as they arrive: not on the device yet, so in a type from which they must be copied."""
    channel_count = engine.condition_encoder.silence_latent.shape[-1]
    return torch.zeros(1, frame_count, channel_count, dtype=torch.float64)
