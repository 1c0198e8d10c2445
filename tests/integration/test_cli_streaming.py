"""Audio out of the command line while it is made, and jobs that run without it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acestage.generation import Track
from tests.running_stack import RunningStack, wait_until

SONG = ["--duration", "10", "--steps", "2", "--seed", "7"]
PLAYER_FLAGS = ["-q", "-t", "raw", "-f", "FLOAT_LE", "-r", "48000", "-c", "2", "-"]
ENDLESS = ["--duration", "300", "--steps", "200"]


def command(stack: RunningStack, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "acestage", *arguments, "--target", stack.target]


def acestage(
    stack: RunningStack, folder: Path, *arguments: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    variables = os.environ | {"COLUMNS": "300"} | environment
    ended = subprocess.run(
        command(stack, *arguments), cwd=folder, env=variables, capture_output=True, timeout=120, check=False
    )
    assert ended.returncode == code, ended.stderr.decode()
    assert b"Traceback" not in ended.stderr
    return ended


@pytest.fixture(scope="module")
def song(turbo_stack: RunningStack) -> Track:
    """What `SONG` asks for."""
    with turbo_stack.client() as client:
        return client.generate("piano", duration_s=10, step_count=2, seed=7).tracks[0]


def test_bare_samples_times_gain_are_the_float_file(
    turbo_stack: RunningStack, song: Track, tmp_path: Path
) -> None:
    flags = ["--stream", "-", "--format", "raw", "-o", "song.wav", "--bit-depth", "32f"]
    ended = acestage(turbo_stack, tmp_path, "generate", "piano", *SONG, *flags)
    streamed = np.frombuffer(ended.stdout, "<f4").reshape(-1, 2)
    written, _ = soundfile.read(tmp_path / "song.wav", dtype="float32")
    assert np.array_equal(streamed * np.float32(song.gain), written)
    assert np.array_equal(written, song.audio)
    said = ended.stderr.decode()
    assert "Wrote song.wav" in said
    assert said.count("First audio after") == 2  # as it comes, and in the summary


def test_a_wav_stream_goes_to_stdout_and_nothing_else_does(
    turbo_stack: RunningStack, song: Track, tmp_path: Path
) -> None:
    ended = acestage(turbo_stack, tmp_path, "generate", "piano", *SONG, "--stream", "-")
    streamed, rate = soundfile.read(io.BytesIO(ended.stdout), dtype="float32")
    assert rate == song.sample_rate_hz
    assert np.array_equal(streamed * np.float32(song.gain), song.audio)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_file", [False, True])
def test_a_stream_that_is_closed_early_ends_quietly(
    turbo_stack: RunningStack, tmp_path: Path, with_file: bool
) -> None:
    """Without a file to write the job is cancelled."""
    flags = ["--duration", "300" if not with_file else "10", "--steps", "1", "--stream", "-"]
    flags += ["-o", "song.wav"] if with_file else []
    with turbo_stack.client() as client:
        before = client.status().queue
    with subprocess.Popen(
        command(turbo_stack, "generate", "piano", *flags),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        head = subprocess.run(
            ["head", "-c", "1000"], stdin=process.stdout, capture_output=True, timeout=60, check=True
        )
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == 0, said
    assert head.stdout[:4] == b"RIFF"
    assert len(head.stdout) == 1000
    assert "Traceback" not in said
    assert "Broken" not in said
    wait_until(turbo_stack.is_idle, "nothing is left", 10)
    with turbo_stack.client() as client:
        queue = client.status().queue
    ended = (queue.succeeded_count - before.succeeded_count, queue.cancelled_count - before.cancelled_count)
    assert ended == ((1, 0) if with_file else (0, 1))
    assert [path.name for path in tmp_path.iterdir()] == (["song.wav"] if with_file else [])


def test_a_player_in_path_plays_all_of_it(turbo_stack: RunningStack, song: Track, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    player = programs / "aplay"
    player.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/flags\n/bin/cat > {tmp_path}/heard\n')
    player.chmod(0o755)
    acestage(turbo_stack, tmp_path, "generate", "piano", *SONG, "--play", PATH=str(programs))
    assert (tmp_path / "flags").read_text().split() == PLAYER_FLAGS
    heard = np.frombuffer((tmp_path / "heard").read_bytes(), "<f4").reshape(-1, 2)
    assert np.array_equal(heard * np.float32(song.gain), song.audio)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "flags", "heard"]


def test_without_a_player_nothing_begins(turbo_stack: RunningStack, tmp_path: Path) -> None:
    ended = acestage(turbo_stack, tmp_path, "generate", "x", *SONG, "--play", code=1, PATH=str(tmp_path))
    assert b"ffplay" in ended.stderr
    assert b"Job" not in ended.stderr


def test_a_detached_job_is_attached_to_streamed_and_saved(
    turbo_stack: RunningStack, song: Track, tmp_path: Path
) -> None:
    ended = acestage(turbo_stack, tmp_path, "generate", "piano", *SONG, "--detach")
    job_id = ended.stdout.decode().strip()
    flags = ["--stream", "-", "--format", "raw", "-o", "song.wav", "--bit-depth", "32f"]
    ended = acestage(turbo_stack, tmp_path, "attach", job_id, *flags)
    written, _ = soundfile.read(tmp_path / "song.wav", dtype="float32")
    assert np.array_equal(written, song.audio)
    assert np.array_equal(np.frombuffer(ended.stdout, "<f4").reshape(-1, 2) * np.float32(song.gain), written)
    said = json.loads(acestage(turbo_stack, tmp_path, "attach", job_id, "--json").stdout)
    assert said["job_id"] == job_id
    assert [Path(track["path"]).name for track in said["tracks"]] == ["acestage-7.wav"]
    assert said["first_audio_s"] >= 0


def test_leaving_a_job_does_not_stop_it_and_cancel_does(turbo_stack: RunningStack, tmp_path: Path) -> None:
    job_id = acestage(turbo_stack, tmp_path, "generate", "x", *ENDLESS, "--detach").stdout.decode().strip()
    with subprocess.Popen(
        command(turbo_stack, "attach", job_id), cwd=tmp_path, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert any(b"Job" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(30) == 130
    assert f"Job {job_id} goes on" in said
    assert not turbo_stack.is_idle()
    assert acestage(turbo_stack, tmp_path, "cancel", job_id).stdout == b"cancelled\n"
    wait_until(turbo_stack.is_idle, "the job is gone", 10)
    ended = acestage(turbo_stack, tmp_path, "attach", job_id, code=1)
    assert b"CANCELLED" in ended.stderr
    ended = acestage(turbo_stack, tmp_path, "cancel", "nope", code=1)
    assert b"'nope'" in ended.stderr


def test_a_detached_job_needs_services_that_stay(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "acestage", "generate", "x", "--detach"],
        cwd=tmp_path,
        env=os.environ | {"ACESTAGE_ORCHESTRATOR": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "acestage up" in ended.stderr
