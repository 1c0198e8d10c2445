"""What asks services for their health from outside, as container engines do."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse


@contextlib.contextmanager
def server_that_says(status: int) -> Iterator[str]:
    """The address of a server whose health is `status`."""
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def probe(target: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.runtime.rpc.health_probe", target]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_the_probe_passes_a_service_that_serves() -> None:
    with server_that_says(HealthCheckResponse.SERVING) as target:
        assert (done := probe(target)).returncode == 0, done.stderr


def test_the_probe_fails_a_service_that_does_not_serve() -> None:
    with server_that_says(HealthCheckResponse.NOT_SERVING) as target:
        done = probe(target)
    assert (done.returncode, done.stderr) == (1, "NOT_SERVING\n")


@pytest.mark.parametrize("status", [200, 503])
def test_the_probe_asks_by_http_too(status: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = probe(f"http://127.0.0.1:{server.server_port}/health")
        without_scheme = probe(f"//127.0.0.1:{server.server_port}/health")
        server.shutdown()
    assert without_scheme.returncode == done.returncode
    assert done.returncode == (0 if status == 200 else 1), done.stderr
    assert ("503" in done.stderr) is (status == 503)


def test_the_probe_fails_where_nobody_answers() -> None:
    with server_that_says(HealthCheckResponse.SERVING) as target:
        pass
    done = probe(target)
    assert done.returncode == 1
    assert done.stderr.startswith("UNAVAILABLE: ")
