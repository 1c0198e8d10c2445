from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from services.gateway.page.document_language import DocumentLanguage
from tests.unit.job_events import run

DOCUMENT = "<html><head><title>é</title></head>" + "<p>text</p>" * 200


async def document(request: Request) -> Response:
    if request.method == "HEAD":
        return HTMLResponse(headers={"Content-Length": str(len(DOCUMENT.encode()))})
    return HTMLResponse(DOCUMENT)


def answer(path: str, method: str = "GET") -> httpx.Response:
    middleware = [Middleware(DocumentLanguage, locales={"/pt/": "pt-BR"}), Middleware(GZipMiddleware)]
    app = Starlette(routes=[Route("/{name}/", document)], middleware=middleware)
    found: list[httpx.Response] = []

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            found.append(await client.request(method, path))

    run(ask())
    return found[0]


def test_a_document_is_told_its_language_before_all_else() -> None:
    told = answer("/pt/")
    assert told.text.startswith('<html><head><script>document.documentElement.lang = "pt-BR";')
    assert told.text.endswith(DOCUMENT.partition("<head>")[2])
    assert int(told.headers["content-length"]) == len(told.content)


def test_a_document_that_does_not_come_keeps_its_length() -> None:
    told = answer("/pt/", "HEAD")
    assert (told.content, told.headers["content-length"]) == (b"", str(len(DOCUMENT.encode())))


@pytest.mark.parametrize("path", ["/other/", "/pt/x"])
def test_all_else_stays_as_it_is(path: str) -> None:
    assert "script" not in answer(path).text
