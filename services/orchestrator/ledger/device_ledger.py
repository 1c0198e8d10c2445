"""One device's own ledger: who holds how much of it, who waits, and who is asked to leave."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.orchestrator.ledger.lease import USABLE, Lease, Ticket

EXCLUSIVE_UP_TO_BYTES = 4 << 30
"""A device of up to 4 GiB has one holder at a time: two contexts and two sets of weights do not fit."""


@dataclass(frozen=True, slots=True)
class DeviceSummary:
    """A device as the ledger sees it; `total_bytes` is 0 where nobody said."""

    device: str
    total_bytes: int
    leased_bytes: int
    is_exclusive: bool


@dataclass(slots=True)
class DeviceLedger:
    """What is known of one device.

    Attributes:
        has_one_holder: whatever its size.
        total_bytes: the least that anyone said; None before.
        line: who waits, the next one first.
        held: the leases that are not RELEASED, by id.
    """

    has_one_holder: bool
    total_bytes: int | None = None
    line: list[Ticket] = field(default_factory=list)
    held: dict[str, Lease] = field(default_factory=dict)

    @property
    def is_exclusive(self) -> bool:
        """Whether it has one holder at a time."""
        return self.has_one_holder or self.total_bytes is None or self.total_bytes <= EXCLUSIVE_UP_TO_BYTES

    def see(self, device_bytes: int) -> None:
        """Notes a size that somebody reports; 0 says nothing."""
        if device_bytes > 0 and (self.total_bytes is None or device_bytes < self.total_bytes):
            self.total_bytes = device_bytes

    def has_room(self, vram_bytes: int, *, beside: Lease | None = None) -> bool:
        """Whether `vram_bytes` are free; those of `beside` count as free."""
        others = [lease for lease in self.held.values() if lease is not beside]
        if others and self.is_exclusive:
            return False
        taken_bytes = sum(lease.vram_bytes for lease in others)
        return self.total_bytes is None or taken_bytes + vram_bytes <= self.total_bytes

    def usable(self) -> list[Lease]:
        """The leases whose holders may use the device."""
        return [lease for lease in self.held.values() if lease.state in USABLE]

    def to_leave(self) -> frozenset[str]:
        """The leases that must end for the first in line to fit: just enough, those without work first."""
        usable = self.usable()
        if not self.line:
            return frozenset()
        if self.is_exclusive:
            return frozenset(lease.lease_id for lease in usable)
        assert self.total_bytes is not None
        asked = set()
        taken_bytes = sum(lease.vram_bytes for lease in self.held.values())
        quarantined_bytes = taken_bytes - sum(lease.vram_bytes for lease in usable)
        missing = taken_bytes + self.line[0].vram_bytes - self.total_bytes
        for lease in sorted(usable, key=lambda lease: (not lease.is_idle, lease.fencing_token)):
            # What is in quarantine mostly becomes free soon: reason enough to let others work, but not idle.
            if missing <= (0 if lease.is_idle else quarantined_bytes):
                break
            asked.add(lease.lease_id)
            missing -= lease.vram_bytes
        return frozenset(asked)

    def summary(self, device: str) -> DeviceSummary:
        leased_bytes = sum(lease.vram_bytes for lease in self.held.values())
        return DeviceSummary(device, self.total_bytes or 0, leased_bytes, self.is_exclusive)
