"""What a job gets while it is worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.runtime.workers.messages import Message


class Feed:
    """Messages in the order in which they came, all kept: an attempt that begins anew gets all of them.

    Attributes:
        tensor_bytes: what the tensors of all messages, those to come included, are going to take in memory.
    """

    def __init__(self) -> None:
        self.tensor_bytes = 0
        self._messages: list[Message] = []
        self._arrived = asyncio.Event()

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self._arrived.set()

    async def messages(self) -> AsyncIterator[Message]:
        """All messages from the first on, those to come included; never ends. One caller at a time."""
        index = 0
        while True:
            while index < len(self._messages):
                yield self._messages[index]
                index += 1
            self._arrived.clear()
            await self._arrived.wait()
