"""Prepared weights on disk: written by the first worker, mapped by those after it."""

from __future__ import annotations

import inspect
import itertools
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import COMPONENTS_OF_STAGES
from acestage.checkpoints.likeness import Stamps, stamps_of
from acestage.settings import EMBEDDED_CHECKPOINT
from services.dit import worker as dit
from services.dit.engine import Conditioning
from services.dit.parameters import DenoiseParameters
from services.runtime.stage_worker import PreparedWeights
from services.runtime.weights import integer_products, kept_weights, placement, quantization
from services.runtime.weights.int8_weights import Int8Weights
from services.runtime.weights.kept_weights import KeptWeights
from services.runtime.weights.placement import parts_of
from services.text_encoder import worker as text_encoder
from services.text_encoder.engine import LEFT_OUT
from services.vae import row_layers
from services.vae import worker as vae
from services.vae.row_weights import RowWeights

CPU = torch.device("cpu")
TINY = open_checkpoint(EMBEDDED_CHECKPOINT, checkpoints_dir=Path("/nowhere"))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
STAMPS: Stamps = {"/weights": (1, 2)}


@pytest.fixture(autouse=True)
def _nothing_is_learned() -> Any:
    with torch.no_grad():
        yield


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def never_called(*args: object) -> None:
    raise AssertionError("weights were made")


def forbid_quantizing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_products, "quantize_rows", never_called)
    monkeypatch.setattr(integer_products.packed_weights, "pack", never_called)
    monkeypatch.setattr("torchao.quantization.Int8Tensor.from_hp", never_called)


def woken(module: Any, kept: KeptWeights, dtype: torch.dtype) -> Any:
    """A worker, with its weights in INT8."""
    worker = module.load(TINY)
    kept_weights.place(worker, kept, CPU, dtype, "int8")
    return worker


def of_dit() -> Int8Weights:
    """Of a DiT that was just loaded."""
    return Int8Weights(dit.load(TINY).modules())


def made_and_mapped(
    module: Any, kept: KeptWeights, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any]:
    """A worker that made its weights, and one that found them."""
    made = woken(module, kept, dtype)
    with monkeypatch.context() as patch:
        forbid_quantizing(patch)
        return made, woken(module, kept, dtype)


def is_mapped(tensor: torch.Tensor, path: Path) -> bool:
    """Whether the memory of `tensor` is that file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= tensor.data_ptr() < end:
                return True
    return False


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transformer_that_is_mapped_gives_the_same_bits(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = []
    for worker in made_and_mapped(dit, KeptWeights(tmp_path, STAMPS, CPU, dtype), dtype, monkeypatch):
        conditioning = Conditioning(noise(1, 60, 64), noise(1, 1, 64), noise(1, 250, 16))
        *_, found = worker.engine.denoise(conditioning, DenoiseParameters(seeds=(1,)))
        latents.append(found)
    assert torch.isfinite(latents[0]).all()
    assert torch.equal(*latents)


@pytest.mark.parametrize("weights", [of_dit, lambda: RowWeights(vae.load(TINY).engine.decoder)])
def test_weights_are_kept_for_the_code_that_was_imported(
    weights: Callable[[], PreparedWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update must not have a service that goes on keep, for the new code, what the old one made."""
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    before = kept._basis(weights())
    monkeypatch.setattr(inspect, "getsource", lambda module: "changed")
    assert kept._basis(weights()) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_text_encoder_that_is_mapped_is_the_one_that_was_made(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, dtype)
    first, second = made_and_mapped(text_encoder, kept, dtype, monkeypatch)
    layer_count = 0
    for one, other in zip(first.modules(), second.modules(), strict=True):
        for name, layer in parts_of(one, LEFT_OUT):
            if quantization.is_quantized(name, layer):
                layer_count += 1
                restored: Any = other.get_submodule(name)
                assert is_mapped(restored.weight.qdata, kept.path)
                states = noise(5, layer.in_features).to(dtype)
                assert torch.equal(layer(states), restored(states))
        mine, theirs = one.state_dict(), other.state_dict()
        assert [tensor.dtype for tensor in mine.values()] == [tensor.dtype for tensor in theirs.values()]
    assert layer_count > 20


@pytest.mark.skipif(
    not integer_products.is_supported(CPU, torch.bfloat16), reason="this CPU does not multiply integers"
)
def test_packed_weights_are_the_mapped_file_and_take_no_memory_of_their_own(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.bfloat16)
    woken(dit, kept, torch.bfloat16)
    layers = Int8Weights(woken(dit, kept, torch.bfloat16).modules())._layers
    assert len(layers) > 20
    for layer in layers.values():
        tensors = integer_products.kept_tensors(layer)
        assert tensors is not None
        assert is_mapped(tensors["packed"], kept.path)
        assert layer.weight.untyped_storage().nbytes() == torch.bfloat16.itemsize


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_decoder_that_is_mapped_gives_the_same_bits(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, dtype)
    first = vae.load(TINY)
    kept_weights.place(first, kept, CPU, dtype, "none")
    second = vae.load(TINY)
    with monkeypatch.context() as patch:
        patch.setattr(placement, "folded_parts", never_called)
        patch.setattr(row_layers, "folded_parts", never_called)
        kept_weights.place(second, kept, CPU, dtype, "none")
    latents = noise(1, 40, second.engine.latent_channel_count)
    audio = [
        torch.cat([tile.audio for tile in worker.engine.decode(latents, 16)]) for worker in (first, second)
    ]
    assert torch.equal(*audio)
    parameters = list(second.engine.decoder.parameters())
    assert len(parameters) > 20
    for parameter in parameters:
        assert parameter.dtype == dtype
        assert parameter.requires_grad  # without it products in bfloat16 take twice as long
        assert is_mapped(parameter, kept.path)
    for tensors in RowWeights(first.engine.decoder).tensors().values():
        for tensor in tensors.values():  # of a part of something larger, all would be written
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("module", [text_encoder, vae])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_that_is_restored_is_on_the_device(module: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, dtype)
    quantization = "int8" if module is text_encoder else "none"
    made = module.load(TINY)
    kept_weights.place(made, kept, CPU, dtype, quantization)
    weights = module.load(TINY).prepared_weights(quantization)
    weights.restore(made.prepared_weights(quantization).tensors(), torch.device("meta"), dtype)
    names = weights.layer_names()
    assert len(names) > 20
    for tensors in weights.tensors().values():
        assert all(tensor.is_meta for tensor in tensors.values())


def test_a_layer_with_a_bias_is_restored(tmp_path: Path) -> None:
    class Biased(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(64, 128)])

    biased = [Biased(), Biased()]
    biased[1].load_state_dict(biased[0].state_dict())
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.bfloat16)
    is_integer = integer_products.is_supported(CPU, torch.bfloat16)
    quantizer = integer_products.quantize_dynamically if is_integer else quantization.quantize
    results = []
    for module in biased:
        weights = Int8Weights([module])
        is_restored = kept.restore(weights)
        placement.place(module, CPU, torch.bfloat16, "int8", quantizer)
        if not is_restored:
            kept.keep(weights)
        results.append(module.layers[0](noise(3, 64).bfloat16()))
    assert is_restored
    assert torch.equal(*results)


def test_what_was_made_of_other_files_or_by_other_code_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    weights = Int8Weights(woken(dit, kept, torch.float32).modules())
    assert kept.restore(of_dit())
    changed = KeptWeights(tmp_path, {"/weights": (1, 3)}, CPU, torch.float32)
    assert changed.path == kept.path
    assert not changed.restore(of_dit())
    changed.keep(weights)
    assert changed.restore(of_dit())
    assert not kept.restore(of_dit())
    monkeypatch.setattr(Int8Weights, "libraries", ("torch",))
    assert not KeptWeights(tmp_path, {"/weights": (1, 3)}, CPU, torch.float32).restore(of_dit())
    assert [file.name for file in (tmp_path / "weights").iterdir()] == [kept.path.name]


def test_each_stage_data_type_and_kind_of_device_has_a_file_of_its_own(tmp_path: Path) -> None:
    files = {
        KeptWeights(tmp_path, stamps, torch.device(device), dtype).path
        for stamps in (STAMPS, {"/others": (1, 2)})
        for device in ("cpu", "cuda:0", "cuda:1")
        for dtype in DTYPES
    }
    assert len(files) == 2 * 2 * 3


def test_a_stage_has_stamps_of_its_own_files_which_change_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(TINY.path, folder)
    checkpoint = open_checkpoint(str(folder), checkpoints_dir=tmp_path)
    stamps = {stage: stamps_of(checkpoint, names) for stage, names in COMPONENTS_OF_STAGES.items()}
    assert len({frozenset(found) for found in stamps.values()}) == len(stamps)
    (file,) = checkpoint.component("transformer").weights.shards
    modified_ns = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes()[:-1] + b"1")
    os.utime(file, ns=(modified_ns, modified_ns))  # as who copies files may set it
    again = {stage: stamps_of(checkpoint, names) for stage, names in COMPONENTS_OF_STAGES.items()}
    assert [stage for stage in stamps if stamps[stage] != again[stage]] == ["dit"]


def test_a_damaged_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    woken(dit, kept, torch.float32)
    whole = kept.path.stat().st_size
    for left in (0, whole // 2, whole - 1):
        os.truncate(kept.path, left)
        assert not kept.restore(of_dit())
        assert "cannot be read" in caplog.text
        caplog.clear()
        woken(dit, kept, torch.float32)
        assert kept.path.stat().st_size == whole
        assert kept.restore(of_dit())


def test_where_a_weight_is_refused_all_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    first = woken(dit, kept, torch.float32)
    written = kept.path.stat().st_ino
    restore, count = quantization.restore, itertools.count(1)

    def refuse_third(*args: Any) -> None:
        if next(count) == 3:
            raise RuntimeError("torch does not take it")
        restore(*args)

    with monkeypatch.context() as patch:
        patch.setattr(quantization, "restore", refuse_third)
        second = woken(dit, kept, torch.float32)
    assert "torch does not take it" in caplog.text
    mine, theirs = (Int8Weights(worker.modules()).tensors() for worker in (first, second))
    for name in mine:
        assert torch.equal(mine[name]["values"], theirs[name]["values"])
        assert torch.equal(mine[name]["scale"], theirs[name]["scale"])
    assert kept.path.stat().st_ino != written
    assert kept.restore(of_dit())


def test_a_file_that_others_can_write_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    woken(dit, kept, torch.float32)
    kept.path.chmod(0o666)
    assert not kept.restore(of_dit())
    assert str(kept.path) in caplog.text


def test_what_was_made_of_a_checkpoint_that_is_gone_is_removed_with_the_next_one(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first", "second", "third")]
    kept = [KeptWeights(tmp_path, {str(file): (1, 2)}, CPU, torch.float32) for file in files]
    weights = Int8Weights(woken(dit, kept[0], torch.float32).modules())
    for file, one in zip(files, kept, strict=True):
        file.touch()
        one.keep(weights)
    assert all(one.path.exists() for one in kept)
    files[0].unlink()
    assert kept[0].path.exists()
    kept[2].keep(weights)
    assert [one.path.exists() for one in kept] == [False, True, True]


def test_the_umask_makes_no_difference(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    before = os.umask(0o002)
    try:
        woken(dit, kept, torch.float32)
    finally:
        os.umask(before)
    assert kept.restore(of_dit())


def test_memory_that_runs_out_is_not_the_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    woken(dit, kept, torch.float32)

    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(quantization, "restore", fail)
    with pytest.raises(torch.OutOfMemoryError):
        kept.restore(of_dit())


def test_a_disk_that_is_nearly_full_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(kept_weights._LEFT_BYTES))
    kept = KeptWeights(tmp_path, STAMPS, CPU, torch.float32)
    woken(dit, kept, torch.float32)
    assert not kept.path.exists()
    assert "1024 MiB are free" in caplog.text


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "weights").write_text("no folder")
    woken(dit, KeptWeights(tmp_path, STAMPS, CPU, torch.float32), torch.float32)
    assert "not kept in" in caplog.text
