"""`acestage plan`, which asks a planner process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from acestage.generation import STAGES
from acestage.planning import GIB, MIB
from tests.command_line import acestage, without_torch


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For plans of the embedded model alone."""
    return tmp_path_factory.mktemp("cache")


def test_a_ten_minute_song_of_turbo_fits_on_4_gb(tmp_path: Path) -> None:
    done = acestage(
        "plan", "--checkpoint", "turbo", "--vram", "4", "--duration", "600", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"]
    assert plan["exclusive"]
    assert plan["max_duration_s"] == 600
    assert plan["device_bytes"] == 4 * GIB
    assert plan["language_models"] == ["0.6B"]
    dit = plan["stages"]["dit"]
    assert (dit["dtype"], dit["quantization"], dit["mode"]) == ("bfloat16", "none", "single")
    # 1516 of 1575 million parameters, and activations that grow with the length, not with its square.
    assert dit["weights_bytes"] == pytest.approx(2891 * MIB, rel=0.01)
    assert dit["activation_bytes"] < 300 * MIB
    # The folded decoder alone.
    assert plan["stages"]["vae"]["weights_bytes"] == pytest.approx(161 * MIB, rel=0.01)
    assert plan["stages"]["vae"]["tile_frames"] == 128
    for stage in plan["stages"].values():
        parts = ("weights_bytes", "activation_bytes", "context_bytes", "reserve_bytes")
        assert stage["total_bytes"] == sum(stage[part] for part in parts) <= 4 * GIB


def test_what_does_not_fit_ends_with_3_and_says_what(tmp_path: Path) -> None:
    done = acestage("plan", "--checkpoint", "xl-base", "--vram", "4", cwd=tmp_path)
    assert done.returncode == 3
    assert "acestep-v15-xl-base on 4 GiB (cuda): a song of 180 s does not fit" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--duration", "601"), "duration: is 601; accepted: 10 to 600"),
        (("--batch", "0"), "batch: is 0; accepted: 1 to 8"),
        (("--checkpoint", "nope"), "checkpoint: 'nope' is neither a folder"),
        (("--quantization", "int4"), "quantization: Input should be 'auto', 'none' or 'int8'"),
        (("--vram", "-1"), "vram: is -1; accepted: 0.1 to 1024"),
        (("--vram", "nan"), "vram: is nan; accepted: 0.1 to 1024"),
        (("--checkpoint", ""), "checkpoint: is empty"),
        (("--checkpoint", "turbo,base"), "checkpoint: is 'turbo,base', a list; accepted: a folder"),
        (
            ("--checkpoint=turbo", "--variant=acestep-v15-base"),
            "variant: is 'acestep-v15-base'; accepted for turbo: acestep-v15-turbo",
        ),
    ],
)
def test_values_that_are_not_accepted(arguments: tuple[str, str], message: str, tmp_path: Path) -> None:
    done = acestage("plan", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.replace("│", "").split())
    assert "Traceback" not in done.stderr


def test_a_checkpoint_on_disk_is_planned_by_its_own_settings(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = str(checkpoints["base/original"])
    done = acestage(
        "plan", "--checkpoint", path, "--json", "--device", "cpu", "--dtype", "float32", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    dit = json.loads(done.stdout)["stages"]["dit"]
    assert (dit["mode"], dit["dtype"]) == ("guided", "float32")
    assert dit["weights_bytes"] < 10 * MIB


def test_the_next_plan_measures_nothing_and_needs_no_torch(tmp_path: Path, cache_dir: Path) -> None:
    def planned(**environment: str) -> tuple[str, dict[Path, int]]:
        environment |= {"ACESTAGE_CACHE_DIR": str(cache_dir)}
        done = acestage("plan", "--vram", "4", "--json", cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        files = (cache_dir / "measurements").iterdir()
        return done.stdout, {file: file.stat().st_mtime_ns for file in files}

    plan, kept = planned()
    assert len(kept) == len(STAGES)
    assert planned(**without_torch(tmp_path)) == (plan, kept)


def test_settings_of_the_device_count(tmp_path: Path, cache_dir: Path) -> None:
    settings = {"MAX_CUDA_VRAM": "24", "ACESTEP_OFFLOAD_TO_CPU": "true"}
    done = acestage("plan", "--json", cwd=tmp_path, ACESTAGE_CACHE_DIR=str(cache_dir), **settings)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["device_bytes"] == 24 * GIB
    assert plan["exclusive"]
    assert not plan["resident"]


def test_a_file_can_stand_in_for_env(tmp_path: Path, cache_dir: Path) -> None:
    (tmp_path / ".env").write_text("MAX_CUDA_VRAM=24\n")
    (tmp_path / "small").write_text("MAX_CUDA_VRAM=4\nACESTEP_OFFLOAD_TO_CPU=true\n")
    done = acestage("plan", "--json", "--env-file", "small", cwd=tmp_path, ACESTAGE_CACHE_DIR=str(cache_dir))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["device_bytes"] == 4 * GIB
    assert plan["one_at_a_time"]


def test_nothing_of_the_working_folder_is_taken_for_a_module(tmp_path: Path, cache_dir: Path) -> None:
    for name in ("acestage/__init__.py", "services/__init__.py", "queue.py"):
        module = tmp_path / name
        module.parent.mkdir(exist_ok=True)
        module.write_text("raise ImportError('it is the folder of the user')")
    done = subprocess.run(
        [Path(sys.executable).with_name("acestage"), "plan", "--vram", "4"],
        cwd=tmp_path,
        env=os.environ | {"ACESTAGE_CACHE_DIR": str(cache_dir)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
