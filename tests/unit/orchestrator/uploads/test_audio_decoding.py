"""Audio is decoded in a child process, whose end, however it comes, is an answer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from acestage.errors import AcestageError, InternalError, InvalidArgumentError, ResourceExhaustedError
from services.orchestrator.uploads.audio_decoding import decode
from services.orchestrator.uploads.audio_facts import AudioFacts, RawFormat
from tests.running_stack import wait_until
from tests.unit.audio_files import encoded, tone


def decoded(folder: Path, data: bytes, raw: RawFormat | None = None, script: str | None = None) -> AudioFacts:
    """What comes of `data`; `script` is Python that stands in for the decoder."""
    (folder / "upload").write_bytes(data)
    command = {"command": (sys.executable, "-c", script)} if script else {}
    return asyncio.run(decode(folder / "upload", raw, folder / "decoded", **command))


def test_samples_are_written_and_described(tmp_path: Path) -> None:
    original = tone(1.0, 48_000, 0.5, 0.25)
    facts = decoded(tmp_path, original.tobytes(), RawFormat(48_000, 2))
    assert (tmp_path / "decoded").read_bytes() == original.tobytes()
    assert (facts.sample_count, facts.original_format) == (48_000, "raw float32")


def test_a_refusal_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decoded(tmp_path, bytes(8), RawFormat(1, 2))
    assert [violation.field for violation in caught.value.violations] == ["header.raw.sample_rate_hz"]


def test_what_a_decoder_prints_does_no_harm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libsndfile prints the checksums that are wrong in a MIDI sample dump, on stdout."""
    data = bytearray(encoded(tone(2.0, 48_000, 0.5), 48_000, "SDS"))
    for position in range(200, len(data), 127):
        data[position] ^= 1
    assert decoded(tmp_path, bytes(data)).original_format == "SDS PCM_16"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", InvalidArgumentError, r"data: .* its decoder \(SIGSEGV\)"),
        ("import os; os.abort()", InvalidArgumentError, r"data: .* its decoder \(SIGABRT\)"),
        ("import os; os.kill(os.getpid(), 24)", InvalidArgumentError, "data: takes more than 60 s"),
        ("import os; os.kill(os.getpid(), 9)", ResourceExhaustedError, "does the machine have memory left"),
        ("import sys; sys.exit(3)", InternalError, "exit code 3"),
    ],
)  # fmt: skip
def test_the_death_of_a_decoder_is_an_error(
    script: str, kind: type[AcestageError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        decoded(tmp_path, b"x", script=script)


def test_a_destination_that_cannot_be_written_is_a_lack_of_disk(tmp_path: Path) -> None:
    (tmp_path / "decoded").mkdir()
    with pytest.raises(ResourceExhaustedError, match="cannot be written to disk: File exists"):
        decoded(tmp_path, encoded(tone(1.0, 48_000, 0.5), 48_000))


def test_cancelling_ends_the_child(tmp_path: Path) -> None:
    marker = tmp_path / "begun"
    script = f"import time, pathlib; pathlib.Path({str(marker)!r}).touch(); time.sleep(600)"

    async def scenario() -> None:
        command = (sys.executable, "-c", script)
        task = asyncio.create_task(decode(tmp_path, None, tmp_path / "decoded", command=command))
        await asyncio.to_thread(wait_until, marker.exists, "the child has begun")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert not [child for child in psutil.Process().children() if script in child.cmdline()]
