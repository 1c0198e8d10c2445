"""A WAV header of unknown length is read by others until the end."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from acestage.wav_stream import wav_stream_header


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1)])
def test_a_stream_is_read_back_bit_by_bit(rate: int, channels: int) -> None:
    samples = np.random.default_rng(1).normal(size=(1000, channels)).astype("<f4")
    stream = io.BytesIO(wav_stream_header(rate, channels) + samples.tobytes())
    info = soundfile.info(stream)
    assert (info.format, info.subtype) == ("WAV", "FLOAT")
    stream.seek(0)
    read, read_rate = soundfile.read(stream, dtype="float32", always_2d=True)
    assert read_rate == rate
    assert np.array_equal(read, samples)


def test_both_sizes_say_until_the_end() -> None:
    header = wav_stream_header(48_000, 2)
    riff, riff_size, wave = struct.unpack_from("<4sI4s", header)
    data, data_size = struct.unpack_from("<4sI", header, len(header) - 8)
    assert (riff, wave, data) == (b"RIFF", b"WAVE", b"data")
    assert riff_size == data_size == 0xFFFFFFFF
