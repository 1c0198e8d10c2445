"""`python -m services.dit`."""

from services.dit.budget import DitBudget
from services.dit.service import add_servicer
from services.runtime.stage_server import StageDefinition, main

if __name__ == "__main__":
    main(
        StageDefinition("dit", "acestage.dit.v1.DitService", add_servicer, DitBudget()),
        "Serves the DiT: conditioning and seeds become latents.",
    )
