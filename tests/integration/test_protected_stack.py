"""Services with a key and a certificate: who has both comes in, by every way; nobody else does."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from acestage import Access, Client
from acestage.access import open_channel
from acestage.errors import ServiceUnreachableError, UnauthenticatedError
from acestage.protos.lease.v1 import lease_pb2, lease_pb2_grpc
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.settings import SERVICES
from tests.certificates import Pair, make_certificate
from tests.integration.test_compose import two_free_ports
from tests.running_stack import RunningStack

KEY = "s3cret key"


@dataclass(frozen=True)
class Protected:
    """Services behind a key and TLS, with both doors."""

    stack: RunningStack
    pair: Pair
    doors: dict[str, int]

    @property
    def access(self) -> Access:
        return Access(KEY, self.pair.cert)

    def https(self, **options: Any) -> httpx.Client:
        return httpx.Client(verify=ssl.create_default_context(cafile=self.pair.cert), timeout=60, **options)

    def url(self, door: str) -> str:
        return f"https://127.0.0.1:{self.doors[door]}"


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    folder = tmp_path_factory.mktemp("protected")
    pair = make_certificate(folder / "tls", "IP:127.0.0.1", "DNS:localhost")
    doors = two_free_ports()
    flags = [f"--{name}-port={port}" for name, port in doors.items()]
    # Every address of the machine, since that is what needs protection; all find each other at 127.0.0.1.
    flags += ["--host=0.0.0.0", f"--tls-cert={pair.cert}", f"--tls-key={pair.key}"]
    variables = {
        "ACESTAGE_DOORS": "both",
        "ACESTAGE_API_KEY": KEY,
        "ACESTAGE_OUTPUT_DIR": str(folder / "outputs"),
    }
    with RunningStack.start("tiny-turbo", folder, flags=flags, **variables) as stack:
        yield Protected(stack, pair, doors)


def health(channel: grpc.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status


def reflected_services(channel: grpc.Channel) -> Any:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    return [list(stub.ServerReflectionInfo(iter([request]), timeout=5))]


def stage_info(channel: grpc.Channel) -> Any:
    return stage_pb2_grpc.StageServiceStub(channel).GetStageInfo(stage_pb2.GetStageInfoRequest(), timeout=5)


def leases(channel: grpc.Channel) -> Any:
    return lease_pb2_grpc.LeaseServiceStub(channel).ListLeases(lease_pb2.ListLeasesRequest(), timeout=5)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_answers_who_has_the_key_and_tells_others_its_health(
    protected: Protected, service: str
) -> None:
    address = protected.stack.address(service)
    own: Callable[[grpc.Channel], Any] = leases if service == "orchestrator" else stage_info
    with open_channel(address, protected.access) as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        assert own(channel)
        assert reflected_services(channel)
    for key in (None, KEY + "2"):
        with open_channel(address, Access(key, protected.pair.cert)) as channel:
            assert health(channel) == health_pb2.HealthCheckResponse.SERVING
            for call in (own, reflected_services):
                with pytest.raises(grpc.RpcError) as caught:
                    call(channel)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_client_generates_through_all_stages(protected: Protected) -> None:
    with Client(protected.stack.target, protected.access) as client:
        generation = client.generate("piano", duration_s=10, seed=7, step_count=2, timeout_s=60)
        assert generation.tracks[0].audio.shape == (480_000, 2)
        assert all(stage.is_serving for stage in client.status().stages)


def test_a_client_is_told_what_it_lacks(protected: Protected) -> None:
    target = protected.stack.target
    with (
        Client(target, Access(None, protected.pair.cert)) as client,
        pytest.raises(UnauthenticatedError, match="the key of orchestrator is missing or wrong"),
    ):
        client.status()
    with Client(target, Access(KEY)) as client, pytest.raises(ServiceUnreachableError):
        client.status()


def test_commands_take_key_and_certificate_from_the_settings(protected: Protected, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "acestage", "status", f"--target={protected.stack.target}"]

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    trusted = {"ACESTAGE_TLS_CA": str(protected.pair.cert)}
    done = run(**trusted, ACESTAGE_API_KEY=KEY)
    assert (done.returncode, "tiny-turbo" in done.stdout) == (0, True), done.stderr
    refused = run(**trusted)
    assert refused.returncode != 0
    assert "UNAUTHENTICATED" in refused.stderr
    missing = run(ACESTAGE_TLS_CA="no.pem")
    assert "tls_ca: no.pem cannot be read" in missing.stderr


def test_rest_and_page_speak_tls_and_ask_for_the_key(protected: Protected) -> None:
    authorization = {"Authorization": f"Bearer {KEY}"}
    with protected.https() as http:
        rest, page = protected.url("rest"), protected.url("page")
        assert http.get(f"{rest}/health").status_code == 200
        assert http.get(f"{rest}/v1/status").status_code == 401
        assert http.get(f"{rest}/v1/status", headers=authorization).json()["stages"]
        assert http.get(f"{page}/en/").status_code == 401
        assert "Acestage" in http.get(f"{page}/en/", auth=("anyone", KEY)).text
        with pytest.raises(httpx.HTTPError):
            http.get(rest.replace("https", "http"))


def test_the_probe_of_containers_trusts_what_the_settings_name(protected: Protected) -> None:
    targets = [protected.stack.target, f"//127.0.0.1:{protected.doors['rest']}/health"]

    def probe(target: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.runtime.rpc.health_probe", target]
        return subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=30
        )

    for target in targets:
        done = probe(target, ACESTAGE_TLS_CA=str(protected.pair.cert))
        assert done.returncode == 0, done.stderr
        assert probe(target).returncode == 1
        missing = probe(target, ACESTAGE_TLS_CA="no.pem")
        assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
        assert "no.pem" in missing.stderr


def test_the_key_is_in_no_command_line_and_no_log(protected: Protected) -> None:
    lines = [" ".join(process.cmdline()) for process in protected.stack.family()]
    assert len(lines) > len(SERVICES)
    assert not any(KEY in line for line in lines)
    assert KEY not in protected.stack.log()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--host=0.0.0.0"], "host: '0.0.0.0' can be reached from other machines, and no key is set"),
        (["--tls-cert=cert.pem"], "tls_key: is not set, but tls_cert is"),
    ],
)
@pytest.mark.parametrize("module", ["acestage", "services.orchestrator"])
def test_services_that_would_be_open_to_all_do_not_start(
    module: str, flags: list[str], what: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", module, *(["up"] if module == "acestage" else []), *flags]
    environment = os.environ | {"ACESTAGE_RUN_DIR": str(tmp_path / "run"), "ACESTAGE_TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert what in " ".join(done.stderr.split())
