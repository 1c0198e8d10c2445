"""The certificate of our servers: read, and tried out before anything starts."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor

import grpc

from acestage.access import Access, open_channel, read_pem
from acestage.errors import FailedPreconditionError
from acestage.settings import Settings

_CONNECT_S = 3.0
"""On one machine it takes milliseconds."""


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What our gRPC servers serve TLS with; None where the settings name no certificate.

    Raises:
        FailedPreconditionError: see `check_certificate`.
    """
    check_certificate(settings)
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = (read_pem("tls_key", settings.tls_key), read_pem("tls_cert", settings.tls_cert))
    return grpc.ssl_server_credentials([pair])


def check_certificate(settings: Settings) -> None:
    """Certificate and key must go together.

    Raises:
        FailedPreconditionError: one is missing or damaged, or they do not belong to each other.
    """
    if settings.tls_cert is not None or settings.tls_key is not None:
        _server_context(settings)


def try_certificate(settings: Settings, name: str) -> None:
    """Tries out whether services of one machine will believe each other at `name`, a host name or an address.

    First OpenSSL shakes hands in memory, since it says well what is wrong; then a server and a client of gRPC
    do, which know fewer kinds of keys.

    Raises:
        FailedPreconditionError: see `check_certificate`; or clients do not believe the certificate.
    """
    certificate = settings.tls_cert
    if certificate is None and settings.tls_key is None:
        if settings.tls_ca is not None:
            raise FailedPreconditionError(
                f"tls_ca: is {settings.tls_ca}, but tls_cert is not set: services that start here would "
                "speak without TLS, and be asked for it; accepted: both, or neither"
            )
        return
    server = _server_context(settings)
    assert certificate is not None
    authority = settings.tls_ca or certificate
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    read_pem("tls_ca", authority)
    try:
        client.load_verify_locations(authority)
        _shake_hands(client, server, name)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or str(error)
        raise FailedPreconditionError(
            f"tls_cert: {certificate} is not believed by clients of {name!r} that trust {authority}: "
            f"{reason}; accepted: a certificate that is valid now, with {name} among its alternative names, "
            "of an authority in tls_ca"
        ) from error
    if not _does_grpc_connect(settings, name):
        raise FailedPreconditionError(
            f"tls_cert: gRPC cannot use {certificate}; accepted: keys of RSA, or of the curves P-256, P-384"
        )


def _server_context(settings: Settings) -> ssl.SSLContext:
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None:
        given, missing = ("tls_key", "tls_cert") if certificate is None else ("tls_cert", "tls_key")
        raise FailedPreconditionError(f"{missing}: is not set, but {given} is; accepted: both or none")
    read_pem("tls_cert", certificate)
    read_pem("tls_key", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a password would ask for it at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise FailedPreconditionError(
            f"tls_cert: {certificate} and tls_key: {key} cannot be used together: {error}; accepted: a "
            "certificate and its key in PEM format, the key without a password"
        ) from error
    return context


def _does_grpc_connect(settings: Settings, name: str) -> bool:
    credentials = server_credentials(settings)
    assert credentials is not None
    server = grpc.server(ThreadPoolExecutor(1))
    try:
        target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        server.start()
        # It is reached at the loopback, and is to be believed as what it is called.
        options = (("grpc.ssl_target_name_override", name),)
        with open_channel(target, Access.of(settings), options) as channel:
            grpc.channel_ready_future(channel).result(_CONNECT_S)
    except (RuntimeError, grpc.FutureTimeoutError):
        return False
    finally:
        server.stop(grace=None)
    return True


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Raises ssl.SSLError: one of them refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
