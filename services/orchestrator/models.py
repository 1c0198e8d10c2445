"""The model of a job: one that all stages serve."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.checkpoints.model_names import find_name
from acestage.errors import FailedPreconditionError
from acestage.protos.stage.v1 import stage_pb2


def find_model(infos: Sequence[stage_pb2.GetStageInfoResponse], asked: str) -> stage_pb2.Model:
    """The model that a request means.

    Args:
        infos: what the stages say, at least one of them, in the order of a job's way.
        asked: its name, or the short one of a published model; empty for the first that all stages serve.

    Raises:
        FailedPreconditionError: the stages have no model in common.
        InvalidArgumentError: it is none of those that they have in common.
    """
    first, *others = ({hosted.model.name: hosted.model for hosted in info.models} for info in infos)
    served = {
        name: model for name, model in first.items() if all(other.get(name) == model for other in others)
    }
    if not served:
        models = {info.stage: ", ".join(hosted.model.name for hosted in info.models) for info in infos}
        raise FailedPreconditionError(
            "the stages serve different models: "
            + "; ".join(f"{stage} serves {names}" for stage, names in models.items()),
            metadata=models,
        )
    return served[find_name(tuple(served), asked, "model")]
