from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from acestage.errors import DeadlineExceededError
from acestage.protos.tensor.v1.tensor_pb2 import DATA_TYPE_FLOAT32, TensorChunk, TensorSpec
from acestage.protos.vae.v1 import vae_pb2 as pb
from services.runtime.rpc import tensor_requests


async def spec_and_silence() -> AsyncIterator[Any]:
    spec = TensorSpec(name="latents", data_type=DATA_TYPE_FLOAT32, shape=[1, 2, 3], size_bytes=24)
    yield pb.DecodeRequest(tensor=TensorChunk(spec=spec))
    await asyncio.Event().wait()


def test_a_client_that_sends_a_part_and_nothing_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_requests, "SILENCE_TIMEOUT_S", 0.01)

    async def read() -> None:
        async with asyncio.timeout(5):
            await tensor_requests.read_tensors(spec_and_silence(), "latents")

    with pytest.raises(DeadlineExceededError, match=r"nothing came for 0\.01 s"):
        asyncio.run(read())
