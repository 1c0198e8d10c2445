"""The REST interface in front of services that run."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import soundfile

from tests.running_gateway import RunningGateway
from tests.running_stack import RunningStack, wait_until

SONG = {"prompt": "warm piano", "audio_duration": 10, "seed": 7}
LONG_SONG = {"prompt": "warm piano", "audio_duration": 120, "seed": 7}
"""Its decode takes seconds."""


@pytest.fixture(scope="module")
def gateway(turbo_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with RunningGateway.start(turbo_stack.target, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url(), timeout=60.0) as http:
        yield http


def query(http: httpx.Client, task_id: str) -> dict[str, Any]:
    answer = http.post("/query_result", json={"task_id_list": [task_id]})
    task: dict[str, Any] = answer.json()["data"][0]
    return task


def finished(http: httpx.Client, task_id: str) -> dict[str, Any]:
    wait_until(lambda: query(http, task_id)["status"] != 0, f"task {task_id} ends", 60.0)
    return query(http, task_id)


def submit(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=fields)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    path = f"/v1/jobs/{job_id}"
    final = ("succeeded", "failed", "cancelled")
    wait_until(lambda: http.get(path).json()["state"] in final, f"job {job_id} ends", 60.0)
    job: dict[str, Any] = http.get(path).json()
    return job


def test_a_cover_goes_from_a_form_to_a_file(http: httpx.Client) -> None:
    rate = 22_050
    wave = io.BytesIO()
    soundfile.write(wave, np.sin(np.arange(12 * rate) * 0.05).astype(np.float32), rate, format="WAV")
    answer = http.post(
        "/release_task",
        data={"prompt": "jazz", "task_type": "cover", "audio_duration": "30", "audio_format": "wav"},
        files={"src_audio": ("mine.wav", wave.getvalue(), "audio/wav")},
    )
    assert answer.status_code == 200, answer.text
    task = finished(http, answer.json()["data"]["task_id"])
    assert task["status"] == 1, task
    (track,) = json.loads(task["result"])
    assert "audio_duration" in track["generation_info"]
    address = track["file"]
    samples, found_rate = soundfile.read(io.BytesIO(http.get(address).content))
    assert (found_rate, samples.shape) == (48_000, (12 * 48_000, 2))
    assert np.isfinite(samples).all()
    assert np.sqrt(np.mean(samples**2)) > 1e-3
    part = http.get(address, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")


def test_audio_streams_while_the_song_is_decoded(http: httpx.Client) -> None:
    job_id = submit(http, **LONG_SONG, audio_format="flac")["job_id"]
    heard: dict[str, bytes] = {}
    state_at_first: dict[str, str] = {}

    def listen(name: str) -> None:
        parts = []
        with http.stream("GET", f"/v1/jobs/{job_id}/audio", params={"format": name}) as answer:
            assert answer.status_code == 200
            for part in answer.iter_raw():
                if not parts:
                    state_at_first[name] = http.get(f"/v1/jobs/{job_id}").json()["state"]
                parts.append(part)
        heard[name] = b"".join(parts)

    listeners = [threading.Thread(target=listen, args=(name,)) for name in ("mp3", "opus", "wav32")]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join(90)
    job = ended(http, job_id)
    assert job["state"] == "succeeded", job
    assert state_at_first == dict.fromkeys(("mp3", "opus", "wav32"), "running")
    for name in ("mp3", "opus"):
        assert decoded_s(heard[name]) == pytest.approx(120.0, abs=0.2)
    # The peak of this song is beyond full scale, so the stream falls where it would clip; before that it is
    # the song without its gain, sample for sample.
    streamed = np.frombuffer(heard["wav32"].partition(b"data")[2][4:], "<f4").reshape(-1, 2)
    whole, _ = soundfile.read(
        io.BytesIO(http.get(job["takes"][0]["files"]["wav32"]).content), dtype="float32"
    )
    assert streamed.shape == whole.shape == (120 * 48_000, 2)
    assert np.abs(streamed).max() <= 1.0
    ratio = whole[:2_000] / streamed[:2_000]
    np.testing.assert_allclose(ratio[np.abs(streamed[:2_000]) > 1e-3], job["takes"][0]["gain"], rtol=1e-3)


def decoded_s(data: bytes) -> float:
    with av.open(io.BytesIO(data)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def test_events_are_told_from_the_first_and_can_be_resumed(http: httpx.Client) -> None:
    job_id = submit(http, **SONG)["job_id"]
    lines = http.get(f"/v1/jobs/{job_id}/events").text.splitlines()  # it ends with the job
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[0] == "queued"
    assert names.count("progress") >= 8 + 1
    assert names[-1] == "succeeded"
    numbers = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert numbers == list(range(len(names)))
    resumed = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(numbers[-3])}).text
    assert resumed.splitlines() == lines[-8:]


def test_a_job_is_stopped_within_a_step(http: httpx.Client) -> None:
    job_id = submit(http, prompt="piano", audio_duration=600, inference_steps=200)["job_id"]
    path = f"/v1/jobs/{job_id}"
    wait_until(lambda: http.get(path).json()["progress"]["step"] > 0, "it denoises", 60.0)
    stopped = http.delete(path).json()
    assert stopped["state"] == "cancelled"
    assert http.delete(path).json() == stopped
    assert http.get(f"{path}/audio").status_code == 409


def test_a_stream_of_a_stopped_job_is_broken_off(http: httpx.Client) -> None:
    job_id = submit(http, **LONG_SONG | {"audio_duration": 600})["job_id"]
    with http.stream("GET", f"/v1/jobs/{job_id}/audio") as answer:
        parts = answer.iter_raw()
        next(parts)
        assert http.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)


def test_every_format_has_the_song_and_restores_its_settings(http: httpx.Client) -> None:
    job = ended(http, submit(http, **SONG, title="Água & café")["job_id"])
    (take,) = job["takes"]
    assert take["files"].keys() == {"mp3", "flac", "wav16", "wav24", "wav32", "opus", "aac"}
    for name, address in take["files"].items():
        answer = http.get(address, params={"download": "1"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"].startswith("attachment")
        assert decoded_s(answer.content) == pytest.approx(10.0, abs=0.1), name
        restored = http.post("/v1/settings/restore", content=answer.content)
        assert restored.status_code == 200, restored.text
        assert restored.json() == http.get(take["settings"]).json()
    again = restored.json()
    assert (again["seed"], again["title"], again["caption"]) == (7, "Água & café", "warm piano")
    (same,) = ended(http, submit(http, **again)["job_id"])["takes"]
    assert same["samples_sha256"] == take["samples_sha256"]
    outline = http.get(take["waveform"], params={"count": 50}).json()
    assert len(outline["peaks"]) == 50
    assert http.get(take["spectrogram"]).content.startswith(b"\x89PNG")


def test_uploads_are_used_by_id(http: httpx.Client) -> None:
    wave = io.BytesIO()
    soundfile.write(wave, np.zeros((48_000 * 2, 2)) + 0.1, 48_000, format="WAV")
    audio = http.post("/v1/uploads", content=wave.getvalue()).json()
    assert audio["duration_s"] == 2.0
    assert http.get(f"/v1/uploads/{audio['audio_id']}").json() == audio
    for named in (audio["audio_id"], audio["path"]):
        job = submit(http, prompt="jazz", task_type="cover", src_audio_path=named)
        assert ended(http, job["job_id"])["state"] == "succeeded"
    assert http.delete(audio["path"]).status_code == 204
    assert http.get(audio["path"]).status_code == 404
    gone = http.post(
        "/v1/jobs", json={"prompt": "jazz", "task_type": "cover", "src_audio_path": audio["path"]}
    )
    assert (gone.status_code, list(gone.json()["fields"])) == (400, ["src_audio_path"])
    missing = http.post("/v1/jobs", json={"prompt": "jazz", "task_type": "cover"})
    assert missing.json()["fields"]["src_audio"].endswith("needs src_audio or audio_code_string")
    assert http.post("/v1/uploads", content=b"no audio").status_code == 400


def test_limits_status_and_figures(http: httpx.Client) -> None:
    assert http.get("/v1/limits").json()["max_duration_s"]["value"] == 600
    assert len(http.get("/v1/status").json()["stages"]) == 3
    figures = http.get("/metrics").text
    assert 'acestage_gateway_jobs{state="succeeded"}' in figures
    labels = '{method="GET",route="/v1/jobs/{job_id}",status="200"}'
    assert f"acestage_gateway_answer_seconds_count{labels}" in figures
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["tiny-turbo"]
    refused = http.post("/release_task", json={"prompt": "x", "audio_duration": 601})
    assert refused.status_code == 400
    assert "accepted: 10 to 600" in refused.json()["fields"]["audio_duration"]
    refused = http.post("/release_task", json={"prompt": "x", "audio_duration": -7, "bpm": -60})
    assert refused.json()["fields"].keys() == {"audio_duration", "bpm"}


def test_no_caption_and_no_lyrics_are_logged(gateway: RunningGateway, http: httpx.Client) -> None:
    job = submit(http, prompt="unmistakable zither", lyrics="peculiar words", audio_duration=10)
    ended(http, job["job_id"])
    assert job["job_id"] in gateway.log()
    assert "zither" not in gateway.log()
    assert "peculiar" not in gateway.log()


def test_a_gateway_that_was_killed_finds_its_jobs_again(turbo_stack: RunningStack, tmp_path: Path) -> None:
    with RunningGateway.start(turbo_stack.target, tmp_path) as first:
        with httpx.Client(base_url=first.url(), timeout=60.0) as http:
            task_id = http.post("/release_task", json=LONG_SONG).json()["data"]["task_id"]
            wait_until(lambda: "vae" in query(http, task_id)["progress_text"], "it decodes", 60.0)
        first.kill()
    with (
        RunningGateway.start(turbo_stack.target, tmp_path) as second,
        httpx.Client(base_url=second.url(), timeout=60.0) as http,
    ):
        task = finished(http, task_id)
        assert task["status"] == 1, task
        (track,) = json.loads(task["result"])
        assert decoded_s(http.get(track["file"]).content) == pytest.approx(120.0, abs=0.2)


def test_a_song_whose_orchestrator_dies_is_lost(battered_stack: RunningStack, tmp_path: Path) -> None:
    with (
        RunningGateway.start(battered_stack.target, tmp_path) as gateway,
        httpx.Client(base_url=gateway.url(), timeout=60.0) as http,
    ):
        job = submit(http, prompt="x", audio_duration=300, inference_steps=200)
        battered_stack.find("services.orchestrator").kill()
        lost = ended(http, job["job_id"])
        assert (lost["state"], lost["failure"]["reason"]) == ("failed", "JOB_LOST")
    wait_until(battered_stack.is_serving, "the orchestrator is back")
    wait_until(battered_stack.is_idle, "the stages are")


def test_a_song_whose_stage_dies_has_failed(battered_stack: RunningStack, tmp_path: Path) -> None:
    with (
        RunningGateway.start(battered_stack.target, tmp_path) as gateway,
        httpx.Client(base_url=gateway.url(), timeout=60.0) as http,
    ):
        job = submit(http, prompt="x", audio_duration=300, inference_steps=200)
        path = f"/v1/jobs/{job['job_id']}"
        wait_until(lambda: http.get(path).json()["progress"]["stage"] == "dit", "it is denoised")
        battered_stack.find("services.dit").kill()
        failed = ended(http, job["job_id"])
        assert (failed["state"], failed["failure"]["reason"]) == ("failed", "SERVICE_UNREACHABLE")
        assert http.delete(path).json()["state"] == "failed"
    wait_until(lambda: battered_stack.is_idle(), "the stage is back")
