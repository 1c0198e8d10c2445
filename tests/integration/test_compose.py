"""The Compose files: what they promise, and a song through the very commands that they name.

No container engine is needed: each service of the profile without GPU runs as a child process, with the
entry point, command, environment and health check from the files. Only what a container has for itself is
replaced: host names, ports and mounted folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from acestage import Client
from acestage.cli.flags import load_settings
from acestage.generation import STAGES
from acestage.local_stack import free_ports
from acestage.setting_names import all_variables
from acestage.settings import SERVICES
from services.runtime.jobs.stay import CANCEL_GRACE_S
from services.runtime.rpc.server import STOP_GRACE_S

ROOT = Path(__file__).resolve().parents[2]
MAIN_FILE = ROOT / "docker-compose.yml"
CPU_FILE = ROOT / "docker-compose.cpu.yml"
TLS_FILE = ROOT / "docker-compose.tls.yml"
DOORS = {"rest": "gateway", "page": "gateway"}
"""The service of each port that is not its service's own."""
PUBLISHED = {
    "orchestrator": ["127.0.0.1:50050:50050"],
    "gateway": ["127.0.0.1:8001:8001", "127.0.0.1:7860:7860"],
}
"""What the host can reach, and nobody else."""
FIXED = ("tmp_dir", "rest_host", "page_host")
"""Settings with a name of upstream that nothing outside of a container changes."""
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0

Config = dict[str, Any]


class Reset:
    """Stands for `!reset`, with which an override file removes what the files before it say."""


class ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's own tag."""


ComposeLoader.add_constructor("!reset", lambda loader, node: Reset())


def load(*files: Path, **variables: str) -> Config:
    """The services that `files` define together with `variables`, a later file over the earlier ones."""
    services: Config = {}
    for file in files:
        text, is_found = file.read_text(), 1
        while is_found:  # from the innermost on
            text, is_found = re.subn(
                r"\$\{(\w+):-([^${}]*)\}", lambda found: variables.get(found[1]) or found[2], text
            )
        assert "$" not in text, f"{file.name}: a variable without a default"
        services = merged(services, yaml.load(text, ComposeLoader)["services"])
    return services


def merged(base: Config, override: Config) -> Config:
    """`base` with the values of `override`; mappings are merged, all else is replaced."""
    result = dict(base)
    for key, value in override.items():
        if isinstance(value, Reset):
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(base.get(key, {}), value)
        else:
            result[key] = value
    return result


def address(services: Config, name: str) -> str:
    """Where a service answers in the network of the containers."""
    return f"{name}:{services[name]['environment']['ACESTAGE_PORT']}"


def entry_point() -> list[str]:
    """The image's entry point."""
    (line,) = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command: list[str] = json.loads(line)
    return command


@pytest.fixture(params=["gpu", "cpu"])
def services(request: pytest.FixtureRequest) -> Config:
    """The services of each profile."""
    return load(MAIN_FILE) if request.param == "gpu" else load(MAIN_FILE, CPU_FILE)


def test_there_is_a_service_for_the_orchestrator_one_a_stage_and_the_gateway(services: Config) -> None:
    assert tuple(services) == (*SERVICES, "gateway")
    for name, service in services.items():
        assert service["command"] == [f"services.{name}"]


def test_every_service_reaps_orphans_is_checked_and_comes_back(services: Config) -> None:
    for name, service in services.items():
        environment = service["environment"]
        port, rest_port = environment.get("ACESTAGE_PORT"), environment.get("ACESTAGE_REST_PORT")
        target = f"//localhost:{rest_port}/health" if name == "gateway" else f"localhost:{port}"
        assert service["init"] is True
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["healthcheck"]["test"][-1] == target
        assert service["restart"] == "unless-stopped"
        assert int(service["stop_grace_period"].removesuffix("s")) > STOP_GRACE_S + CANCEL_GRACE_S


def test_every_service_can_have_replicas(services: Config) -> None:
    for name, service in services.items():
        assert not service.keys() & {"container_name", "hostname", "network_mode", "pid", "ipc"}
        assert service.get("ports") == PUBLISHED.get(name)


def test_a_line_to_uncomment_publishes_the_metrics_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "all.yml").write_text(MAIN_FILE.read_text().replace('# - "', '- "'))
    (port,) = re.findall(r"^# ACESTAGE_METRICS_PORT=(\d+)", (ROOT / ".env.example").read_text(), re.MULTILINE)
    ports = load(tmp_path / "all.yml")["orchestrator"]["ports"]
    assert ports == [*PUBLISHED["orchestrator"], f"127.0.0.1:{port}:{port}"]


def test_stages_and_gateway_reach_the_orchestrator_and_it_reaches_all_their_replicas(
    services: Config,
) -> None:
    orchestrator = services["orchestrator"]["environment"]
    gateway = services["gateway"]["environment"]
    assert gateway["ACESTAGE_ORCHESTRATOR"] == address(services, "orchestrator")
    for stage in STAGES:
        assert services[stage]["environment"]["ACESTAGE_ORCHESTRATOR"] == address(services, "orchestrator")
        assert orchestrator[f"ACESTAGE_{stage.upper()}"] == f"dns:///{address(services, stage)}"


def test_all_services_share_the_run_folder_and_none_can_change_what_it_is_given(
    services: Config,
) -> None:
    gateway = services["gateway"]
    assert gateway["volumes"] == [f"outputs:{gateway['environment']['ACESTAGE_OUTPUT_DIR']}"]
    for name in SERVICES:
        service = services[name]
        run, *others = service["volumes"]
        assert run == f"run:{service['environment']['ACESTAGE_RUN_DIR']}"
        if name == "orchestrator":
            assert others == [f"audio:{service['environment']['ACESTAGE_TMPDIR']}"]
        else:
            mounts = ["/checkpoints", "/adapters"] if name == "dit" else ["/checkpoints"]
            cache, *others = others
            assert cache == f"cache:{service['environment']['ACESTAGE_CACHE_DIR']}"
            assert [other["target"] for other in others] == mounts
            assert all(other["read_only"] for other in others)


def test_containers_are_given_every_setting_and_nothing_unknown(services: Config) -> None:
    given = {variable for service in services.values() for variable in service["environment"]}
    # A container has one service, so ACESTAGE_PORT is enough, and no `acestage up`.
    of_one_machine = {*(f"ACESTAGE_{name.upper()}_PORT" for name in SERVICES), "ACESTAGE_WARMUP"}
    assert given == {names[0] for names in all_variables().values()} - of_one_machine


def test_what_one_kind_of_service_reads_is_given_to_no_other(services: Config) -> None:
    readers = {
        "ACESTEP_OFFLOAD_TO_CPU": {"orchestrator"},
        "ACESTEP_OFFLOAD_DIT_TO_CPU": {"dit"},
        "ACESTAGE_ADAPTERS_DIR": {"dit"},
        "ACESTAGE_MAX_HOLD": set(STAGES),
    }
    for variable, names in readers.items():
        assert {name for name, service in services.items() if variable in service["environment"]} == names


@pytest.mark.parametrize("setting", [name for name, names in all_variables().items() if len(names) > 1])
def test_upstream_names_count_where_ours_are_not_set_but_for_what_containers_fix(setting: str) -> None:
    ours, *others = all_variables()[setting]
    for other in others:
        given = load(MAIN_FILE, **{other: "theirs"})
        assert given == load(MAIN_FILE, **{ours: "theirs"})
        assert load(MAIN_FILE, **{other: "theirs", ours: "ours"}) == load(MAIN_FILE, **{ours: "ours"})
        assert (given == load(MAIN_FILE)) == (setting in FIXED)


def test_with_tls_every_container_finds_the_files_where_the_example_says() -> None:
    (home,) = re.findall(r"^WORKDIR (/home\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    services = load(TLS_FILE)
    assert services.keys() == load(MAIN_FILE).keys()
    for service in services.values():
        (mount,) = service["volumes"]
        assert (mount["source"], mount["target"], mount["read_only"]) == ("./tls", f"{home}/tls", True)
        assert service.keys() == {"volumes"}  # Compose adds them to those there are
    example = (ROOT / ".env.example").read_text()
    for name in (
        "ACESTAGE_TLS_CERT=tls/cert.pem",
        "ACESTAGE_TLS_KEY=tls/key.pem",
        "ACESTAGE_TLS_CA=tls/ca.pem",
    ):
        assert f"# {name} " in example


def test_stages_reserve_the_gpu() -> None:
    services = load(MAIN_FILE)
    assert not services["orchestrator"].keys() & {"deploy"}
    assert not services["gateway"].keys() & {"deploy"}
    for stage in STAGES:
        (device,) = services[stage]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_profile_without_gpu_reserves_none() -> None:
    services = load(MAIN_FILE, CPU_FILE)
    for name, service in services.items():
        assert not service.keys() & {"deploy", "gpus", "runtime"}
        assert service["image"] == "acestage:cpu"
        assert service["environment"].get("ACESTAGE_DEVICE") == ("cpu" if name in STAGES else None)


def test_the_example_of_env_names_every_setting_its_default_and_its_names_of_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name in {alias for names in all_variables().values() for alias in names}:
            monkeypatch.delenv(name)
    lines = [line[2:] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line]
    by_variable = {line.partition("=")[0]: line for line in lines}
    assert len(by_variable) == len(lines)
    assert sorted(by_variable) == sorted(names[0] for names in all_variables().values())

    for ours, *others in all_variables().values():
        _, _, also = by_variable[ours].partition(" Also: ")
        assert also == (f"{', '.join(others)}." if others else "")

    default = load_settings()
    (tmp_path / ".env").write_text("\n".join(lines))
    given = load_settings()
    for name, names in all_variables().items():
        if "# Example; " not in by_variable[names[0]]:
            assert getattr(given, name) == getattr(default, name), name


@dataclass
class Container:
    """A service of the files as a child process."""

    name: str
    process: subprocess.Popen[bytes]
    health_command: list[str]
    environment: dict[str, str]

    def is_healthy(self) -> bool:
        """Runs the health check; it takes a while, so a loop around it needs no pause."""
        probe = subprocess.run(self.health_command, env=self.environment, capture_output=True, timeout=30)
        return probe.returncode == 0

    def wait_until_healthy(self, deadline: float) -> None:
        while not self.is_healthy():
            assert self.process.poll() is None, f"{self.name} ended with exit code {self.process.returncode}"
            assert time.monotonic() < deadline, f"{self.name} is not healthy after {START_TIMEOUT_S:.0f} s"


class Substitution:
    """What differs from a container: this machine's names and ports for its own, `folder` for its mounts."""

    def __init__(self, services: Config, ports: dict[str, int], folder: Path) -> None:
        self._parts: dict[str, str] = {}
        for name, port in ports.items():
            environment = services[DOORS.get(name, name)]["environment"]
            inside = environment[f"ACESTAGE_{name.upper()}_PORT" if name in DOORS else "ACESTAGE_PORT"]
            self._parts[f"{name}:{inside}"] = self._parts[f"localhost:{inside}"] = f"127.0.0.1:{port}"
            self._parts[inside] = f"{port}"
        folders = (
            *("/run/acestage", "/var/cache/acestage", "/var/tmp/acestage", "/var/lib/acestage"),
            *("/checkpoints", "/adapters"),
        )
        self._parts |= {path: str(folder) + path for path in folders}
        self._pattern = re.compile("|".join(map(re.escape, self._parts)))

    def __call__(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._parts[match.group()], text)


@contextlib.contextmanager
def run_services(services: Config, ports: dict[str, int], folder: Path) -> Iterator[list[Container]]:
    """Starts `services` and waits until all are healthy; kills what still lives at the end."""
    substitute = Substitution(services, ports, folder)
    # As in the image: the package is installed, "python" is its interpreter, and nothing else is set.
    search_path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    containers: list[Container] = []
    with contextlib.ExitStack() as stack:
        for name, service in services.items():
            command = [*entry_point(), *service["command"]]
            given = service["environment"].items()
            environment = search_path | {key: substitute(value) for key, value in given if value is not None}
            _, *health_command = map(substitute, service["healthcheck"]["test"])
            process = stack.enter_context(subprocess.Popen(command, env=environment, cwd=folder))
            stack.callback(process.kill)
            containers.append(Container(name, process, health_command, environment))
        deadline = time.monotonic() + START_TIMEOUT_S
        for container in containers:
            container.wait_until_healthy(deadline)
        yield containers


def two_free_ports() -> dict[str, int]:
    with socket.socket() as rest, socket.socket() as page:
        for listener in (rest, page):
            listener.bind(("127.0.0.1", 0))
        return {"rest": rest.getsockname()[1], "page": page.getsockname()[1]}


def test_the_profile_without_gpu_generates_a_song_and_stops_cleanly(tmp_path: Path) -> None:
    ports = free_ports() | two_free_ports()
    with run_services(load(MAIN_FILE, CPU_FILE), ports, tmp_path) as containers:
        with Client(f"127.0.0.1:{ports['orchestrator']}") as client:
            generation = client.generate("warm piano", duration_s=10.0, seed=7, timeout_s=120.0)

        (track,) = generation.tracks
        assert generation.settings.model.name == "tiny-turbo"
        assert track.sample_rate_hz == 48_000
        assert track.audio.shape == (480_000, 2)
        assert np.isfinite(track.audio).all()
        assert track.rms > 1e-4
        assert {path.name for path in (tmp_path / "run/acestage").iterdir()} == {
            "ledger-epoch",
            "ledger.lock",
            "cpu.lock",
        }
        assert len(list((tmp_path / "var/cache/acestage/measurements").iterdir())) == len(STAGES)

        processes = [psutil.Process(container.process.pid) for container in containers]
        below = [child for process in processes for child in process.children(recursive=True)]
        assert len(below) >= len(STAGES)
        for container in containers:
            container.process.send_signal(signal.SIGTERM)
        codes = {container.name: container.process.wait(STOP_TIMEOUT_S) for container in containers}
        _, left = psutil.wait_procs(below, timeout=STOP_TIMEOUT_S)

    assert set(codes.values()) <= {0, -signal.SIGTERM}, codes
    assert not left
