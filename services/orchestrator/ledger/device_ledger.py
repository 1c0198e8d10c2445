"""One device's own ledger: who holds how much of it, who waits, and who is asked to leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from acestage.planning import EXCLUSIVE_BYTES
from acestage.status import LedgerDevice
from services.orchestrator.ledger.lease import USABLE, Lease, Ticket


@dataclass(slots=True)
class DeviceLedger:
    """What is known of one device.

    Attributes:
        is_always_exclusive: it has one holder at a time, whatever its size.
        line: who waits, the next one first.
        held: the leases that are not RELEASED, by id.
    """

    is_always_exclusive: bool
    line: list[Ticket] = field(default_factory=list)
    held: dict[str, Lease] = field(default_factory=dict)
    _last_bytes: int | None = None

    @property
    def total_bytes(self) -> int | None:
        """Its size: the least that holders and the next one in line see, else what was said last, if ever.

        One report must not count for ever: a caller may be mistaken, or limited where others are not.
        """
        return self._least_of([*self.held.values(), *self.line[:1]])

    @property
    def is_exclusive(self) -> bool:
        """Whether it has one holder at a time."""
        return self._has_one_holder(self.total_bytes)

    def see(self, user: Ticket | Lease) -> None:
        """Notes the size that somebody reports."""
        self._last_bytes = user.device_bytes or self._last_bytes

    def bytes_for(self, user: Ticket | Lease) -> int | None:
        """The size for one that has the device alone; None where nobody said one."""
        return self._least_of([user])

    def has_room(self, user: Ticket | Lease, vram_bytes: int) -> bool:
        """Whether `vram_bytes` are free for `user`; those that it has count as free."""
        others = [lease for lease in self.held.values() if lease is not user]
        total_bytes = self._least_of([user, *others])
        if others and self._has_one_holder(total_bytes):
            return False
        return total_bytes is None or sum(lease.vram_bytes for lease in others) + vram_bytes <= total_bytes

    def _has_one_holder(self, total_bytes: int | None) -> bool:
        return self.is_always_exclusive or total_bytes is None or total_bytes <= EXCLUSIVE_BYTES

    def _least_of(self, users: Sequence[Ticket | Lease]) -> int | None:
        return min((user.device_bytes for user in users if user.device_bytes), default=self._last_bytes)

    def usable(self) -> list[Lease]:
        """The leases whose holders may use the device."""
        return [lease for lease in self.held.values() if lease.state in USABLE]

    def to_leave(self) -> frozenset[str]:
        """The leases that must end for the first in line to fit: just enough, those without work first.

        The device counts as no larger than all holders say, also those who are asked to leave.
        """
        usable = self.usable()
        if not self.line:
            return frozenset()
        if self.is_exclusive:
            return frozenset(lease.lease_id for lease in usable)
        total_bytes = self.total_bytes
        assert total_bytes is not None
        asked = set()
        taken_bytes = sum(lease.vram_bytes for lease in self.held.values())
        quarantined_bytes = taken_bytes - sum(lease.vram_bytes for lease in usable)
        missing = taken_bytes + self.line[0].vram_bytes - total_bytes
        for lease in sorted(usable, key=lambda lease: (not lease.is_idle, lease.fencing_token)):
            # What is in quarantine mostly becomes free soon: reason enough to let others work, but not idle.
            if missing <= (0 if lease.is_idle else quarantined_bytes):
                break
            asked.add(lease.lease_id)
            missing -= lease.vram_bytes
        return frozenset(asked)

    def summary(self, device: str) -> LedgerDevice:
        leased_bytes = sum(lease.vram_bytes for lease in self.held.values())
        return LedgerDevice(device, self.total_bytes or 0, leased_bytes, self.is_exclusive)
