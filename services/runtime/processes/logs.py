"""Structured logs: one line an event, `key=value` fields after the message.

Fields given as `extra={"stage": …}` and the request id of the call in progress are added. Captions and
lyrics are never logged at INFO or above.
"""

from __future__ import annotations

import logging
import sys

from services.runtime.processes.request_context import request_id

FIELDS = ("request_id", "job_id", "reason", "stage", "lease_id", "fencing_token", "device", "pid", "address")


class _LineFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(service)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        record.service = self._service
        if not hasattr(record, "request_id"):
            record.request_id = request_id()
        line = super().format(record)
        fields = [f"{name}={value}" for name in FIELDS if (value := getattr(record, name, None))]
        first, newline, rest = line.partition("\n")
        return " ".join([first, *fields]) + newline + rest


def configure(service: str, level: str) -> None:
    """Sends this process's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
