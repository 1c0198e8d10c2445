"""LoRA adapters in a folder: found by name, and read without torch as far as their headers go."""

from acestage.adapters.adapter import (
    MAX_FILE_BYTES,
    Adapter,
    AdapterLayer,
    check_initialisation,
    read_adapter,
)
from acestage.adapters.adapter_keys import parse_key
from acestage.adapters.folder import AdapterFolder, ListedAdapter

__all__ = [
    "MAX_FILE_BYTES",
    "Adapter",
    "AdapterFolder",
    "AdapterLayer",
    "ListedAdapter",
    "check_initialisation",
    "parse_key",
    "read_adapter",
]
