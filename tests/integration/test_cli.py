"""The command line, as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import soundfile

from acestage.cli.terminal import print_json
from tests.command_line import acestage
from tests.running_stack import RunningStack, wait_until


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
    assert [stage["stage"] for stage in said["stages"]] == ["text_encoder", "dit", "vae"]
    assert said["peak_rss_bytes"]["dit/worker"] > 0
    audio, rate = soundfile.read(output)
    assert (audio.shape, rate) == ((480_000, 2), 48_000)
    assert np.abs(audio).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    assert "untrained" in ended.stderr


def test_a_summary_shows_times_leases_and_memory(turbo_stack: RunningStack, tmp_path: Path) -> None:
    ended = acestage("generate", "x", "--duration", "10", "--target", turbo_stack.target, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    for words in ("on the device", "planned", "peak memory", "dit/worker", "vae/preload", "orchestrator"):
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


def test_a_song_that_cannot_be_written_goes_to_a_temporary_folder(
    turbo_stack: RunningStack, tmp_path: Path
) -> None:
    """`/dev/full` passes for a writable file until it is written to."""
    flags = ["--duration", "10", "--steps", "1", "--json", "--target", turbo_stack.target, "-o", "/dev/full"]
    ended = acestage("generate", "x", *flags, TMPDIR=str(tmp_path))
    assert ended.returncode == 1, ended.stderr
    (track,) = json.loads(ended.stdout)["tracks"]
    path = Path(track["path"])
    assert path.is_relative_to(tmp_path)
    assert soundfile.info(path).frames == 480_000
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("Error:")]
    assert "/dev/full could not be written" in line
    assert str(path) in line
    assert "Traceback" not in ended.stderr


def test_codes_are_printed_and_say_when_they_have_to_wait(turbo_stack: RunningStack, tmp_path: Path) -> None:
    source = tmp_path / "source.wav"
    soundfile.write(source, 0.1 * np.random.default_rng(1).standard_normal((5 * 48_000, 2)), 48_000)
    command = [sys.executable, "-m", "acestage", "codes", str(source), "--target", turbo_stack.target]
    with turbo_stack.client() as client:
        events = client.stream("piano", duration_s=300, step_count=200, detached=True)
        job_id = next(iter(events)).job_id  # type: ignore[union-attr]
        wait_until(lambda: client.status().queue.running_count == 1, "the song is in work")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
            assert asked.stderr is not None
            said = asked.stderr.readline()
            client.cancel(job_id)
            codes, rest = asked.communicate(timeout=60)
    assert (asked.returncode, said, rest) == (0, "Waits for its turn: 1 came before.\n", "")
    assert codes.count("<|audio_code_") == 25


def test_a_path_is_printed_as_it_is(turbo_stack: RunningStack, tmp_path: Path) -> None:
    name = "[/x] [red] song [final] :cat:.wav"
    flags = ["--duration", "10", "--steps", "1", "--target", turbo_stack.target, "-o", name]
    ended = acestage("generate", "x", *flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert f"Wrote {name}: 10.00 s" in ended.stderr
    assert (tmp_path / name).is_file()


def test_an_error_is_printed_as_it_is(tmp_path: Path) -> None:
    for arguments in (["models", "verify", "[/x]:cat:"], ["generate", "x", "--lyrics", "@[/x]:cat:"]):
        ended = acestage(*arguments, cwd=tmp_path)
        assert ended.returncode != 0
        assert "[/x]:cat:" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_json_has_null_for_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    print_json({"peak": float("nan"), "all": [1.5, (float("inf"), -float("inf"))], "path": Path("x")})
    said = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert said == {"peak": None, "all": [1.5, [None, None]], "path": "x"}


@pytest.mark.parametrize("command", [["adapters", "--json"], ["--help"]])
def test_output_on_a_full_disk_is_one_line_without_a_traceback(tmp_path: Path, command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "acestage", *command],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", [["status"], ["generate", "x"]])
def test_a_wrong_address_is_named_without_a_traceback(tmp_path: Path, command: list[str]) -> None:
    for name, ended in {
        "ACESTAGE_ORCHESTRATOR": acestage(*command, cwd=tmp_path, ACESTAGE_ORCHESTRATOR="myhost"),
        "--target": acestage(*command, "--target", "myhost", cwd=tmp_path),
    }.items():
        assert ended.returncode == 2
        assert name in ended.stderr
        assert "myhost" in ended.stderr
        assert "HOST:PORT" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_mistyped_setting_in_the_file_is_told_beside_the_result(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ACESTAGE_ADAPTER_DIR=loras\n")
    ended = acestage("adapters", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["adapters"] == []
    told = "Warning: .env: ACESTAGE_ADAPTER_DIR is no setting; did you mean ACESTAGE_ADAPTERS_DIR?\n"
    assert ended.stderr == told


@pytest.mark.parametrize("variable", ["ACESTAGE_ORCHESTRATOR_PORT", "ACESTAGE_ORCHESTRATOR"])
def test_commands_look_where_the_settings_say(
    turbo_stack: RunningStack, tmp_path: Path, variable: str
) -> None:
    port = turbo_stack.ports["orchestrator"]
    environment = {variable: str(port) if variable.endswith("PORT") else f"dns:///localhost:{port}"}
    ended = acestage("status", "--json", cwd=tmp_path, **environment)
    assert ended.returncode == 0, ended.stderr
    assert all(stage["is_serving"] for stage in json.loads(ended.stdout)["stages"])
    flags = ["--duration", "10", "--steps", "1"]
    ended = acestage("generate", "x", *flags, cwd=tmp_path, **environment)
    assert ended.returncode == 0, ended.stderr
    assert "No services run" not in ended.stderr


def test_status_shows_services_ledger_and_queue(turbo_stack: RunningStack) -> None:
    with turbo_stack.client() as client:
        client.generate("piano", duration_s=10)
    ended = acestage("status", "--target", turbo_stack.target)
    assert ended.returncode == 0, ended.stderr
    for word in ("text_encoder", "dit", "vae", "tiny-turbo", "cpu", "lease on", "queued"):
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
    wait_until(lambda: not turbo_stack.is_idle(), "the job runs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Cancelled" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: turbo_stack.is_idle(), "the job is gone", 10)
