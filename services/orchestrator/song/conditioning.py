"""Prompts as conditioning for the DiT."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from acestage.errors import InternalError
from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.tensors import WireTensor
from services.orchestrator.song.recent import Recent
from services.orchestrator.stage_clients import Deadline, TextEncoderClient

OnEvent = Callable[[text_encoder_pb2.EncodeResponse], Any]

MAX_CACHED_BYTES = 64 << 20
"""Of conditioning that is kept for the next request with the same prompt: about 2 MB for a minute and half a
page of lyrics in bfloat16, 13 MB for ten minutes with the longest lyrics; twice as much in float32."""

_TENSORS = ("encoder_hidden_states", "null_condition", "context_latents")
_PLAIN = "plain_hidden_states"


@dataclass(frozen=True, slots=True)
class _Key:
    """What conditioning depends on: all that the stage is told, as bytes, and in which way it computes."""

    parameters: bytes
    latents: tuple[tuple[str, bytes], ...]
    model: bytes
    dtype: str


class Conditioning:
    """Encodes prompts, and remembers the results: who tries other seeds asks again and again."""

    def __init__(self, text_encoder: TextEncoderClient) -> None:
        self._text_encoder = text_encoder
        self._recent: Recent[_Key] = Recent(MAX_CACHED_BYTES)

    async def of(
        self,
        parameters: text_encoder_pb2.EncodeParameters,
        latents: Sequence[WireTensor],
        model: Model,
        dtype: str,
        on_event: OnEvent,
        deadline: Deadline,
    ) -> tuple[WireTensor, ...]:
        """The tensors of `Encode` in protos/acestage/text_encoder/v1/text_encoder.proto.

        Args:
            parameters: of the prompt.
            latents: of source and reference, where there are any.
            model: that `parameters` names.
            dtype: in which the text encoder computes.
            on_event: hears of the stage's progress; of nothing where the result is still there.
            deadline: of the caller.

        Raises:
            AcestageError: the stage failed.
        """

        async def encode() -> tuple[WireTensor, ...]:
            stage = self._text_encoder
            found = await stage.encode(parameters, latents, on_event, deadline)
            wanted = [*_TENSORS, _PLAIN] if parameters.with_plain else _TENSORS
            missing = [name for name in wanted if name not in found]
            if missing:
                raise InternalError(
                    f"{stage.stage} returned no {', '.join(missing)}", metadata={"stage": stage.stage}
                )
            return tuple(found[name] for name in wanted)

        key = _Key(
            parameters.SerializeToString(deterministic=True),
            await asyncio.to_thread(_digests, latents),
            model.SerializeToString(deterministic=True),
            dtype,
        )
        return await self._recent.get(key, encode)


def _digests(tensors: Sequence[WireTensor]) -> tuple[tuple[str, bytes], ...]:
    """Takes milliseconds for each minute of audio."""
    return tuple((tensor.name, hashlib.sha256(tensor.data).digest()) for tensor in tensors)
