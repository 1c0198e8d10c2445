"""gRPC options that all our servers and channels share."""

from __future__ import annotations

import grpc.aio

from acestage.access import CLIENT_OPTIONS, NO_ACCESS, Access, open_aio_channel
from acestage.keepalive import KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, PING_TIMEOUT_MS

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *CLIENT_OPTIONS,
    ("grpc.lb_policy_name", "round_robin"),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two servers on one port would share its calls at random: make the second one fail instead.
    ("grpc.so_reuseport", 0),
)


def channel_between_services(target: str, access: Access = NO_ACCESS) -> grpc.aio.Channel:
    """A channel to `target`, or in turns to all addresses that it names."""
    return open_aio_channel(target, access, CHANNEL_OPTIONS)
