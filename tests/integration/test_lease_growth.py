"""Leases that are asked back, that grow, and that outlive a crash of the ledger."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import timedelta

import grpc
import grpc.aio

from acestage.protos.lease.v1 import lease_pb2 as pb
from services.runtime.jobs.lease_client import LeaseClient
from tests.integration.running_ledger import (
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

                listed = await stub.ListLeases(pb.ListLeasesRequest())
                (known,), (device,) = listed.leases, listed.devices
                assert (device.total_bytes, device.is_exclusive) == (4 << 30, True)
                assert (known.lease_id, known.fencing_token) == (lease.lease_id, lease.fencing_token)
                assert (known.holder, known.vram_bytes) == ("dit", 3 << 30)
                assert not waiting.done()
                await stack.aclose()
                granted = await waiting
                assert granted.lease.fencing_token > lease.fencing_token

    run(test())


def test_a_lease_grows_once_the_grace_of_a_new_ledger_is_over() -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            async with running_ledger() as before:
                port = int(before.target.rpartition(":")[2])
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(before.target))
                client = LeaseClient(channel, before.target, "dit")
                hold = client.hold("cuda:0", 1 << 30, on_waiting=ignore_position, device_bytes=8 << 30)
                lease = await stack.enter_async_context(hold)
            async with running_ledger(epoch=2, grace_s=1.0, port=port):
                assert await lease.grow(8 << 30)
                assert lease.vram_bytes == 8 << 30
                await stack.aclose()

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
