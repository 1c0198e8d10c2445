"""The aio server that every service starts: interceptor, health, reflection, signals, clean end."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from acestage.errors import AcestageError, FailedPreconditionError
from acestage.exposure import check_exposure, join_address
from acestage.settings import Settings
from acestage.tls import server_credentials
from services.runtime.processes import heap
from services.runtime.rpc.api_key import ApiKey
from services.runtime.rpc.channels import SERVER_OPTIONS
from services.runtime.rpc.interceptors import ErrorInterceptor

log = logging.getLogger(__name__)

STOP_GRACE_S = 3.0
"""Calls in progress may finish for this long after SIGTERM; then they are cancelled."""

SECOND_SIGNAL_S = 1.0
"""A signal so soon after the first one counts as the same: the kernel sends one for each thread of a parent
that dies (see `die_with_parent`)."""

_STATUS = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}


class Server:
    """A gRPC server with health and reflection for the services named.

    Args:
        service: the process's name for people, for example "dit".
        service_names: full names of the gRPC services it hosts.
        settings: the address to bind, the key to ask for, the certificate to show.
        port: port to bind; 0 takes a free one, which `start` returns.

    Raises:
        FailedPreconditionError: the address would be open to all, or the certificate cannot be used.
    """

    def __init__(self, service: str, service_names: Sequence[str], settings: Settings, port: int) -> None:
        check_exposure("host", settings.host, settings)
        self._credentials = server_credentials(settings)
        interceptor = ErrorInterceptor(service, ApiKey.of(settings))
        self.grpc = grpc.aio.server(interceptors=[interceptor], options=SERVER_OPTIONS)
        self._service_names = service_names
        self._address = join_address(settings.host, port)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection.enable_server_reflection(
            [
                *service_names,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ],
            self.grpc,
        )

    async def set_serving(self, is_serving: bool) -> None:
        """Sets the health of the server and of each of its services."""
        for name in ("", *self._service_names):
            await self._health.set(name, _STATUS[is_serving])

    async def start(self) -> int:
        """Binds and starts; health says NOT_SERVING until `set_serving`. Returns the port.

        Raises:
            FailedPreconditionError: the address cannot be bound.
        """
        await self.set_serving(False)
        try:
            if self._credentials is None:
                port = self.grpc.add_insecure_port(self._address)
            else:
                port = self.grpc.add_secure_port(self._address, self._credentials)
        except RuntimeError as error:
            raise FailedPreconditionError(
                f"port: cannot bind {self._address}; is it in use? ({error})"
            ) from error
        await self.grpc.start()
        log.info("listening", extra={"address": f"{self._address.rpartition(':')[0]}:{port}"})
        return port

    async def stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(STOP_GRACE_S)


def _allow_many_connections() -> None:
    """Takes as many open files as the system gives; what it gives at first is often 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def until_stopped(*background: asyncio.Task[None]) -> None:
    """Returns at the first SIGTERM or SIGINT; from `SECOND_SIGNAL_S` on another one ends the process at once.

    Raises:
        Exception: that of a `background` task which failed: a service without it would be of no use.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        if not stopped.is_set():
            stopped.set()
            loop.call_later(SECOND_SIGNAL_S, end_at_the_next)

    def end_at_the_next() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    waiting = asyncio.create_task(stopped.wait())
    try:
        done, _ = await asyncio.wait([waiting, *background], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()


def run_service(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs an async main function; an error of the configuration ends the process with its message."""
    _allow_many_connections()
    heap.map_large_blocks()  # audio and tensors come and go; nothing of them is to stay
    try:
        asyncio.run(main())
    except AcestageError as error:
        sys.exit(f"{error.reason}: {error.message}")
    except OSError as error:
        sys.exit(str(error))
