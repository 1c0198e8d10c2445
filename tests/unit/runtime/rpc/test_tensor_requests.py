from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from acestage.errors import DeadlineExceededError
from acestage.protos.tensor.v1.tensor_pb2 import DATA_TYPE_FLOAT32, TensorChunk, TensorSpec
from acestage.protos.vae.v1 import vae_pb2 as pb
from services.runtime.rpc import tensor_requests

SPEC = TensorSpec(name="latents", data_type=DATA_TYPE_FLOAT32, shape=[1, 2, 3], size_bytes=24)


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [pb.DecodeRequest(parameters=pb.DecodeParameters())],
        [
            pb.DecodeRequest(parameters=pb.DecodeParameters()),
            pb.DecodeRequest(tensor=TensorChunk(spec=SPEC)),
        ],
    ],
)
def test_a_client_that_sends_no_more_is_given_up(
    monkeypatch: pytest.MonkeyPatch, sent: list[pb.DecodeRequest]
) -> None:
    monkeypatch.setattr(tensor_requests, "SILENCE_TIMEOUT_S", 0.01)

    async def messages() -> AsyncIterator[Any]:
        for message in sent:
            yield message
        await asyncio.Event().wait()

    async def read() -> None:
        async with asyncio.timeout(5):
            await tensor_requests.read(messages(), "latents")

    with pytest.raises(DeadlineExceededError, match=r"nothing came for 0\.01 s"):
        asyncio.run(read())
