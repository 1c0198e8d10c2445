"""Command line of the random checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from scripts.random_checkpoint.layouts import DTypeName, LayoutName, write_checkpoint
from scripts.random_checkpoint.sizes import Size, Variant


def main() -> None:
    """Writes the checkpoint that the arguments describe, and prints the folder to open."""
    parser = argparse.ArgumentParser(prog="python -m scripts.random_checkpoint", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--size", choices=get_args(Size), default="tiny")
    parser.add_argument("--variant", choices=get_args(Variant), default="turbo")
    parser.add_argument("--layout", choices=get_args(LayoutName), default="diffusers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=get_args(DTypeName), default="float32")
    parser.add_argument("--shards", type=int, default=1, help="files to split the model into")
    given = parser.parse_args()
    print(
        write_checkpoint(
            given.out,
            size=given.size,
            variant=given.variant,
            layout=given.layout,
            seed=given.seed,
            dtype=given.dtype,
            shard_count=given.shards,
        )
    )


if __name__ == "__main__":
    main()
