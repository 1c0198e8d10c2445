"""Bodies that are forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from services.gateway.rest.bodies.body_limit import MAX_TEXT_BYTES

MAX_PART_BYTES = 1 << 20
"""The largest text part; audio codes, the longest that a request may hold, have half of that."""
MAX_PART_COUNT = 200


@asynccontextmanager
async def multipart_form(request: Request, *, max_file_count: int) -> AsyncIterator[FormData]:
    """The parts of a multipart body; its files end with the block.

    Raises:
        HTTPException: 400 where it is damaged or not whole, or has more parts.
    """
    async with aclosing(request.stream()) as stream:
        parser = _WholeParser(
            request.headers,
            stream,
            max_files=max_file_count,
            max_fields=MAX_PART_COUNT,
            max_part_size=MAX_PART_BYTES,
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error
    try:
        if not parser.is_whole:
            raise HTTPException(400, "the form is not whole; accepted: parts up to the closing boundary")
        yield form
    finally:
        await form.close()


class _WholeParser(MultiPartParser):
    """Knows whether the closing boundary came: without it, parts are missing, or one is cut off.

    Texts lie in memory, so all together they may be no larger than another body of text.
    """

    is_whole = False
    _text_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._text_bytes += end - start
            if self._text_bytes > MAX_TEXT_BYTES:
                raise MultiPartException(
                    f"the form's texts are too large; accepted: up to {MAX_TEXT_BYTES} bytes together"
                )
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self.is_whole = True


async def urlencoded_form(request: Request) -> Mapping[str, str]:
    """The first text of each name; bytes that are no UTF-8 become halves of surrogate pairs.

    Raises:
        HTTPException: 400 where there are more than `MAX_PART_COUNT` texts.
    """
    return await asyncio.to_thread(_texts, await request.body())


def _texts(data: bytes) -> Mapping[str, str]:
    texts: dict[str, str] = {}
    lost = "surrogateescape"
    try:
        pairs = parse_qsl(
            data.decode(errors=lost), keep_blank_values=True, errors=lost, max_num_fields=MAX_PART_COUNT
        )
    except ValueError as error:
        raise HTTPException(400, f"the form has too many fields; accepted: up to {MAX_PART_COUNT}") from error
    for name, text in pairs:
        texts.setdefault(name, text)
    return texts
