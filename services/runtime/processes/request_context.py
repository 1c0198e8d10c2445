"""The id of the request in progress, for logs and for the calls that it leads to."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST_ID_KEY = "x-request-id"
"""The metadata key under which a caller may send its own id."""

_ACCEPTED = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids end up in log lines: printable, without spaces, and short."""

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def request_id() -> str | None:
    """The id of the request that the current task works for; None outside of one."""
    return _request_id.get()


def accepted_request_id(sent: str | bytes | None) -> str:
    """The id that the caller sent if it is fit for logs, otherwise a new one."""
    return sent if isinstance(sent, str) and _ACCEPTED.fullmatch(sent) else uuid.uuid4().hex


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that passes the id of the request in progress on to the next service."""
    current = request_id()
    return ((REQUEST_ID_KEY, current),) if current is not None else ()


@contextmanager
def bound_request_id(value: str) -> Iterator[None]:
    """Makes `value` the id of the request in progress."""
    token = _request_id.set(value)
    try:
        yield
    finally:
        _request_id.reset(token)
