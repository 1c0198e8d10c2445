"""What a job of the text encoder needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.planning import EncodeMode, encode_ways
from services.runtime.jobs.job_budget import AdaptationKind, Attempt, Resources, Rung, quantization_of
from services.runtime.workers.messages import Message
from services.text_encoder.encode_job import EncodeJob


class TextEncoderBudget:
    """With weights as they are, then with weights in INT8."""

    def rungs(self, request: Message, resources: Resources, dtype: str) -> Sequence[Rung]:
        ways = encode_ways(
            resources.memories[dtype],
            request.fields["frame_count"],
            mode=_mode(request),
            quantization=quantization_of(request, resources),
        )
        return [
            Rung(
                AdaptationKind.INT8,
                Attempt(
                    request, dtype, way.quantization, way.total_bytes, f"{dtype}, weights {way.quantization}"
                ),
            )
            for way in ways
        ]

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: the conditioning, or the codes, come at the end."""
        return request


def _mode(request: Message) -> EncodeMode:
    if request.kind == "tokenize" or EncodeJob.from_fields(request.fields).needs_codes:
        return "codes"
    return "encode"
