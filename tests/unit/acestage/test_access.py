"""Channels of clients: how soon they come back, and what keys and certificates they take."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from acestage.access import Access, open_aio_channel, open_channel
from acestage.errors import FailedPreconditionError
from tests.certificates import make_certificate

TIMEOUT_S = 30.0


def test_a_client_asks_soon_again_while_the_server_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        with open_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            grpc.channel_ready_future(channel)
            begun_s = time.monotonic()
            for _ in range(5):
                listener.accept()[0].close()
            # By itself gRPC waits 1 s, then 1.6 times as long each time: 9 s, give or take a fifth.
            assert time.monotonic() - begun_s < 5.0


@pytest.mark.parametrize("key", ["", "  ", "schlüssel", "a\nb", "a\x7f"])
@pytest.mark.parametrize("open_one", [open_channel, open_aio_channel])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(open_one: Any, key: str) -> None:
    with pytest.raises(
        FailedPreconditionError, match=r"^api_key: is no key; accepted: printable ASCII"
    ) as caught:
        open_one("127.0.0.1:1", Access(key))
    assert "schl" not in str(caught.value)


def test_a_file_of_certificates_may_be_named_by_text_and_hold_text_of_any_kind(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path / "tls", "IP:127.0.0.1")
    commented = tmp_path / "commented.pem"
    commented.write_bytes("# Autorité\n".encode() + pair.cert.read_bytes())
    for path in (str(pair.cert), commented):
        open_channel("127.0.0.1:1", Access("key", path)).close()


@pytest.mark.parametrize("content", ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n"])
def test_a_file_without_a_certificate_is_refused_at_the_start(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(content)
    with pytest.raises(FailedPreconditionError, match=rf"^tls_ca: {path} holds no certificates"):
        open_channel("127.0.0.1:1", Access(tls_ca=path))
