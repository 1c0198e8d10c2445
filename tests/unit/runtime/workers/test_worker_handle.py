"""What goes to a worker: whole frames in turn, and few copies of them."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Awaitable, Callable

from acestage.tensors import WireTensor
from services.runtime.workers.messages import Message, receive
from services.runtime.workers.worker_handle import WorkerHandle

SIZE = 32 << 20


def large() -> Message:
    return Message("job", {"number": 1}, (WireTensor("audio", "float32", (SIZE // 4,), bytearray(SIZE)),))


def with_worker(test: Callable[[WorkerHandle, socket.socket], Awaitable[None]]) -> None:
    """Runs `test` with a handle, and the worker's end of its socket."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            handle = WorkerHandle(1, reader, writer, asyncio.get_running_loop().create_future())
            async with asyncio.timeout(20):
                await test(handle, theirs)
            writer.transport.abort()

    asyncio.run(scenario())


def test_a_frame_is_sent_to_its_end_though_its_sender_is_cancelled() -> None:
    async def test(handle: WorkerHandle, worker: socket.socket) -> None:
        sending = asyncio.create_task(handle.send(large()))
        await asyncio.to_thread(worker.recv, 1, socket.MSG_PEEK)  # it has begun
        sending.cancel()
        handle.cancel(1)
        first = await asyncio.to_thread(receive, worker)
        second = await asyncio.to_thread(receive, worker)
        assert first is not None
        assert (first.kind, len(first.tensors[0].data)) == ("job", SIZE)
        assert second == Message("cancel", {"number": 1})
        assert sending.cancelled()

    with_worker(test)


def test_messages_do_not_mix() -> None:
    async def test(handle: WorkerHandle, worker: socket.socket) -> None:
        sending = [asyncio.create_task(handle.send(large())) for _ in range(2)]
        for _ in range(2):
            message = await asyncio.to_thread(receive, worker)
            assert message is not None
            assert len(message.tensors[0].data) == SIZE
        await asyncio.gather(*sending)

    with_worker(test)


def test_a_large_tensor_is_not_copied_on_its_way_to_the_socket() -> None:
    async def test(handle: WorkerHandle, worker: socket.socket) -> None:
        message = large()
        buffer = bytearray(1 << 20)

        def drop() -> None:
            left = SIZE
            while left > 0:
                left -= worker.recv_into(buffer)

        tracemalloc.start()
        try:
            dropping = asyncio.ensure_future(asyncio.to_thread(drop))
            await asyncio.gather(handle.send(message), dropping)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < SIZE // 8

    with_worker(test)
