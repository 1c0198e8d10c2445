"""What lets a card of 4 GB do for all of these tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_IN_THIS_PROCESS = [Path(__file__).with_name(name) for name in ("test_kernels.py", "test_memory.py")]
"""A context stays on the device as long as its process: services that need all of the card come first."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path in _IN_THIS_PROCESS)


@pytest.fixture(autouse=True)
def _nothing_stays_allocated() -> Iterator[None]:
    yield
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
