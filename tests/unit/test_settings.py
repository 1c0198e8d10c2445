"""Settings: where services answer, and what is said of a wrong value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from acestage.settings import SERVICES, Settings, check_address, setting_errors


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty; no setting comes from outside."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ACESTAGE_", "ACESTEP_")):
            monkeypatch.delenv(name)
    return tmp_path


def errors_of(**flags: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings(**flags)
    return setting_errors(caught.value)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_sought_at_its_port_on_this_machine(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Settings()
    assert default.address(service) == f"127.0.0.1:{default.ports()[service]}"
    monkeypatch.setenv(f"ACESTAGE_{service.upper()}_PORT", "41070")
    moved = Settings()
    assert moved.address(service) == "127.0.0.1:41070"
    others = [name for name in SERVICES if name != service]
    assert [moved.address(name) for name in others] == [default.address(name) for name in others]


@pytest.mark.parametrize("service", SERVICES)
def test_an_address_that_is_given_wins_over_the_port(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACESTAGE_{service.upper()}_PORT", "41070")
    monkeypatch.setenv(f"ACESTAGE_{service.upper()}", "dns:///gpu-box:50050")
    assert Settings().address(service) == "dns:///gpu-box:50050"
    assert Settings(**{service: "10.0.0.2:1"}).address(service) == "10.0.0.2:1"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50050",
        "text_encoder:50051",
        "gpu-box.example.org:65535",
        "[::1]:1",
        "dns:///dit:50052",
        "unix:/run/acestage/dit.sock",
        "unix:dit.sock",
    ],
)
def test_addresses_that_are_accepted(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "myhost",
        "myhost:",
        "myhost:0",
        "myhost:65536",
        "myhost:http",
        ":50050",
        "::1:50050",
        "two words:50050",
        "http://myhost:50050",
        "dns:///myhost",
        "dns:///",
        "unix:",
        "myhost:50050\n",
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        check_address(address)


def test_a_wrong_setting_is_named_with_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = errors_of(orchestrator="somewhere")
    assert line.startswith("orchestrator: is not an address")
    assert line.endswith("(given: 'somewhere')")
    monkeypatch.setenv("ACESTAGE_ORCHESTRATOR", "myhost")
    monkeypatch.setenv("ACESTAGE_THREADS", "0")
    address, threads = errors_of()
    assert address.startswith("ACESTAGE_ORCHESTRATOR: is not an address")
    assert address.endswith("(given: 'myhost')")
    assert threads.startswith("ACESTAGE_THREADS: ")
    assert threads.endswith("(given: '0')")


def test_an_empty_value_is_as_unset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("ACESTAGE_THREADS=\nACESTAGE_DIT=\nACESTAGE_VAE=vae:50053\n")
    monkeypatch.setenv("ACESTAGE_ORCHESTRATOR_PORT", "")
    monkeypatch.setenv("ACESTAGE_VAE", "")
    settings = Settings()
    assert settings.threads is None
    assert settings.dit is None
    assert settings.vae == "vae:50053"
    assert settings.orchestrator_port == 50050


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("ACESTAGE_THREADS=2\n")
    assert Settings().threads == 2
    monkeypatch.setenv("ACESTAGE_THREADS", "3")
    assert Settings().threads == 3
    assert Settings(threads=4).threads == 4
