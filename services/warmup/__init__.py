"""The warmup: kernels of the stages, compiled ahead of time for what the services would run."""
