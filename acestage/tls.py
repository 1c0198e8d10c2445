"""The certificate of our servers: read, and tried out before anything starts."""

from __future__ import annotations

import ssl

import grpc

from acestage.access import read_pem
from acestage.errors import FailedPreconditionError
from acestage.settings import Settings


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


def check_certificate(settings: Settings, name: str | None = None) -> None:
    """The certificate must go with its key, and where a `name` is given, clients must believe that it is it.

    To that end a server with the certificate and a client with our authorities shake hands in memory.

    Args:
        settings: name the files.
        name: host name or address by which clients reach the server; None asks only for key and certificate.

    Raises:
        FailedPreconditionError: a file is missing or damaged, or the certificate is not believed.
    """
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        given, missing = ("tls_key", "tls_cert") if certificate is None else ("tls_cert", "tls_key")
        raise FailedPreconditionError(f"{missing}: is not set, but {given} is; accepted: both or none")
    read_pem("tls_cert", certificate)
    read_pem("tls_key", key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a password would ask for it at the terminal.
        server.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise FailedPreconditionError(
            f"tls_cert: {certificate} and tls_key: {key} cannot be used together: {error}; accepted: a "
            "certificate and its key in PEM format, the key without a password"
        ) from error
    if name is None:
        return
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
