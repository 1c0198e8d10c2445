"""A preload must not touch CUDA: no process that it forks could use it any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from acestage.generation import STAGES

LOOK = """
import gc, os, sys, traceback, types

gc.disable()  # as a preload does
import torch

own_pid, found = os.getpid(), set()

def told(name, function):
    def call(*args, **kwargs):
        if os.getpid() == own_pid:  # a process that measures ends before there is any worker
            found.add(f"{name} by {traceback.extract_stack()[-2].filename}")
        return function(*args, **kwargs)
    return call

for name, function in list(vars(torch.cuda).items()):
    # Those that say what torch was built with look for no device.
    if isinstance(function, types.FunctionType) and name not in ("_is_compiled", "is_built"):
        setattr(torch.cuda, name, told(name, function))

from services.runtime.preload.models import map_models
from services.runtime.preload.process import import_stages
from services.runtime.stage_config import StageConfig

import_stages()
# The first is measured anew; how a stage is measured, in a process of its own, is the same for all.
cache_dir, *stages = sys.argv[1:]
for stage in stages:
    map_models(StageConfig(
        stage=stage, checkpoints=("tiny-turbo",), checkpoints_dir="/nowhere", variant=None, device="cpu",
        dtype="float32", run_dir="/nowhere", cache_dir=cache_dir, log_level="INFO", threads=1,
    ))
    cache_dir = os.environ["ACESTAGE_CACHE_DIR"]
assert "torchao" in sys.modules
print(sorted(found))
"""


def test_neither_imports_nor_models_look_for_a_device_or_print_anything(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOK, str(tmp_path), *STAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert (done.stdout, done.stderr) == ("[]\n", "")
