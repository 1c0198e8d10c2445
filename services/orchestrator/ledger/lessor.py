"""The ledger of devices as a pure state machine: no I/O, and the clock is passed in as `now`.

A lease is a number of bytes on a device. A small device has one holder at a time; on a larger one, leases
are granted as long as their sum fits. Who wants bytes waits in line, first come, first served: nobody is
let past the first in line, however little they ask for, so everybody is served in the end. While somebody
waits, just enough holders are asked to leave, those without work first.

A lease that expires, or whose holder vanishes, is QUARANTINED: its bytes count as taken until the holder
says that it left, or has proved dead.

        ┌────────┐ asked to leave  ┌──────────┐
    ───▶│ ACTIVE │────────────────▶│ REVOKING │
        │        │◀────────────────│          │
        └────────┘  no longer so   └──────────┘
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

from dataclasses import replace

from acestage.errors import (
    LeaseLostError,
    NotFoundError,
    QueueFullError,
    ResourceExhaustedError,
    StaleFencingTokenError,
    VramBudgetExceededError,
)
from acestage.status import LedgerDevice
from services.orchestrator.ledger.device_ledger import DeviceLedger
from services.orchestrator.ledger.lease import (
    COUNTER_BITS,
    MAX_EPOCH,
    TRANSITIONS,
    USABLE,
    Lease,
    LeaseState,
    Ticket,
)

MAX_WAITER_COUNT = 1000
"""Waiters on all devices together; a stage queues its own work, so even one per stage is a long line."""

MAX_DEVICE_COUNT = 64
"""Devices that anybody ever waited for. Each may have a lock file that stays open, for what it locks."""

KEPT_RELEASED_COUNT = 1000
"""Released leases that are remembered, so that releasing one twice succeeds."""


class Lessor:
    """Who holds how much of which device, and who waits for it.

    A waiter takes its place with `enqueue` and then calls `claim` after every change until it gets its
    lease, or leaves with `withdraw`. The owner of the ledger calls `expire` whenever `next_deadline` has
    passed, and `clear` for each of `quarantined` whose holder has proved dead.
    """

    def __init__(
        self,
        *,
        epoch: int,
        ttl_s: float,
        confirm_s: float | None = None,
        grace_until: float | None = None,
        is_exclusive: bool = False,
        max_waiter_count: int = MAX_WAITER_COUNT,
    ) -> None:
        """Starts an empty ledger.

        Args:
            epoch: greater than that of every earlier ledger of this machine, 0 to `MAX_EPOCH`.
            ttl_s: a lease expires this long after its last renewal.
            confirm_s: and this long after its grant, until it is renewed for the first time: its holder may
                have left just as it was granted. None is `ttl_s`.
            grace_until: nothing is granted before, so that holders of an earlier ledger can report; None
                where there are none.
            is_exclusive: every device has one holder at a time, whatever its size.
            max_waiter_count: waiters on all devices together.
        """
        if not 0 <= epoch <= MAX_EPOCH:
            raise ValueError(f"epoch is {epoch}; expected 0 to {MAX_EPOCH}")
        self.ttl_s = ttl_s
        self._confirm_s = ttl_s if confirm_s is None else min(confirm_s, ttl_s)
        self._epoch = epoch
        self._grace_until = grace_until
        self._is_exclusive = is_exclusive
        self._max_waiter_count = max_waiter_count
        self._ticket_count = 0
        self._grant_count = 0
        self._devices: dict[str, DeviceLedger] = {}
        self._leases: dict[str, Lease] = {}
        self._released: dict[str, None] = {}

    def enqueue(
        self, device: str, holder: str, vram_bytes: int, now: float, *, device_bytes: int = 0
    ) -> Ticket:
        """Takes the last place in the line for `device`, and asks holders to leave where it does not fit.

        Args:
            device: "cpu", "cuda:N" or "fake:N".
            holder: who asks.
            vram_bytes: bytes wanted.
            now: the time.
            device_bytes: the device's size as the caller sees it; 0 where it does not know.

        Raises:
            VramBudgetExceededError: the device is too small, however long one waits.
            QueueFullError: too many wait already.
            ResourceExhaustedError: too many other devices were asked for.
        """
        ledger = self._ledger(device)
        ticket = Ticket(self._ticket_count + 1, device, holder, vram_bytes, now, device_bytes)
        _check_size(ledger, ticket)
        waiter_count = sum(len(entry.line) for entry in self._devices.values())
        if waiter_count >= self._max_waiter_count:
            raise QueueFullError(
                f"{waiter_count} wait for a device already; at most {self._max_waiter_count} may",
                metadata={"device": device, "limit": str(self._max_waiter_count)},
                retry_delay_s=self.ttl_s,
            )
        self._ticket_count += 1
        self._devices[device] = ledger
        ledger.see(ticket)
        ledger.line.append(ticket)
        self._update_revoking(device)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Leaves the line; does nothing if `ticket` is no longer in it."""
        line = self._devices[ticket.device].line
        if ticket in line:
            line.remove(ticket)
            self._update_revoking(ticket.device)

    def position(self, ticket: Ticket) -> int:
        """The place of `ticket` in its line: 1 is next."""
        return self._devices[ticket.device].line.index(ticket) + 1

    def claim(self, ticket: Ticket, now: float) -> Lease | None:
        """The lease, if `ticket` is next in line and its bytes are free; the ticket is used up then.

        Raises:
            VramBudgetExceededError: the device turned out to be too small.
        """
        ledger = self._devices[ticket.device]
        _check_size(ledger, ticket)
        if self.grace_remaining_s(now) > 0 or self.position(ticket) > 1:
            return None
        if not ledger.has_room(ticket, ticket.vram_bytes):
            return None
        ledger.line.remove(ticket)
        self._grant_count += 1
        lease = Lease(
            lease_id=f"{self._id_prefix}{self._grant_count}",
            device=ticket.device,
            holder=ticket.holder,
            vram_bytes=ticket.vram_bytes,
            fencing_token=(self._epoch << COUNTER_BITS) | self._grant_count,
            state=LeaseState.ACTIVE,
            granted_at=now,
            expires_at=now + self._confirm_s,
            device_bytes=ledger.bytes_for(ticket) or 0,
        )
        self._store(lease)
        self._update_revoking(lease.device)
        return self._leases[lease.lease_id]

    def renew(
        self, lease_id: str, fencing_token: int, now: float, *, is_idle: bool = False, vram_bytes: int = 0
    ) -> Lease:
        """Puts the expiry off to one TTL from `now`; a lease that is being revoked may be renewed too.

        Args:
            lease_id: the lease.
            fencing_token: the one that it was granted with.
            now: the time.
            is_idle: whether the holder is without work.
            vram_bytes: bytes wanted from now on, 0 as many as before. Fewer are always given; more only
                where they are free and nobody waits. What the lease has is in the result.

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
        ledger = self._devices[lease.device]
        is_in_grace = self.grace_remaining_s(now) > 0  # others may hold what they could not report yet
        can_grow = not (is_in_grace or ledger.line) and ledger.has_room(lease, vram_bytes)
        if vram_bytes > lease.vram_bytes and not can_grow:
            vram_bytes = 0
        lease = self._store(
            replace(
                lease,
                expires_at=now + self.ttl_s,
                is_idle=is_idle,
                vram_bytes=vram_bytes or lease.vram_bytes,
            )
        )
        self._update_revoking(lease.device)
        return self._leases[lease_id]

    def restore(self, claimed: Lease, now: float, *, device_bytes: int = 0) -> Lease:
        """Takes over a lease that an earlier ledger granted, as its holder reports it.

        Args:
            claimed: its id, device, holder, bytes, token and idleness count.
            now: the time.
            device_bytes: as in `enqueue`.

        Raises:
            NotFoundError: it is not from an earlier ledger, or the time for such reports is over.
            LeaseLostError: the device has no room for it.
        """
        is_earlier = 0 < claimed.fencing_token >> COUNTER_BITS < self._epoch
        is_ours = claimed.lease_id.startswith(self._id_prefix) or claimed.lease_id in self._leases
        if not is_earlier or is_ours or self.grace_remaining_s(now) <= 0:
            raise self._unknown(claimed.lease_id)
        claimed = replace(claimed, device_bytes=device_bytes)
        ledger = self._ledger(claimed.device)
        if not ledger.has_room(claimed, claimed.vram_bytes):
            raise LeaseLostError(
                f"lease {claimed.lease_id} on {claimed.device} cannot be taken over: others hold the device",
                metadata={"lease_id": claimed.lease_id, "device": claimed.device},
            )
        self._devices[claimed.device] = ledger
        ledger.see(claimed)
        self._store(replace(claimed, state=LeaseState.ACTIVE, granted_at=now, expires_at=now + self.ttl_s))
        self._update_revoking(claimed.device)
        return self._leases[claimed.lease_id]

    def find(self, lease_id: str) -> Lease | None:
        """The lease as it stands; None where this ledger never had it, or long ago."""
        return self._leases.get(lease_id)

    def release(self, lease_id: str, fencing_token: int) -> Lease:
        """Gives the bytes back, from any state: the holder says that it left. Twice is once.

        Raises:
            NotFoundError: the ledger does not know `lease_id`.
            StaleFencingTokenError: the lease has another token.
        """
        lease = self._find(lease_id, fencing_token)
        return lease if lease.state is LeaseState.RELEASED else self._end(lease)

    def abandon(self, lease_id: str) -> Lease | None:
        """Quarantines a usable lease whose holder is gone; None if there was none to quarantine."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.state not in USABLE:
            return None
        return self._quarantine(lease)

    def expire(self, now: float) -> list[Lease]:
        """Quarantines the overdue leases, and returns them."""
        overdue = [lease for lease in self._usable() if now >= lease.expires_at]
        return [self._quarantine(lease) for lease in overdue]

    def clear(self, lease_id: str) -> Lease | None:
        """Releases a quarantined lease whose holder has proved dead; None if it was not quarantined."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.state is not LeaseState.QUARANTINED:
            return None
        return self._end(lease)

    def next_deadline(self) -> float | None:
        """When the next usable lease is overdue or the grace ends; None if nothing will happen by itself."""
        deadlines = [lease.expires_at for lease in self._usable()]
        if self._grace_until is not None and any(entry.line for entry in self._devices.values()):
            deadlines.append(self._grace_until)
        return min(deadlines, default=None)

    def grace_remaining_s(self, now: float) -> float:
        """Seconds for which nothing is granted yet."""
        if self._grace_until is not None and now >= self._grace_until:
            self._grace_until = None
        return 0.0 if self._grace_until is None else self._grace_until - now

    def quarantined(self) -> list[Lease]:
        """The leases whose holders have yet to prove dead."""
        return [lease for lease in self.leases() if lease.state is LeaseState.QUARANTINED]

    def leases(self) -> list[Lease]:
        """Every lease that is not RELEASED, oldest first."""
        held = [lease for entry in self._devices.values() for lease in entry.held.values()]
        return sorted(held, key=lambda lease: lease.fencing_token)

    def waiters(self) -> list[tuple[Ticket, int]]:
        """Every waiter and its position, by device and then position."""
        return [
            (ticket, index + 1)
            for _, entry in sorted(self._devices.items())
            for index, ticket in enumerate(entry.line)
        ]

    def devices(self) -> list[LedgerDevice]:
        """Every device that anybody ever asked for, by name."""
        return [entry.summary(name) for name, entry in sorted(self._devices.items())]

    def is_exclusive(self, device: str) -> bool:
        """Whether `device`, which somebody asked for, has one holder at a time."""
        return self._devices[device].is_exclusive

    def _ledger(self, device: str) -> DeviceLedger:
        """The page of `device`, or a new one to be kept once somebody waits for it or holds it."""
        if device not in self._devices and len(self._devices) >= MAX_DEVICE_COUNT:
            raise ResourceExhaustedError(
                f"device: is {device}; accepted: one of the {MAX_DEVICE_COUNT} that are known already",
                metadata={"device": device, "limit": str(MAX_DEVICE_COUNT)},
            )
        return self._devices.get(device) or DeviceLedger(self._is_exclusive)

    def _usable(self) -> list[Lease]:
        return [lease for entry in self._devices.values() for lease in entry.usable()]

    def _find(self, lease_id: str, fencing_token: int) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise self._unknown(lease_id)
        if lease.fencing_token != fencing_token:
            raise StaleFencingTokenError(
                f"fencing_token {fencing_token} is not that of lease {lease_id}",
                metadata={"lease_id": lease_id, "device": lease.device},
            )
        return lease

    @property
    def _id_prefix(self) -> str:
        """What the ids of its own leases begin with."""
        return f"{self._epoch}-"

    def _unknown(self, lease_id: str) -> NotFoundError:
        return NotFoundError(
            f"no lease {lease_id!r} on this ledger, whose epoch is {self._epoch}",
            metadata={"lease_id": lease_id},
        )

    def _update_revoking(self, device: str) -> None:
        entry = self._devices[device]
        asked = entry.to_leave()
        for lease in entry.usable():
            wanted = LeaseState.REVOKING if lease.lease_id in asked else LeaseState.ACTIVE
            if lease.state is not wanted:
                self._move(lease, wanted)

    def _quarantine(self, lease: Lease) -> Lease:
        moved = self._move(lease, LeaseState.QUARANTINED)
        self._update_revoking(lease.device)
        return moved

    def _end(self, lease: Lease) -> Lease:
        moved = self._move(lease, LeaseState.RELEASED)
        del self._devices[lease.device].held[lease.lease_id]
        self._released[lease.lease_id] = None
        if len(self._released) > KEPT_RELEASED_COUNT:
            oldest = next(iter(self._released))
            del self._released[oldest], self._leases[oldest]
        self._update_revoking(lease.device)
        return moved

    def _move(self, lease: Lease, state: LeaseState) -> Lease:
        if state not in TRANSITIONS[lease.state]:
            raise AssertionError(f"lease {lease.lease_id} cannot go from {lease.state} to {state}")
        return self._store(replace(lease, state=state))

    def _store(self, lease: Lease) -> Lease:
        self._devices[lease.device].held[lease.lease_id] = lease
        self._leases[lease.lease_id] = lease
        return lease


def _check_size(ledger: DeviceLedger, ticket: Ticket) -> None:
    device_bytes = ledger.bytes_for(ticket)
    if device_bytes is not None and ticket.vram_bytes > device_bytes:
        raise VramBudgetExceededError(
            f"vram_bytes: is {ticket.vram_bytes}; "
            f"accepted on {ticket.device}: up to its {device_bytes} bytes",
            metadata={"device": ticket.device, "device_bytes": str(device_bytes)},
        )
