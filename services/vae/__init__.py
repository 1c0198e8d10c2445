"""The VAE stage: latents become audio, tile by tile."""
