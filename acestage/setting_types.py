"""The kinds of values that settings have, and how they are checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr

DTypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
QuantizationChoice = Literal["auto", "none", "int8"]
LimitsBasis = Literal["planner", "tier"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Doors = Literal["both", "rest", "page", "none"]
"""What the gateway opens: the REST interface, the web page."""
Language = Literal["en", "pt"]
"""What the web page is written in."""

_HOST_AND_PORT = re.compile(r"(?:dns:///)?(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):(?P<port>[0-9]{1,5})")
_UNIX_SOCKET = re.compile(r"unix:\S+")
_LOCALE = re.compile(r"(?P<language>en|pt)(?:[_.@:-].*)?")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|fake:\d+")  # the last is for tests


def check_address(address: str) -> str:
    """Returns `address` where it is one that a client can connect to.

    Raises:
        ValueError: it is none.
    """
    match = _HOST_AND_PORT.fullmatch(address)
    if _UNIX_SOCKET.fullmatch(address) or (match and 1 <= int(match["port"]) <= 65535):
        return address
    raise ValueError("is not an address: accepted are HOST:PORT, dns:///HOST:PORT and unix:PATH")


Address = Annotated[str, AfterValidator(check_address)]
"""Where a service answers."""


def expand_user(path: Path) -> Path:
    """`path` with the home folder in the place of a ~ or ~user that it begins with.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"begins with {path.parts[0]}, and there is no such user") from None


UserPath = Annotated[Path, AfterValidator(expand_user)]
"""A file or a folder."""


def _check_device(device: str) -> str:
    if _DEVICE.fullmatch(device):
        return device
    raise ValueError("is no device; accepted: auto, cpu, cuda or cuda:N")


Device = Annotated[str, AfterValidator(_check_device)]
"""What the stages compute on."""


def _check_list(value: str) -> str:
    if "" in split_list(value):
        raise ValueError("has an empty part: accepted are names or folders with commas between them")
    return value


def split_list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


Checkpoints = Annotated[str, AfterValidator(_check_list)]
"""Checkpoints with commas between them; the first is the default."""


def _auto_as_unset(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


Switch = Annotated[bool | None, BeforeValidator(_auto_as_unset)]
"""true, false, or auto, which is None: Acestage decides."""


def _check_key(key: SecretStr) -> SecretStr:
    """A key goes into headers: letters that all of them can hold, and none that ends in a blank."""
    text = key.get_secret_value()
    if not text.isascii() or not text.isprintable() or text != text.strip() or not text:
        raise ValueError("is no key: accepted are printable ASCII characters, without blanks at the ends")
    return key


def _language(value: object) -> object:
    match = _LOCALE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is no language of the page; accepted: en, pt, or a locale of theirs such as pt_BR")
    return match["language"]


def language_of_system(locale: str) -> Language:
    """The language for any locale or a list of them, as in the variable LANGUAGE; else English."""
    return "pt" if locale.strip().lower().startswith("pt") else "en"


ApiKeyText = Annotated[SecretStr, AfterValidator(_check_key)]
"""What clients bring; no message shows it."""
LanguageChoice = Annotated[Language, BeforeValidator(_language)]
"""A language by its code, or by a locale of it."""
