"""The tier table at its boundaries."""

from __future__ import annotations

import pytest

from acestage.planning import GIB
from services.orchestrator.limits.tiers import tier_of

# GB of the device; language models; longest song and takes: without, then with a language model.
TABLE = [
    (0.5, "tier 1", "", (180, 1), (180, 1)),
    (3.94, "tier 1", "", (180, 1), (180, 1)),
    (4.0, "tier 1", "", (180, 1), (180, 1)),
    (4.01, "tier 2", "", (360, 1), (360, 1)),
    (6.0, "tier 2", "", (360, 1), (360, 1)),
    (6.01, "tier 3", "0.6B", (360, 2), (240, 1)),
    (8.0, "tier 3", "0.6B", (360, 2), (240, 1)),
    (8.01, "tier 4", "0.6B", (360, 4), (240, 2)),
    (12.0, "tier 4", "0.6B", (360, 4), (240, 2)),
    (12.01, "tier 5", "0.6B 1.7B", (360, 4), (240, 2)),
    (15.49, "tier 5", "0.6B 1.7B", (360, 4), (240, 2)),
    (15.5, "tier 6", "0.6B 1.7B 4B", (480, 8), (480, 4)),
    (16.0, "tier 6", "0.6B 1.7B 4B", (480, 8), (480, 4)),
    (23.99, "tier 6", "0.6B 1.7B 4B", (480, 8), (480, 4)),
    (24.0, "unlimited", "0.6B 1.7B 4B", (600, 8), (600, 8)),
    (80.0, "unlimited", "0.6B 1.7B 4B", (600, 8), (600, 8)),
]


@pytest.mark.parametrize(("device_gb", "name", "models", "without_lm", "with_lm"), TABLE)
def test_a_device_falls_into_its_row(
    device_gb: float, name: str, models: str, without_lm: tuple[int, int], with_lm: tuple[int, int]
) -> None:
    tier = tier_of(int(device_gb * GIB))
    assert tier.name.startswith(f"{name} (")
    assert tier.language_models == tuple(models.split())
    assert (tier.max_duration_s, tier.max_batch_size) == without_lm
    assert (tier.max_duration_with_lm_s, tier.max_batch_size_with_lm) == with_lm
