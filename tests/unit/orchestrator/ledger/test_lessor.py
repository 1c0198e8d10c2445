"""The ledger's state machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acestage.errors import (
    LeaseLostError,
    NotFoundError,
    QueueFullError,
    StaleFencingTokenError,
)
from services.orchestrator.ledger.lease import MAX_EPOCH, TRANSITIONS, LeaseState
from services.orchestrator.ledger.lessor import KEPT_RELEASED_COUNT, Lessor
from tests.unit.orchestrator.ledger.lessors import GIB, TTL_S, ask, grant, granted, new_lessor, state_of


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

    assert [x.lease_id for x in lessor.quarantined()] == [lease.lease_id]
    assert lessor.next_deadline() is None
    assert lessor.claim(ticket, 1000.0) is None


def test_a_device_that_proved_free_goes_to_the_next_waiter() -> None:
    lessor = new_lessor()
    lease = grant(lessor)
    ticket = lessor.enqueue("cpu", "vae", 1, 0.0)
    assert lessor.clear(lease.lease_id) is None  # proof about a lease in use means nothing
    lessor.abandon(lease.lease_id)

    cleared = lessor.clear(lease.lease_id)

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


def test_leases_share_a_large_device_as_long_as_their_sum_fits() -> None:
    lessor = new_lessor()
    first, second = granted(lessor, ask(lessor, 9)), granted(lessor, ask(lessor, 7))
    third = ask(lessor, 0.5)
    assert lessor.claim(third, 0.0) is None

    lessor.release(second.lease_id, second.fencing_token)

    assert granted(lessor, third).device == first.device
    (summary,) = lessor.devices()
    assert (summary.total_bytes, summary.leased_bytes, summary.is_exclusive) == (16 * GIB, 9.5 * GIB, False)


def test_a_device_of_4_gib_has_one_holder_however_little_it_holds() -> None:
    lessor = new_lessor()
    granted(lessor, ask(lessor, 1, of=4))
    assert lessor.claim(ask(lessor, 1, of=4), 0.0) is None
    assert lessor.is_exclusive("cuda:0")


def test_a_large_device_can_be_made_exclusive() -> None:
    lessor = Lessor(epoch=1, ttl_s=TTL_S, is_exclusive=True)
    granted(lessor, ask(lessor, 1))
    assert lessor.claim(ask(lessor, 1), 0.0) is None


def test_a_small_request_does_not_pass_a_large_one_that_came_before() -> None:
    lessor = new_lessor()
    granted(lessor, ask(lessor, 9))
    large, small = ask(lessor, 10), ask(lessor, 1)
    assert lessor.claim(small, 0.0) is None
    assert lessor.claim(large, 0.0) is None


def test_just_enough_holders_are_asked_to_leave_and_idle_ones_first() -> None:
    lessor = new_lessor()
    busy, idle, other = (granted(lessor, ask(lessor, 5)) for _ in range(3))
    lessor.renew(idle.lease_id, idle.fencing_token, 1.0, is_idle=True)

    ticket = ask(lessor, 4)
    assert [state_of(lessor, x) for x in (busy, idle, other)] == [
        LeaseState.ACTIVE,
        LeaseState.REVOKING,
        LeaseState.ACTIVE,
    ]

    lessor.withdraw(ticket)
    ask(lessor, 11)
    assert [state_of(lessor, x) for x in (busy, idle, other)] == [
        LeaseState.REVOKING,
        LeaseState.REVOKING,
        LeaseState.ACTIVE,
    ]


def test_nobody_is_asked_to_leave_while_what_is_in_quarantine_would_do() -> None:
    lessor = new_lessor()
    lost, held = granted(lessor, ask(lessor, 8)), granted(lessor, ask(lessor, 8))
    lessor.abandon(lost.lease_id)
    ticket = ask(lessor, 8)
    assert state_of(lessor, held) is LeaseState.ACTIVE
    assert lessor.claim(ticket, 0.0) is None

    lessor.clear(lost.lease_id)

    assert lessor.claim(ticket, 0.0) is not None


def test_a_lease_may_shrink_and_grows_only_where_bytes_are_free_and_nobody_waits() -> None:
    lessor = new_lessor()
    lease = granted(lessor, ask(lessor, 8))

    def ask_for(gib: int) -> int:
        renewed = lessor.renew(lease.lease_id, lease.fencing_token, 1.0, vram_bytes=gib * GIB)
        return renewed.vram_bytes // GIB

    assert ask_for(3) == 3
    assert ask_for(16) == 16
    assert ask_for(4) == 4
    other = granted(lessor, ask(lessor, 8))
    assert ask_for(9) == 4
    ask(lessor, 8)
    assert ask_for(5) == 4
    lessor.release(other.lease_id, other.fencing_token)
    assert ask_for(5) == 4  # somebody waits


def test_a_ledger_that_starts_again_grants_nothing_before_holders_could_report() -> None:
    before = new_lessor(epoch=1)
    lease = granted(before, ask(before, 3, of=4))
    after = Lessor(epoch=2, ttl_s=TTL_S, grace_until=TTL_S)
    ticket = after.enqueue("cuda:0", "vae", GIB, 1.0, device_bytes=4 * GIB)
    assert after.claim(ticket, TTL_S - 0.1) is None
    assert after.next_deadline() == TTL_S

    restored = after.restore(lease, 2.0)

    assert (restored.lease_id, restored.fencing_token) == (lease.lease_id, lease.fencing_token)
    assert state_of(after, lease) is LeaseState.REVOKING
    assert after.claim(ticket, TTL_S) is None  # the device is held
    after.release(lease.lease_id, lease.fencing_token)
    fresh = after.claim(ticket, TTL_S)
    assert fresh is not None
    assert fresh.fencing_token > lease.fencing_token


def test_a_report_that_comes_too_late_or_claims_too_much_is_refused() -> None:
    before = new_lessor(epoch=1)
    first, second = granted(before, ask(before, 9)), granted(before, ask(before, 7))
    after = Lessor(epoch=2, ttl_s=TTL_S, grace_until=TTL_S)
    after.restore(first, 0.0, device_bytes=12 * GIB)
    with pytest.raises(LeaseLostError, match="others hold the device"):
        after.restore(second, 0.0)
    with pytest.raises(NotFoundError):
        after.restore(second, TTL_S)
    own = Lessor(epoch=1, ttl_s=TTL_S, grace_until=TTL_S)
    with pytest.raises(NotFoundError):
        own.restore(first, 0.0)  # of its own epoch, but never granted


def test_an_earlier_lease_cannot_be_reported_under_an_id_that_is_still_to_be_granted() -> None:
    before = new_lessor(epoch=1)
    claimed = replace(granted(before, ask(before, 8)), lease_id="2-1")
    after = Lessor(epoch=2, ttl_s=TTL_S, grace_until=TTL_S)
    with pytest.raises(NotFoundError, match="2-1"):
        after.restore(claimed, 0.0)
    assert after.leases() == []


def test_nobody_grows_before_all_holders_could_report() -> None:
    before = new_lessor(epoch=1)
    first, second = granted(before, ask(before, 8)), granted(before, ask(before, 8))
    shrunk = before.renew(first.lease_id, first.fencing_token, 1.0, vram_bytes=3 * GIB)
    after = Lessor(epoch=2, ttl_s=TTL_S, grace_until=TTL_S)
    after.restore(shrunk, 0.0, device_bytes=16 * GIB)
    renewed = after.renew(first.lease_id, first.fencing_token, 1.0, vram_bytes=16 * GIB)
    assert renewed.vram_bytes == 3 * GIB
    after.restore(second, 2.0)


def test_idle_holders_make_room_that_a_quarantine_keeps() -> None:
    lessor = new_lessor()
    lost, idle, busy = (granted(lessor, ask(lessor, gib)) for gib in (6, 5, 5))
    lessor.renew(idle.lease_id, idle.fencing_token, 1.0, is_idle=True)
    lessor.abandon(lost.lease_id)
    ask(lessor, 5)
    assert state_of(lessor, idle) is LeaseState.REVOKING
    assert state_of(lessor, busy) is LeaseState.ACTIVE
