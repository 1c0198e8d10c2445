"""The ledger of devices as a pure state machine: no I/O, and the clock is passed in as `now`.

A device has at most one holder; who wants it waits in line, first come, first served. A lease that
expires, or whose holder vanishes, is QUARANTINED: its device is granted again only once the holder says
that it left, or the device has proved free.

        ┌────────┐ somebody waits  ┌──────────┐
    ───▶│ ACTIVE │────────────────▶│ REVOKING │
        │        │◀────────────────│          │
        └────────┘   nobody waits  └──────────┘
          │    └─────────┐  ┌────────┘    │
          │ expired,     ▼  ▼             │ released
          │ abandoned  ┌─────────────┐    │
          │            │ QUARANTINED │    │
          │            └─────────────┘    │
          │ released          │ released, │
          ▼                   ▼ cleared   ▼
        ┌──────────────────────────────────┐
        │             RELEASED             │
        └──────────────────────────────────┘

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from acestage.errors import LeaseLostError, NotFoundError, QueueFullError, StaleFencingTokenError

MAX_WAITER_COUNT = 1000
"""Waiters on all devices together; a stage queues its own work, so even one per stage is a long line."""

KEPT_RELEASED_COUNT = 1000
"""Released leases that are remembered, so that releasing one twice succeeds."""

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
    """A place in the line for a device."""

    number: int
    device: str
    holder: str
    vram_bytes: int
    enqueued_at: float


@dataclass(frozen=True, slots=True)
class Lease:
    """One grant, as it stands.

    Attributes:
        fencing_token: grows with every grant, across restarts.
        expires_at: when a usable lease is overdue unless it is renewed before.
    """

    lease_id: str
    device: str
    holder: str
    vram_bytes: int
    fencing_token: int
    state: LeaseState
    granted_at: float
    expires_at: float

    def remaining_s(self, now: float) -> float:
        """Seconds for which the holder may still use the device; 0 once it may not."""
        return max(0.0, self.expires_at - now) if self.state in USABLE else 0.0


class Lessor:
    """Who holds which device, and who waits for it.

    A waiter takes its place with `enqueue` and then calls `claim` after every change until it gets its
    lease, or leaves with `withdraw`. The owner of the ledger calls `expire` whenever `next_deadline` has
    passed, and `clear` for each of `quarantined_devices` that has proved free.
    """

    def __init__(
        self,
        *,
        epoch: int,
        ttl_s: float,
        confirm_s: float | None = None,
        max_waiter_count: int = MAX_WAITER_COUNT,
    ) -> None:
        """Starts an empty ledger.

        Args:
            epoch: greater than that of every earlier ledger of this machine, 0 to `MAX_EPOCH`.
            ttl_s: a lease expires this long after its last renewal.
            confirm_s: and this long after its grant, until it is renewed for the first time: its holder may
                have left just as it was granted. None is `ttl_s`.
            max_waiter_count: waiters on all devices together.
        """
        if not 0 <= epoch <= MAX_EPOCH:
            raise ValueError(f"epoch is {epoch}; expected 0 to {MAX_EPOCH}")
        self.ttl_s = ttl_s
        self._confirm_s = ttl_s if confirm_s is None else min(confirm_s, ttl_s)
        self._epoch = epoch
        self._max_waiter_count = max_waiter_count
        self._ticket_count = 0
        self._grant_count = 0
        self._lines: dict[str, list[Ticket]] = {}
        self._held: dict[str, Lease] = {}
        self._leases: dict[str, Lease] = {}
        self._released: dict[str, None] = {}

    def enqueue(self, device: str, holder: str, vram_bytes: int, now: float) -> Ticket:
        """Takes the last place in the line for `device`, and asks its holder to leave.

        Raises:
            QueueFullError: too many wait already.
        """
        waiter_count = sum(map(len, self._lines.values()))
        if waiter_count >= self._max_waiter_count:
            raise QueueFullError(
                f"{waiter_count} wait for a device already; at most {self._max_waiter_count} may",
                metadata={"device": device, "limit": str(self._max_waiter_count)},
                retry_delay_s=self.ttl_s,
            )
        self._ticket_count += 1
        ticket = Ticket(self._ticket_count, device, holder, vram_bytes, now)
        self._lines.setdefault(device, []).append(ticket)
        self._update_revoking(device)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Leaves the line; does nothing if `ticket` is no longer in it."""
        if ticket in self._lines.get(ticket.device, ()):
            self._remove(ticket)
            self._update_revoking(ticket.device)

    def position(self, ticket: Ticket) -> int:
        """The place of `ticket` in its line: 1 is next."""
        return self._lines[ticket.device].index(ticket) + 1

    def claim(self, ticket: Ticket, now: float) -> Lease | None:
        """The lease, if `ticket` is next in line and its device is free; the ticket is used up then."""
        if self.position(ticket) > 1 or ticket.device in self._held:
            return None
        self._remove(ticket)
        self._grant_count += 1
        lease = Lease(
            lease_id=f"{self._epoch}-{self._grant_count}",
            device=ticket.device,
            holder=ticket.holder,
            vram_bytes=ticket.vram_bytes,
            fencing_token=(self._epoch << COUNTER_BITS) | self._grant_count,
            state=LeaseState.ACTIVE,
            granted_at=now,
            expires_at=now + self._confirm_s,
        )
        self._held[lease.device] = lease
        self._leases[lease.lease_id] = lease
        self._update_revoking(lease.device)
        return self._leases[lease.lease_id]

    def renew(self, lease_id: str, fencing_token: int, now: float) -> Lease:
        """Puts the expiry off to one TTL from `now`; a lease that is being revoked may be renewed too.

        Raises:
            NotFoundError: the ledger does not know `lease_id`.
            StaleFencingTokenError: the lease has another token.
            LeaseLostError: the holder may no longer use the device.
        """
        lease = self._find(lease_id, fencing_token)
        if lease.state not in USABLE or now >= lease.expires_at:
            state = lease.state.value if lease.state not in USABLE else "expired"
            raise LeaseLostError(
                f"lease {lease_id} on {lease.device} is {state}; only a lease in use can be renewed",
                metadata={"lease_id": lease_id, "device": lease.device, "state": state},
            )
        return self._store(replace(lease, expires_at=now + self.ttl_s))

    def release(self, lease_id: str, fencing_token: int) -> Lease:
        """Gives the device back, from any state: the holder says that it left. Twice is once.

        Raises:
            NotFoundError: the ledger does not know `lease_id`.
            StaleFencingTokenError: the lease has another token.
        """
        lease = self._find(lease_id, fencing_token)
        return lease if lease.state is LeaseState.RELEASED else self._move(lease, LeaseState.RELEASED)

    def abandon(self, lease_id: str) -> Lease | None:
        """Quarantines a usable lease whose holder is gone; None if there was none to quarantine."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.state not in USABLE:
            return None
        return self._move(lease, LeaseState.QUARANTINED)

    def expire(self, now: float) -> list[Lease]:
        """Quarantines the overdue leases, and returns them."""
        overdue = [x for x in self._held.values() if x.state in USABLE and now >= x.expires_at]
        return [self._move(lease, LeaseState.QUARANTINED) for lease in overdue]

    def clear(self, device: str) -> Lease | None:
        """Releases the quarantined lease on `device`, which has proved free; None if there was none."""
        lease = self._held.get(device)
        if lease is None or lease.state is not LeaseState.QUARANTINED:
            return None
        return self._move(lease, LeaseState.RELEASED)

    def next_deadline(self) -> float | None:
        """When the next usable lease is overdue; None if nothing is in use."""
        return min((x.expires_at for x in self._held.values() if x.state in USABLE), default=None)

    def quarantined_devices(self) -> list[str]:
        """The devices that have yet to prove free."""
        return [x.device for x in self._held.values() if x.state is LeaseState.QUARANTINED]

    def leases(self) -> list[Lease]:
        """Every lease that is not RELEASED, oldest first."""
        return sorted(self._held.values(), key=lambda lease: lease.fencing_token)

    def waiters(self) -> list[tuple[Ticket, int]]:
        """Every waiter and its position, by device and then position."""
        return [
            (ticket, index + 1)
            for _, line in sorted(self._lines.items())
            for index, ticket in enumerate(line)
        ]

    def _find(self, lease_id: str, fencing_token: int) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise NotFoundError(
                f"no lease {lease_id!r} on this ledger, whose epoch is {self._epoch}",
                metadata={"lease_id": lease_id},
            )
        if lease.fencing_token != fencing_token:
            raise StaleFencingTokenError(
                f"fencing_token {fencing_token} is not that of lease {lease_id}",
                metadata={"lease_id": lease_id, "device": lease.device},
            )
        return lease

    def _remove(self, ticket: Ticket) -> None:
        line = self._lines[ticket.device]
        line.remove(ticket)
        if not line:
            del self._lines[ticket.device]

    def _update_revoking(self, device: str) -> None:
        """A holder is asked to leave for exactly as long as somebody waits."""
        lease = self._held.get(device)
        if lease is None or lease.state not in USABLE:
            return
        wanted = LeaseState.REVOKING if device in self._lines else LeaseState.ACTIVE
        if lease.state is not wanted:
            self._move(lease, wanted)

    def _move(self, lease: Lease, state: LeaseState) -> Lease:
        if state not in TRANSITIONS[lease.state]:
            raise AssertionError(f"lease {lease.lease_id} cannot go from {lease.state} to {state}")
        moved = self._store(replace(lease, state=state))
        if state is LeaseState.RELEASED:
            del self._held[lease.device]
            self._released[lease.lease_id] = None
            if len(self._released) > KEPT_RELEASED_COUNT:
                oldest = next(iter(self._released))
                del self._released[oldest], self._leases[oldest]
        return moved

    def _store(self, lease: Lease) -> Lease:
        self._held[lease.device] = lease
        self._leases[lease.lease_id] = lease
        return lease
