"""The ledger as a gRPC service: a thin edge around `Lessor` that adds the clock, waiting and probing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from google.protobuf import timestamp_pb2

from acestage.errors import FieldViolation, InvalidArgumentError
from acestage.protos.lease.v1 import lease_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2_grpc
from services.orchestrator.lessor import Lease, LeaseState, Lessor
from services.runtime.durations import duration

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.2
"""How often a quarantined device is asked whether it is free."""

RENEW_FRACTION = 0.3
"""Of the TTL: every 3 s of 10 s, so that a holder may miss two renewals and still keeps its lease."""

MAX_HOLDER_LENGTH = 200

_DEVICE = re.compile(r"cpu|cuda:(0|[1-9][0-9]*)")
"""No leading zeros: a device has one name, or it could be granted twice."""

_STATE_TO_PB = {
    LeaseState.ACTIVE: pb.LEASE_STATE_ACTIVE,
    LeaseState.REVOKING: pb.LEASE_STATE_REVOKING,
    LeaseState.QUARANTINED: pb.LEASE_STATE_QUARANTINED,
    LeaseState.RELEASED: pb.LEASE_STATE_RELEASED,
}


class LeaseService(lease_pb2_grpc.LeaseServiceServicer):
    """Serves the leases of one `Lessor`; `run` must be running for as long as the server does."""

    def __init__(self, lessor: Lessor, is_device_free: Callable[[str], bool]) -> None:
        """Takes over `lessor`, which nobody else may change.

        Args:
            lessor: the ledger.
            is_device_free: True once the last user of a device is dead; must not block. An OSError
                means that nothing is known, and leaves the device in quarantine.
        """
        self._lessor = lessor
        self._is_device_free = is_device_free
        self._changed = asyncio.Event()
        self._streams: dict[str, object] = {}
        """The stream that renewed each lease last: only its end means that the holder is gone."""

    async def run(self) -> None:
        """Expires overdue leases and clears quarantined devices that proved free; never returns.

        Sleeps until the next deadline, and looks every `PROBE_INTERVAL_S` while a device is quarantined.
        """
        while True:
            changed = self._changed
            for lease in self._lessor.expire(time.monotonic()):
                self._log_quarantine(lease, "not renewed in time")
            for device in self._lessor.quarantined_devices():
                self._probe(device)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await changed.wait()

    async def AcquireLease(
        self, request: pb.AcquireLeaseRequest, context: Any
    ) -> AsyncIterator[pb.AcquireLeaseResponse]:
        _validate(request)
        ticket = self._lessor.enqueue(request.device, request.holder, request.vram_bytes, time.monotonic())
        reported_position = 0
        try:
            while True:
                changed = self._changed
                position = self._lessor.position(ticket)
                if position != reported_position:
                    reported_position = position
                    yield pb.AcquireLeaseResponse(waiting=pb.LeaseWaiting(position=position))
                lease = self._lessor.claim(ticket, time.monotonic())
                if lease is not None:
                    break
                await changed.wait()
        finally:
            self._lessor.withdraw(ticket)
            self._announce_change()
        waited_s = lease.granted_at - ticket.enqueued_at
        log.info("granted to %s after %.3f s in line", lease.holder, waited_s, extra=_fields(lease))
        # A caller that vanishes right here never renews: the lease goes the way of every expired one.
        yield self._granted(lease)

    async def KeepLeaseAlive(
        self, request_iterator: AsyncIterator[pb.KeepLeaseAliveRequest], context: Any
    ) -> AsyncIterator[pb.KeepLeaseAliveResponse]:
        stream = object()
        try:
            async for request in request_iterator:
                now = time.monotonic()
                lease = self._lessor.renew(request.lease_id, request.fencing_token, now)
                self._streams[lease.lease_id] = stream
                yield pb.KeepLeaseAliveResponse(lease=_lease_to_pb(lease, now))
        finally:
            for lease_id in [key for key, owner in self._streams.items() if owner is stream]:
                del self._streams[lease_id]
                self._abandon(lease_id, "its keepalive stream ended without a release")

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Any) -> pb.ReleaseLeaseResponse:
        lease = self._lessor.release(request.lease_id, request.fencing_token)
        log.info("released by %s", lease.holder, extra=_fields(lease))
        self._announce_change()
        return pb.ReleaseLeaseResponse(lease=_lease_to_pb(lease, time.monotonic()))

    async def ListLeases(self, request: pb.ListLeasesRequest, context: Any) -> pb.ListLeasesResponse:
        now = time.monotonic()
        return pb.ListLeasesResponse(
            leases=[_lease_to_pb(lease, now) for lease in self._lessor.leases()],
            waiters=[
                pb.LeaseWaiter(
                    device=ticket.device,
                    holder=ticket.holder,
                    vram_bytes=ticket.vram_bytes,
                    position=position,
                )
                for ticket, position in self._lessor.waiters()
            ],
        )

    def _announce_change(self) -> None:
        """Wakes everyone who waits for the ledger to change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _abandon(self, lease_id: str, why: str) -> None:
        lease = self._lessor.abandon(lease_id)
        if lease is not None:
            self._log_quarantine(lease, why)
            self._announce_change()

    def _probe(self, device: str) -> None:
        try:
            is_free = self._is_device_free(device)
        except OSError:
            log.exception("cannot tell whether the device is free", extra={"device": device})
            return
        lease = self._lessor.clear(device) if is_free else None
        if lease is not None:
            log.info("proved free after %s", lease.holder, extra=_fields(lease))
            self._announce_change()

    def _pause_s(self) -> float | None:
        """Seconds until there is something to look at; None for as long as nothing changes."""
        deadline = self._lessor.next_deadline()
        until_deadline_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._lessor.quarantined_devices():
            return until_deadline_s
        return PROBE_INTERVAL_S if until_deadline_s is None else min(PROBE_INTERVAL_S, until_deadline_s)

    def _granted(self, lease: Lease) -> pb.AcquireLeaseResponse:
        ttl_s = self._lessor.ttl_s
        granted = pb.LeaseGranted(
            lease=_lease_to_pb(lease, time.monotonic()),
            ttl=duration(ttl_s),
            renew_interval=duration(ttl_s * RENEW_FRACTION),
        )
        return pb.AcquireLeaseResponse(granted=granted)

    def _log_quarantine(self, lease: Lease, why: str) -> None:
        log.warning("quarantined, held by %s: %s", lease.holder, why, extra=_fields(lease))


def _validate(request: pb.AcquireLeaseRequest) -> None:
    violations = []
    if not _DEVICE.fullmatch(request.device):
        violations.append(
            FieldViolation(
                "device", f'is {request.device[:40]!r}; expected "cpu" or "cuda:N", N without zeros'
            )
        )
    if not 1 <= len(request.holder) <= MAX_HOLDER_LENGTH:
        violations.append(
            FieldViolation(
                "holder", f"has {len(request.holder)} characters; expected 1 to {MAX_HOLDER_LENGTH}"
            )
        )
    if request.vram_bytes < 1:
        violations.append(FieldViolation("vram_bytes", f"is {request.vram_bytes}; expected at least 1"))
    if violations:
        raise InvalidArgumentError.of(violations)


def _lease_to_pb(lease: Lease, now: float) -> pb.Lease:
    grant_time = timestamp_pb2.Timestamp()
    grant_time.FromNanoseconds(time.time_ns() - round((now - lease.granted_at) * 1e9))
    return pb.Lease(
        lease_id=lease.lease_id,
        device=lease.device,
        holder=lease.holder,
        vram_bytes=lease.vram_bytes,
        fencing_token=lease.fencing_token,
        state=_STATE_TO_PB[lease.state],
        grant_time=grant_time,
        remaining=duration(lease.remaining_s(now)),
    )


def _fields(lease: Lease) -> dict[str, object]:
    return {"lease_id": lease.lease_id, "fencing_token": lease.fencing_token, "device": lease.device}
