"""How a call to the orchestrator ends that does not end well, for every client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from acestage.errors import InternalError, InvalidArgumentError
from acestage.rpc_errors import from_rpc_error


@contextmanager
def rpc_errors_of(target: str) -> Iterator[None]:
    """Turns the errors of calls to the orchestrator at `target` into those of `acestage.errors`."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, target=orchestrator_at(target)) from error


def check_target(target: str) -> None:
    """Raises InvalidArgumentError: `target` is no address."""
    if not isinstance(target, str) or not target.strip():
        accepted = "the orchestrator's address, host:port"
        raise InvalidArgumentError.at("target", f"is {target!r}; accepted: {accepted}")


def ended_early(target: str) -> InternalError:
    """The error of a stream of events that ended without a result."""
    return InternalError(f"{orchestrator_at(target)} ended the stream before the generation was complete")


def orchestrator_at(target: str) -> str:
    """What errors call the orchestrator at `target`, also in their metadata as "target"."""
    return f"orchestrator at {target}"
