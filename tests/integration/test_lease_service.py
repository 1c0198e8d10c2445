"""The ledger over real gRPC: the service, the interceptor in front of it, and the client of the stages."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from acestage.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    LeaseLostError,
    QueueFullError,
    ServiceUnreachableError,
)
from acestage.protos.lease.v1 import lease_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2_grpc
from services.orchestrator.ledger.lease_service import LeaseService
from services.orchestrator.ledger.lessor import Lessor
from services.runtime import lease_client
from services.runtime.interceptors import ErrorInterceptor
from services.runtime.lease_client import LeaseClient

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
    """A device that proves free when the test says so, and tells when the ledger has asked."""

    is_free: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def shut_out(self, device: str, fencing_token: int) -> bool:
        self.asked.set()
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


# The line


def test_the_place_in_line_comes_first_and_the_grant_last() -> None:
    async def test() -> None:
        async with running_ledger(ttl_s=10.0) as ledger:
            stub = await ledger.stub()
            request = pb.AcquireLeaseRequest(device="cuda:1", holder="vae@host:7", vram_bytes=1 << 30)
            first, last = [response async for response in stub.AcquireLease(request)]

            assert first.waiting.position == 1
            granted = last.granted
            assert (granted.ttl.ToTimedelta(), granted.renew_interval.ToTimedelta()) == (
                timedelta(seconds=10),
                timedelta(seconds=3),
            )
            lease = granted.lease
            assert (lease.device, lease.holder, lease.vram_bytes) == ("cuda:1", "vae@host:7", 1 << 30)
            assert lease.state == pb.LEASE_STATE_ACTIVE
            assert lease.fencing_token == (1 << 32) + 1
            assert timedelta(seconds=9) < lease.remaining.ToTimedelta() <= timedelta(seconds=10)
            age = datetime.now(UTC) - lease.grant_time.ToDatetime(tzinfo=UTC)
            assert abs(age) < timedelta(seconds=5)

    run(test())


def test_clients_hold_one_after_the_other_in_the_order_of_their_arrival() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            lines = []
            for name in ("first", "second", "third"):
                lines.append(Line(await ledger.client(name)))
                await lines[-1].positions.get()
            first, second, third = lines
            await first.granted.wait()
            listed = await (await ledger.stub()).ListLeases(pb.ListLeasesRequest())
            assert [(x.holder, x.state) for x in listed.leases] == [("first", pb.LEASE_STATE_REVOKING)]
            assert [(x.holder, x.position) for x in listed.waiters] == [("second", 1), ("third", 2)]

            await first.leave()
            await second.granted.wait()
            assert await third.positions.get() == 1
            assert not third.granted.is_set()

            await second.leave()
            await third.granted.wait()
            await third.leave()

            assert first.token < second.token < third.token
            assert await states(await ledger.stub()) == []

    run(test())


def test_who_cancels_while_waiting_leaves_the_line() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            holder = Line(await ledger.client())
            await holder.granted.wait()
            quitter = Line(await ledger.client())
            assert await quitter.positions.get() == 1
            patient = Line(await ledger.client())
            assert await patient.positions.get() == 2

            quitter.task.cancel()

            assert await patient.positions.get() == 1
            assert quitter.task.cancelled()
            await holder.leave()
            await patient.granted.wait()
            await patient.leave()

    run(test())


def test_the_line_has_a_deadline_for_who_wants_one() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            holder = Line(await ledger.client())
            await holder.granted.wait()
            with pytest.raises(DeadlineExceededError, match=r"no lease on cpu within 0.2 s"):
                async with (await ledger.client()).hold("cpu", 1, on_waiting=ignore_position, timeout_s=0.2):
                    pytest.fail("granted twice")
            await holder.leave()

    run(test())


def test_a_full_line_is_refused() -> None:
    async def test() -> None:
        async with running_ledger(max_waiter_count=1) as ledger:
            holder = Line(await ledger.client())
            await holder.granted.wait()
            waiter = Line(await ledger.client())
            await waiter.positions.get()

            with pytest.raises(QueueFullError, match="at most 1"):
                async with (await ledger.client()).hold("cpu", 1, on_waiting=ignore_position):
                    pytest.fail("granted twice")

            await holder.leave()
            await waiter.granted.wait()
            await waiter.leave()

    run(test())


# Keeping, losing, giving back


def test_a_renewed_lease_outlives_its_ttl() -> None:
    async def test() -> None:
        async with running_ledger(ttl_s=0.6) as ledger:
            client = await ledger.client(lost_margin_s=0.1)
            async with client.hold("cpu", 1, on_waiting=ignore_position) as lease:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.2):
                        await lease.lost.wait()
                lease.raise_if_lost()
                assert await states(await ledger.stub()) == ["ACTIVE"]
            assert await states(await ledger.stub()) == []

    run(test())


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_the_device_is_given_back_when_the_body(how: str) -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            client = await ledger.client()
            entered = asyncio.Event()

            async def hold() -> None:
                async with client.hold("cpu", 1, on_waiting=ignore_position):
                    entered.set()
                    if how == "fails":
                        raise LookupError("the body failed")
                    await asyncio.Event().wait()

            task = asyncio.create_task(hold())
            await entered.wait()
            if how == "is cancelled":
                task.cancel()
            with pytest.raises((LookupError, asyncio.CancelledError)):
                await task

            assert await states(await ledger.stub()) == []
            assert not ledger.device.asked.is_set()  # given back, not quarantined

    run(test())


def test_a_holder_whose_connection_ends_is_quarantined_until_the_device_proves_free() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            channel = await ledger.channel()
            stub = lease_pb2_grpc.LeaseServiceStub(channel)
            lease = (await acquire(stub)).lease
            call = stub.KeepLeaseAlive()
            await renew(call, lease)
            waiter = Line(await ledger.client())
            assert await waiter.positions.get() == 1
            assert (await renew(call, lease)).state == pb.LEASE_STATE_REVOKING

            await channel.close()

            await ledger.device.asked.wait()
            assert await states(await ledger.stub()) == ["QUARANTINED"]
            ledger.device.asked.clear()
            await ledger.device.asked.wait()  # asked again and again
            assert not waiter.granted.is_set()
            ledger.device.is_free = True
            await waiter.granted.wait()
            assert waiter.token > lease.fencing_token
            await waiter.leave()

    run(test())


def test_a_stream_that_ends_without_a_release_quarantines_the_lease() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            stub = await ledger.stub()
            lease = (await acquire(stub)).lease
            call = stub.KeepLeaseAlive()
            await renew(call, lease)

            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

            assert await states(stub) == ["QUARANTINED"]
            released = await stub.ReleaseLease(
                pb.ReleaseLeaseRequest(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
            )
            assert released.lease.state == pb.LEASE_STATE_RELEASED
            assert released.lease.remaining.ToTimedelta() == timedelta(0)

    run(test())


def test_a_lease_that_was_renewed_on_a_newer_stream_survives_the_end_of_the_older() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            stub = await ledger.stub()
            lease = (await acquire(stub)).lease
            older, newer = stub.KeepLeaseAlive(), stub.KeepLeaseAlive()
            await renew(older, lease)
            await renew(newer, lease)

            await older.done_writing()
            assert await older.read() is grpc.aio.EOF

            assert (await renew(newer, lease)).state == pb.LEASE_STATE_ACTIVE
            newer.cancel()

    run(test())


def test_a_grant_that_nobody_renews_expires_into_quarantine() -> None:
    async def test() -> None:
        async with running_ledger(ttl_s=0.3) as ledger:
            stub = await ledger.stub()
            lease = (await acquire(stub)).lease

            await ledger.device.asked.wait()

            assert await states(stub) == ["QUARANTINED"]
            call = stub.KeepLeaseAlive()
            await call.write(keep_alive_request(lease))
            error = await failure_of(call.read())
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.ABORTED, "LEASE_LOST")
            ledger.device.is_free = True
            assert (await acquire(stub)).lease.fencing_token > lease.fencing_token

    run(test())


def test_the_holder_learns_at_once_that_the_ledger_took_the_lease() -> None:
    async def test() -> None:
        async with running_ledger(ttl_s=3.0) as ledger:
            client = await ledger.client(lost_margin_s=0.1)
            stub = await ledger.stub()
            async with client.hold("cpu", 1, on_waiting=ignore_position) as lease:
                await stub.ReleaseLease(
                    pb.ReleaseLeaseRequest(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
                )
                async with asyncio.timeout(2.0):  # the next renewal comes after 0.9 s, the expiry after 3 s
                    await lease.lost.wait()
                with pytest.raises(LeaseLostError, match="is released"):
                    lease.raise_if_lost()

    run(test())


def test_a_holder_that_cannot_reach_the_ledger_counts_its_lease_as_lost_before_it_expires() -> None:
    async def test() -> None:
        ttl_s = 1.5
        async with running_ledger(ttl_s=ttl_s) as ledger:
            client = await ledger.client(lost_margin_s=0.5)
            clock = asyncio.get_running_loop().time
            async with client.hold("cpu", 1, on_waiting=ignore_position) as lease:
                start = clock()
                await ledger.server.stop(None)
                lease.raise_if_lost()  # a broken stream is not yet a lost lease

                await lease.lost.wait()

                assert clock() - start < ttl_s
                with pytest.raises(LeaseLostError, match=r"orchestrator at .* confirmed no renewal for 1 s"):
                    lease.raise_if_lost()

    run(test())


def test_a_release_that_fails_is_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            client = await ledger.client()
            async with client.hold("cpu", 1, on_waiting=ignore_position):
                await ledger.server.stop(None)

    run(test())
    assert any("the release failed" in record.message for record in caplog.records)


def test_a_second_cancellation_does_not_cut_the_release_short() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            line = Line(await ledger.client())
            await line.granted.wait()
            line.task.cancel()
            asyncio.get_running_loop().call_soon(line.task.cancel)

            await asyncio.wait([line.task])

            assert line.task.cancelled()
            assert await states(await ledger.stub()) == []
            assert not ledger.device.asked.is_set()

    run(test())


def test_a_ledger_that_does_not_run_is_named() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            client = LeaseClient(channel, f"127.0.0.1:{port}", "dit")
            with pytest.raises(ServiceUnreachableError, match=f"orchestrator at 127.0.0.1:{port}"):
                async with client.hold("cpu", 1, on_waiting=ignore_position):
                    pytest.fail("held without a ledger")

    run(test())


def test_a_ledger_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_client, "CONNECT_TIMEOUT_S", 0.2)

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            target = f"127.0.0.1:{silent.getsockname()[1]}"
            async with grpc.aio.insecure_channel(target) as channel:
                client = LeaseClient(channel, target, "dit")
                with pytest.raises(ServiceUnreachableError, match=f"orchestrator at {target}"):
                    async with client.hold("cpu", 1, on_waiting=ignore_position):
                        pytest.fail("held without a ledger")

    run(test())


# Being asked to leave, growing, and a ledger that starts again


def test_a_holder_hears_at_once_that_it_is_asked_to_leave_and_that_it_no_longer_is() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:  # the next renewal comes after 18 s
            client = await ledger.client()
            async with client.hold("cpu", 1, on_waiting=ignore_position) as lease:
                assert not lease.revoked.is_set()
                waiter = Line(await ledger.client())

                await lease.revoked.wait()

                waiter.task.cancel()
                while lease.revoked.is_set():
                    await states(await ledger.stub())
                lease.raise_if_lost()

    run(test())


def test_an_idle_holder_is_asked_before_a_busy_one() -> None:
    async def test() -> None:
        async with running_ledger() as ledger, AsyncExitStack() as stack:
            leases = []
            for name in ("busy", "idle"):
                client = await ledger.client(name)
                hold = client.hold("cuda:0", 6 << 30, on_waiting=ignore_position, device_bytes=16 << 30)
                leases.append(await stack.enter_async_context(hold))
            busy, idle = leases
            idle.report(is_idle=True, vram_bytes=5 << 30)
            stub = await ledger.stub()
            idle_ones: list[str] = []
            while idle_ones != ["idle"]:
                listed = await stub.ListLeases(pb.ListLeasesRequest())
                idle_ones = [lease.holder for lease in listed.leases if lease.is_idle]
            waiter = asyncio.create_task(acquire(stub, "cuda:0", vram_bytes=6 << 30))

            await idle.revoked.wait()

            assert not busy.revoked.is_set()
            listed = await stub.ListLeases(pb.ListLeasesRequest())
            (device,) = listed.devices
            assert (device.total_bytes, device.leased_bytes, device.is_exclusive) == (
                16 << 30,
                11 << 30,
                False,
            )
            waiter.cancel()

    run(test())


def test_a_lease_grows_where_bytes_are_free_and_does_not_where_they_are_not() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            client = await ledger.client()
            hold = client.hold("cuda:0", 1 << 30, on_waiting=ignore_position, device_bytes=8 << 30)
            async with hold as lease:
                assert await lease.grow(8 << 30)
                assert lease.vram_bytes == 8 << 30
                assert not await lease.grow(9 << 30)
                assert lease.vram_bytes == 8 << 30

    run(test())


def test_a_lease_outlives_a_crash_of_the_ledger() -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            async with running_ledger(ttl_s=6.0) as before:
                port = int(before.target.rpartition(":")[2])
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(before.target))
                client = LeaseClient(channel, before.target, "dit")
                hold = client.hold("cuda:0", 3 << 30, on_waiting=ignore_position, device_bytes=4 << 30)
                lease = await stack.enter_async_context(hold)
            async with running_ledger(ttl_s=6.0, epoch=2, grace_s=1.0, port=port) as after:
                stub = await after.stub()
                waiting = asyncio.create_task(acquire(stub, "cuda:0"))

                await lease.revoked.wait()  # the new ledger knows the holder, and that somebody waits

                (known,) = (await stub.ListLeases(pb.ListLeasesRequest())).leases
                assert (known.lease_id, known.fencing_token) == (lease.lease_id, lease.fencing_token)
                assert (known.holder, known.vram_bytes) == ("dit", 3 << 30)
                assert not waiting.done()
                await stack.aclose()
                granted = await waiting
                assert granted.lease.fencing_token > lease.fencing_token

    run(test())


def test_a_ledger_in_its_grace_grants_once_it_is_over() -> None:
    async def test() -> None:
        start = time.monotonic()
        async with running_ledger(epoch=2, grace_s=0.5) as ledger:
            stub = await ledger.stub()
            waiting = asyncio.create_task(acquire(stub))
            listed = await stub.ListLeases(pb.ListLeasesRequest())
            assert timedelta(0) < listed.grace_remaining.ToTimedelta() <= timedelta(seconds=0.5)
            await waiting
            assert time.monotonic() - start >= 0.5

    run(test())


def test_a_stream_renews_one_lease() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            stub = await ledger.stub()
            first, second = (await acquire(stub, "cpu")).lease, (await acquire(stub, "cuda:0")).lease
            call = stub.KeepLeaseAlive()
            await renew(call, first)
            await call.write(keep_alive_request(second))
            error = await failure_of(call.read())
            assert (error.code(), reason_of(error)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_ARGUMENT",
            )

    run(test())


# Requests that are refused


@pytest.mark.parametrize(
    ("device", "holder", "vram_bytes", "fields"),
    [
        ("", "dit", 1, ["device"]),
        ("cuda", "dit", 1, ["device"]),
        ("cuda:01", "dit", 1, ["device"]),
        ("../cpu", "dit", 1, ["device"]),
        ("cpu\n", "dit", 1, ["device"]),
        ("cpu", "", 1, ["holder"]),
        ("cpu", "x" * 201, 1, ["holder"]),
        ("cpu", "dit", 0, ["vram_bytes"]),
        ("gpu", "", -1, ["device", "holder", "vram_bytes"]),
    ],
)
def test_a_wrong_request_names_every_wrong_field(
    device: str, holder: str, vram_bytes: int, fields: list[str]
) -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            client = await ledger.client(holder)
            with pytest.raises(InvalidArgumentError) as caught:
                async with client.hold(device, vram_bytes, on_waiting=ignore_position):
                    pytest.fail("granted")
            assert [violation.field for violation in caught.value.violations] == fields

    run(test())


def test_a_wrong_token_is_stale_and_an_unknown_lease_is_not_found() -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            stub = await ledger.stub()
            lease = (await acquire(stub)).lease
            wrong = lease.fencing_token - 1
            call = stub.KeepLeaseAlive()
            await call.write(pb.KeepLeaseAliveRequest(lease_id=lease.lease_id, fencing_token=wrong))
            renewal = await failure_of(call.read())
            release = await failure_of(
                stub.ReleaseLease(pb.ReleaseLeaseRequest(lease_id=lease.lease_id, fencing_token=wrong))
            )
            unknown = await failure_of(stub.ReleaseLease(pb.ReleaseLeaseRequest(lease_id="1-99")))

            assert (renewal.code(), reason_of(renewal)) == (grpc.StatusCode.ABORTED, "STALE_FENCING_TOKEN")
            assert (release.code(), reason_of(release)) == (grpc.StatusCode.ABORTED, "STALE_FENCING_TOKEN")
            assert (unknown.code(), reason_of(unknown)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
            assert await states(stub) == ["ACTIVE"]

    run(test())
