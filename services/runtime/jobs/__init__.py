"""The jobs of a stage in its gRPC process: their line, their lease, and how each is fitted to the device."""
