"""What of a song a preview makes, and with what."""

from __future__ import annotations

import pytest

from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.tensors import WireTensor
from services.orchestrator.song import requests
from services.orchestrator.song.preview import Preview
from services.orchestrator.song.timeline import Span

RATE_HZ = 25
MODEL = Model(
    name="m", latent_frame_rate_hz=RATE_HZ, sample_rate_hz=48_000, hop_sample_count=48_000 // RATE_HZ
)


def preview_of(source_s: int | None = None, **fields: object) -> Preview:
    request = GenerateRequest(caption="x", **fields)  # type: ignore[arg-type]
    samples = None if source_s is None else source_s * 48_000
    return Preview(requests.resolve(request, MODEL, source_sample_count=samples), MODEL)


@pytest.mark.parametrize(("duration_s", "preview_s"), [(30, 10), (10, 10), (4, 4)])
def test_it_has_the_first_seconds(duration_s: int, preview_s: int) -> None:
    assert preview_of(duration_s=duration_s).frames == Span(0, preview_s * RATE_HZ)


@pytest.mark.parametrize(
    ("start_s", "end_s", "frames"), [(20.0, 25.0, (20, 30)), (55.0, 58.0, (55, 60)), (0.0, 5.0, (0, 10))]
)
def test_of_a_repainted_song_it_begins_where_the_new_begins(
    start_s: float, end_s: float, frames: tuple[int, int]
) -> None:
    preview = preview_of(60, task="repaint", source_id="a", repaint_start_s=start_s, repaint_end_s=end_s)
    assert preview.frames == Span(frames[0] * RATE_HZ, frames[1] * RATE_HZ)
    assert (preview.settings.timeline, preview.settings.source_id) == (None, "")


@pytest.mark.parametrize(("step_count", "of_the_preview"), [(50, 12), (12, 3), (8, 2), (3, 2), (1, 1)])
def test_it_takes_a_quarter_of_the_steps_and_mostly_two_at_least(
    step_count: int, of_the_preview: int
) -> None:
    assert preview_of(duration_s=30, step_count=step_count).settings.step_count == of_the_preview


def test_timesteps_are_taken_from_the_whole_way() -> None:
    given = [1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2]
    settings = preview_of(duration_s=30, timesteps=given).settings
    assert settings.timesteps == pytest.approx((1.0, 0.5))
    assert settings.step_count == 2


@pytest.mark.parametrize("name", ["context_latents", "source_latents"])
def test_what_runs_over_the_song_is_cut(name: str) -> None:
    preview = preview_of(60, task="repaint", source_id="a", repaint_start_s=20.0, repaint_end_s=25.0)
    rows = bytes(index % 251 for index in range(60 * RATE_HZ))
    whole = WireTensor(name, "float16", (1, len(rows), 3), b"".join(bytes([row]) * 6 for row in rows))
    cut = preview.cut(whole)
    assert (cut.name, cut.dtype, cut.shape) == (name, "float16", (1, 250, 3))
    assert bytes(cut.data) == b"".join(bytes([row]) * 6 for row in rows[500:750])


def test_what_is_of_the_prompt_stays_whole() -> None:
    states = WireTensor("encoder_hidden_states", "float32", (1, 2, 1), bytes(8))
    assert preview_of(duration_s=30).cut(states) is states
