"""The ledger's state machine: unit tests, then a model that hypothesis drives through random histories."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from acestage.errors import LeaseLostError, NotFoundError, QueueFullError, StaleFencingTokenError
from services.orchestrator.lessor import (
    KEPT_RELEASED_COUNT,
    MAX_EPOCH,
    TRANSITIONS,
    Lease,
    LeaseState,
    Lessor,
    Ticket,
)

TTL_S = 10.0


def new_lessor(*, epoch: int = 1, max_waiter_count: int = 1000) -> Lessor:
    return Lessor(epoch=epoch, ttl_s=TTL_S, max_waiter_count=max_waiter_count)


def grant(lessor: Lessor, device: str = "cpu", *, holder: str = "dit", now: float = 0.0) -> Lease:
    lease = lessor.claim(lessor.enqueue(device, holder, 1, now), now)
    assert lease is not None
    return lease


def state_of(lessor: Lessor, lease: Lease) -> LeaseState:
    found = [x.state for x in lessor.leases() if x.lease_id == lease.lease_id]
    return found[0] if found else LeaseState.RELEASED


def test_a_grant_that_nobody_confirms_expires_sooner() -> None:
    lessor = Lessor(epoch=1, ttl_s=10.0, confirm_s=3.0)
    lease = lessor.claim(lessor.enqueue("cpu", "gone", 1, now=0.0), now=0.0)
    assert lease is not None
    assert lessor.next_deadline() == 3.0
    assert lessor.renew(lease.lease_id, lease.fencing_token, now=2.0).expires_at == 12.0
    other = lessor.claim(lessor.enqueue("cuda:0", "gone", 1, now=0.0), now=0.0)
    assert other is not None
    assert [expired.lease_id for expired in lessor.expire(now=3.0)] == [other.lease_id]


def test_a_free_device_is_granted_with_one_ttl() -> None:
    lease = grant(new_lessor(), "cuda:0", holder="vae", now=5.0)

    assert (lease.device, lease.holder, lease.state) == ("cuda:0", "vae", LeaseState.ACTIVE)
    assert (lease.granted_at, lease.expires_at) == (5.0, 15.0)
    assert lease.remaining_s(12.0) == 3.0


def test_waiters_are_served_in_the_order_of_their_arrival() -> None:
    lessor = new_lessor()
    held = grant(lessor)
    first, second = (lessor.enqueue("cpu", name, 1, 0.0) for name in ("first", "second"))
    assert lessor.waiters() == [(first, 1), (second, 2)]
    assert lessor.claim(first, 0.0) is None

    lessor.release(held.lease_id, held.fencing_token)

    assert lessor.claim(second, 0.0) is None
    lease = lessor.claim(first, 0.0)
    assert lease is not None
    assert lease.holder == "first"
    assert lessor.position(second) == 1


def test_devices_do_not_wait_for_each_other() -> None:
    lessor = new_lessor()
    assert {grant(lessor, device).device for device in ("cpu", "cuda:0", "cuda:1")} == {
        "cpu",
        "cuda:0",
        "cuda:1",
    }


def test_who_leaves_the_line_makes_room_for_the_next() -> None:
    lessor = new_lessor()
    grant(lessor)
    first, second = (lessor.enqueue("cpu", name, 1, 0.0) for name in ("first", "second"))

    lessor.withdraw(first)
    lessor.withdraw(first)

    assert lessor.waiters() == [(second, 1)]


def test_a_full_line_is_refused_with_its_limit() -> None:
    lessor = new_lessor(max_waiter_count=2)
    for device in ("cpu", "cuda:0"):
        lessor.enqueue(device, "dit", 1, 0.0)

    with pytest.raises(QueueFullError, match="at most 2"):
        lessor.enqueue("cuda:1", "dit", 1, 0.0)


def test_a_holder_is_asked_to_leave_for_as_long_as_somebody_waits() -> None:
    lessor = new_lessor()
    lease = grant(lessor)

    ticket = lessor.enqueue("cpu", "vae", 1, 0.0)
    assert state_of(lessor, lease) is LeaseState.REVOKING
    renewed = lessor.renew(lease.lease_id, lease.fencing_token, 4.0)
    assert (renewed.state, renewed.expires_at) == (LeaseState.REVOKING, 14.0)

    lessor.withdraw(ticket)
    assert state_of(lessor, lease) is LeaseState.ACTIVE


def test_a_grant_with_others_in_line_is_asked_to_leave_from_the_start() -> None:
    lessor = new_lessor()
    ticket = lessor.enqueue("cpu", "first", 1, 0.0)
    lessor.enqueue("cpu", "second", 1, 0.0)

    lease = lessor.claim(ticket, 0.0)

    assert lease is not None
    assert lease.state is LeaseState.REVOKING


def test_an_expired_lease_is_quarantined_and_not_granted_again() -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    ticket = lessor.enqueue("cpu", "vae", 1, 0.0)
    assert lessor.next_deadline() == TTL_S
    assert lessor.expire(TTL_S - 0.001) == []

    assert [x.lease_id for x in lessor.expire(TTL_S)] == [lease.lease_id]

    assert lessor.quarantined_devices() == ["cpu"]
    assert lessor.next_deadline() is None
    assert lessor.claim(ticket, 1000.0) is None


def test_a_device_that_proved_free_goes_to_the_next_waiter() -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    ticket = lessor.enqueue("cpu", "vae", 1, 0.0)
    assert lessor.clear("cpu") is None  # proof about a device in use means nothing
    lessor.abandon(lease.lease_id)

    cleared = lessor.clear("cpu")

    assert cleared is not None
    assert cleared.state is LeaseState.RELEASED
    assert lessor.claim(ticket, 1.0) is not None


def test_a_quarantined_holder_may_say_that_it_left() -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    lessor.abandon(lease.lease_id)

    assert lessor.release(lease.lease_id, lease.fencing_token).state is LeaseState.RELEASED
    assert lessor.leases() == []


def test_a_release_is_idempotent() -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    lessor.release(lease.lease_id, lease.fencing_token)
    other = grant(lessor)

    assert lessor.release(lease.lease_id, lease.fencing_token).state is LeaseState.RELEASED
    assert state_of(lessor, other) is LeaseState.ACTIVE


def test_abandoning_a_lease_that_is_not_in_use_does_nothing() -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    lessor.release(lease.lease_id, lease.fencing_token)

    assert lessor.abandon(lease.lease_id) is None
    assert lessor.abandon("1-99") is None


@pytest.mark.parametrize("how", ["abandoned", "expired", "overdue", "released"])
def test_a_lease_out_of_use_cannot_be_renewed(how: str) -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    if how == "abandoned":
        lessor.abandon(lease.lease_id)
    elif how == "expired":
        lessor.expire(TTL_S)
    elif how == "released":
        lessor.release(lease.lease_id, lease.fencing_token)

    with pytest.raises(LeaseLostError, match=lease.lease_id):
        lessor.renew(lease.lease_id, lease.fencing_token, TTL_S if how == "overdue" else 1.0)


def test_a_wrong_token_changes_nothing() -> None:
    lessor = new_lessor()
    lease = grant(lessor)

    with pytest.raises(StaleFencingTokenError):
        lessor.renew(lease.lease_id, lease.fencing_token - 1, 1.0)
    with pytest.raises(StaleFencingTokenError):
        lessor.release(lease.lease_id, lease.fencing_token + 1)

    assert lessor.leases() == [lease]


def test_an_unknown_lease_is_not_found() -> None:
    lessor = new_lessor()
    with pytest.raises(NotFoundError, match="1-7"):
        lessor.renew("1-7", 1, 0.0)
    with pytest.raises(NotFoundError, match="1-7"):
        lessor.release("1-7", 1)


def test_released_leases_are_forgotten_in_the_end() -> None:
    lessor = new_lessor()
    leases = []
    for _ in range(KEPT_RELEASED_COUNT + 1):
        leases.append(grant(lessor))
        lessor.release(leases[-1].lease_id, leases[-1].fencing_token)

    with pytest.raises(NotFoundError):
        lessor.release(leases[0].lease_id, leases[0].fencing_token)
    lessor.release(leases[1].lease_id, leases[1].fencing_token)


def test_tokens_grow_across_restarts_and_fit_the_wire() -> None:
    before = new_lessor(epoch=1)
    tokens = []
    for _ in range(3):
        lease = grant(before)
        before.release(lease.lease_id, lease.fencing_token)
        tokens.append(lease.fencing_token)
    tokens.append(grant(new_lessor(epoch=2)).fencing_token)
    tokens.append(grant(new_lessor(epoch=MAX_EPOCH)).fencing_token)

    assert tokens == sorted(set(tokens))
    assert tokens[0] == (1 << 32) + 1
    assert tokens[-1] < 1 << 63
    with pytest.raises(ValueError, match="epoch"):
        new_lessor(epoch=MAX_EPOCH + 1)


def test_quarantine_can_only_be_left_by_release() -> None:
    assert TRANSITIONS[LeaseState.QUARANTINED] == {LeaseState.RELEASED}
    assert TRANSITIONS[LeaseState.RELEASED] == frozenset()


class LessorHistory(RuleBasedStateMachine):
    """Random callers on two devices, against a model of who may hold what."""

    devices = st.sampled_from(["cpu", "cuda:0"])

    def __init__(self) -> None:
        super().__init__()
        self.lessor = new_lessor(max_waiter_count=8)
        self.now = 0.0
        self.lines: dict[str, list[Ticket]] = {"cpu": [], "cuda:0": []}
        self.occupant: dict[str, Lease | None] = {"cpu": None, "cuda:0": None}
        self.proof_needed: set[str] = set()
        self.expiry: dict[str, float] = {}
        self.granted: list[Lease] = []
        self.served: set[int] = set()

    def grant_if_next(self, ticket: Ticket) -> None:
        line = self.lines[ticket.device]
        lease = self.lessor.claim(ticket, self.now)
        may_have_it = line[0] == ticket and self.occupant[ticket.device] is None
        assert (lease is not None) == may_have_it
        if lease is None:
            return
        assert ticket.device not in self.proof_needed, "granted out of quarantine"
        assert all(lease.fencing_token > earlier.fencing_token for earlier in self.granted)
        line.remove(ticket)
        self.served.add(ticket.number)
        self.occupant[lease.device] = lease
        self.expiry[lease.lease_id] = self.now + TTL_S
        self.granted.append(lease)

    def waiting(self) -> list[Ticket]:
        return [ticket for line in self.lines.values() for ticket in line]

    def vacate(self, device: str) -> None:
        self.occupant[device] = None
        self.proof_needed.discard(device)

    def is_occupant(self, lease: Lease) -> bool:
        occupant = self.occupant[lease.device]
        return occupant is not None and occupant.lease_id == lease.lease_id

    @rule(device=devices)
    def enqueue(self, device: str) -> None:
        if len(self.waiting()) == 8:
            with pytest.raises(QueueFullError):
                self.lessor.enqueue(device, "x", 1, self.now)
            return
        self.lines[device].append(self.lessor.enqueue(device, "x", 1, self.now))

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

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), is_right_token=st.booleans())
    def renew(self, data: st.DataObject, is_right_token: bool) -> None:
        lease = data.draw(st.sampled_from(self.granted))
        if not is_right_token:
            with pytest.raises(StaleFencingTokenError):
                self.lessor.renew(lease.lease_id, lease.fencing_token + 1, self.now)
        elif (
            self.is_occupant(lease)
            and lease.device not in self.proof_needed
            and self.now < self.expiry[lease.lease_id]
        ):
            assert self.lessor.renew(lease.lease_id, lease.fencing_token, self.now)
            self.expiry[lease.lease_id] = self.now + TTL_S
        else:
            with pytest.raises(LeaseLostError):
                self.lessor.renew(lease.lease_id, lease.fencing_token, self.now)

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.granted))
        assert self.lessor.release(lease.lease_id, lease.fencing_token).state is LeaseState.RELEASED
        if self.is_occupant(lease):
            self.vacate(lease.device)

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.granted))
        self.lessor.abandon(lease.lease_id)
        if self.is_occupant(lease):
            self.proof_needed.add(lease.device)

    @rule(elapsed_s=st.floats(0.0, 15.0))
    def pass_time(self, elapsed_s: float) -> None:
        self.now += elapsed_s

    @rule()
    def expire(self) -> None:
        overdue = {
            lease.device
            for lease in self.occupant.values()
            if lease is not None
            and lease.device not in self.proof_needed
            and self.now >= self.expiry[lease.lease_id]
        }
        assert {lease.device for lease in self.lessor.expire(self.now)} == overdue
        self.proof_needed |= overdue

    @rule(device=devices)
    def prove_free(self, device: str) -> None:
        cleared = self.lessor.clear(device)
        assert (cleared is not None) == (device in self.proof_needed)
        if cleared is not None:
            self.vacate(device)

    @invariant()
    def ledger_matches_the_model(self) -> None:
        held = {lease.device: lease for lease in self.lessor.leases()}
        assert len(held) == len(self.lessor.leases())
        occupants = {d: lease.lease_id for d, lease in self.occupant.items() if lease is not None}
        assert {d: lease.lease_id for d, lease in held.items()} == occupants
        assert set(self.lessor.quarantined_devices()) == self.proof_needed
        for device, lease in held.items():
            if device not in self.proof_needed:
                wanted = LeaseState.REVOKING if self.lines[device] else LeaseState.ACTIVE
                assert lease.state is wanted
        deadlines = [self.expiry[x.lease_id] for d, x in held.items() if d not in self.proof_needed]
        assert self.lessor.next_deadline() == min(deadlines, default=None)

    def teardown(self) -> None:
        waiting = {ticket.number for ticket in self.waiting()}
        for _ in range(len(waiting) + len(self.lines)):
            self.now += TTL_S
            self.expire()
            for device, line in self.lines.items():
                self.prove_free(device)
                if line:
                    self.grant_if_next(line[0])
        assert waiting <= self.served


TestLessorHistory = LessorHistory.TestCase
TestLessorHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
