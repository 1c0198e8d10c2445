"""What the ledger takes for the size of a device, and how many devices it knows."""

from __future__ import annotations

import pytest

from acestage.errors import LeaseLostError, ResourceExhaustedError, VramBudgetExceededError
from services.orchestrator.ledger.lease import LeaseState
from services.orchestrator.ledger.lessor import MAX_DEVICE_COUNT, Lessor
from tests.unit.orchestrator.ledger.lessors import GIB, TTL_S, ask, grant, granted, new_lessor, state_of


def test_the_least_size_that_those_who_are_there_report_counts() -> None:
    lessor = new_lessor()
    holder = granted(lessor, ask(lessor, 5))
    small = ask(lessor, 4, of=8)
    assert lessor.claim(small, 0.0) is None
    assert state_of(lessor, holder) is LeaseState.REVOKING
    lessor.release(holder.lease_id, holder.fencing_token)
    held = granted(lessor, small)
    large = ask(lessor, 5)
    assert lessor.claim(large, 0.0) is None
    assert lessor.devices()[0].total_bytes == 8 * GIB
    lessor.release(held.lease_id, held.fencing_token)
    assert granted(lessor, large).device_bytes == lessor.devices()[0].total_bytes == 16 * GIB


def test_a_wrong_report_is_forgotten_when_who_made_it_has_left() -> None:
    lessor = new_lessor()
    probe = granted(lessor, ask(lessor, 0.0001, of=0.001))
    waiting = ask(lessor, 12)
    assert lessor.claim(waiting, 0.0) is None
    assert state_of(lessor, probe) is LeaseState.REVOKING
    lessor.release(probe.lease_id, probe.fencing_token)
    first = granted(lessor, waiting)
    assert granted(lessor, ask(lessor, 3)).device == first.device
    with pytest.raises(VramBudgetExceededError, match="up to its 17179869184 bytes"):
        ask(lessor, 17)


def test_who_knows_no_size_goes_by_what_was_said_last() -> None:
    lessor = new_lessor()
    lessor.withdraw(ask(lessor, 1, of=8))
    with pytest.raises(VramBudgetExceededError, match="up to its 8589934592 bytes"):
        ask(lessor, 9, of=0)
    granted(lessor, ask(lessor, 5, of=0))
    granted(lessor, ask(lessor, 3, of=0))
    assert lessor.claim(ask(lessor, 1, of=0), 0.0) is None


def test_who_waits_is_refused_once_the_device_is_known_to_be_too_small() -> None:
    lessor = new_lessor()
    holder = granted(lessor, ask(lessor, 1, of=0))
    waiting = ask(lessor, 9, of=0)
    ask(lessor, 1, of=8)
    lessor.release(holder.lease_id, holder.fencing_token)
    with pytest.raises(VramBudgetExceededError, match="up to its 8589934592 bytes"):
        lessor.claim(waiting, 0.0)


def test_a_ledger_has_so_many_devices_and_no_more() -> None:
    lessor = new_lessor()
    for index in range(MAX_DEVICE_COUNT):
        grant(lessor, f"cuda:{index}")
    with pytest.raises(ResourceExhaustedError, match="device: is cuda:999"):
        grant(lessor, "cuda:999")
    lessor.withdraw(lessor.enqueue("cuda:0", "dit", 1, 0.0))


def test_a_request_that_is_refused_leaves_no_device_behind() -> None:
    lessor = new_lessor()
    for index in range(MAX_DEVICE_COUNT):
        with pytest.raises(VramBudgetExceededError):
            lessor.enqueue(f"cuda:{index}", "dit", 2, 0.0, device_bytes=1)
    assert lessor.devices() == []
    assert grant(lessor, "cuda:999").device == "cuda:999"


@pytest.mark.parametrize("sizes", [(16, 3), (3, 16), (16, 16)])
def test_leases_are_taken_over_by_what_all_of_them_say(sizes: tuple[int, int]) -> None:
    before = new_lessor()
    leases = [granted(before, ask(before, 1)) for _ in sizes]
    after = Lessor(epoch=2, ttl_s=TTL_S, grace_until=TTL_S)
    after.restore(leases[0], 0.0, device_bytes=sizes[0] * GIB)
    if min(sizes) == 16:
        after.restore(leases[1], 0.0, device_bytes=sizes[1] * GIB)
    else:
        with pytest.raises(LeaseLostError):
            after.restore(leases[1], 0.0, device_bytes=sizes[1] * GIB)
