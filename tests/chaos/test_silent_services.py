"""A service that is stopped and never goes on: who waits for it hears of it, and its end repairs all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from acestage import AsyncClient, local_stack
from acestage.errors import AcestageError, ServiceUnreachableError
from acestage.generation import StageProgress
from acestage.keepalive import KEEPALIVE_TIME_MS, PING_TIMEOUT_MS
from acestage.local_stack import GATEWAY, LocalStack, free_ports
from acestage.settings import SERVICES, Settings
from services.runtime.devices.fake_device.spec import FakeDeviceSpec
from tests.chaos.chaos_stack import DEVICE, GIB, ChaosStack, steady, until_gone
from tests.running_stack import THREADS, wait_until

NOTICED_S = (KEEPALIVE_TIME_MS + PING_TIMEOUT_MS) / 1000
SLACK_S = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("service", ["dit", "orchestrator"])
def test_who_waits_for_a_silent_service_hears_of_it(
    small_device: ChaosStack, service: str, record_property: Callable[[str, object], None]
) -> None:
    small_device.fail()
    plain = small_device.song()
    small_device.fail(*steady("dit", 0.3, 200))
    job = small_device.job(duration_s=10, step_count=200)
    small_device.until_struck()
    process = small_device.service(service)
    doomed = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        assert job.outcome(90) == ServiceUnreachableError.reason
        record_property("status_s", round(job.ended_at - stopped_at, 2))
        assert job.ended_at - stopped_at < NOTICED_S + SLACK_S
    finally:
        process.kill()
    small_device.fail()
    until_gone(doomed, 10)
    small_device.until_quiet(40)
    assert small_device.can_be_had(20)
    assert small_device.song().tracks[0].samples_sha256 == plain.tracks[0].samples_sha256


def test_silent_services_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_stack, "PROBE_TIMEOUT_S", 2.0)
    monkeypatch.setattr(local_stack, "PROBE_INTERVAL_S", 1.0)
    monkeypatch.setattr(local_stack, "MAX_SILENT_COUNT", 3)
    FakeDeviceSpec(4 * GIB).write(tmp_path / "run", DEVICE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        rest_port = free.getsockname()[1]
    folders = {"run_dir": tmp_path / "run", "tmp_dir": tmp_path / "tmp", "output_dir": tmp_path / "outputs"}
    settings = Settings(**folders, device=DEVICE, threads=THREADS, doors="rest", rest_port=rest_port)
    victims = {"dit", GATEWAY}

    async def scenario() -> None:
        async with (
            LocalStack(settings, free_ports(), opens_doors=True) as stack,
            AsyncClient(stack.target) as client,
        ):
            before = _services()
            events = client.stream("piano", duration_s=10, step_count=200)
            while not isinstance(await anext(events), StageProgress):
                pass
            for victim in victims:
                before[victim].send_signal(signal.SIGSTOP)
            with pytest.raises(AcestageError):
                [event async for event in events]
            await asyncio.to_thread(_until_replaced, {name: before[name] for name in victims})
            after = _services()
            assert {name for name in before if after[name] != before[name]} == victims
            song = await client.generate("piano", duration_s=10, step_count=1)
            assert song.tracks[0].duration_s == 10

    asyncio.run(asyncio.wait_for(scenario(), 240))


def _until_replaced(processes: dict[str, psutil.Process]) -> None:
    def is_over() -> bool:
        now = _services()
        return all(name in now and now[name] != process for name, process in processes.items())

    wait_until(is_over, f"{', '.join(processes)} are replaced", 60)


def _services() -> dict[str, psutil.Process]:
    """The services that live as children of this process, by name."""
    found = {}
    for name in (*SERVICES, GATEWAY):
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if f"services.{name}" in process.cmdline():
                    found[name] = process
    return found
