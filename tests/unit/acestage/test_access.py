"""Channels of clients: how soon they come back, and what keys and certificates they take."""

from __future__ import annotations

import socket
import time

import grpc

from acestage.access import open_channel

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
