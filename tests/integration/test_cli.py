"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil
import pytest
import soundfile
from rich.console import Console

from acestage import Client
from acestage.cli.services import log_shown_on_error
from acestage.cli.terminal import print_json
from acestage.errors import AcestageError, CancelledError, InvalidArgumentError, WorkerCrashedError
from acestage.local_stack import free_ports
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, Fault
from tests.command_line import acestage
from tests.running_stack import RunningStack, wait_until

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize(
    ("output", "words"), [(".", "is a folder"), ("file/song.wav", "is not a folder"), ("x" * 300, "too long")]
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_started(
    tmp_path: Path, output: str, words: str
) -> None:
    (tmp_path / "file").touch()
    ended = acestage("generate", "x", "-o", output, cwd=tmp_path, **own_services(tmp_path))
    assert ended.returncode == 2
    assert "--output" in ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "starting them" not in ended.stderr


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


@pytest.mark.parametrize("name", ["song [final].wav", "[/x].wav", "[red].wav", ":cat:.wav"])
def test_a_path_is_printed_as_it_is(turbo_stack: RunningStack, tmp_path: Path, name: str) -> None:
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


def own_services(tmp_path: Path) -> dict[str, str]:
    """Environment in which no service is found, so that `generate` starts its own."""
    return {
        "ACESTAGE_ORCHESTRATOR_PORT": str(free_ports()["orchestrator"]),
        "ACESTAGE_RUN_DIR": str(tmp_path / "run"),
        "ACESTAGE_DEVICE": "cpu",
    }


def test_the_demo_starts_services_for_one_run_whatever_the_folder_has_in_env(tmp_path: Path) -> None:
    """In a folder without the project: everything needed is installed."""
    (tmp_path / ".env").write_text("ACESTAGE_CHECKPOINT=/no/such/model\nACESTAGE_DEVICE=cuda:99\n")
    (demo,) = re.findall(r"^\t\$\(BIN\)/acestage (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    environment = own_services(tmp_path)
    del environment["ACESTAGE_DEVICE"]
    ended = acestage(*shlex.split(demo), cwd=tmp_path, **environment)
    assert ended.returncode == 0, ended.stderr
    assert f"No services run at 127.0.0.1:{environment['ACESTAGE_ORCHESTRATOR_PORT']}" in ended.stderr
    assert "services logged" not in ended.stderr
    assert soundfile.info(tmp_path / "out" / "demo.wav").frames == 480_000


def test_a_checkpoint_that_was_not_downloaded_is_told_before_services_are_started(tmp_path: Path) -> None:
    ended = acestage("generate", "x", "--checkpoint", "turbo", cwd=tmp_path, **own_services(tmp_path))
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith("CHECKPOINT_INVALID checkpoint 'turbo' not found")
    assert line.endswith("; download it with: acestage models pull turbo")


def test_flags_that_shape_the_denoising_reach_the_settings(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    flags = ["--instruction", "Fill the audio:", "--shift", "2.5", "--guidance-scale", "4.5", "--steps", "3"]
    flags += ["--cfg-interval-start", "0.1", "--cfg-interval-end", "0.9"]
    flags += ["--checkpoint", str(checkpoints["base/diffusers"]), "--duration", "10", "--json"]
    ended = acestage("generate", "x", *flags, cwd=tmp_path, **own_services(tmp_path))
    assert ended.returncode == 0, ended.stderr
    settings = json.loads(ended.stdout)["settings"]
    assert settings["instruction"] == "Fill the audio:"
    assert (settings["shift"], settings["guidance_scale"], settings["step_count"]) == (2.5, 4.5, 3)
    assert settings["cfg_interval_start"] == pytest.approx(0.1)
    assert settings["cfg_interval_end"] == pytest.approx(0.9)


def test_a_failure_shows_what_the_services_of_this_run_logged(tmp_path: Path) -> None:
    # On a device where the DiT hangs: by itself a step may be fast on any machine.
    FakeDeviceSpec(4 << 30, (Fault("dit", "wedge"),)).write(tmp_path / "run", "fake:0")
    stalled = {"ACESTAGE_DEVICE": "fake:0", "ACESTAGE_PROGRESS_TIMEOUT": "4"}
    ended = acestage("generate", "x", "--duration", "10", cwd=tmp_path, **own_services(tmp_path) | stalled)
    assert ended.returncode == 1
    _, log_and_error = ended.stderr.split("The services logged last:\n")
    *log, error = log_and_error.splitlines()
    assert error.startswith("WORKER_STALLED")
    assert any("job failed" in line for line in log)


def test_an_interrupt_ends_the_services_of_this_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "acestage", "generate", "x", "--duration", "600", "--steps", "200"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | own_services(tmp_path), stderr=subprocess.PIPE, text=True
    )
    children: list[psutil.Process] = []

    def is_denoising() -> bool:
        children[:] = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            command = child.cmdline()
            if "services.orchestrator" in command:
                return holds_lease("dit", f"127.0.0.1:{command[command.index('--port') + 1]}")
        return False

    try:
        wait_until(is_denoising, "the DiT holds the device", 120)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        _, left = psutil.wait_procs(children, timeout=15)
        for child in left:
            child.kill()
    assert not left
    assert process.returncode == 130
    assert "Cancelled" in said
    assert "Traceback" not in said
    assert "services logged" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def holds_lease(stage: str, target: str) -> bool:
    try:
        with Client(target) as client:
            return any(lease.holder.startswith(stage) for lease in client.status(timeout_s=2.0).leases)
    except AcestageError:
        return False


def log_and_fail(error: BaseException, console: Console) -> None:
    with log_shown_on_error(console) as log_file:
        log_file.write(b"".join(b"line %d [/x]\n" % number for number in range(100)))
        raise error


def said_of(error: BaseException, path: Path) -> str:
    """What is printed where services logged 100 lines, and then `error` came."""
    with path.open("w") as file, pytest.raises(type(error)):
        log_and_fail(error, Console(file=file, markup=False))
    return path.read_text()


def test_of_a_long_log_the_last_lines_are_shown(tmp_path: Path) -> None:
    said = said_of(WorkerCrashedError("gone"), tmp_path / "said").splitlines()
    assert said == ["The services logged last:", *(f"line {number} [/x]" for number in range(60, 100))]


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("duration_s"), CancelledError("by the user"), KeyboardInterrupt()]
)
def test_no_log_is_shown_where_the_services_are_not_at_fault(tmp_path: Path, error: BaseException) -> None:
    assert said_of(error, tmp_path / "said") == ""
