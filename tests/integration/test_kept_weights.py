"""Prepared weights that one worker has made, and others after it map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.known_measurements import with_known_measurements
from tests.running_stack import RunningStack


def test_a_song_is_the_same_with_weights_that_were_made_and_with_mapped_ones(tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    with_known_measurements(cache_dir)
    audio, files = [], []
    for folder in ("first", "second"):
        # A new start: no worker has the weights any more.
        with (
            RunningStack.start("tiny-turbo", tmp_path / folder, ACESTAGE_CACHE_DIR=str(cache_dir)) as stack,
            stack.client() as client,
        ):
            generation = client.generate("piano", duration_s=10, seed=1, quantization="int8")
        assert generation.settings.quantization == "int8"
        audio.append(generation.tracks[0].audio)
        found = [(file.name, file.stat().st_ino) for file in (cache_dir / "weights").iterdir()]
        files.append(sorted(found))
    assert np.isfinite(audio[0]).all()
    assert np.array_equal(*audio)
    assert len(files[0]) == 3  # of the text encoder, of the DiT and of the VAE
    assert files[0] == files[1]  # they were not written again
