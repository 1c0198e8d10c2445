"""What lets a client in: the key that it brings, and the certificates that it trusts."""

from __future__ import annotations

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
        api_key: goes with every call, as `authorization: Bearer KEY` in its metadata; None brings none.
        tls_ca: a PEM file of certificates that may vouch for the server; None speaks without TLS.
    """

    api_key: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What `settings` say; a certificate without an authority of its own vouches for itself."""
        key = settings.api_key
        return cls(key.get_secret_value() if key else None, settings.tls_ca or settings.tls_cert)


NO_ACCESS = Access()


def open_channel(target: str, access: Access = NO_ACCESS, options: Options = CLIENT_OPTIONS) -> grpc.Channel:
    """A channel to `target`, which brings `access`.

    Raises:
        FailedPreconditionError: the certificates cannot be read.
    """
    credentials = _credentials(access)
    if credentials is None:
        return _with_key(grpc.insecure_channel(target, options), access)
    return _with_key(grpc.secure_channel(target, credentials, options), access)


def open_aio_channel(
    target: str, access: Access = NO_ACCESS, options: Options = CLIENT_OPTIONS
) -> grpc.aio.Channel:
    """See `open_channel`."""
    credentials = _credentials(access)
    if credentials is None:
        return _with_key(grpc.aio.insecure_channel(target, options), access)
    return _with_key(grpc.aio.secure_channel(target, credentials, options), access)


def _credentials(access: Access) -> grpc.ChannelCredentials | None:
    if access.tls_ca is None:
        return None
    return grpc.ssl_channel_credentials(read_pem("tls_ca", access.tls_ca))


def read_pem(name: str, path: Path) -> bytes:
    """The bytes of `path`, which the setting `name` says.

    Raises:
        FailedPreconditionError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPreconditionError(
            f"{name}: {path} cannot be read: {error.strerror}; accepted: a file in PEM format"
        ) from error


def _with_key(channel: _Channel, access: Access) -> _Channel:
    """`channel`, whose calls bring the key.

    The methods are wrapped one by one: gRPC's own call credentials ask for TLS, and interceptors of asyncio
    put objects of their own in the place of calls.
    """
    if access.api_key is not None:
        for kind in _KINDS:
            setattr(channel, kind, _keyed(getattr(channel, kind), f"Bearer {access.api_key}"))
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
