"""A job is followed to its end, whatever happens to what is beside its song."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import typer
from rich.console import Console

from acestage.async_client import AsyncClient
from acestage.cli.job_run import Events, OpenClient, run_job, submit_job
from acestage.cli.output_options import OutputOptions
from acestage.generation import GenerationEvent, JobQueued
from acestage.generation_stream import GenerationStream
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1 import stage_pb2
from acestage.protos.vae.v1 import vae_pb2

SAMPLES = np.zeros((480, 2), "<f4")
TRACK = pb.Track(
    seed=7,
    sample_count=len(SAMPLES),
    sample_rate_hz=48_000,
    gain=1.0,
    samples_sha256=hashlib.sha256(SAMPLES.tobytes()).digest(),
)
CHUNK = vae_pb2.AudioChunk(samples=SAMPLES.tobytes(), channel_count=2, sample_rate_hz=48_000)
PREVIEW = (
    pb.GenerateResponse(preview_audio=CHUNK),
    pb.GenerateResponse(preview_completed=pb.PreviewCompleted(tracks=[TRACK], step_count=2)),
)


def worker(pid: int, peak_rss_bytes: int) -> pb.GenerateResponse:
    """The end of a stage whose worker had this id."""
    memory = stage_pb2.ProcessMemory(name="vae/worker", pid=pid, peak_rss_bytes=peak_rss_bytes)
    report = stage_pb2.StageReport(processes=[memory])
    return pb.GenerateResponse(stage_completed=pb.StageCompleted(stage="vae", report=report))


def song() -> tuple[pb.GenerateResponse, ...]:
    completed = pb.JobCompleted(job_id="1", tracks=[TRACK])
    return pb.GenerateResponse(audio=CHUNK), pb.GenerateResponse(completed=completed)


def opened() -> OpenClient:
    client = cast(AsyncClient, SimpleNamespace(target="nowhere:1"))
    return contextlib.nullcontext(client)


async def events_of(*responses: pb.GenerateResponse) -> AsyncGenerator[GenerationEvent, None]:
    stream = GenerationStream()
    for response in responses:
        yield stream.read(response)


def run(output: Path, *responses: pb.GenerateResponse, as_json: bool = False, width: int = 300) -> str:
    """What the console shows."""
    shown = io.StringIO()
    options = OutputOptions(
        file=output,
        has_file=True,
        file_format="wav",
        bit_depth="16",
        stream=None,
        stream_has_header=True,
        player=None,
        as_json=as_json,
    )
    run_job(Console(file=shown, width=width), opened(), lambda client: events_of(*responses), options)
    return shown.getvalue()


def test_a_preview_that_cannot_be_written_anywhere_does_not_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    output = tmp_path / "song.wav"
    (tmp_path / "song.preview.wav").mkdir()
    shown = run(output, *PREVIEW, *song(), as_json=True)
    assert output.is_file()
    assert "the preview is lost: [Errno 21] Is a directory" in shown
    assert "no space left" in shown


@pytest.mark.parametrize("name", ["a\0.wav", "\ud800.wav"])
def test_a_song_whose_name_no_file_can_have_goes_to_a_temporary_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(typer.Exit):
        run(tmp_path / name, *song(), as_json=True)
    (track,) = json.loads(capsys.readouterr().out)["tracks"]
    assert Path(track["path"]).is_file()


def test_json_has_the_highest_peak_of_processes_of_one_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "song.wav", worker(1, 900), worker(2, 300), *song(), as_json=True)
    assert json.loads(capsys.readouterr().out)["peak_rss_bytes"]["vae/worker"] == 900


def test_a_summary_is_whole_however_narrow_the_output_is(tmp_path: Path) -> None:
    shown = run(tmp_path / "song.wav", worker(1_234_567, 9 << 40), *song(), width=30)
    assert "…" not in shown.partition("Stages")[2]


@pytest.mark.parametrize(
    ("target", "command"),
    [("there:1", "acestage attach 42 --target there:1\n"), (None, "acestage attach 42\n")],
)
def test_a_detached_job_is_told_with_the_command_that_finds_it(target: str | None, command: str) -> None:
    async def queued() -> AsyncGenerator[GenerationEvent, None]:
        yield JobQueued("42", 1)

    def begin(client: AsyncClient) -> Events:
        return queued()

    shown = io.StringIO()
    submit_job(Console(file=shown, width=300), opened(), begin, target=target, as_json=False)
    assert shown.getvalue().endswith(command)
