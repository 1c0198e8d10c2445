"""Checks of what a song's conditioning is made from besides the prompt. No torch."""

from __future__ import annotations

from acestage.checkpoints import ModelFacts
from acestage.checks import Checks
from acestage.errors import FailedPreconditionError
from services.text_encoder.encode_job import EncodeJob, timbre_frame_count


def check_source(checks: Checks, job: EncodeJob, source_frame_count: int | None, model: ModelFacts) -> None:
    """Notes what is wrong with the source: silence, latents of `source_frame_count`, or codes."""
    if job.audio_codes:
        checks.require(
            source_frame_count is None,
            "parameters.audio_codes",
            "exclude tensor.source_latents; accepted: one of them",
        )
        checks.require(
            not job.through_codes,
            "parameters.through_codes",
            "is of no use with audio_codes; accepted: false",
        )
        if model.audio_code_count:
            _check_codes(checks, job, model)
    elif source_frame_count is None:
        checks.require(not job.through_codes, "parameters.through_codes", "needs tensor.source_latents")
    else:
        checks.require(
            job.frame_count == source_frame_count,
            "parameters.frame_count",
            f"is {job.frame_count}; accepted: {source_frame_count}, the frames of tensor.source_latents",
        )


def check_window(checks: Checks, job: EncodeJob) -> None:
    """Notes what is wrong with the window, which must lie within the song and hold a frame."""
    start, stop, frame_count = job.window_start_frame, job.window_stop_frame, job.frame_count
    if frame_count < 1:
        return  # a wrong length is noted elsewhere, and has no window
    checks.require(
        0 <= start < frame_count,
        "parameters.window_start_frame",
        f"is {start}; accepted: 0 to {frame_count - 1}, for {frame_count} frames",
    )
    least = min(max(start, 0) + 1, frame_count)
    checks.require(
        stop == 0 or least <= stop <= frame_count,
        "parameters.window_stop_frame",
        f"is {stop}; accepted: {least} to {frame_count}, or 0 for the end",
    )


def check_reference(checks: Checks, reference_frame_count: int, model: ModelFacts) -> None:
    """Notes where the reference is longer than what the timbre encoder reads."""
    most = timbre_frame_count(model.latent_frame_rate_hz)
    checks.at_most(reference_frame_count, "frames", "tensor.reference_latents.shape", most)


def require_codes(model: ModelFacts, what: str) -> None:
    """Raises `FailedPreconditionError` where `model` cannot do `what`, for lack of an audio tokenizer."""
    if not model.audio_code_count:
        raise FailedPreconditionError(
            f"{what} needs an audio tokenizer and detokenizer; the checkpoint {model.name} has none"
        )


def _check_codes(checks: Checks, job: EncodeJob, model: ModelFacts) -> None:
    codes = job.audio_codes
    wrong = next((index for index, code in enumerate(codes) if not 0 <= code < model.audio_code_count), None)
    if wrong is not None:
        checks.require(
            False,
            "parameters.audio_codes",
            f"have {codes[wrong]} at index {wrong}; accepted: 0 to {model.audio_code_count - 1}",
        )
    expected = len(codes) * model.frames_per_audio_code
    checks.require(
        job.frame_count == expected,
        "parameters.frame_count",
        f"is {job.frame_count}; accepted: {expected}, {model.frames_per_audio_code} for each of the "
        f"{len(codes)} audio_codes",
    )
