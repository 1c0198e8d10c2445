"""A ledger that runs in the test's process, and its callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from acestage.protos.lease.v1 import lease_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2_grpc
from services.orchestrator.ledger.lease_service import LeaseService
from services.orchestrator.ledger.lessor import Lessor
from services.runtime.jobs.lease_client import LeaseClient
from services.runtime.rpc.interceptors import ErrorInterceptor

T = TypeVar("T")

LONG_TTL_S = 60.0


def run(test: Coroutine[Any, Any, T]) -> T:
    """Runs one async test; none may take long."""

    async def bounded() -> T:
        async with asyncio.timeout(20.0):
            return await test

    return asyncio.run(bounded())


@dataclass
class FakeDevice:
    """A device that proves free when the test says so, and tells when the ledger has asked, and of what."""

    is_free: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    asked_of: list[tuple[str, int]] = field(default_factory=list)

    def shut_out(self, device: str, fencing_token: int) -> bool:
        self.asked.set()
        self.asked_of.append((device, fencing_token))
        return self.is_free


@dataclass
class Ledger:
    server: grpc.aio.Server
    target: str
    device: FakeDevice
    connections: AsyncExitStack

    async def channel(self) -> grpc.aio.Channel:
        return await self.connections.enter_async_context(grpc.aio.insecure_channel(self.target))

    async def client(self, holder: str = "dit", *, lost_margin_s: float = 2.0) -> LeaseClient:
        return LeaseClient(await self.channel(), self.target, holder, lost_margin_s=lost_margin_s)

    async def stub(self) -> lease_pb2_grpc.LeaseServiceAsyncStub:
        return lease_pb2_grpc.LeaseServiceStub(await self.channel())


@asynccontextmanager
async def running_ledger(
    *,
    ttl_s: float = LONG_TTL_S,
    max_waiter_count: int = 1000,
    epoch: int = 1,
    grace_s: float | None = None,
    port: int = 0,
) -> AsyncIterator[Ledger]:
    device = FakeDevice()
    lessor = Lessor(
        epoch=epoch,
        ttl_s=ttl_s,
        grace_until=None if grace_s is None else time.monotonic() + grace_s,
        max_waiter_count=max_waiter_count,
    )
    service = LeaseService(lessor, device.shut_out)
    server = grpc.aio.server(interceptors=[ErrorInterceptor("orchestrator")])
    lease_pb2_grpc.add_LeaseServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    background = asyncio.create_task(service.run())
    try:
        async with AsyncExitStack() as connections:
            yield Ledger(server, f"127.0.0.1:{port}", device, connections)
    finally:
        await server.stop(None)
        background.cancel()
        await asyncio.wait([background])


class Line:
    """Somebody who waits in line: the places that were reported, and the hold."""

    def __init__(self, client: LeaseClient, device: str = "cpu") -> None:
        self.positions: asyncio.Queue[int] = asyncio.Queue()
        self.granted = asyncio.Event()
        self.may_leave = asyncio.Event()
        self.token = 0
        self.task = asyncio.create_task(self._hold(client, device))

    async def _hold(self, client: LeaseClient, device: str) -> None:
        async with client.hold(device, 1, on_waiting=self.positions.put_nowait) as lease:
            self.token = lease.fencing_token
            self.granted.set()
            await self.may_leave.wait()

    async def leave(self) -> None:
        self.may_leave.set()
        await self.task


async def acquire(
    stub: lease_pb2_grpc.LeaseServiceAsyncStub, device: str = "cpu", *, vram_bytes: int = 1
) -> pb.LeaseGranted:
    request = pb.AcquireLeaseRequest(device=device, holder="raw", vram_bytes=vram_bytes)
    responses = [response async for response in stub.AcquireLease(request)]
    return responses[-1].granted


def keep_alive_request(lease: pb.Lease) -> pb.KeepLeaseAliveRequest:
    return pb.KeepLeaseAliveRequest(lease_id=lease.lease_id, fencing_token=lease.fencing_token)


async def renew(call: Any, lease: pb.Lease) -> pb.Lease:
    await call.write(keep_alive_request(lease))
    response = await call.read()
    assert isinstance(response, pb.KeepLeaseAliveResponse)
    return response.lease


async def states(stub: lease_pb2_grpc.LeaseServiceAsyncStub) -> list[str]:
    listed = await stub.ListLeases(pb.ListLeasesRequest())
    return [pb.LeaseState.Name(lease.state).removeprefix("LEASE_STATE_") for lease in listed.leases]


async def failure_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.domain == "acestage"
    return str(info.reason)


def ignore_position(position: int) -> None:
    pass
