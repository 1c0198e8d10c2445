"""Writes checkpoints with random weights: for tests, for measurements, and the one in the package.

python -m scripts.random_checkpoint OUT --size full --layout original --dtype bfloat16
python -m scripts.random_checkpoint acestage/models/tiny-turbo
"""

from scripts.random_checkpoint.layouts import write_checkpoint

__all__ = ["write_checkpoint"]
