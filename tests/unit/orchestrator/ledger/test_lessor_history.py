"""A model of the ledger that hypothesis drives through random histories."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from acestage.errors import (
    LeaseLostError,
    QueueFullError,
    StaleFencingTokenError,
)
from services.orchestrator.ledger.lease import USABLE, Lease, LeaseState, Ticket
from services.orchestrator.ledger.lessor import Lessor
from tests.unit.orchestrator.ledger.lessors import GIB, TTL_S, new_lessor

SIZES = {"cpu": 0, "small": 4 * GIB, "large": 16 * GIB}
"""What callers say of each device; 0 is nothing."""


class LessorHistory(RuleBasedStateMachine):
    """Random callers on three devices and restarts of the ledger, against a model of who may hold what."""

    devices = st.sampled_from(sorted(SIZES))

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.now = 0.0
        self.lessor = new_lessor(max_waiter_count=8)
        self.lines: dict[str, list[Ticket]] = {device: [] for device in SIZES}
        self.held: dict[str, Lease] = {}
        self.proof_needed: set[str] = set()
        self.granted: list[Lease] = []
        self.served: set[int] = set()
        self.grace_until = 0.0

    def has_room(self, device: str, vram_bytes: int) -> bool:
        held = [lease.vram_bytes for lease in self.held.values() if lease.device == device]
        return sum(held) + vram_bytes <= SIZES[device] if device == "large" else not held

    def grant_if_next(self, ticket: Ticket) -> None:
        line = self.lines[ticket.device]
        lease = self.lessor.claim(ticket, self.now)
        has_room = self.has_room(ticket.device, ticket.vram_bytes)
        may_have_it = line[0] == ticket and has_room and self.now >= self.grace_until
        assert (lease is not None) == may_have_it
        if lease is None:
            return
        assert all(lease.fencing_token > earlier.fencing_token for earlier in self.granted)
        line.remove(ticket)
        self.served.add(ticket.number)
        self.held[lease.lease_id] = lease
        self.granted.append(lease)

    def waiting(self) -> list[Ticket]:
        return [ticket for line in self.lines.values() for ticket in line]

    def end(self, lease_id: str) -> None:
        del self.held[lease_id]
        self.proof_needed.discard(lease_id)

    def is_usable(self, lease: Lease) -> bool:
        held = self.held.get(lease.lease_id)
        return held is not None and lease.lease_id not in self.proof_needed and self.now < held.expires_at

    @rule(device=devices, share=st.integers(1, 16))
    def enqueue(self, device: str, share: int) -> None:
        vram_bytes = share * (SIZES[device] or 16) // 16
        if len(self.waiting()) == 8:
            with pytest.raises(QueueFullError):
                self.lessor.enqueue(device, "x", vram_bytes, self.now, device_bytes=SIZES[device])
            return
        ticket = self.lessor.enqueue(device, "x", vram_bytes, self.now, device_bytes=SIZES[device])
        self.lines[device].append(ticket)

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        self.grant_if_next(data.draw(st.sampled_from(self.waiting())))

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting()))
        self.lessor.withdraw(ticket)
        self.lines[ticket.device].remove(ticket)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), is_right_token=st.booleans(), is_idle=st.booleans(), share=st.integers(0, 16))
    def renew(self, data: st.DataObject, is_right_token: bool, is_idle: bool, share: int) -> None:
        lease = data.draw(st.sampled_from(list(self.held.values())))
        if not is_right_token:
            with pytest.raises(StaleFencingTokenError):
                self.lessor.renew(lease.lease_id, lease.fencing_token + 1, self.now)
            return
        if not self.is_usable(lease):
            with pytest.raises(LeaseLostError):
                self.lessor.renew(lease.lease_id, lease.fencing_token, self.now)
            return
        wanted = share * SIZES[lease.device] // 16
        renewed = self.lessor.renew(
            lease.lease_id, lease.fencing_token, self.now, is_idle=is_idle, vram_bytes=wanted
        )
        if 0 < wanted <= lease.vram_bytes:
            assert renewed.vram_bytes == wanted
        elif wanted and self.lines[lease.device]:
            assert renewed.vram_bytes == lease.vram_bytes
        else:
            assert renewed.vram_bytes in {wanted or lease.vram_bytes, lease.vram_bytes}
        self.held[lease.lease_id] = renewed

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(list(self.held.values())))
        assert self.lessor.release(lease.lease_id, lease.fencing_token).state is LeaseState.RELEASED
        self.end(lease.lease_id)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(list(self.held.values())))
        self.lessor.abandon(lease.lease_id)
        self.proof_needed.add(lease.lease_id)

    @rule(elapsed_s=st.floats(0.0, 15.0))
    def pass_time(self, elapsed_s: float) -> None:
        self.now += elapsed_s

    @rule()
    def expire(self) -> None:
        overdue = {
            lease_id
            for lease_id, lease in self.held.items()
            if lease_id not in self.proof_needed and self.now >= lease.expires_at
        }
        assert {lease.lease_id for lease in self.lessor.expire(self.now)} == overdue
        self.proof_needed |= overdue

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def prove_dead(self, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.held)))
        cleared = self.lessor.clear(lease_id)
        assert (cleared is not None) == (lease_id in self.proof_needed)
        if cleared is not None:
            self.end(lease_id)

    @rule(data=st.data())
    def start_again(self, data: st.DataObject) -> None:
        """The ledger crashes; who still uses a device reports within the grace, or is dead."""
        living = [lease for lease in self.held.values() if self.is_usable(lease)]
        reporting = data.draw(st.lists(st.sampled_from(living), unique=True)) if living else []
        self.epoch += 1
        self.grace_until = self.now + TTL_S
        self.lessor = Lessor(epoch=self.epoch, ttl_s=TTL_S, grace_until=self.grace_until, max_waiter_count=8)
        self.lines = {device: [] for device in SIZES}
        self.held, self.proof_needed = {}, set()
        for lease in reporting:
            restored = self.lessor.restore(lease, self.now, device_bytes=SIZES[lease.device])
            self.held[lease.lease_id] = restored

    @invariant()
    def the_device_is_never_overcommitted(self) -> None:
        for device, size in SIZES.items():
            on_device = [lease for lease in self.lessor.leases() if lease.device == device]
            if device == "large":
                assert sum(lease.vram_bytes for lease in on_device) <= size
            else:
                assert len(on_device) <= 1

    @invariant()
    def ledger_matches_the_model(self) -> None:
        ledger = {lease.lease_id: lease for lease in self.lessor.leases()}
        assert ledger.keys() == self.held.keys()
        assert {lease.lease_id for lease in self.lessor.quarantined()} == self.proof_needed
        assert [t for t, _ in self.lessor.waiters()] == self.waiting_by_device()
        for lease_id, lease in ledger.items():
            if lease.state is LeaseState.REVOKING:
                assert self.lines[lease.device], "asked to leave for nobody"
            assert (lease.state in USABLE) == (lease_id not in self.proof_needed)

    @invariant()
    def somebody_is_on_the_way_out_where_the_first_in_line_does_not_fit(self) -> None:
        for device, line in self.lines.items():
            if line and not self.has_room(device, line[0].vram_bytes):
                states = {lease.state for lease in self.lessor.leases() if lease.device == device}
                assert states & {LeaseState.REVOKING, LeaseState.QUARANTINED}

    def waiting_by_device(self) -> list[Ticket]:
        return [ticket for device in sorted(self.lines) for ticket in self.lines[device]]

    def teardown(self) -> None:
        waiting = {ticket.number for ticket in self.waiting()}
        self.now = max(self.now, self.grace_until)
        for _ in range(len(waiting) + len(self.lines)):
            self.now += TTL_S
            self.expire()
            for lease_id in list(self.held):
                self.lessor.clear(lease_id)
                self.end(lease_id)
            for line in self.lines.values():
                if line:
                    self.grant_if_next(line[0])
        assert waiting <= self.served


TestLessorHistory = LessorHistory.TestCase

TestLessorHistory.settings = settings(max_examples=150, stateful_step_count=40)
