"""What failures in a worker mean to the caller."""

from __future__ import annotations

import pytest
import torch

from acestage.errors import VramBudgetExceededError, WorkerCrashedError
from services.runtime.stage_config import StageConfig
from services.runtime.worker import is_out_of_memory, to_error

CONFIG = StageConfig(
    stage="dit",
    checkpoints=("tiny-turbo",),
    checkpoints_dir="checkpoints",
    variant=None,
    device="cpu",
    dtype="auto",
    run_dir="/nowhere",
    log_level="INFO",
)


def failed_allocation() -> Exception:
    """The real error of torch's CPU allocator."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    return caught.value


@pytest.mark.parametrize(
    "error", [failed_allocation(), torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory")]
)
def test_running_out_of_memory_is_told_as_such_on_every_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    told = to_error(error, CONFIG)
    assert isinstance(told, VramBudgetExceededError)
    assert "dit ran out of memory on cpu" in told.message


def test_any_other_failure_is_a_crash_that_says_what_happened() -> None:
    told = to_error(RuntimeError("shapes differ"), CONFIG)
    assert isinstance(told, WorkerCrashedError)
    assert told.message == "dit worker: RuntimeError: shapes differ"
