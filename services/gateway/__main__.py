"""`python -m services.gateway`."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import ExitStack

from starlette.types import ASGIApp

from acestage.exposure import check_exposure
from acestage.local_stack import open_doors, scheme
from acestage.settings import Settings
from acestage.tls import check_certificate
from services.gateway.door import BACKLOG, STOP_GRACE_S, Door, bound_socket
from services.gateway.gateway import Gateway, open_gateway
from services.gateway.origin_guard import OriginGuard
from services.gateway.rest.app import create_rest_app
from services.gateway.spool import spool_in
from services.runtime.processes import flags, logs
from services.runtime.processes.finishing import end
from services.runtime.processes.parent_death import die_with_parent
from services.runtime.rpc.api_key import ApiKey
from services.runtime.rpc.server import run_service, until_stopped

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Serves the doors until SIGTERM or SIGINT.

    Raises:
        FailedPreconditionError: an address cannot be bound or would be open to all, the certificate cannot be
            used, or the folder of outputs or that of files on their way cannot.
    """
    for name, (host, _) in open_doors(settings).items():
        check_exposure(f"{name}_host", host, settings)
    check_certificate(settings)
    with ExitStack() as sockets:
        bound = {
            name: sockets.enter_context(bound_socket(name, host, port))
            for name, (host, port) in open_doors(settings).items()
        }
        spool_in(settings.tmp_dir / "gateway")
        async with open_gateway(settings) as gateway:
            doors = {name: Door(_app(name, gateway, settings), settings) for name in bound}
            serving = [asyncio.create_task(doors[name].serve([listener])) for name, listener in bound.items()]
            for name, listener in bound.items():
                listener.listen(BACKLOG)  # the servers, which begin just now, do so again
                host, port = listener.getsockname()[:2]
                log.info("listening: %s", name, extra={"address": f"{scheme(settings)}://{host}:{port}"})
            try:
                await until_stopped(*serving)
            finally:
                for door in doors.values():
                    door.should_exit = True
                await asyncio.wait(serving, timeout=STOP_GRACE_S + 2)
                for task in serving:
                    await end(task)


def _app(name: str, gateway: Gateway, settings: Settings) -> ASGIApp:
    key = ApiKey.of(settings)
    host, _ = open_doors(settings)[name]
    if name == "rest":
        return OriginGuard(create_rest_app(gateway, key), host, has_key=key.is_set)
    # Gradio takes seconds to import, so it comes only where there is a page.
    from services.gateway.page.app import create_page_app

    return OriginGuard(create_page_app(gateway, key, settings.language), host, has_key=key.is_set)


def main() -> None:
    settings, parent_pid = flags.parse(
        "gateway", "Opens the front doors: the REST interface and the web page."
    )
    if parent_pid is not None:
        die_with_parent(parent_pid, signal.SIGTERM)
    logs.configure("gateway", settings.log_level)
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
