"""Devices: what there is, its memory and its lock, and a fake one for tests."""
