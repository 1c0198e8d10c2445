from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from services.runtime.memory.memory_probe import fake_tensors, peak_bytes
from tests.published_workers import architecture, without_weights, work_of

MIB = 2**20


def test_views_count_once_and_what_is_freed_counts_no_more() -> None:
    def work() -> None:
        first = torch.zeros(MIB // 4)
        halves = first.chunk(2)
        del first
        second = halves[0] + 1  # half a MiB beside the first, which its views hold
        del halves
        third = torch.cat([second, second, second, second])  # with the second: 2.5 MiB
        del second, third
        torch.zeros(MIB // 4)

    with fake_tensors():
        assert peak_bytes(work, cpu_thread_count=1) == 2.5 * MIB


def test_tensors_from_before_do_not_count() -> None:
    with fake_tensors():
        before = torch.zeros(MIB)
        assert peak_bytes(lambda: before.view(-1, 2)[:, 0].relu(), cpu_thread_count=1) == 2 * MIB


def test_a_check_for_values_that_are_not_finite_passes() -> None:
    with fake_tensors():
        peak_bytes(lambda: bool(torch.isfinite(torch.zeros(4)).all()) or 1 / 0, cpu_thread_count=1)


def test_a_convolution_holds_copies_of_its_input_and_weight() -> None:
    with fake_tensors():
        source, weight = torch.zeros(1, 16, 1024), torch.zeros(32, 16, 3)
        found = peak_bytes(lambda: F.conv1d(source, weight, padding=1), cpu_thread_count=None)
    # The copies are gone before the result is there, but not its own copy.
    assert found == max(4 * (16 * 1024 + 32 * 16 * 3 + 32 * 1024), 4 * 2 * 32 * 1024)


@pytest.mark.parametrize("stage", ["text_encoder", "dit", "vae"])
def test_every_mode_of_a_plan_has_work_that_it_is_for(stage: str) -> None:
    worker = without_weights(stage, architecture("base", 2))
    modes = {mode for mode, _ in worker.memory(torch.bfloat16).activations} - {"item", "prompt"}
    assert len(modes) == 2
    for mode in modes:
        assert callable(work_of(worker, mode, 250, torch.bfloat16))


def test_an_unknown_mode_has_no_work() -> None:
    with pytest.raises(ValueError, match="'item'"):
        work_of(without_weights("vae", architecture("base", 2)), "item", 250, torch.bfloat16)
