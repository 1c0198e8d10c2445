"""Whether an address may be served: what others can reach asks for a key, unless somebody says otherwise."""

from __future__ import annotations

import ipaddress

from acestage.errors import FailedPreconditionError
from acestage.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an address or a name to bind; a wildcard is none."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_REACHED_AT = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def reached_at(host: str) -> str:
    """Where this machine reaches what it serves at `host`: a wildcard is an address for servers alone."""
    name = host.strip("[]")
    return _REACHED_AT.get(name, name)


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around the colons of IPv6."""
    name = host.strip("[]")
    return f"[{name}]:{port}" if ":" in name and not name.startswith("unix:") else f"{name}:{port}"


def check_exposure(field: str, host: str, settings: Settings) -> None:
    """`host`, which the setting `field` says, must be safe to serve with `settings`.

    Raises:
        FailedPreconditionError: others can reach it, there is no key, and nobody said that this is wanted.
    """
    if is_loopback(host) or settings.api_key is not None or settings.insecure:
        return
    raise FailedPreconditionError(
        f"{field}: {host!r} can be reached from other machines, and no key is set; accepted: a loopback "
        "address such as 127.0.0.1, a key (ACESTAGE_API_KEY), or ACESTAGE_INSECURE=true in a network where "
        "everybody may do everything"
    )
