"""`python -m services.vae`."""

from services.runtime.stage_server import StageDefinition, main
from services.vae.budget import VaeBudget
from services.vae.service import add_servicer

if __name__ == "__main__":
    main(
        StageDefinition("vae", "acestage.vae.v1.VaeService", add_servicer, VaeBudget()),
        "Serves the VAE: latents become audio, tile by tile.",
    )
