"""Keeps other web sites out: a page that is open in a browser can reach this machine, too."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOME_ENDINGS = (".local", ".lan", ".internal", ".home.arpa", ".localhost")
"""Of names that no public name server gives to anybody."""


class OriginGuard:
    """Refuses requests that a browser sends for another site.

    The header `Host` must name this machine as it was bound: a site that lets its own name point here is
    another one. What changes something must come from a page of this machine, where a browser says where it
    comes from. Programs that are no browsers say nothing of it, and may do all.

    Args:
        app: what is guarded.
        bound_host: the address that is served; a wildcard takes every `Host` that no other site can have.
        has_key: whether who comes needs a key, which another site has not: then a wildcard takes all.
    """

    def __init__(self, app: ASGIApp, bound_host: str, *, has_key: bool) -> None:
        self._app = app
        self._is_wildcard = bound_host.strip("[]") in _WILDCARDS
        named = socket.gethostname() if self._is_wildcard else bound_host.strip("[]")
        self._hosts = _LOOPBACK_HOSTS | {named.lower()}
        self._has_key = has_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (problem := self._problem(scope)):
            await _refusal(scope, problem)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host = _name(f"//{headers.get('host', '')}")
        if not self._is_served(host):
            others = f"; addresses, names without a dot or in {', '.join(_HOME_ENDINGS)}; or all, with a key"
            accepted = ", ".join(sorted(self._hosts)) + (others if self._is_wildcard else "")
            return f"Host: {host[:80]!r} is not served here; accepted: {accepted}"
        origin = headers.get("origin")
        if origin is None or scope.get("method") in _SAFE_METHODS:
            return ""
        if _name(origin) in {*_LOOPBACK_HOSTS, host}:
            return ""
        return f"Origin: {origin[:80]!r} is another site; accepted: pages of this machine"

    def _is_served(self, host: str) -> bool:
        if host in self._hosts:
            return True
        return self._is_wildcard and (self._has_key or _is_of_a_local_network(host))


def _is_of_a_local_network(host: str) -> bool:
    """Whether no other site can have `host` for a name of its own."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_HOME_ENDINGS)
    return True


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
