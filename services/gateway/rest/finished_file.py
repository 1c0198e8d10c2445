"""A file of a finished song as an answer."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from email.utils import parsedate
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import NotModifiedResponse
from starlette.types import Receive, Scope, Send

from acestage.errors import NotFoundError
from services.gateway.rest.error_answers import error_responses

KEPT = {"Cache-Control": "private, max-age=86400"}
"""What is finished does not change."""
BINARY: Mapping[str, Any] = {"schema": {"type": "string", "format": "binary"}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    206: {"description": "The ranges that were asked for."},
    304: {"description": "The client has it."},
    **error_responses(416),
}
"""For the documentation of a route: what comes instead of the whole file."""

_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


class FinishedFile(FileResponse):
    """The file, or the parts that were asked for, or that the client has it already: RFC 9110, 13.2 and 14.2.

    Starlette's has no 304, and refuses ranges that the RFC would have ignored.

    Args:
        path: of the file, which may go meanwhile.
        name: for who saves it.
        is_download: to be saved rather than played.
    """

    def __init__(self, path: Path, media_type: str | None, name: str, *, is_download: bool = False) -> None:
        kind = "attachment" if is_download else "inline"
        super().__init__(
            path, headers=KEPT, media_type=media_type, filename=name, content_disposition_type=kind
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Raises:
            NotFoundError: the file is gone.
        """
        try:
            self.stat_result = await asyncio.to_thread(os.stat, self.path)
        except FileNotFoundError as error:
            raise NotFoundError("no such file; outputs are dropped by age and by total bytes") from error
        self.set_stat_headers(self.stat_result)
        request = Headers(scope=scope)
        if self._is_known(request):
            await NotModifiedResponse(self.headers)(scope, receive, send)
            return
        byte_count = self.stat_result.st_size
        ranges = _satisfiable(request["range"], byte_count) if self._may_have_ranges(request) else None
        if ranges == []:
            problem = f"Range: is {request['range'][:80]!r}; accepted: within the file's {byte_count} bytes"
            headers = {"Content-Range": f"bytes */{byte_count}"}
            await JSONResponse({"detail": problem}, 416, headers)(scope, receive, send)
            return
        wanted = [(b"range", f"bytes={','.join(ranges)}".encode())] if ranges else []
        others = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": others + wanted}, receive, send)

    def _is_known(self, request: Headers) -> bool:
        tags = [
            tag.strip().removeprefix("W/") for tag in ",".join(request.getlist("if-none-match")).split(",")
        ]
        if any(tags):
            return "*" in tags or self.headers["etag"] in tags
        since = parsedate(request.get("if-modified-since", ""))
        changed = parsedate(self.headers["last-modified"])
        return since is not None and changed is not None and since >= changed

    def _may_have_ranges(self, request: Headers) -> bool:
        is_current = request.get("if-range") in (None, self.headers["etag"], self.headers["last-modified"])
        return "range" in request and is_current


def _satisfiable(text: str, byte_count: int) -> list[str] | None:
    """The ranges in a header that a file of so many bytes has; None where it has to be ignored."""
    unit, _, ranges = text.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    found = []
    for each in ranges.split(","):
        match = _RANGE.fullmatch(each.strip())
        first, last = match.groups() if match else ("", "")
        if not (first or last) or (first and last and int(last) < int(first)):
            return None
        if int(first) < byte_count if first else int(last) > 0:
            found.append(each.strip())
    return found
