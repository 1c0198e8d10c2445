"""The planner: what a model needs on a device, from its architecture, without weights or the device."""
