"""The ledger as a gRPC service: a thin edge around `Lessor` that adds the clock, waiting and probing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any

from google.protobuf import timestamp_pb2

from acestage.checks import Checks
from acestage.errors import InvalidArgumentError
from acestage.protobuf_times import duration
from acestage.protos.lease.v1 import lease_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2_grpc
from services.orchestrator.ledger.lease import Lease, LeaseState
from services.orchestrator.ledger.lessor import Lessor
from services.runtime.processes.announcer import Announcer
from services.runtime.processes.finishing import end

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.2
"""How often a quarantined device is asked whether it is free."""

RENEW_FRACTION = 0.3
"""How much of the TTL is between two renewals: 3 s of 10 s, so that a holder may miss two and still keeps its
lease."""

MAX_HOLDER_LENGTH = 200

_DEVICE = re.compile(r"cpu|(cuda|fake):(0|[1-9][0-9]*)")
"""No leading zeros: a device has one name, or it could be granted twice."""

_STATE_TO_PB = {
    LeaseState.ACTIVE: pb.LEASE_STATE_ACTIVE,
    LeaseState.REVOKING: pb.LEASE_STATE_REVOKING,
    LeaseState.QUARANTINED: pb.LEASE_STATE_QUARANTINED,
    LeaseState.RELEASED: pb.LEASE_STATE_RELEASED,
}


class LeaseService(lease_pb2_grpc.LeaseServiceServicer):
    """Serves the leases of one `Lessor`; `run` must be running for as long as the server does."""

    def __init__(self, lessor: Lessor, shut_out: Callable[[str, int], bool]) -> None:
        """Takes over `lessor`, which nobody else may change.

        Args:
            lessor: the ledger.
            shut_out: given a device and a fencing token, True once that lease's user is dead and can never
                begin; must not block. An OSError means that nothing is known, and leaves the lease in
                quarantine.
        """
        self._lessor = lessor
        self._shut_out = shut_out
        self._changes = Announcer()
        self._was_in_grace = lessor.grace_remaining_s(time.monotonic()) > 0
        self._streams: dict[str, object] = {}
        """The stream that renewed each lease last: only its end means that the holder is gone."""
        self._unprovable: set[str] = set()

    async def run(self) -> None:
        """Expires overdue leases and clears quarantined ones whose holders are dead; never returns.

        Sleeps until the next deadline, and looks every `PROBE_INTERVAL_S` while a lease is quarantined.
        """
        while True:
            changed = self._changes.next
            for lease in self._lessor.expire(time.monotonic()):
                self._log_quarantine(lease, "not renewed in time")
                self._changes.announce()
            for lease in self._lessor.quarantined():
                self._probe(lease)
            now = time.monotonic()
            if self._was_in_grace and self._lessor.grace_remaining_s(now) <= 0:
                self._was_in_grace = False
                self._changes.announce()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await changed.wait()

    async def AcquireLease(
        self, request: pb.AcquireLeaseRequest, context: Any
    ) -> AsyncIterator[pb.AcquireLeaseResponse]:
        _validate(request, request.device_bytes)
        ticket = self._lessor.enqueue(
            request.device,
            request.holder,
            request.vram_bytes,
            time.monotonic(),
            device_bytes=request.device_bytes,
        )
        self._changes.announce()  # a holder may be asked to leave now
        reported_position = 0
        try:
            while True:
                changed = self._changes.next
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
            self._changes.announce()
        waited_s = lease.granted_at - ticket.enqueued_at
        log.info("granted to %s after %.3f s in line", lease.holder, waited_s, extra=_fields(lease))
        # A caller that vanishes right here never renews: the lease goes the way of every expired one.
        yield self._granted(lease)

    async def KeepLeaseAlive(
        self, request_iterator: AsyncIterator[pb.KeepLeaseAliveRequest], context: Any
    ) -> AsyncIterator[pb.KeepLeaseAliveResponse]:
        stream = object()
        reported: Lease | None = None
        try:
            async with aclosing(self._requests_and_changes(request_iterator)) as news:
                async for request in news:
                    now = time.monotonic()
                    if request is not None:
                        lease = self._renew(request, now)
                        if reported is not None and reported.lease_id != lease.lease_id:
                            raise InvalidArgumentError.at(
                                "lease_id",
                                f"is {lease.lease_id}, but this stream renews {reported.lease_id}; accepted: "
                                "one lease a stream",
                            )
                        self._streams[lease.lease_id] = stream
                        reported = lease
                        yield pb.KeepLeaseAliveResponse(
                            lease=_lease_to_pb(lease, now),
                            sequence=request.sequence,
                            grace_remaining=duration(self._lessor.grace_remaining_s(now)),
                        )
                        self._changes.announce()
                    elif reported is not None:
                        current = self._lessor.find(reported.lease_id)
                        if current is not None and current.state is not reported.state:
                            reported = current
                            yield pb.KeepLeaseAliveResponse(lease=_lease_to_pb(current, now))
        finally:
            if reported is not None and self._streams.get(reported.lease_id) is stream:
                del self._streams[reported.lease_id]
                self._abandon(reported.lease_id)

    async def _requests_and_changes(
        self, requests: AsyncIterator[pb.KeepLeaseAliveRequest]
    ) -> AsyncGenerator[pb.KeepLeaseAliveRequest | None, None]:
        """The requests as they come, and None whenever the ledger has changed; ends with the requests."""
        reading = asyncio.ensure_future(anext(requests, None))
        changed = self._changes.next
        try:
            while True:
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                if not reading.done():
                    changed = self._changes.next  # before the reader looks: what changes meanwhile comes next
                    yield None
                    continue
                request = reading.result()
                if request is None:
                    return
                reading = asyncio.ensure_future(anext(requests, None))
                yield request
        finally:
            await end(reading)

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Any) -> pb.ReleaseLeaseResponse:
        lease = self._lessor.release(request.lease_id, request.fencing_token)
        log.info("released by %s", lease.holder, extra=_fields(lease))
        self._changes.announce()
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
                    waited=duration(now - ticket.enqueued_at),
                )
                for ticket, position in self._lessor.waiters()
            ],
            devices=[device.to_pb() for device in self._lessor.devices()],
            grace_remaining=duration(self._lessor.grace_remaining_s(now)),
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held or quarantined."""
        return not self._lessor.leases()

    def _renew(self, request: pb.KeepLeaseAliveRequest, now: float) -> Lease:
        checks = Checks()
        _require_not_negative(checks, "vram_bytes", request.vram_bytes)
        _require_not_negative(checks, "device_bytes", request.device_bytes)
        checks.done()
        if request.HasField("lease") and self._lessor.find(request.lease_id) is None:
            claimed = _lease_from_pb(request)
            lease = self._lessor.restore(claimed, now, device_bytes=request.device_bytes)
            log.warning("taken over from an earlier ledger, held by %s", lease.holder, extra=_fields(lease))
        return self._lessor.renew(
            request.lease_id,
            request.fencing_token,
            now,
            is_idle=request.is_idle,
            vram_bytes=request.vram_bytes,
        )

    def _abandon(self, lease_id: str) -> None:
        lease = self._lessor.abandon(lease_id)
        if lease is not None:
            self._log_quarantine(lease, "its keepalive stream ended without a release")
            self._changes.announce()

    def _probe(self, lease: Lease) -> None:
        try:
            is_dead = self._shut_out(lease.device, lease.fencing_token)
        except OSError as error:
            if lease.lease_id not in self._unprovable:  # it is asked again and again
                self._unprovable.add(lease.lease_id)
                log.error("cannot tell whether the holder is dead: %s", error, extra=_fields(lease))
            return
        self._unprovable.discard(lease.lease_id)
        if is_dead and self._lessor.clear(lease.lease_id) is not None:
            log.info("proved free after %s", lease.holder, extra=_fields(lease))
            self._changes.announce()

    def _pause_s(self) -> float | None:
        """Seconds until there is something to look at; None for as long as nothing changes."""
        deadline = self._lessor.next_deadline()
        until_deadline_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._lessor.quarantined():
            return until_deadline_s
        return PROBE_INTERVAL_S if until_deadline_s is None else min(PROBE_INTERVAL_S, until_deadline_s)

    def _granted(self, lease: Lease) -> pb.AcquireLeaseResponse:
        ttl_s = self._lessor.ttl_s
        granted = pb.LeaseGranted(
            lease=_lease_to_pb(lease, time.monotonic()),
            ttl=duration(ttl_s),
            renew_interval=duration(ttl_s * RENEW_FRACTION),
            is_exclusive=self._lessor.is_exclusive(lease.device),
        )
        return pb.AcquireLeaseResponse(granted=granted)

    def _log_quarantine(self, lease: Lease, why: str) -> None:
        log.warning("quarantined, held by %s: %s", lease.holder, why, extra=_fields(lease))


def _lease_from_pb(request: pb.KeepLeaseAliveRequest) -> Lease:
    """What a holder says of its lease, for a ledger that does not know it."""
    claimed = request.lease
    _validate(claimed)
    return Lease(
        lease_id=request.lease_id,
        device=claimed.device,
        holder=claimed.holder,
        vram_bytes=claimed.vram_bytes,
        fencing_token=request.fencing_token,
        state=LeaseState.ACTIVE,
        granted_at=0.0,
        expires_at=0.0,
        is_idle=request.is_idle,
    )


def _validate(request: pb.AcquireLeaseRequest | pb.Lease, device_bytes: int = 0) -> None:
    checks = Checks()
    device, length, vram_bytes = request.device, len(request.holder), request.vram_bytes
    devices = '"cpu", "cuda:N" or "fake:N", N without leading zeros'
    checks.require(bool(_DEVICE.fullmatch(device)), "device", f"is {device[:40]!r}; accepted: {devices}")
    lengths = f"1 to {MAX_HOLDER_LENGTH}"
    checks.require(
        1 <= length <= MAX_HOLDER_LENGTH, "holder", f"has {length} characters; accepted: {lengths}"
    )
    checks.require(vram_bytes >= 1, "vram_bytes", f"is {vram_bytes}; accepted: 1 or more")
    _require_not_negative(checks, "device_bytes", device_bytes)
    checks.done()


def _require_not_negative(checks: Checks, field: str, value: int) -> None:
    checks.require(value >= 0, field, f"is {value}; accepted: 0 or more")


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
        is_idle=lease.is_idle,
    )


def _fields(lease: Lease) -> dict[str, object]:
    return {"lease_id": lease.lease_id, "fencing_token": lease.fencing_token, "device": lease.device}
