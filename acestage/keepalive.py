"""How our clients notice a server that is gone: a ping every 20 s, and 5 s for its answer."""

PING_TIMEOUT_MS = 5_000

CLIENT_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    # The kernel of a peer that is stopped goes on acknowledging bytes. Then only this limit counts, which is
    # a minute unless it is set (measured with gRPC 1.85).
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
