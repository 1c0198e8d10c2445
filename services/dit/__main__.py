"""`python -m services.dit`."""

from acestage.checkpoints import ModelFacts
from services.dit.budget import DitBudget
from services.dit.service import add_servicer
from services.runtime.stage_server import StageDefinition, main


def _budget(model: ModelFacts) -> DitBudget:
    return DitBudget(is_turbo=model.is_turbo)


if __name__ == "__main__":
    main(
        StageDefinition("dit", "acestage.dit.v1.DitService", add_servicer, _budget),
        "Serves the DiT: conditioning and seeds become latents.",
    )
