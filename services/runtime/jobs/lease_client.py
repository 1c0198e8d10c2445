"""How a program holds a device: one context manager around acquire, keepalive and release."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import grpc
import grpc.aio

from acestage.errors import InternalError, LeaseLostError, ServiceUnreachableError
from acestage.protobuf_times import seconds
from acestage.protos.lease.v1 import lease_pb2 as pb
from acestage.protos.lease.v1 import lease_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from services.runtime.processes.finishing import end, finish, first_of
from services.runtime.processes.request_context import outgoing_metadata

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
"""The ledger reports the place in line at once; one that says nothing for so long does not answer."""

RELEASE_TIMEOUT_S = 2.0
"""A release that fails only costs time: the ledger clears the device once it proves free."""

LOST_MARGIN_S = 2.0
"""A lease counts as lost this long before it expires: time to kill the worker."""

MAX_PENDING_COUNT = 100
"""Renewals whose answers may still come."""

REOPEN_INTERVAL_S = 0.25
"""Between attempts to reopen a broken keepalive stream."""

RenewalCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.KeepLeaseAliveRequest, pb.KeepLeaseAliveResponse]"

_LOST_CODES = (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND)


class HeldLease:
    """A lease in hand.

    Attributes:
        lease_id: its id on the ledger.
        fencing_token: greater than that of every earlier grant.
        device: "cpu" or "cuda:N".
        is_exclusive: nobody else has a lease on the device.
        vram_bytes: what the ledger grants, as of the last renewal.
        wanted_bytes: what was asked for last; where that is less, the rest may be somebody else's by now.
        lost: set once the device may no longer be used, in time to stop what runs there.
        revoked: set for as long as the ledger asks to leave.
    """

    def __init__(self, granted: pb.LeaseGranted, device_bytes: int) -> None:
        """Takes over what the ledger granted."""
        lease = granted.lease
        self.lease_id = lease.lease_id
        self.fencing_token = lease.fencing_token
        self.device = lease.device
        self.is_exclusive = granted.is_exclusive
        self.vram_bytes = lease.vram_bytes
        self.lost = asyncio.Event()
        self.revoked = asyncio.Event()
        self._loss = ""
        self._granted = lease
        self._device_bytes = device_bytes
        self._is_idle = False
        self.wanted_bytes = lease.vram_bytes
        self._sent_at: dict[int, float] = {}
        self._sequence = 0
        self._confirmed = 0
        self._grace_s = 0.0
        self._news = asyncio.Condition()
        self.wants_renewal = asyncio.Event()

    def raise_if_lost(self) -> None:
        """Does nothing while the device may be used.

        Raises:
            LeaseLostError: it may not, and why.
        """
        if self.lost.is_set():
            raise LeaseLostError(
                f"lease {self.lease_id} on {self.device} was lost: {self._loss}",
                metadata={"lease_id": self.lease_id, "device": self.device},
            )

    def lose(self, why: str) -> None:
        """Says that the device may no longer be used; the first reason is kept."""
        if not self.lost.is_set():
            self._loss = why
            self.lost.set()

    def report(self, *, is_idle: bool, vram_bytes: int) -> None:
        """Tells the ledger, soon, whether there is work and how many bytes are wanted."""
        self._is_idle, self.wanted_bytes = is_idle, vram_bytes
        self.wants_renewal.set()

    async def grow(self, vram_bytes: int) -> bool:
        """Asks for more bytes and waits for the answer; False where others need them or the lease is lost.

        A ledger that has just started again gives none before others could report: it is asked again then.
        """
        if not await self._ask_for(vram_bytes) and self._grace_s > 0:
            await asyncio.sleep(self._grace_s)
            await self._ask_for(vram_bytes)
        return self.vram_bytes >= vram_bytes and not self.lost.is_set()

    async def _ask_for(self, vram_bytes: int) -> bool:
        self.report(is_idle=False, vram_bytes=vram_bytes)
        asked = self._sequence + 1
        await first_of(self._until_confirmed(asked), self.lost.wait())
        return self.vram_bytes >= vram_bytes

    def next_request(self, now: float) -> pb.KeepLeaseAliveRequest:
        """The next renewal, which goes out at `now`."""
        self._sequence += 1
        # Answers come in order: those to the oldest of many renewals were lost with their stream.
        self._sent_at = dict(list(self._sent_at.items())[-MAX_PENDING_COUNT:]) | {self._sequence: now}
        return pb.KeepLeaseAliveRequest(
            lease_id=self.lease_id,
            fencing_token=self.fencing_token,
            is_idle=self._is_idle,
            vram_bytes=self.wanted_bytes,
            lease=self._granted,
            device_bytes=self._device_bytes,
            sequence=self._sequence,
        )

    async def take(self, response: pb.KeepLeaseAliveResponse) -> float | None:
        """Notes what the ledger says; returns when the renewal that it confirms was sent, if it does."""
        self.vram_bytes = response.lease.vram_bytes
        self._granted = response.lease
        if response.sequence:
            self._grace_s = seconds(response.grace_remaining)
        if response.lease.state == pb.LEASE_STATE_REVOKING:
            self.revoked.set()
        else:
            self.revoked.clear()
        sent_at = self._sent_at.pop(response.sequence, None)
        if sent_at is not None:
            async with self._news:
                self._confirmed = response.sequence
                self._news.notify_all()
        return sent_at

    async def _until_confirmed(self, sequence: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._confirmed >= sequence)


class LeaseClient:
    """Takes leases from the ledger for one holder."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        target: str,
        holder: str,
        *,
        lost_margin_s: float = LOST_MARGIN_S,
    ) -> None:
        """Prepares; nothing is sent yet.

        Args:
            channel: to the orchestrator.
            target: the orchestrator's address, for error messages.
            holder: who takes the leases, for people: for example "dit@host:1234".
            lost_margin_s: a lease counts as lost this long before it expires.
        """
        self._stub = lease_pb2_grpc.LeaseServiceStub(channel)
        self._target = f"orchestrator at {target}"
        self._holder = holder
        self._lost_margin_s = lost_margin_s

    @asynccontextmanager
    async def hold(
        self,
        device: str,
        vram_bytes: int,
        *,
        on_waiting: Callable[[int], None],
        device_bytes: int = 0,
    ) -> AsyncIterator[HeldLease]:
        """Waits in line for `device`, and holds it for as long as the context lasts.

        Leave the context only once nothing of yours runs on the device any more: the release on exit says
        so to the ledger. It happens also when the body fails or is cancelled, unless the lease is lost.

        Args:
            device: "cpu" or "cuda:N".
            vram_bytes: bytes wanted on the device.
            on_waiting: called with the place in line, at once and whenever it changes; 1 is next.
            device_bytes: the device's size, for the ledger; 0 where it is not known.

        Raises:
            ServiceUnreachableError: the ledger does not answer.
            InvalidArgumentError: the ledger refuses `device` or `vram_bytes`.
            QueueFullError: too many wait already.
            VramBudgetExceededError: the device is too small.
            LeaseLostError: the lease was lost before it could be renewed once.
        """
        request = pb.AcquireLeaseRequest(
            device=device, holder=self._holder, vram_bytes=vram_bytes, device_bytes=device_bytes
        )
        granted = await self._acquire(request, on_waiting)
        lease = HeldLease(granted, device_bytes)
        renewed = asyncio.Event()
        keepalive = asyncio.create_task(self._keep_alive(lease, granted, renewed))
        try:
            # Work starts once the ledger sees the stream, whose end tells it that we are gone.
            await first_of(renewed.wait(), lease.lost.wait())
            lease.raise_if_lost()
            yield lease
        finally:
            await finish(self._leave(lease, keepalive))

    async def _acquire(
        self, request: pb.AcquireLeaseRequest, on_waiting: Callable[[int], None]
    ) -> pb.LeaseGranted:
        call = self._stub.AcquireLease(request, metadata=outgoing_metadata(), wait_for_ready=True)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as connecting:
                while isinstance(response := await call.read(), pb.AcquireLeaseResponse):
                    connecting.reschedule(None)
                    if response.HasField("granted"):
                        return response.granted
                    on_waiting(response.waiting.position)
        except TimeoutError as error:
            raise ServiceUnreachableError(
                f"{self._target} does not answer: no response within {CONNECT_TIMEOUT_S:g} s",
                metadata={"target": self._target},
                retry_delay_s=1.0,
            ) from error
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, target=self._target) from error
        finally:
            call.cancel()
        raise InternalError(f"{self._target} ended the wait for {request.device} without a grant")

    async def _keep_alive(self, lease: HeldLease, granted: pb.LeaseGranted, renewed: asyncio.Event) -> None:
        """Renews `lease` until cancelled; ends early, with `lease` lost, when that does not work."""
        patience_s = seconds(granted.ttl) - self._lost_margin_s
        interval_s = seconds(granted.renew_interval)
        why = "its keepalive failed"
        is_broken = False
        try:
            async with asyncio.timeout(patience_s) as patience:

                def on_renewed(sent_at: float) -> None:
                    nonlocal is_broken
                    patience.reschedule(sent_at + patience_s)
                    renewed.set()
                    if is_broken:
                        is_broken = False
                        log.info("renewed again", extra=_fields(lease))

                while True:
                    broken = await self._renew_until_broken(lease, interval_s, on_renewed)
                    if broken and not is_broken:  # else it is told already
                        is_broken = True
                        log.warning("the keepalive stream broke: %s", broken, extra=_fields(lease))
                    await asyncio.sleep(REOPEN_INTERVAL_S)
        except TimeoutError:
            why = f"{self._target} confirmed no renewal for {patience_s:g} s"
        except LeaseLostError as error:
            why = error.message
        finally:
            if not lease.lost.is_set():
                log.warning("lost: %s", why, extra=_fields(lease))
                lease.lose(why)

    async def _renew_until_broken(
        self, lease: HeldLease, interval_s: float, on_renewed: Callable[[float], None]
    ) -> str:
        """Renews `lease` at once, every `interval_s` and whenever it wants, until the stream ends.

        Returns:
            What broke it; empty where the ledger ended it.

        Raises:
            LeaseLostError: the ledger says that the lease is no longer ours.
        """
        call = self._stub.KeepLeaseAlive(metadata=outgoing_metadata())
        writer = asyncio.create_task(_write_renewals(call, lease, interval_s))
        try:
            while isinstance(response := await call.read(), pb.KeepLeaseAliveResponse):
                sent_at = await lease.take(response)
                if sent_at is not None:
                    on_renewed(sent_at)
        except grpc.aio.AioRpcError as error:
            if error.code() in _LOST_CODES:
                raise LeaseLostError(error.details() or error.code().name) from error
            return error.details() or error.code().name
        finally:
            await end(writer)
            call.cancel()
        return ""

    async def _leave(self, lease: HeldLease, keepalive: asyncio.Task[None]) -> None:
        if not lease.lost.is_set():
            lease.lose("it was released")
            # The stream outlives the release: its end without one would put the device in quarantine.
            request = pb.ReleaseLeaseRequest(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
            try:
                await self._stub.ReleaseLease(
                    request, timeout=RELEASE_TIMEOUT_S, metadata=outgoing_metadata()
                )
            except grpc.aio.AioRpcError as error:
                log.warning("the release failed: %s", error.details(), extra=_fields(lease))
        keepalive.cancel()
        await asyncio.wait([keepalive])


async def _write_renewals(call: RenewalCall, lease: HeldLease, interval_s: float) -> None:
    clock = asyncio.get_running_loop().time
    # A stream that has ended is noticed, with its reason, by who reads from it.
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            lease.wants_renewal.clear()
            await call.write(lease.next_request(clock()))
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await lease.wants_renewal.wait()


def _fields(lease: HeldLease) -> dict[str, object]:
    return {"lease_id": lease.lease_id, "fencing_token": lease.fencing_token, "device": lease.device}
