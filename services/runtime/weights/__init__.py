"""Weights on their way to a device: mapped, put in another order or into 8 bits, moved, borrowed."""
