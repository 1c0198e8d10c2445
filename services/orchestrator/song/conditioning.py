"""Prompts as conditioning for the DiT."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from acestage.errors import InternalError
from acestage.protos.stage.v1.stage_pb2 import ADAPTATION_KIND_INT8, Model
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.tensors import WireTensor
from services.orchestrator.song.recent import Recent
from services.orchestrator.stage_clients import Deadline, TextEncoderClient

OnEvent = Callable[[text_encoder_pb2.EncodeResponse], Any]

MAX_CACHED_BYTES = 64 << 20
"""How much conditioning is kept for later requests with the same prompt: it takes about 2 MB for a minute and
half a page of lyrics in bfloat16, 13 MB for ten minutes with the longest lyrics; twice as much in float32."""

_TENSORS = ("encoder_hidden_states", "null_condition", "context_latents")
_PLAIN = "plain_hidden_states"


@dataclass(frozen=True, slots=True)
class _Key:
    """What conditioning depends on: all that the stage is told, as bytes, and in which way it computes."""

    parameters: bytes
    latents: tuple[tuple[str, bytes], ...]
    model: bytes
    dtype: str


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A prompt as the stage encoded it.

    Attributes:
        tensors: of `Encode` in protos/acestage/text_encoder/v1/text_encoder.proto.
        warnings: for people: what of the prompt the model does not read.
        is_usual: it was not made with INT8 for lack of memory.
    """

    tensors: tuple[WireTensor, ...]
    warnings: tuple[str, ...]
    is_usual: bool

    @property
    def byte_count(self) -> int:
        return sum(len(tensor.data) for tensor in self.tensors)


class Conditioning:
    """Encodes prompts, and remembers the results: who tries other seeds asks again and again."""

    def __init__(self, text_encoder: TextEncoderClient) -> None:
        self._text_encoder = text_encoder
        self._recent: Recent[_Key, Conditioned] = Recent(
            MAX_CACHED_BYTES, lambda kept: kept.byte_count, lambda made: made.is_usual
        )

    async def of(
        self,
        parameters: text_encoder_pb2.EncodeParameters,
        latents: Sequence[WireTensor],
        model: Model,
        dtype: str,
        on_event: OnEvent,
        deadline: Deadline,
    ) -> Conditioned:
        """What the text encoder makes of a prompt.

        Args:
            parameters: what is asked of the text encoder.
            latents: those of source and reference, where there are any.
            model: the one that `parameters` names.
            dtype: what the text encoder computes in.
            on_event: hears of the stage's progress; of nothing where the result is still there.
            deadline: when the caller gives up.

        Raises:
            AcestageError: the stage failed.
        """

        async def encode() -> Conditioned:
            stage = self._text_encoder
            warnings: list[str] = []
            is_usual = True

            def hear(response: text_encoder_pb2.EncodeResponse) -> None:
                nonlocal is_usual
                adaptations = response.report.adaptations
                is_usual &= all(adaptation.kind != ADAPTATION_KIND_INT8 for adaptation in adaptations)
                if response.WhichOneof("event") == "prompt_cut":
                    warnings.append(_warning(response.prompt_cut))
                else:
                    on_event(response)

            found = await stage.encode(parameters, latents, hear, deadline)
            wanted = [*_TENSORS, _PLAIN] if parameters.with_plain else _TENSORS
            missing = [name for name in wanted if name not in found]
            if missing:
                raise InternalError(
                    f"{stage.stage} returned no {', '.join(missing)}", metadata={"stage": stage.stage}
                )
            stage.require(found, "context_latents", 1, parameters.frame_count, 2 * model.latent_channel_count)
            return Conditioned(tuple(found[name] for name in wanted), tuple(warnings), is_usual)

        key = _Key(
            parameters.SerializeToString(deterministic=True),
            await asyncio.to_thread(_digests, latents),
            model.SerializeToString(deterministic=True),
            dtype,
        )
        return await self._recent.get(key, encode)


def _warning(cut: text_encoder_pb2.PromptCut) -> str:
    read = f"{cut.field}: the model reads {cut.read_token_count} of its {cut.token_count} tokens"
    if cut.field == "caption":
        return f"{read}, and bpm, time signature, key and duration are the last ones"
    return read


def _digests(tensors: Sequence[WireTensor]) -> tuple[tuple[str, bytes], ...]:
    """Takes milliseconds for each minute of audio."""
    return tuple((tensor.name, hashlib.sha256(tensor.data).digest()) for tensor in tensors)
