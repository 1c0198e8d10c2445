"""All services as child processes of this one, watched and started again when they crash."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import IO, Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from acestage.access import Access, open_aio_channel
from acestage.errors import FailedPreconditionError, UnavailableError
from acestage.exposure import check_exposure, join_address, reached_at
from acestage.generation import STAGES
from acestage.preload_template import PreloadTemplate
from acestage.service_settings import settings_of
from acestage.settings import SERVICES, Settings
from acestage.tls import try_certificate

log = logging.getLogger(__name__)

GATEWAY = "gateway"

STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
RESTART_DELAYS_S = (1.0, 2.0, 5.0, 10.0)
STEADY_S = 10.0
"""A service that lived for so long may be started again at once: it does not die of its start."""
PROBE_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 10.0
MAX_SILENT_COUNT = 6
"""Probes in a row without an answer, a minute's worth, after which a service counts as hanging. The clock
alone does not decide: of a machine that slept, one probe at most is lost."""
_FREE_PORTS = range(20_000, 32_768)
"""Systems give higher ones to connections, and to who asks for any."""


@dataclass(slots=True)
class Restarts:
    """How long to wait before a dead service is started again: longer and longer if it dies of its start."""

    count: int = 0

    def next_delay_s(self, lived_s: float) -> float:
        """Seconds to wait, after a life of `lived_s`."""
        if lived_s >= STEADY_S:
            self.count = 0
        delay_s = RESTART_DELAYS_S[min(self.count, len(RESTART_DELAYS_S) - 1)]
        self.count += 1
        return delay_s


@dataclass(slots=True)
class Silence:
    """How many probes in a row a service left without an answer; none counts before its first answer.

    So a start may take as long as it takes.
    """

    has_answered: bool = False
    count: int = 0

    def note(self, has_answered: bool) -> None:
        """Takes the outcome of the next probe."""
        self.has_answered = self.has_answered or has_answered
        self.count = 0 if has_answered or not self.has_answered else self.count + 1


@dataclass(slots=True)
class _Service:
    name: str
    port: int
    process: asyncio.subprocess.Process | None = None
    restarts: Restarts = field(default_factory=Restarts)


class LocalStack:
    """The orchestrator and the three stages on this machine, and the front doors. Use it with `async with`.

    Entering starts all services and returns once they serve. Leaving ends them: the gateway first, then the
    stages, so that they can give back their leases. They also end when this process dies.

    Args:
        settings: what the services run.
        ports: the port of each service.
        env_file: what the services read in the place of `.env`; None is `.env`.
        log_file: where the services' logs go; None is this process's stderr.
        ready_timeout_s: how long the services may take to load the model.
        opens_doors: whether the gateway is started, with the doors that the settings name.
    """

    def __init__(
        self,
        settings: Settings,
        ports: Mapping[str, int],
        *,
        env_file: Path | None = None,
        log_file: IO[bytes] | None = None,
        ready_timeout_s: float = 300.0,
        opens_doors: bool = False,
    ) -> None:
        self._settings = settings
        self._services = {name: _Service(name, ports[name]) for name in SERVICES}
        self._gateway = _Service(GATEWAY, 0)
        self.doors = open_doors(settings) if opens_doors else {}
        self._env_file = env_file
        self._log_file = log_file
        self._ready_timeout_s = ready_timeout_s
        self._template: PreloadTemplate | None = None
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def target(self) -> str:
        """The orchestrator's address."""
        return self.address("orchestrator")

    def address(self, service: str) -> str:
        return join_address(reached_at(self._settings.host), self._services[service].port)

    async def __aenter__(self) -> Self:
        check_exposure("host", self._settings.host, self._settings)
        await asyncio.to_thread(try_certificate, self._settings, reached_at(self._settings.host))
        for service in self._services.values():
            _check_port(service.name, self._settings.host, service.port)
        for name, (host, port) in self.doors.items():
            check_exposure(f"{name}_host", host, self._settings)
            _check_port(name, host, port)
        started = [*self._services.values(), *([self._gateway] if self.doors else [])]
        try:
            self._template = await PreloadTemplate.start(self._settings, self._log_file)
            for service in started:
                await self._start(service)
            async with asyncio.timeout(self._ready_timeout_s):
                await asyncio.gather(*(self._until_serving(service) for service in started))
        except TimeoutError:
            await self._stop()
            raise UnavailableError(
                f"the services did not start within {self._ready_timeout_s:.0f} s"
            ) from None
        except BaseException:
            await self._stop()
            raise
        self._watchers = [asyncio.create_task(self._watch(service)) for service in started]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stop()

    def command(self, service: str) -> list[str]:
        """The command line of a service."""
        given = {name.replace("_", "-"): getattr(self._settings, name) for name in settings_of(service)}
        flags = {name: value for name, value in given.items() if value is not None}
        flags |= {"parent-pid": os.getpid()}
        if service != GATEWAY:
            flags |= {"port": self._services[service].port}
        if service == "orchestrator":
            flags |= {stage.replace("_", "-"): self.address(stage) for stage in STAGES}
        else:
            flags |= {"orchestrator": self.target}
        flags |= {"env-file": self._env_file} if self._env_file else {}
        arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return [sys.executable, "-m", f"services.{service}", *arguments]

    async def _start(self, service: _Service) -> None:
        template = self._template if service.name in STAGES else None
        service.process = await asyncio.create_subprocess_exec(
            *self.command(service.name),
            env=self._environment() | (template.environment if template else {}),
            pass_fds=[template.descriptor] if template else [],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=self._log_file,
            # Ctrl-C in the terminal must reach this process alone, which then ends the others in order.
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        """The environment of the services; command lines are for all to see, so the key goes this way."""
        key = self._settings.api_key
        return os.environ | ({} if key is None else {"ACESTAGE_API_KEY": key.get_secret_value()})

    async def _until_serving(self, service: _Service) -> None:
        assert service.process is not None
        async with self._probe(service) as is_serving:
            while not await is_serving():
                if service.process.returncode is not None:
                    raise FailedPreconditionError(
                        f"{service.name} did not start: it ended with exit code {service.process.returncode}"
                    )
                await asyncio.sleep(_POLL_S)

    @contextlib.asynccontextmanager
    async def _probe(self, service: _Service) -> AsyncIterator[Callable[[], Awaitable[bool | None]]]:
        """What says whether `service` serves; None where it says nothing within `PROBE_TIMEOUT_S`."""
        if service.name == GATEWAY:
            yield self._are_doors_open
            return
        async with open_aio_channel(self.address(service.name), Access.of(self._settings)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs lack the methods

            async def is_serving() -> bool | None:
                with contextlib.suppress(grpc.RpcError):
                    response = await health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
                    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
                return None

            yield is_serving

    async def _are_doors_open(self) -> bool | None:
        for host, port in self.doors.values():
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(reached_at(host), port)
                    with contextlib.closing(writer), contextlib.suppress(ConnectionResetError):
                        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
                        await reader.read(1)  # with TLS it is the end, which somebody must have made as well
            except OSError:
                return None
        return True

    async def _watch(self, service: _Service) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            assert service.process is not None
            started = clock()
            silence = asyncio.create_task(self._kill_once_silent(service))
            try:
                code = await service.process.wait()
            finally:
                silence.cancel()
                await asyncio.gather(silence, return_exceptions=True)
            delay_s = service.restarts.next_delay_s(clock() - started)
            log.error("%s ended with exit code %d; starting it again in %.0f s", service.name, code, delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self._start(service)
            except OSError as error:  # no memory for a process, perhaps; the old one stays dead, so try again
                log.error("%s could not be started: %s", service.name, error)

    async def _kill_once_silent(self, service: _Service) -> None:
        """Kills the process of `service` once it answers no more, as one that was stopped does."""
        process, silence = service.process, Silence()
        assert process is not None
        async with self._probe(service) as is_serving:
            while silence.count < MAX_SILENT_COUNT:
                answer, _ = await asyncio.gather(is_serving(), asyncio.sleep(PROBE_INTERVAL_S))
                silence.note(answer is not None)
        log.error("%s did not answer %d times in a row; killing it", service.name, silence.count)
        process.kill()

    async def _stop(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await _end(self._gateway)
        stages = [self._services[name] for name in STAGES]
        await asyncio.gather(*(_end(service) for service in stages))
        if self._template is not None:
            await self._template.end()
        await _end(self._services["orchestrator"])


def open_doors(settings: Settings) -> dict[str, tuple[str, int]]:
    """Host and port of each door that `settings` open: "rest", "page"."""
    addresses = {
        "rest": (settings.rest_host, settings.rest_port),
        "page": (settings.page_host, settings.page_port),
    }
    return {name: address for name, address in addresses.items() if settings.doors in (name, "both")}


def scheme(settings: Settings) -> str:
    """What URLs of the doors begin with."""
    return "http" if settings.tls_cert is None else "https"


def _check_port(name: str, host: str, port: int) -> None:
    """Whoever holds the port would answer in the place of our service, and seem to be it."""
    if port == 0:
        raise FailedPreconditionError(
            f"{name}_port: is 0; accepted for services that find each other: 1 to 65535"
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise FailedPreconditionError(
                f"{name}_port: cannot bind {host}:{port}: {error.strerror}; do services run already?"
            ) from error


async def _end(service: _Service) -> None:
    process = service.process
    if process is None or process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def free_ports() -> dict[str, int]:
    """A free port for each service, which no connection is given while the service is started again.

    Raises:
        UnavailableError: too few are free.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as listeners:
        for port in SystemRandom().sample(_FREE_PORTS, len(_FREE_PORTS)):
            listener = socket.socket()
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                listener.close()
                continue
            listeners.enter_context(listener)
            ports.append(port)
            if len(ports) == len(SERVICES):
                return dict(zip(SERVICES, ports, strict=True))
    raise UnavailableError(
        f"services need {len(SERVICES)} free ports of 127.0.0.1 between {min(_FREE_PORTS)} and"
        f" {max(_FREE_PORTS)}; free are {len(ports)}"
    )
