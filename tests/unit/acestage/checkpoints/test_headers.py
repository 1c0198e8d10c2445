from __future__ import annotations

import json
from pathlib import Path

import pytest

from acestage.checkpoints.headers import StoredTensor, read_header
from acestage.errors import CheckpointError

TWO = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [5], "data_offsets": [24, 34]},
}


def write(path: Path, header: object, data_byte_count: int = 34) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_byte_count))
    return path


def test_header_gives_types_and_shapes(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", {"__metadata__": {"format": "pt"}, **TWO})

    assert read_header(path) == {
        "a": StoredTensor(path, "a", "F32", (2, 3), 0, 24),
        "b": StoredTensor(path, "b", "BF16", (5,), 24, 10),
    }


@pytest.mark.parametrize("cut", [1, 10, 34])
def test_truncated_file_is_named_with_both_sizes(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "w.safetensors", TWO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])

    with pytest.raises(CheckpointError) as caught:
        read_header(path)

    assert caught.value.message == (
        f"{path}: truncated: {len(whole) - cut} bytes, its header describes {len(whole)}"
    )


@pytest.mark.parametrize("byte_count", [0, 7, 8, 40])
def test_file_cut_in_its_header_is_truncated(tmp_path: Path, byte_count: int) -> None:
    path = write(tmp_path / "w.safetensors", TWO)
    path.write_bytes(path.read_bytes()[:byte_count])

    with pytest.raises(CheckpointError, match=r"w\.safetensors: (truncated|not a safetensors file)"):
        read_header(path)


def test_longer_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", TWO, data_byte_count=35)

    with pytest.raises(CheckpointError, match=r"w\.safetensors: too long"):
        read_header(path)


def test_pointer_to_a_large_file_is_not_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n")

    with pytest.raises(CheckpointError, match=r"w\.safetensors: not a safetensors file"):
        read_header(path)


def test_a_header_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = b"[" * 200_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="its header is not JSON"):
        read_header(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"w\.safetensors: file not found"):
        read_header(tmp_path / "w.safetensors")


@pytest.mark.parametrize("header", [[], {"a": 1}, "text"])
def test_header_of_another_form_is_refused(tmp_path: Path, header: object) -> None:
    path = write(tmp_path / "w.safetensors", header)

    with pytest.raises(CheckpointError, match=r"not an object of objects"):
        read_header(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F31", "shape": [2], "data_offsets": [24, 32]}, "data type 'F31'"),
        ({"shape": [2], "data_offsets": [24, 32]}, "data type None"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [24, 32]}, r"shape \[-2\]"),
        ({"dtype": "F32", "shape": 2, "data_offsets": [24, 32]}, "shape 2"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [24]}, r"data_offsets \[24\]"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [24, 28]}, "4 bytes, expected 8"),
        (
            {"dtype": "F32", "shape": [2], "data_offsets": [28, 36]},
            "begins at byte 28 of the data, expected 24",
        ),
        (
            {"dtype": "F32", "shape": [2], "data_offsets": [20, 28]},
            "begins at byte 20 of the data, expected 24",
        ),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    path = write(tmp_path / "w.safetensors", {"a": TWO["a"], "bad": entry}, data_byte_count=36)

    with pytest.raises(CheckpointError, match=rf"w\.safetensors: bad: {message}"):
        read_header(path)
