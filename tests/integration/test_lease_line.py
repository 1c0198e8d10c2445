"""The line in front of a device, over gRPC."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from acestage.errors import (
    QueueFullError,
)
from acestage.protos.lease.v1 import lease_pb2 as pb
from services.runtime.jobs import lease_client
from tests.integration.running_ledger import (
    Line,
    ignore_position,
    run,
    running_ledger,
    states,
)


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


def test_who_has_a_place_in_line_waits_longer_than_for_a_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_client, "CONNECT_TIMEOUT_S", 1.0)

    async def test() -> None:
        async with running_ledger() as ledger:
            holder = Line(await ledger.client())
            await holder.granted.wait()
            patient = Line(await ledger.client())
            assert await patient.positions.get() == 1

            done, _ = await asyncio.wait([patient.task], timeout=1.5)

            assert not done
            await holder.leave()
            await patient.granted.wait()
            await patient.leave()

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
