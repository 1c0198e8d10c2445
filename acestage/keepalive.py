"""How our clients notice a server that is gone: a ping every 20 s, and 10 s at most for its answer."""

KEEPALIVE_TIME_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 5_000
"""For any byte after the ping of a keepalive."""
PING_TIMEOUT_MS = 10_000
"""For the answer to any ping: also to those that gRPC measures the bandwidth with while data flows, so that
nothing is lost by a process that is stopped for less, or by a busy machine. The kernel of a stopped process
goes on acknowledging bytes; then only this limit counts, which is a minute unless it is set (measured with
gRPC 1.85)."""

CLIENT_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
