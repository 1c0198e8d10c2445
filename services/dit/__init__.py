"""The DiT stage: conditioning and seeds become latents."""
