"""Asks a service whether it serves: `python -m services.runtime.rpc.health_probe HOST:PORT`, or with a URL.

A URL without a scheme, `//HOST:PORT/PATH`, is asked by HTTPS where the settings name certificates.
The exit code is 0 if it does; otherwise its state is printed. Health checks of containers use it, so that
the image needs no other probe.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from acestage.access import NO_ACCESS, Access, open_channel, read_pem
from acestage.errors import AcestageError
from acestage.setting_errors import setting_errors
from acestage.settings import load_settings

TIMEOUT_S = 3.0
_SERVING = "SERVING"


def state(target: str, access: Access = NO_ACCESS) -> str:
    """The health of the server at `target`: "SERVING", another state, or why there is no answer."""
    if target.startswith("//"):
        target = f"{'https' if access.tls_ca else 'http'}:{target}"
    if target.startswith(("http://", "https://")):
        return _http_state(target, access)
    with open_channel(target, access) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs lack the methods
        try:
            response = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


def _http_state(url: str, access: Access) -> str:
    # None trusts what the system does.
    trusted = read_pem("tls_ca", access.tls_ca).decode(errors="replace") if access.tls_ca else None
    try:
        context = ssl.create_default_context(cadata=trusted)
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context) as response:
            status: int = response.status
    except (OSError, HTTPException) as error:  # every answer but 2xx is one, too
        return f"UNAVAILABLE: {error}"
    return _SERVING if status == HTTPStatus.OK else f"answers {status}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m services.runtime.rpc.health_probe", description="Exits with 0 if a service serves."
    )
    parser.add_argument("target", metavar="HOST:PORT|URL", help="where the service answers, by gRPC or HTTP")
    arguments = parser.parse_args()
    try:
        found = state(arguments.target, Access.of(load_settings()))
    except AcestageError as error:
        sys.exit(error.message)
    except ValidationError as error:
        sys.exit("\n".join(setting_errors(error)))
    if found != _SERVING:
        sys.exit(found)


if __name__ == "__main__":
    main()
