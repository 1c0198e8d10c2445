"""Ledgers for tests of their state machine."""

from __future__ import annotations

from services.orchestrator.ledger.lease import Lease, LeaseState, Ticket
from services.orchestrator.ledger.lessor import Lessor

TTL_S = 10.0

GIB = 1 << 30


def new_lessor(*, epoch: int = 1, max_waiter_count: int = 1000) -> Lessor:
    return Lessor(epoch=epoch, ttl_s=TTL_S, max_waiter_count=max_waiter_count)


def grant(lessor: Lessor, device: str = "cpu", *, holder: str = "dit", now: float = 0.0) -> Lease:
    lease = lessor.claim(lessor.enqueue(device, holder, 1, now), now)
    assert lease is not None
    return lease


def state_of(lessor: Lessor, lease: Lease) -> LeaseState:
    found = [x.state for x in lessor.leases() if x.lease_id == lease.lease_id]
    return found[0] if found else LeaseState.RELEASED


def ask(lessor: Lessor, gib: float, *, of: float = 16, holder: str = "dit") -> Ticket:
    return lessor.enqueue("cuda:0", holder, round(gib * GIB), 0.0, device_bytes=round(of * GIB))


def granted(lessor: Lessor, ticket: Ticket) -> Lease:
    lease = lessor.claim(ticket, 0.0)
    assert lease is not None
    return lease
