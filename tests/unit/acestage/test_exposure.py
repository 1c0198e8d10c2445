from __future__ import annotations

import pytest
from pydantic import SecretStr

from acestage.errors import FailedPreconditionError
from acestage.exposure import check_exposure, is_loopback, join_address, reached_at
from acestage.settings import Settings

EXPOSED = ["0.0.0.0", "::", "[::]", "", "192.168.1.7", "studio.lan", "127.0.0.1.example", "localhost.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "unix:/run/a.sock"])
def test_what_only_this_machine_reaches_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure("rest_host", host, Settings(api_key=None, insecure=False))


@pytest.mark.parametrize("host", EXPOSED)
def test_what_others_reach_needs_a_key_or_a_word(host: str) -> None:
    with pytest.raises(FailedPreconditionError, match=r"rest_host: .* no key is set; accepted: a loopback"):
        check_exposure("rest_host", host, Settings(api_key=None, insecure=False))
    check_exposure("rest_host", host, Settings(api_key=SecretStr("k"), insecure=False))
    check_exposure("rest_host", host, Settings(api_key=None, insecure=True))


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", "127.0.0.1:5"),
        ("", "127.0.0.1:5"),
        ("::", "[::1]:5"),
        ("[::]", "[::1]:5"),
        ("fe80::1", "[fe80::1]:5"),
        ("studio.lan", "studio.lan:5"),
    ],
)
def test_this_machine_reaches_a_wildcard_at_its_loopback(host: str, reached: str) -> None:
    assert join_address(reached_at(host), 5) == reached
