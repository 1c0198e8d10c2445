"""What the services of one machine are started with."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from acestage import local_stack
from acestage.errors import FailedPreconditionError, UnavailableError
from acestage.generation import STAGES
from acestage.local_stack import (
    MAX_SILENT_COUNT,
    RESTART_DELAYS_S,
    STEADY_S,
    LocalStack,
    Restarts,
    Silence,
    free_ports,
)
from acestage.settings import SERVICES, Settings
from services.runtime.processes import flags
from services.runtime.stage_config import StageConfig

LIMITS = {
    "limits": "tier",
    "max_duration_s": 120.5,
    "max_batch_size": 3,
    "init_language_model": False,
    "language_model": "acestep-5Hz-lm-0.6B",
    "max_vram_gb": 4.0,
    "quantization": "int8",
    "vae_tile_frame_count": 64,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty; no setting comes from outside."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ACESTAGE_", "ACESTEP_", "MAX_CUDA_VRAM")):
            monkeypatch.delenv(name)
    return tmp_path


def parsed(stack: LocalStack, service: str) -> Settings:
    """The settings that `service` reads from its command line."""
    _, _, module, *arguments = stack.command(service)
    assert module == f"services.{service}"
    settings, parent_pid = flags.parse(service, "", arguments)
    assert parent_pid == os.getpid()
    return settings


def test_the_orchestrator_has_the_limits_of_who_starts_it() -> None:
    settings = Settings(**LIMITS)
    started = parsed(LocalStack(settings, settings.ports()), "orchestrator")
    assert {name: getattr(started, name) for name in LIMITS} == LIMITS


def test_the_orchestrator_keeps_audio_where_its_starter_says(folder: Path) -> None:
    settings = Settings(tmp_dir=folder / "tmp", max_audio_bytes=1 << 20)
    started = parsed(LocalStack(settings, settings.ports()), "orchestrator")
    assert (started.tmp_dir, started.max_audio_bytes) == (folder / "tmp", 1 << 20)


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_keep_what_they_found_where_their_starter_says(stage: str, folder: Path) -> None:
    settings = Settings(cache_dir=folder / "cache")
    started = parsed(LocalStack(settings, settings.ports()), stage)
    assert StageConfig.from_settings(stage, started, "cpu").cache_dir == str(folder / "cache")


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("text_encoder", {"--quantization"}),
        ("dit", {"--quantization", "--adapters-dir", "--offload-dit-to-cpu"}),
        ("vae", {"--vae-tile-frame-count"}),
    ],
)
def test_a_stage_has_flags_for_what_it_reads_and_no_variable_of_another_one_is_an_error(
    stage: str, own: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_one_stage = {"--quantization", "--adapters-dir", "--offload-dit-to-cpu", "--vae-tile-frame-count"}
    with pytest.raises(SystemExit, match="0"):
        flags.parse(stage, "", ["--help"])
    shown = capsys.readouterr().out.split()
    assert own == of_one_stage & set(shown)
    monkeypatch.setenv("ACESTAGE_QUANTIZATION", "int8")
    monkeypatch.setenv("ACESTAGE_ADAPTERS_DIR", "elsewhere")
    monkeypatch.setenv("ACESTEP_OFFLOAD_DIT_TO_CPU", "true")
    monkeypatch.setenv("ACESTAGE_VAE_TILE_FRAMES", "64")
    flags.parse(stage, "", [])


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_reads_the_file_that_stands_in_for_env(service: str, folder: Path) -> None:
    (folder / ".env").write_text("PYTORCH_CUDA_ALLOC_CONF=not:this\nACESTEP_MAX_DURATION=50\n")
    env_file = folder / "other.env"
    env_file.write_text("PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:128\n")
    settings = Settings()
    other = parsed(LocalStack(settings, settings.ports(), env_file=env_file), service)
    assert other.pytorch_cuda_alloc_conf == "max_split_size_mb:128"
    assert parsed(LocalStack(settings, settings.ports()), service).pytorch_cuda_alloc_conf == "not:this"


def test_a_file_that_is_not_there_ends_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        flags.parse("dit", "", ["--env-file", "no-such.env"])
    assert "no-such.env" in capsys.readouterr().err


def test_a_service_that_dies_of_its_start_waits_longer_and_longer() -> None:
    restarts = Restarts()
    assert [restarts.next_delay_s(0.5) for _ in range(5)] == [*RESTART_DELAYS_S, RESTART_DELAYS_S[-1]]
    assert [restarts.next_delay_s(lived_s) for lived_s in (STEADY_S, 0.5)] == list(RESTART_DELAYS_S[:2])


def test_only_probes_in_a_row_count_as_silence_and_none_before_the_first_answer() -> None:
    silence = Silence()
    counts = []
    for has_answered in (*[False] * 100, True, *[False] * (MAX_SILENT_COUNT - 1), True, False, False):
        silence.note(has_answered)
        counts.append(silence.count)
    assert counts == [*[0] * 100, 0, *range(1, MAX_SILENT_COUNT), 0, 1, 2]


def test_the_gateway_is_started_with_the_doors_and_without_the_key_in_sight(folder: Path) -> None:
    settings = Settings(
        doors="rest", rest_port=9001, language="pt", output_dir=folder / "out", api_key=SecretStr("s3cret")
    )
    stack = LocalStack(settings, settings.ports(), opens_doors=True)
    assert stack.doors == {"rest": ("127.0.0.1", 9001)}
    found = parsed(stack, "gateway")
    assert (found.doors, found.rest_port, found.language) == ("rest", 9001, "pt")
    assert found.output_dir == folder / "out"
    assert found.address("orchestrator") == stack.target
    assert "s3cret" not in " ".join(stack.command("gateway"))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"rest_host": "0.0.0.0"}, "rest_host: '0.0.0.0' can be reached"),
        ({"doors": "page", "page_host": "studio.lan"}, "page_host: 'studio.lan' can be reached"),
        ({"doors": "page", "page_port": 0}, "page_port: is 0; accepted"),
    ],
)
def test_doors_that_cannot_be_opened_so_are_named_before_anything_starts(
    given: dict[str, Any], what: str
) -> None:
    settings = Settings(**given)

    async def start() -> None:
        async with LocalStack(settings, free_ports(), opens_doors=True):
            pass

    with pytest.raises(FailedPreconditionError) as caught:
        asyncio.run(start())
    assert what in caught.value.message


def test_free_ports_are_none_that_the_system_gives_to_connections() -> None:
    given = range(*(int(end) for end in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()))
    found = free_ports()
    assert tuple(found) == SERVICES
    assert len(set(found.values())) == len(SERVICES)
    assert not set(found.values()) & set(given)


def test_ports_in_use_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = list(free_ports().values())
    monkeypatch.setattr(local_stack, "_FREE_PORTS", ports)
    assert set(free_ports().values()) == set(ports)
    with socket.create_server(("127.0.0.1", ports[0])), pytest.raises(UnavailableError) as caught:
        free_ports()
    assert "4 free ports" in caught.value.message
