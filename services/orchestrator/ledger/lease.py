"""Leases and places in line: the values of the ledger. All times are seconds of one monotonic clock."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

COUNTER_BITS = 32
"""Low bits of a fencing token: grants of one epoch. The epoch is above, so tokens grow across restarts."""

MAX_EPOCH = (1 << (63 - COUNTER_BITS)) - 1
"""The last epoch whose tokens fit the int64 of the wire."""


class LeaseState(enum.Enum):
    """The life of a lease."""

    ACTIVE = "active"
    REVOKING = "revoking"
    QUARANTINED = "quarantined"
    RELEASED = "released"


TRANSITIONS: Mapping[LeaseState, frozenset[LeaseState]] = {
    LeaseState.ACTIVE: frozenset({LeaseState.REVOKING, LeaseState.QUARANTINED, LeaseState.RELEASED}),
    LeaseState.REVOKING: frozenset({LeaseState.ACTIVE, LeaseState.QUARANTINED, LeaseState.RELEASED}),
    LeaseState.QUARANTINED: frozenset({LeaseState.RELEASED}),
    LeaseState.RELEASED: frozenset(),
}
"""Every change of state that may happen."""

USABLE = frozenset({LeaseState.ACTIVE, LeaseState.REVOKING})
"""States in which the holder may use the device."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the line for a device.

    Attributes:
        device_bytes: the device's size as the waiter sees it; 0 where it does not know.
    """

    number: int
    device: str
    holder: str
    vram_bytes: int
    enqueued_at: float
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """One grant, as it stands.

    Attributes:
        fencing_token: grows with every grant, across restarts.
        expires_at: when a usable lease is overdue unless it is renewed before.
        is_idle: the holder has no work and will leave as soon as it is asked.
        device_bytes: as in `Ticket`.
    """

    lease_id: str
    device: str
    holder: str
    vram_bytes: int
    fencing_token: int
    state: LeaseState
    granted_at: float
    expires_at: float
    is_idle: bool = False
    device_bytes: int = 0

    def remaining_s(self, now: float) -> float:
        """Seconds for which the holder may still use the device; 0 once it may not."""
        return max(0.0, self.expires_at - now) if self.state in USABLE else 0.0
