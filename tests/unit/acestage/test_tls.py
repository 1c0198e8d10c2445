"""The certificate is tried out before anything starts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from acestage.errors import FailedPreconditionError
from acestage.settings import Settings
from acestage.tls import check_certificate, try_certificate
from tests.certificates import Pair, make_certificate


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_certificate(tmp_path_factory.mktemp("tls") / "own", "DNS:localhost", "IP:127.0.0.1")


def problem(name: str = "localhost", **given: Any) -> str:
    with pytest.raises(FailedPreconditionError) as caught:
        try_certificate(Settings(**given), name)
    return caught.value.message


def test_without_a_certificate_there_is_nothing_to_check() -> None:
    check_certificate(Settings())
    try_certificate(Settings(), "localhost")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_certificate_that_names_its_server_vouches_for_itself(pair: Pair, name: str) -> None:
    settings = Settings(tls_cert=pair.cert, tls_key=pair.key)
    check_certificate(settings)
    try_certificate(settings, name)


def test_an_authority_without_a_certificate_is_not_for_services_that_start_here(pair: Pair) -> None:
    check_certificate(Settings(tls_ca=pair.cert))
    assert "but tls_cert is not set" in problem(tls_ca=pair.cert)


def test_a_key_that_grpc_does_not_know_is_refused(tmp_path: Path) -> None:
    odd = make_certificate(tmp_path / "odd", "DNS:localhost", key="ed25519")
    assert "gRPC cannot use" in problem(tls_cert=odd.cert, tls_key=odd.key)


def test_an_authority_vouches_for_others(tmp_path: Path) -> None:
    authority = make_certificate(tmp_path / "authority")
    signed = make_certificate(tmp_path / "signed", "DNS:studio.lan", authority=authority)
    stranger = make_certificate(tmp_path / "stranger")
    try_certificate(Settings(tls_cert=signed.cert, tls_key=signed.key, tls_ca=authority.cert), "studio.lan")
    found = problem("studio.lan", tls_cert=signed.cert, tls_key=signed.key, tls_ca=stranger.cert)
    assert f"trust {stranger.cert}: unable to get local issuer certificate" in found


def test_a_name_that_is_not_in_the_certificate_is_said(pair: Pair) -> None:
    given = {"tls_cert": pair.cert, "tls_key": pair.key}
    assert "is not believed by clients of 'studio.lan'" in problem("studio.lan", **given)
    assert "with ::1 among its alternative names" in problem("::1", **given)


def test_one_without_the_other_is_refused(pair: Pair) -> None:
    assert problem(tls_cert=pair.cert) == "tls_key: is not set, but tls_cert is; accepted: both or none"
    assert problem(tls_key=pair.key) == "tls_cert: is not set, but tls_key is; accepted: both or none"


def test_files_that_cannot_be_used_are_named(pair: Pair, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert f"tls_key: {missing} cannot be read: No such file" in problem(tls_cert=pair.cert, tls_key=missing)
    assert f"tls_ca: {missing} cannot be read" in problem(
        tls_cert=pair.cert, tls_key=pair.key, tls_ca=missing
    )
    other = make_certificate(tmp_path / "other", "DNS:localhost")
    assert "cannot be used together" in problem(tls_cert=pair.cert, tls_key=other.key)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("not PEM")
    assert "cannot be used together" in problem(tls_cert=no_pem, tls_key=pair.key)


def test_a_key_with_a_password_is_refused_and_not_asked_for(pair: Pair, tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:s3cret"]
    subprocess.run([*command, "-out", str(locked)], check=True)
    assert "the key without a password" in problem(tls_cert=pair.cert, tls_key=locked)
