"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acestage.client import DEFAULT_TARGET
from scripts.random_checkpoint import write_checkpoint
from tests.integration.test_failures import is_idle
from tests.running_stack import RunningStack, wait_until


def acestage(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acestage", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "300"} | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_generate_writes_the_file_and_tells_everything_as_json(
    turbo_stack: RunningStack, tmp_path: Path
) -> None:
    lyrics = tmp_path / "song.txt"
    lyrics.write_text("[verse]\nchuva na janela ☔", encoding="utf-8")
    output = tmp_path / "new folder" / "song.wav"
    flags = ["--lyrics", f"@{lyrics}", "--language", "pt", "--duration", "10", "--seed", "7", "--bpm", "96"]
    flags += ["--key", "F# minor", "--time-signature", "3", "--timesteps", "1,0.7,0.3,0", "--json"]
    ended = acestage("generate", "warm piano", *flags, "--target", turbo_stack.target, "-o", str(output))
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    settings = said["settings"]
    assert settings["lyrics"] == lyrics.read_text(encoding="utf-8")
    assert (settings["language"], settings["bpm"], settings["key_scale"]) == ("pt", 96, "F# minor")
    assert (settings["seed"], settings["step_count"], settings["timesteps"]) == (7, 3, [1, 0.7, 0.3])
    assert [track["path"] for track in said["tracks"]] == [str(output)]
    assert list(said["stages"]) == ["text_encoder", "dit", "vae"]
    assert said["peak_rss_bytes"]["dit/worker"] > 0
    audio, rate = soundfile.read(output)
    assert (audio.shape, rate) == ((480_000, 2), 48_000)
    assert np.abs(audio).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    assert "untrained" in ended.stderr


def test_a_summary_shows_times_leases_and_memory(turbo_stack: RunningStack, tmp_path: Path) -> None:
    ended = acestage("generate", "x", "--duration", "10", "--target", turbo_stack.target, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    for words in ("lease held", "peak memory", "dit/worker", "vae/preload", "orchestrator"):
        assert words in ended.stderr
    (file,) = tmp_path.glob("acestage-*.wav")
    assert file.stem.removeprefix("acestage-") in ended.stderr


@pytest.mark.parametrize(
    ("flags", "suffix", "subtype"),
    [
        (["--bit-depth", "16"], "wav", "PCM_16"),
        (["--bit-depth", "24"], "wav", "PCM_24"),
        (["--bit-depth", "32f"], "wav", "FLOAT"),
        (["--bit-depth", "24"], "flac", "PCM_24"),
        (["--format", "flac"], "audio", "PCM_16"),
    ],
)
def test_formats_and_depths(
    turbo_stack: RunningStack, tmp_path: Path, flags: list[str], suffix: str, subtype: str
) -> None:
    output = tmp_path / f"x.{suffix}"
    common = ["--duration", "10", "--steps", "1", "--target", turbo_stack.target, "-o", str(output)]
    ended = acestage("generate", "x", *common, *flags)
    assert ended.returncode == 0, ended.stderr
    info = soundfile.info(output)
    assert info.subtype == subtype
    assert info.format == ("WAV" if suffix == "wav" else "FLAC")


def test_takes_get_numbers(turbo_stack: RunningStack, tmp_path: Path) -> None:
    common = ["--duration", "10", "--steps", "1", "--target", turbo_stack.target]
    ended = acestage(
        "generate", "x", *common, "--batch", "2", "--seed", "4", "-o", str(tmp_path / "take.wav")
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["take-1.wav", "take-2.wav"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--duration", "0"], 1, ["duration_s", "10 to 600"]),
        (["--duration", "nan"], 1, ["duration_s", "nan"]),
        (["--key", "H dur"], 1, ["key_scale", "F# minor"]),
        (["--steps", "-1"], 1, ["step_count", "1 to 200"]),
        (["--timesteps", "a,b"], 2, ["--timesteps", "a,b"]),
        (["--lyrics", "@/no/such/file"], 2, ["--lyrics", "/no/such/file"]),
        (["--format", "mp3"], 2, ["mp3"]),
        (["--format", "flac", "--bit-depth", "32f"], 1, ["bit_depth", "16, 24"]),
        (["--checkpoint", "elsewhere"], 1, ["--checkpoint", "already run"]),
    ],
)
def test_bad_input_is_named_without_a_traceback(
    turbo_stack: RunningStack, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    ended = acestage("generate", "x", *arguments, "--target", turbo_stack.target, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_status_shows_services_ledger_and_queue(turbo_stack: RunningStack) -> None:
    ended = acestage("status", "--target", turbo_stack.target)
    assert ended.returncode == 0, ended.stderr
    for word in ("text_encoder", "dit", "vae", "tiny-turbo", "cpu", "No lease is held", "queued"):
        assert word in ended.stdout
    said = json.loads(acestage("status", "--target", turbo_stack.target, "--json").stdout)
    assert [stage["stage"] for stage in said["stages"]] == ["text_encoder", "dit", "vae"]
    assert said["queue"]["queue_max_count"] == 200


def test_status_without_services_says_where_it_looked() -> None:
    ended = acestage("status", "--target", "127.0.0.1:1")
    assert ended.returncode == 1
    assert "127.0.0.1:1 does not answer" in ended.stderr


def test_an_interrupted_generation_says_so_and_writes_nothing(
    turbo_stack: RunningStack, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "acestage", "generate", "x", "--duration", "600", "--steps", "200"]
    process = subprocess.Popen(
        [*command, "--target", turbo_stack.target], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: not is_idle(turbo_stack), "the job runs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Cancelled" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: is_idle(turbo_stack), "the job is gone", 10)


def test_services_are_started_for_one_run_where_none_listens(tmp_path: Path) -> None:
    """Also in a folder without the project: everything needed is installed."""
    output = tmp_path / "demo.wav"
    ended = acestage(
        "generate", "x", "--duration", "10", "--device", "cpu", "-o", str(output), cwd=tmp_path,
        ACESTAGE_RUN_DIR=str(tmp_path / "run"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert f"No services run at {DEFAULT_TARGET}" in ended.stderr
    assert soundfile.info(output).frames == 480_000


def test_models_are_listed_and_verified(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    listed = acestage("models", "list", "--checkpoints-dir", str(tmp_path))
    assert "tiny-turbo" in listed.stdout
    assert "xl-turbo" in listed.stdout
    verified = acestage("models", "verify", str(checkpoints["base/original"]))
    assert verified.returncode == 0, verified.stderr
    assert "is complete" in verified.stdout


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    ended = acestage("models", "verify", str(folder))
    assert ended.returncode == 1
    assert "transformer/diffusion_pytorch_model.safetensors" in ended.stderr


def test_an_unknown_model_cannot_be_pulled(tmp_path: Path) -> None:
    ended = acestage("models", "pull", "gpt-9", "--checkpoints-dir", str(tmp_path))
    assert ended.returncode == 1
    assert "gpt-9" in ended.stderr
    assert "xl-turbo" in ended.stderr
