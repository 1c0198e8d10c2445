"""How a call to the orchestrator ends that does not end well, for every client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from acestage.errors import CancelledError, FailedPreconditionError, InternalError, InvalidArgumentError
from acestage.rpc_errors import from_rpc_error


class Calls:
    """The calls of one client to the orchestrator at `target`.

    Raises:
        InvalidArgumentError: `target` is no address.
    """

    def __init__(self, target: str) -> None:
        if not isinstance(target, str) or not target.strip():
            accepted = "the orchestrator's address, host:port"
            raise InvalidArgumentError.at("target", f"is {target!r}; accepted: {accepted}")
        self._name = orchestrator_at(target)
        self._closed = threading.Event()

    def close(self) -> None:
        """Must come before the channel is closed, which ends the calls that run."""
        self._closed.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around one call: turns its errors into those of `acestage.errors`.

        Raises:
            FailedPreconditionError: the client was closed before.
            CancelledError: the client was closed meanwhile.
        """
        if self._closed.is_set():
            raise FailedPreconditionError("this client is closed")
        try:
            yield
        except grpc.RpcError as error:
            found = from_rpc_error(error, target=self._name)
            if isinstance(found, CancelledError) and self._closed.is_set():
                found = CancelledError("the client was closed")
            raise found from error
        except asyncio.CancelledError as error:
            # So end the calls of a channel of asyncio that is closed, although nobody cancelled the task.
            task = asyncio.current_task()
            if not self._closed.is_set() or (task is not None and task.cancelling()):
                raise
            raise CancelledError("the client was closed") from error


def ended_early(target: str) -> InternalError:
    """The error of a stream of events that ended without a result."""
    return InternalError(f"{orchestrator_at(target)} ended the stream before the generation was complete")


def orchestrator_at(target: str) -> str:
    """What errors call the orchestrator at `target`, also in their metadata as "target"."""
    return f"orchestrator at {target}"
