"""Keeps other web sites out: a page that is open in a browser can reach this machine, too."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class OriginGuard:
    """Refuses requests that a browser sends for another site.

    The header `Host` must name this machine as it was bound: a site that lets its own name point here is
    another one. What changes something must come from a page of this machine, where a browser says where it
    comes from. Programs that are no browsers say nothing of it, and may do all.

    Args:
        app: what is guarded.
        bound_host: the address that is served; a wildcard takes every `Host`.
    """

    def __init__(self, app: ASGIApp, bound_host: str) -> None:
        self._app = app
        self._hosts = _LOOPBACK_HOSTS | {bound_host.strip("[]").lower()}
        self._takes_all_hosts = bound_host.strip("[]") in _WILDCARDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (problem := self._problem(scope)):
            await _refusal(scope, problem)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host = _name(f"//{headers.get('host', '')}")
        if not self._takes_all_hosts and host not in self._hosts:
            return f"Host: {host[:80]!r} is not served here; accepted: {', '.join(sorted(self._hosts))}"
        origin = headers.get("origin")
        if origin is None or scope.get("method") in _SAFE_METHODS:
            return ""
        if _name(origin) in {*_LOOPBACK_HOSTS, host}:
            return ""
        return f"Origin: {origin[:80]!r} is another site; accepted: pages of this machine"


def _name(url: str) -> str:
    """The host in `url`, without its port; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _refusal(scope: Scope, problem: str) -> ASGIApp:
    if scope["type"] == "websocket":
        return WebSocketClose(1008, problem[:120])
    return JSONResponse({"detail": problem}, 403)
