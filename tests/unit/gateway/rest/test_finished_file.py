"""Files come whole, in parts, or not at all where the client has them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from acestage.errors import NotFoundError
from services.gateway.rest.finished_file import FinishedFile

DATA = bytes(range(100))


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.mp3"
    path.write_bytes(DATA)
    return path


def ask(song: Path, method: str = "GET", **headers: str) -> httpx.Response:
    """The answer to a request; `_` stands for `-` in the names of its headers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await FinishedFile(song, "audio/mpeg", song.name)(scope, receive, send)

    async def body() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await http.request(method, "/", headers=named)

    return asyncio.run(body())


def test_a_finished_file_may_be_kept(song: Path) -> None:
    answer = ask(song)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["cache-control"] == "private, max-age=86400"
    assert answer.headers["content-disposition"] == 'inline; filename="song.mp3"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tags", ["{}", "W/{}", '"a", {}', "*"])
def test_who_has_the_file_gets_none(song: Path, method: str, tags: str) -> None:
    etag = ask(song).headers["etag"]
    answer = ask(song, method, If_None_Match=tags.format(etag), Range="bytes=0-1")
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert "content-length" not in answer.headers
    assert answer.headers["cache-control"] == "private, max-age=86400"


@pytest.mark.parametrize(
    ("since", "status"),
    [("{}", 304), ("Fri, 01 Jan 2100 00:00:00 GMT", 304), ("Thu, 01 Jan 1970 00:00:01 GMT", 200), ("x", 200)],
)
def test_who_has_had_it_since_its_last_change_gets_none(song: Path, since: str, status: int) -> None:
    changed = ask(song).headers["last-modified"]
    assert ask(song, If_Modified_Since=since.format(changed)).status_code == status


def test_another_tag_counts_more_than_the_time(song: Path) -> None:
    changed = ask(song).headers["last-modified"]
    assert ask(song, If_None_Match='"other"', If_Modified_Since=changed).content == DATA


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ("bytes=0-1", DATA[:2]),
        ("bytes=90-", DATA[90:]),
        ("bytes=-3", DATA[-3:]),
        ("Bytes = 5-5", DATA[5:6]),
        ("bytes=99-1000", DATA[99:]),
        ("bytes=200-, 5-6", DATA[5:7]),
    ],
)
def test_a_range_is_a_part(song: Path, ranges: str, expected: bytes) -> None:
    answer = ask(song, Range=ranges)
    assert (answer.status_code, answer.content) == (206, expected)


def test_several_ranges_are_several_parts(song: Path) -> None:
    answer = ask(song, Range="bytes=0-1, 5-6")
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert (answer.status_code, kind) == (206, "multipart/byteranges")
    before, *parts, _ = answer.content.split(f"--{boundary}".encode())
    assert before.strip() == b""
    heads, bodies = zip(*(part.strip(b"\r\n").split(b"\r\n\r\n") for part in parts), strict=True)
    assert [head.splitlines()[-1].lower() for head in heads] == [
        b"content-range: bytes 0-1/100",
        b"content-range: bytes 5-6/100",
    ]
    assert bodies == (DATA[:2], DATA[5:7])


@pytest.mark.parametrize(
    "ranges",
    [
        *("items=0-1", "bytes=20-10", "bytes=200-100", "bytes=x-1", "bytes=-", "bytes=", "bytes", "bytes=1"),
        *("bytes=0-1,5-2", "bytes=" + "9" * 5_000 + "-"),
    ],
)
def test_what_is_no_range_is_not_heeded(song: Path, ranges: str) -> None:
    answer = ask(song, Range=ranges)
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize("ranges", ["bytes=100-", "bytes=500-600, 700-", "bytes=-0"])
def test_a_range_beyond_the_end_is_told_where_that_is(song: Path, ranges: str) -> None:
    answer = ask(song, Range=ranges)
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */100")
    assert answer.json() == {"detail": f"Range: is {ranges!r}; accepted: within the file's 100 bytes"}


@pytest.mark.parametrize("name", ["etag", "last-modified"])
def test_a_range_of_another_file_is_the_whole_of_this_one(song: Path, name: str) -> None:
    assert ask(song, Range="bytes=0-1", If_Range='"other"').content == DATA
    assert ask(song, Range="bytes=500-", If_Range='"other"').content == DATA
    assert ask(song, Range="bytes=0-1", If_Range=ask(song).headers[name]).content == DATA[:2]


def test_a_file_that_is_gone_is_not_found(song: Path) -> None:
    song.unlink()
    with pytest.raises(NotFoundError, match="outputs are dropped"):
        ask(song)
