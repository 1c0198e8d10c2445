"""One job of a stage, from its request to its end."""

from __future__ import annotations

import asyncio

from acestage.errors import AcestageError
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.job_budget import Attempt
from services.runtime.jobs.ladder import Ladder
from services.runtime.jobs.stage_event import Queued, StageEvent
from services.runtime.processes.tracebacks import let_go
from services.runtime.workers.messages import Message


class StageJob:
    """A request, the events for who asked, and how it ended.

    Events wait in host memory, so that a slow reader never holds the device longer.

    Attributes:
        request: what is to be done.
        feed: what comes of the request while it is worked on; None where it is all there.
        cancelled: set once nobody wants the result any more.
        ladder: how it is done, and how far it got; None before it was planned.
        shortage_bytes: what the device had less than the leases so far: others of ours make room for it.
        position: the last place in line that was told; None before.
        kernels: what made the parts of the result that were sent, in the words of `Report`.
    """

    def __init__(self, request: Message, feed: Feed | None = None) -> None:
        self.request = request
        self.feed = feed
        self.ladder: Ladder | None = None
        self.shortage_bytes = 0
        self.position: int | None = None
        self.kernels: set[str] = set()
        self._waited_s: float | None = None
        self._passed_at: float | None = None
        self._asked_at = asyncio.get_running_loop().time()
        self.cancelled = asyncio.Event()
        self._events: asyncio.Queue[StageEvent | None] = asyncio.Queue()
        self._error: AcestageError | None = None
        self._ended = asyncio.Event()

    @property
    def model(self) -> str:
        """The name of the model that it is for."""
        model: str = self.request.fields["model"]
        return model

    @property
    def tensor_bytes(self) -> int:
        """What the request's tensors take in memory, those that are still to come included."""
        own_bytes = sum(memoryview(tensor.data).nbytes for tensor in self.request.tensors)
        return own_bytes + (self.feed.tensor_bytes if self.feed else 0)

    def plan_again(self) -> None:
        """Forgets how it is done, unless it was begun."""
        if self._waited_s is None:
            self.ladder = None

    def wanted_bytes(self, attempt: Attempt) -> int:
        """Bytes of the lease for `attempt`."""
        return attempt.vram_bytes + self.shortage_bytes

    def tell_position(self, position: int) -> None:
        """Says where in line the job is, unless that is known; 1 is next."""
        if position != self.position:
            self.position = position
            self.emit(Queued(position))

    def waited_s(self) -> float:
        """Seconds from the request until this was called for the first time: as the work began."""
        if self._waited_s is None:
            self._waited_s = asyncio.get_running_loop().time() - self._asked_at
        return self._waited_s

    def pass_by(self) -> None:
        """Notes that a later job is done before this one."""
        if self._passed_at is None:
            self._passed_at = asyncio.get_running_loop().time()

    def passed_s(self) -> float:
        """Seconds since a later job was done first for the first time; 0 where none was."""
        if self._passed_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._passed_at

    def emit(self, event: StageEvent) -> None:
        self._events.put_nowait(event)

    def end(self, error: AcestageError | None = None) -> None:
        """No more events will come; `error` says why the job failed. The first call counts."""
        if not self._ended.is_set():
            self._error = error
            if error is not None:
                let_go(error)
            self._ended.set()
            self._events.put_nowait(None)

    async def next_event(self) -> StageEvent | None:
        """The next event; None once the job has ended well.

        Raises:
            AcestageError: why it failed.
        """
        event = await self._events.get()
        if event is None and self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # it leads back to the job and its tensors
        return event

    async def ended(self) -> None:
        """Returns once nothing works on the job any more."""
        await self._ended.wait()
