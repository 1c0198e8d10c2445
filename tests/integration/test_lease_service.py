"""How leases are kept, lost and given back, and which requests are refused."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest

from acestage.errors import (
    InvalidArgumentError,
    LeaseLostError,
    ServiceUnreachableError,
)
from acestage.protos.lease.v1 import lease_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from services.runtime.jobs import lease_client
from services.runtime.jobs.lease_client import LeaseClient
from tests.integration.running_ledger import (
    LONG_TTL_S,
    Line,
    acquire,
    failure_of,
    ignore_position,
    keep_alive_request,
    reason_of,
    renew,
    run,
    running_ledger,
    states,
)


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
            assert set(ledger.device.asked_of) == {(lease.device, lease.fencing_token)}
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


def test_an_outage_of_the_ledger_is_logged_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_client, "REOPEN_INTERVAL_S", 0.01)
    caplog.set_level(logging.INFO, lease_client.__name__)

    async def test() -> None:
        async with AsyncExitStack() as stack:
            async with running_ledger() as before:
                port = int(before.target.rpartition(":")[2])
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(before.target))
                client = LeaseClient(channel, before.target, "dit")
                attempts = Attempts(client)
                monkeypatch.setattr(client, "_renew_until_broken", attempts.renew_until_broken)
                hold = client.hold("cpu", 1, on_waiting=ignore_position)
                lease = await stack.enter_async_context(hold)
            await attempts.were_many.wait()
            async with running_ledger(epoch=2, grace_s=LONG_TTL_S, port=port):
                assert await lease.grow(1)  # it is renewed
                await stack.aclose()

    run(test())
    ours = [record for record in caplog.records if record.name == lease_client.__name__]
    first, second = (record.getMessage() for record in ours)
    assert first.startswith("the keepalive stream broke: ")
    assert second == "renewed again"


class Attempts:
    """Counts how often `client` opens its stream."""

    def __init__(self, client: LeaseClient) -> None:
        self.were_many = asyncio.Event()
        self._renew_until_broken = client._renew_until_broken
        self._count = 0

    async def renew_until_broken(self, *arguments: Any) -> str:
        self._count += 1
        if self._count >= 5:
            self.were_many.set()
        return await self._renew_until_broken(*arguments)


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


@pytest.mark.parametrize(
    ("device", "holder", "vram_bytes", "device_bytes", "fields"),
    [
        ("", "dit", 1, 0, ["device"]),
        ("cuda", "dit", 1, 0, ["device"]),
        ("cuda:01", "dit", 1, 0, ["device"]),
        ("../cpu", "dit", 1, 0, ["device"]),
        ("cpu\n", "dit", 1, 0, ["device"]),
        ("cpu", "", 1, 0, ["holder"]),
        ("cpu", "x" * 201, 1, 0, ["holder"]),
        ("cpu", "dit", 0, 0, ["vram_bytes"]),
        ("cpu", "dit", 1, -5, ["device_bytes"]),
        ("gpu", "", -1, -1, ["device", "holder", "vram_bytes", "device_bytes"]),
    ],
)
def test_a_wrong_request_names_every_wrong_field(
    device: str, holder: str, vram_bytes: int, device_bytes: int, fields: list[str]
) -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            client = await ledger.client(holder)
            with pytest.raises(InvalidArgumentError) as caught:
                async with client.hold(
                    device, vram_bytes, on_waiting=ignore_position, device_bytes=device_bytes
                ):
                    pytest.fail("granted")
            assert [violation.field for violation in caught.value.violations] == fields

    run(test())


@pytest.mark.parametrize("field", ["vram_bytes", "device_bytes"])
def test_a_renewal_for_less_than_no_bytes_is_refused_and_changes_nothing(field: str) -> None:
    async def test() -> None:
        async with running_ledger() as ledger:
            stub = await ledger.stub()
            lease = (await acquire(stub, vram_bytes=5)).lease
            held, wrong = stub.KeepLeaseAlive(), stub.KeepLeaseAlive()
            await renew(held, lease)
            await wrong.write(
                pb.KeepLeaseAliveRequest(
                    lease_id=lease.lease_id, fencing_token=lease.fencing_token, **{field: -1}
                )
            )
            error = from_rpc_error(await failure_of(wrong.read()), target="orchestrator")

            assert isinstance(error, InvalidArgumentError)
            assert [violation.field for violation in error.violations] == [field]
            listed = await stub.ListLeases(pb.ListLeasesRequest())
            assert [found.vram_bytes for found in listed.leases] == [5]
            assert [device.leased_bytes for device in listed.devices] == [5]
            assert (await renew(held, lease)).state == pb.LEASE_STATE_ACTIVE

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
