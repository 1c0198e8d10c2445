"""Whatever bytes are uploaded, they are taken in or refused: no other error, no unbounded output or memory.

Where a decoder crashes all the same, `audio_decoding` stands between it and the orchestrator.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import resource
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestage.errors import InvalidArgumentError
from services.orchestrator.uploads.audio_facts import RawFormat
from services.orchestrator.uploads.audio_intake import MOST_PEAK, take_in
from tests.unit.audio_files import encoded, tone


def fuzz(example_count: int) -> settings:
    """The same examples in every run."""
    return settings(
        max_examples=example_count,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


RATE_HZ = 8_000
NOISE = np.random.default_rng(5).uniform(-0.1, 0.1, (9_000, 2)).astype(np.float32) + tone(
    1.125, RATE_HZ, 0.3, 0.1
)
FILES = [
    encoded(NOISE, RATE_HZ, kind, subtype)
    for kind, subtype in [
        *[("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16")],
        *[("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", "PCM_16")],
        *[("AU", "ULAW"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("VOC", "PCM_16"), ("MAT5", "FLOAT")],
    ]
]
MOST_OUTPUT_BYTES = 601 * 48_000 * 8
MOST_MEMORY_GROWTH_KIB = 300 << 10


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_of_others() -> None:
    """What earlier tests left to the garbage collector must not go while descriptors are counted here."""
    gc.collect()


class Counted(io.RawIOBase):
    """Takes bytes and forgets them."""

    byte_count = 0

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        self.byte_count += size
        return size


@contextmanager
def bounded_memory() -> Iterator[None]:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < MOST_MEMORY_GROWTH_KIB


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """Decoders print what they think of a file."""


def offer(data: bytes, raw: RawFormat | None = None) -> None:
    """Takes `data` in, and checks that it is either refused or made into audio within all bounds."""
    descriptors = len(os.listdir("/proc/self/fd"))
    with tempfile.NamedTemporaryFile() as upload:
        upload.write(data)
        upload.flush()
        destination = Counted()
        with contextlib.suppress(InvalidArgumentError):
            facts = take_in(Path(upload.name), raw, destination)  # type: ignore[arg-type]
            assert destination.byte_count == facts.samples_bytes
            assert 1 - 1e-4 <= facts.duration_s <= 600 + 1e-4
            assert 0 <= facts.rms <= facts.peak + 1e-6 < 3 * MOST_PEAK
        assert destination.byte_count <= MOST_OUTPUT_BYTES
    assert len(os.listdir("/proc/self/fd")) == descriptors


@fuzz(150)
@given(
    start=st.sampled_from(
        [b"", *sorted({file[:12] for file in FILES}), b"ID3\x04", b"RIFX", b"\xff\xfb\x90\x00"]
    ),
    rest=st.binary(max_size=400),
)
def test_random_bytes(start: bytes, rest: bytes) -> None:
    offer(start + rest)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A file with some bytes changed, put in, taken out or cut off; most of them in its header."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 5))):
        position = draw(st.one_of(st.integers(0, min(120, len(data))), st.integers(0, len(data))))
        some = draw(
            st.one_of(
                st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\x7f" + b"\xff" * 7])
            )
        )
        match draw(st.sampled_from(["change", "change", "change", "put in", "take out", "cut off"])):
            case "change":
                data[position : position + len(some)] = some
            case "put in":
                data[position:position] = some
            case "take out":
                del data[position : position + len(some) ** 2]
            case _:
                del data[position:]
    return bytes(data)


@fuzz(500)
@given(data=damaged_files())
def test_damaged_files(data: bytes) -> None:
    with bounded_memory():
        offer(data)


SIZES = st.one_of(
    st.integers(0, 2**16), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1)
)


@fuzz(300)
@given(
    riff_bytes=SIZES,
    tag=st.sampled_from([1, 2, 3, 6, 7, 0x11, 0x31, 0x55, 0xFFFE]),
    channel_count=st.one_of(st.integers(1, 16), st.integers(0, 2**16 - 1)),
    sample_rate_hz=st.one_of(st.integers(4_000, 384_000), SIZES),
    block_bytes=st.integers(0, 2**16 - 1),
    bit_count=st.one_of(st.sampled_from([8, 16, 24, 32, 64]), st.integers(0, 2**16 - 1)),
    data_bytes=SIZES,
)  # fmt: skip
def test_random_wave_headers(
    riff_bytes: int,
    tag: int,
    channel_count: int,
    sample_rate_hz: int,
    block_bytes: int,
    bit_count: int,
    data_bytes: int,
) -> None:
    layout = (tag, channel_count, sample_rate_hz, sample_rate_hz, block_bytes, bit_count)
    chunks = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *layout) + b"data" + struct.pack("<I", data_bytes)
    with bounded_memory():
        offer(b"RIFF" + struct.pack("<I", riff_bytes) + chunks + FILES[0][44:])


@fuzz(200)
@given(
    sample_rate_hz=st.one_of(st.integers(4_000, 12_000), st.integers(-(2**31), 2**31 - 1)),
    channel_count=st.one_of(st.integers(1, 16), st.integers(-(2**31), 2**31 - 1)),
    pattern=st.binary(min_size=1, max_size=64),
    byte_count=st.integers(0, 100_000),
)  # fmt: skip
def test_raw_samples_of_any_size(
    sample_rate_hz: int, channel_count: int, pattern: bytes, byte_count: int
) -> None:
    data = (pattern * (byte_count // len(pattern) + 1))[:byte_count]
    offer(data, RawFormat(sample_rate_hz, channel_count))
