from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these calls")

_PROGRAM = """
import os
from services.runtime.processes import heap
from services.runtime.processes.process_memory import measure

def resident_bytes():
    return measure("self").rss_bytes

{before}
# Freeing a block of 24 MiB raises the size up to which glibc takes blocks from the heap.
block = bytearray(24 << 20)
del block
start = resident_bytes()
blocks = [bytearray(os.urandom({block_mib} << 20)) for _ in range(8)]
small = bytearray(100_000)  # keeps the end of the heap where it is
del blocks
{after}
print(resident_bytes() - start)
"""


def _growth_bytes(*, before: str = "", after: str = "", block_mib: int = 8) -> int:
    program = _PROGRAM.format(before=before, after=after, block_mib=block_mib)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_without_help_the_heap_keeps_what_was_freed() -> None:
    assert _growth_bytes() > 16 << 20


def test_trim_gives_free_pages_back() -> None:
    assert _growth_bytes(after="heap.trim()") < 8 << 20


def test_mapped_large_blocks_go_back_as_they_are_freed() -> None:
    assert _growth_bytes(before="heap.map_large_blocks()") < 8 << 20


@pytest.mark.parametrize(("block_mib", "is_kept"), [(8, True), (17, False)])
def test_a_worker_keeps_blocks_of_layers_alone_until_it_trims(block_mib: int, is_kept: bool) -> None:
    keep = "heap.keep_freed_blocks()"
    assert (_growth_bytes(before=keep, block_mib=block_mib) > 16 << 20) is is_kept
    assert _growth_bytes(before=keep, after="heap.trim()", block_mib=block_mib) < 8 << 20
