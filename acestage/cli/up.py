"""`acestage up`: all services, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from acestage.cli.flags import EnvFile, load_settings
from acestage.cli.services import check_checkpoints
from acestage.cli.terminal import open_console
from acestage.cli.untrained import note_untrained
from acestage.local_stack import LocalStack, scheme
from acestage.settings import Settings
from acestage.warmup import background_warmup

_DOORS = {"rest": "REST", "page": "Web page"}


def _port(owner: str) -> Any:
    return typer.Option(help=f"Port of the {owner}.")


def _pem_file(what: str) -> Any:
    return typer.Option(help=f"{what}, PEM; see the README.", dir_okay=False)


def up(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint folder, or the name of a pulled model; or several with commas, of which each "
            "request takes one."
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Model of an original-layout folder.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:N].")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    host: Annotated[str | None, typer.Option(help="Address that the services bind.")] = None,
    orchestrator_port: Annotated[int | None, _port("orchestrator")] = None,
    text_encoder_port: Annotated[int | None, _port("text encoder")] = None,
    dit_port: Annotated[int | None, _port("DiT")] = None,
    vae_port: Annotated[int | None, _port("VAE")] = None,
    doors: Annotated[
        str | None, typer.Option(help="both, rest, page or none: what is open besides gRPC.")
    ] = None,
    rest_port: Annotated[int | None, _port("REST interface")] = None,
    page_port: Annotated[int | None, _port("web page")] = None,
    language: Annotated[str | None, typer.Option(help="en or pt: of the web page.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="The key that clients must bring. Flags are for all to see: better set ACESTAGE_API_KEY."
        ),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let other machines come without a key.")
    ] = None,
    tls_cert: Annotated[Path | None, _pem_file("The servers' certificate")] = None,
    tls_key: Annotated[Path | None, _pem_file("Private key of the certificate")] = None,
    tls_ca: Annotated[Path | None, _pem_file("Certificates that may vouch for servers")] = None,
    limits: Annotated[
        str | None, typer.Option(help="planner or tier: what fits by plan, or the fixed table.")
    ] = None,
    warmup: Annotated[
        bool | None, typer.Option("--warmup/--no-warmup", help="Compile missing kernels in the background.")
    ] = None,
    env_file: EnvFile = None,
) -> None:
    """Start all services and keep them running. Ctrl-C ends all of them."""
    settings = load_settings(
        env_file,
        checkpoint=checkpoint,
        variant=variant,
        device=device,
        dtype=dtype,
        host=host,
        orchestrator_port=orchestrator_port,
        text_encoder_port=text_encoder_port,
        dit_port=dit_port,
        vae_port=vae_port,
        doors=doors,
        rest_port=rest_port,
        page_port=page_port,
        language=language,
        api_key=api_key,
        insecure=insecure,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        limits=limits,
        warmup=warmup,
    )
    for served in check_checkpoints(settings):
        if served.model.is_untrained:
            note_untrained(open_console(stderr=True), served.name)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s up %(message)s")
    asyncio.run(_serve(settings, env_file))


async def _serve(settings: Settings, env_file: Path | None) -> None:
    console = open_console(stderr=True)
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    is_up = False

    def stop() -> None:
        if not stopped.is_set():
            stopped.set()
            if not is_up:
                task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            loop.add_signal_handler(number, stop)
    console.print(f"Starting the services with {settings.checkpoint} …", soft_wrap=True)
    try:
        ports, opens_doors = settings.ports(), settings.doors != "none"
        async with (
            contextlib.AsyncExitStack() as after_services,
            LocalStack(settings, ports, env_file=env_file, opens_doors=opens_doors) as stack,
        ):
            is_up = True
            for name, (host, port) in stack.doors.items():
                console.print(f"{_DOORS[name]}: {scheme(settings)}://{host}:{port}", soft_wrap=True)
            console.print(f"Up. The orchestrator answers at {stack.target}. Press Ctrl-C to stop.")
            if settings.warmup:
                # Its end may have to wait for the CPUs, behind all others.
                await after_services.enter_async_context(background_warmup(settings, env_file))
            await stopped.wait()
            _say_if_heard(console, "Stopping …")
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise
    _say_if_heard(console, "Stopped.")


def _say_if_heard(console: Console, text: str) -> None:
    """Prints `text`, unless the terminal was closed."""
    with contextlib.suppress(OSError):
        console.print(text)
