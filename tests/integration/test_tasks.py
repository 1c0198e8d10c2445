"""Every task through all services: uploads, windows, codes, previews, adapters of the result."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from acestage.client import Client
from acestage.errors import InvalidArgumentError, NotFoundError
from acestage.generation import (
    AudioChunk,
    Generation,
    GenerationEvent,
    PreviewAudio,
    PreviewCompleted,
    StageCompleted,
    StageStarted,
)
from acestage.generation_options import Adapter
from acestage.generation_request import request_to_pb
from tests.in_process import InProcess, Samples
from tests.running_stack import RunningStack

RATE_HZ = 48_000
SOURCE_S = 12.345


@pytest.fixture(scope="module")
def stack(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    both = ",".join(str(checkpoints[f"{variant}/diffusers"]) for variant in ("turbo", "base"))
    with RunningStack.start(both, tmp_path_factory.mktemp("tasks")) as found:
        yield found


@pytest.fixture(scope="module")
def client(stack: RunningStack) -> Iterator[Client]:
    with stack.client() as found:
        yield found


@pytest.fixture(scope="module")
def source() -> Samples:
    rng = np.random.default_rng(5)
    return (0.2 * rng.standard_normal((round(SOURCE_S * RATE_HZ), 2))).astype(np.float32)


@pytest.fixture(scope="module")
def source_id(client: Client, source: Samples) -> str:
    return client.upload(source, sample_rate_hz=RATE_HZ).audio_id


@pytest.fixture(scope="module")
def engines(checkpoints: dict[str, Path]) -> dict[str, InProcess]:
    paths = (checkpoints[f"{variant}/diffusers"] for variant in ("turbo", "base"))
    return {path.name: InProcess(path) for path in paths}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cover": ("turbo-diffusers", {"task": "cover", "audio_cover_strength": 0.6, "step_count": 3}),
    "cover from noised source": (
        "turbo-diffusers",
        {"task": "cover-nofsq", "cover_noise_strength": 0.5, "step_count": 4},
    ),
    "repaint": (
        "turbo-diffusers",
        {"task": "repaint", "repaint_start_s": 3.01, "repaint_end_s": 7, "step_count": 3},
    ),
    "repaint beyond both ends": (
        "base-diffusers",
        {"task": "repaint", "repaint_start_s": -1, "repaint_end_s": 14, "step_count": 2, "batch_size": 2},
    ),
    "extract": ("base-diffusers", {"task": "extract", "track_name": "vocals", "step_count": 2}),
    "lego": (
        "base-diffusers",
        {"task": "lego", "track_name": "drums", "repaint_start_s": 2, "step_count": 2},
    ),
    "complete": ("base-diffusers", {"task": "complete", "track_classes": ["bass"], "step_count": 2}),
    "sde, seeds of one's own": (
        "turbo-diffusers",
        {"task": "cover-nofsq", "infer_method": "sde", "seeds": [9, 4], "step_count": 3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_split_gives_the_bits_of_one_process(
    client: Client, engines: dict[str, InProcess], source: Samples, source_id: str, name: str
) -> None:
    model, options = CASES[name]
    options = {"seed": 7} | options if "seeds" not in options else options
    generation = client.generate("warm piano", source_id=source_id, model=model, **options)
    named: Any = {**options, "source_id": source_id}
    made = engines[model].make(request_to_pb("warm piano", named), source=source)
    assert generation.settings.model.name == model
    assert generation.settings.source_id == source_id
    for track, expected in zip(generation.tracks, made.audio, strict=True):
        assert np.array_equal(track.audio, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"duration_s": 10.001, "lyrics": "la la", "bpm": 90, "seed": 7},
        {"duration_s": 10, "batch_size": 2, "shift": 2.5, "infer_method": "sde", "model": "base"},
        {"duration_s": 10, "timesteps": [0.9, 0.4], "quantization": "int8", "instruction": "Be quiet:"},
        {"task": "repaint", "source_id": "", "repaint_start_s": 3.01, "repaint_end_s": 7},
        {"task": "cover", "source_id": "", "reference_id": "", "audio_cover_strength": 0.6, "seeds": [9, 4]},
        {"task": "lego", "source_id": "", "track_name": "drums", "repaint_start_s": 2, "model": "base"},
        {"audio_codes": "<|audio_code_17|><|audio_code_4|>" * 5},
    ],
)
def test_the_settings_of_a_song_make_it_again(
    client: Client, source_id: str, options: dict[str, Any]
) -> None:
    uploaded = {name: source_id for name in ("source_id", "reference_id") if name in options}
    model = {"model": f"{options.get('model', 'turbo')}-diffusers"}
    song = client.generate("piano", **{"step_count": 2} | options | uploaded | model)
    again = client.generate(song.settings.caption, **song.settings.to_options())
    assert again.settings == song.settings
    assert [t.samples_sha256 for t in again.tracks] == [t.samples_sha256 for t in song.tracks]


def test_a_repainted_song_is_its_source_outside_of_the_window(
    client: Client, source: Samples, source_id: str
) -> None:
    song = client.generate(
        "a solo",
        task="repaint",
        source_id=source_id,
        repaint_start_s=4,
        repaint_end_s=6.5,
        seed=1,
        step_count=2,
    )
    (audio,) = (track.audio for track in song.tracks)
    assert len(audio) == len(source)
    start, stop = 4 * RATE_HZ, round(6.5 * RATE_HZ)
    assert np.array_equal(audio[:start], source[:start])
    assert np.array_equal(audio[stop:], source[stop:])
    assert np.abs(audio[start:stop] - source[start:stop]).max() > 0.01
    assert song.decode_cost is not None
    assert song.decode_cost.frame_count == 64  # the window alone was decoded, and a frame before it


def test_a_song_can_be_made_longer_at_both_ends(client: Client, source: Samples, source_id: str) -> None:
    song = client.generate(
        "more", task="repaint", source_id=source_id, repaint_start_s=-2, repaint_end_s=0, seed=1, step_count=1
    )
    (audio,) = (track.audio for track in song.tracks)
    assert np.array_equal(audio[2 * RATE_HZ :], source)
    assert np.abs(audio[: 2 * RATE_HZ]).max() > 0
    assert song.settings.duration_s == pytest.approx(SOURCE_S + 2)
    song = client.generate(
        "more", task="repaint", source_id=source_id, repaint_start_s=SOURCE_S, repaint_end_s=15, step_count=1
    )
    (audio,) = (track.audio for track in song.tracks)
    assert np.array_equal(audio[: len(source)], source)
    assert len(audio) == 15 * RATE_HZ


def test_a_reference_changes_the_song(client: Client, source_id: str) -> None:
    options: Any = {"duration_s": 10, "seed": 3, "step_count": 2}
    plain = client.generate("piano", **options)
    timbre = client.generate("piano", reference_id=source_id, **options)
    assert not np.array_equal(plain.tracks[0].audio, timbre.tracks[0].audio)
    assert timbre.settings.reference_id == source_id


def test_codes_of_a_song_make_its_cover(client: Client, source_id: str) -> None:
    codes = client.audio_codes(source_id)
    assert codes.count("<|audio_code_") == -(-round(SOURCE_S * 25) // 5)
    options: Any = {"seed": 3, "step_count": 2}
    song = client.generate("piano", audio_codes=codes, **options)
    assert song.settings.audio_codes == codes
    cover = client.generate("piano", task="cover", source_id=source_id, **options)
    assert len(song.tracks[0].audio) == 62 * 5 * 1920
    # The cover is cut to its source; the codes stand for whole groups of frames.
    assert len(cover.tracks[0].audio) == round(SOURCE_S * RATE_HZ)


def test_latents_of_a_source_are_made_once(client: Client, source_id: str) -> None:
    options: Any = {"task": "cover-nofsq", "source_id": source_id, "step_count": 1, "seed": 1}
    client.generate("piano", **options)
    events = list(client.stream("drums", **options))
    assert [event.stage for event in events if isinstance(event, StageStarted)] == [
        "text_encoder",
        "dit",
        "vae",
    ]


def test_a_moved_window_spares_the_encoding_too(client: Client, source_id: str) -> None:
    options: Any = {"task": "repaint", "source_id": source_id, "step_count": 1, "seed": 1}
    client.generate("piano", repaint_start_s=2, repaint_end_s=3, **options)
    events = list(client.stream("piano", repaint_start_s=5, repaint_end_s=7, **options))
    assert [event.stage for event in events if isinstance(event, StageStarted)] == [
        *("text_encoder", "dit", "vae")
    ]


def test_other_seeds_and_steps_spare_the_text_encoder(client: Client) -> None:
    options: Any = {"duration_s": 10, "lyrics": "la la", "bpm": 90}
    first = client.generate("harp", seed=1, step_count=2, **options)
    events = list(client.stream("harp", seed=2, step_count=1, shift=1.0, **options))
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["dit", "vae"]
    again = client.generate("harp", seed=1, step_count=2, **options)
    assert np.array_equal(again.tracks[0].audio, first.tracks[0].audio)
    events = list(client.stream("harp", seed=1, step_count=2, **options | {"bpm": 91}))
    assert [event.stage for event in events if isinstance(event, StageStarted)] == [
        "text_encoder",
        "dit",
        "vae",
    ]


def test_a_job_keeps_its_source_when_that_is_deleted(client: Client) -> None:
    short = client.upload(np.full((RATE_HZ, 2), 0.1, np.float32), sample_rate_hz=RATE_HZ)
    ahead = client.submit("drums", duration_s=20, step_count=20)
    job_id = client.submit("drums", task="cover-nofsq", source_id=short.audio_id, step_count=1)
    client.delete_audio(short.audio_id)
    *_, song = client.attach(job_id)
    assert isinstance(song, Generation)
    client.cancel(ahead)
    with pytest.raises(NotFoundError):
        client.submit("drums", task="cover-nofsq", source_id=short.audio_id)


def test_codes_of_what_is_not_there_are_refused_before_the_queue(client: Client, source_id: str) -> None:
    ahead = client.submit("drums", duration_s=60, step_count=100)
    with pytest.raises(NotFoundError):
        client.audio_codes("a" + "0" * 32, timeout_s=5)
    with pytest.raises(InvalidArgumentError, match="model"):
        client.audio_codes(source_id, model="no-such-model", timeout_s=5)
    assert client.cancel(ahead) == "cancelled"


def test_a_source_is_encoded_before_anything_else(client: Client) -> None:
    rng = np.random.default_rng(6)
    fresh = client.upload(
        (0.1 * rng.standard_normal((RATE_HZ * 2, 1))).astype(np.float32), sample_rate_hz=RATE_HZ
    )
    events = list(client.stream("drums", task="cover-nofsq", source_id=fresh.audio_id, step_count=1))
    stages = [event.stage for event in events if isinstance(event, StageCompleted)]
    assert stages == ["vae", "text_encoder", "dit", "vae"]


def test_a_preview_comes_first_and_stays_apart(client: Client) -> None:
    options: Any = {"duration_s": 15, "seed": 3, "step_count": 8}
    plain = client.generate("piano", **options)
    events: list[GenerationEvent] = list(client.stream("piano", preview=True, **options))
    kinds = [
        type(e) for e in events if isinstance(e, PreviewAudio | PreviewCompleted | AudioChunk | Generation)
    ]
    order = [kind for kind, _ in itertools.groupby(kinds)]
    assert order == [PreviewAudio, PreviewCompleted, AudioChunk, Generation]
    (preview,) = (event for event in events if isinstance(event, PreviewCompleted))
    assert preview.step_count == 2
    assert preview.tracks[0].duration_s == 10
    song = events[-1]
    assert isinstance(song, Generation)
    assert np.array_equal(song.tracks[0].audio, plain.tracks[0].audio)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("task", {"task": "extract", "model": "turbo-diffusers"}),
        ("repaint_start_s", {"task": "repaint", "repaint_start_s": 13}),
        ("model", {"task": "repaint", "model": "no-such-model"}),
        ("source_id", {"task": "repaint", "repaint_end_s": 700}),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    client: Client, source_id: str, field: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.submit("piano", source_id=source_id, **options)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("field", ["source_id", "reference_id"])
def test_audio_that_is_not_there_is_named(client: Client, field: str) -> None:
    unknown: Any = {field: "a" + "0" * 32}
    task = {"task": "cover"} if field == "source_id" else {}
    with pytest.raises(NotFoundError, match="a0000"):
        client.submit("piano", **task, **unknown)
    with pytest.raises(NotFoundError):
        client.audio_codes("../../etc/passwd")


def test_an_adapter_that_is_not_there_is_refused_before_the_job_waits(client: Client) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.submit("piano", duration_s=10, step_count=1, adapters=[Adapter("no-such-voice")])
    assert [violation.field for violation in caught.value.violations] == ["adapters[0].name"]


def run(stack: RunningStack, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "acestage", *arguments, "--target", stack.target]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_commands_take_files(stack: RunningStack, source: Samples, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.flac", source[: 3 * RATE_HZ], RATE_HZ, subtype="PCM_24")
    base = ("--steps", "1", "--seed", "1", "--bit-depth", "32f")
    done = run(
        *(
            stack,
            "repaint",
            "in.flac",
            "solo",
            "--start",
            "1",
            "--end",
            "2",
            "-o",
            "out.wav",
            *base,
            "--json",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["settings"]["task"] == "repaint"
    audio, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (len(audio), rate_hz) == (3 * RATE_HZ, RATE_HZ)
    there, _ = soundfile.read(tmp_path / "in.flac", dtype="float32")
    assert np.array_equal(audio[:RATE_HZ], there[:RATE_HZ])

    whole = (tmp_path / "in.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    of_base = ("--model", "base-diffusers")
    for task, arguments in (
        ("cover", ("cover", "in.flac", "jazz", "--strength", "0.5", "--reference", "cut.flac")),
        ("cover-nofsq", ("cover", "in.flac", "jazz", "--no-codes", "--noise-strength", "0.5")),
        ("extract", ("extract", "in.flac", "--track", "vocals", *of_base)),
        ("lego", ("lego", "in.flac", "beat", "--track", "drums", *of_base)),
        ("complete", ("complete", "in.flac", "band", "--tracks", "drums,bass", *of_base)),
    ):
        written = tmp_path / f"{task}.wav"
        done = run(stack, *arguments, "--steps", "1", "-o", written.name, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["settings"]["task"] == task
        assert ("Warning: cut.flac: the file is cut off" in done.stderr) == ("cut.flac" in arguments)
        assert soundfile.info(written).frames == 3 * RATE_HZ

    done = run(stack, "codes", "in.flac", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "codes.txt").write_text(done.stdout)
    done = run(
        *(
            stack,
            "generate",
            "piano",
            "--codes",
            "@codes.txt",
            "--steps",
            "1",
            "--preview",
            "-o",
            "codes.wav",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "codes.wav").frames == 3 * RATE_HZ
    assert (tmp_path / "codes.preview.wav").exists()

    done = run(stack, "repaint", "nothing.wav", "solo", cwd=tmp_path)
    assert done.returncode != 0
    assert "nothing.wav" in done.stderr
