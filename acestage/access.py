"""What lets a client in: the key that it brings, and the certificates that it trusts."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from acestage.errors import FailedPreconditionError
from acestage.keepalive import CLIENT_KEEPALIVE
from acestage.settings import Settings

Options = Sequence[tuple[str, int | str]]
CLIENT_OPTIONS: Options = (
    *CLIENT_KEEPALIVE,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
"""With which a channel notices a server that is gone, and finds it soon once it is back."""

_Channel = TypeVar("_Channel", grpc.Channel, grpc.aio.Channel)
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


@dataclass(frozen=True, slots=True)
class Access:
    """What a client brings, and what it trusts.

    Attributes:
        api_key: goes with every call, as `authorization: Bearer KEY` in its metadata, without blanks at its
            ends; None brings none.
        tls_ca: a PEM file of certificates that may vouch for the server; None speaks without TLS.
    """

    api_key: str | None = field(default=None, repr=False)
    tls_ca: str | os.PathLike[str] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What `settings` say; a certificate without an authority of its own vouches for itself."""
        key = settings.api_key
        return cls(key.get_secret_value() if key else None, settings.tls_ca or settings.tls_cert)


NO_ACCESS = Access()


def open_channel(target: str, access: Access = NO_ACCESS, options: Options = CLIENT_OPTIONS) -> grpc.Channel:
    """A channel to `target`, which brings `access`.

    Raises:
        FailedPreconditionError: the key or the certificates cannot be used.
    """
    authorization, credentials = _authorization(access), _credentials(access)
    if credentials is None:
        return _with_key(grpc.insecure_channel(target, options), authorization)
    return _with_key(grpc.secure_channel(target, credentials, options), authorization)


def open_aio_channel(
    target: str, access: Access = NO_ACCESS, options: Options = CLIENT_OPTIONS
) -> grpc.aio.Channel:
    """See `open_channel`."""
    authorization, credentials = _authorization(access), _credentials(access)
    if credentials is None:
        return _with_key(grpc.aio.insecure_channel(target, options), authorization)
    return _with_key(grpc.aio.secure_channel(target, credentials, options), authorization)


def check_access(access: Access) -> None:
    """Raises FailedPreconditionError: see `open_channel`."""
    _authorization(access)
    _credentials(access)


def _authorization(access: Access) -> str | None:
    if access.api_key is None:
        return None
    key = access.api_key.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise FailedPreconditionError("api_key: is no key; accepted: printable ASCII characters")
    return f"Bearer {key}"


def _credentials(access: Access) -> grpc.ChannelCredentials | None:
    if access.tls_ca is None:
        return None
    pem = read_pem("tls_ca", access.tls_ca)
    try:
        # gRPC takes anything, and then believes no server. What is between certificates may be of any kind.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise FailedPreconditionError(
            f"tls_ca: {access.tls_ca} holds no certificates: {error}; accepted: certificates in PEM format"
        ) from error
    return grpc.ssl_channel_credentials(pem)


def read_pem(name: str, path: str | os.PathLike[str]) -> bytes:
    """The bytes of `path`, which the setting `name` says.

    Raises:
        FailedPreconditionError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FailedPreconditionError(
            f"{name}: {path} cannot be read: {error.strerror}; accepted: a file in PEM format"
        ) from error


def _with_key(channel: _Channel, authorization: str | None) -> _Channel:
    """`channel`, whose calls bring the key.

    The methods are wrapped one by one: gRPC's own call credentials ask for TLS, and interceptors of asyncio
    put objects of their own in the place of calls.
    """
    if authorization is not None:
        for kind in _KINDS:
            setattr(channel, kind, _keyed(getattr(channel, kind), authorization))
    return channel


def _keyed(make_method: Any, authorization: str) -> Any:
    def make_keyed(*args: Any, **kwargs: Any) -> _KeyedMethod:
        return _KeyedMethod(make_method(*args, **kwargs), authorization)

    return make_keyed


class _KeyedMethod:
    """A remote method whose calls bring the key."""

    def __init__(self, method: Any, authorization: str) -> None:
        self._method = method
        self._entry = ("authorization", authorization)

    def __call__(self, *args: Any, metadata: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        return self._method(*args, metadata=(*(metadata or ()), self._entry), **kwargs)

    def future(self, *args: Any, metadata: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        return self._method.future(*args, metadata=(*(metadata or ()), self._entry), **kwargs)
