from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from acestage.errors import InvalidArgumentError
from services.gateway.exports import encoded_parts
from services.gateway.exports.codec import Samples
from services.gateway.exports.export import write_export
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.tags import Tags
from tests.unit.gateway.exports.exported_audio import RATE_HZ, heard, two_tones

FRAME = 1_152
TAGS = Tags("song", 1, {})


def strummed(sample_count: int) -> Samples:
    """Chords that are struck twice a second, over noise: blocks of all kinds, a reservoir that is used."""
    random = np.random.default_rng(3)
    times = np.arange(sample_count) / RATE_HZ
    decay = np.exp(-8.0 * (times % 0.5))[:, None]
    chord = sum(np.sin(2 * np.pi * hz * times) for hz in (220.0, 277.2, 329.6, 1_760.0))[:, None]
    noise = random.standard_normal((sample_count, 2))
    return (0.15 * decay * (chord + noise) + 0.005 * noise).astype(np.float32)


def mp3(folder: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch, part_frames: int) -> Path:
    monkeypatch.setattr(encoded_parts, "PART_FRAMES", part_frames)
    path = folder / f"{part_frames}.mp3"
    write_export(path, samples, ExportFormat.mp3, tags=TAGS)
    return path


def faults(path: Path, samples: Samples) -> Samples:
    """What is heard that is not in `samples`, in each 50 ms: its root mean square."""
    wrong = heard(path)[: len(samples)] - samples
    window = RATE_HZ // 20
    whole = len(wrong) // window * window
    squares: Samples = wrong[:whole].reshape(-1, window * 2) ** 2
    return np.sqrt(squares.mean(axis=1))


def test_the_joints_cannot_be_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = strummed(20 * RATE_HZ + 77)
    one = mp3(tmp_path, samples, monkeypatch, 10_000)
    parts = mp3(tmp_path, samples, monkeypatch, 150)
    assert len(heard(parts)) == len(heard(one)) == len(samples)
    assert parts.stat().st_size == one.stat().st_size
    assert parts.read_bytes() != one.read_bytes()  # else nothing was joined
    # Each is as near to the source as the other: two encoders share their bits out a little differently.
    np.testing.assert_allclose(faults(parts, samples), faults(one, samples), rtol=0.5)
    assert faults(parts, samples).mean() == pytest.approx(faults(one, samples).mean(), rel=0.02)


def test_the_clock_of_the_packets_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(mp3(tmp_path, strummed(15 * RATE_HZ), monkeypatch, 150))) as file:
        times = [(packet.pts, packet.time_base) for packet in file.demux() if packet.size]
    seconds = [float(pts * base) for pts, base in times if pts is not None and base is not None]
    assert len(seconds) > 600
    np.testing.assert_allclose(np.diff(seconds), FRAME / RATE_HZ, atol=1e-6)


def test_where_encoders_never_agree_one_encodes_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = strummed(8 * RATE_HZ)
    one = mp3(tmp_path, samples, monkeypatch, 10_000)
    monkeypatch.setattr(encoded_parts, "_SETTLED_FRAMES", 10_000)
    assert mp3(tmp_path, samples, monkeypatch, 100).read_bytes() == one.read_bytes()


def test_silence_is_joined_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = strummed(15 * RATE_HZ)
    samples[5 * RATE_HZ : 8 * RATE_HZ] = 0.0  # all frames of silence are alike
    parts, one = (mp3(tmp_path, samples, monkeypatch, count) for count in (150, 10_000))
    assert len(heard(parts)) == len(heard(one))
    assert heard(parts).std() == pytest.approx(heard(one).std(), rel=1e-3)


@pytest.mark.parametrize("sample_count", [1, FRAME * 300 - 1, FRAME * 300, FRAME * 300 + 1])
def test_a_last_part_may_be_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_count: int) -> None:
    samples = two_tones(sample_count)
    parts, one = (mp3(tmp_path, samples, monkeypatch, count) for count in (100, 10_000))
    assert len(heard(parts)) == len(heard(one)) >= sample_count


def test_the_number_of_cores_makes_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for count in (1, 2, 5):
        monkeypatch.setattr(encoded_parts, "usable_core_count", lambda count=count: count)
        found.add(mp3(tmp_path, strummed(12 * RATE_HZ), monkeypatch, 120).read_bytes())
    assert len(found) == 1


def test_a_fault_in_any_part_is_the_fault_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = two_tones(10 * RATE_HZ)
    samples[7 * RATE_HZ, 1] = np.nan
    with pytest.raises(InvalidArgumentError, match="not all finite"):
        mp3(tmp_path, samples, monkeypatch, 100)
    assert not list(tmp_path.iterdir())
