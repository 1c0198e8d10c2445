"""What an encoding job needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence

from services.runtime.job_budget import AdaptationKind, Attempt, Resources, Way, quantizations
from services.runtime.messages import Message


class TextEncoderBudget:
    """With weights as they are, then with weights in INT8."""

    def ways(self, request: Message, resources: Resources, dtype: str) -> Sequence[Way]:
        memory = resources.memories[dtype]
        choice = request.fields.get("quantization") or resources.quantization
        return [
            (
                AdaptationKind.INT8,
                Attempt(
                    request,
                    dtype,
                    quantization,
                    memory.total_bytes("encode", request.fields["frame_count"], quantization),
                    f"{dtype}, weights {quantization}",
                ),
            )
            for quantization in quantizations(choice)
        ]

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: the conditioning comes at the end."""
        return request
