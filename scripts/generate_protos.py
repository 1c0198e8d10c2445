"""Generates the Python stubs in `acestage/protos` from `protos/`.

`--check` writes nothing and fails where the committed stubs differ from what the protos give.
protoc names Python packages after the proto's folder (`acestage.tensor.v1`); the stubs live one level
deeper (`acestage.protos.tensor.v1`), so that they do not mix with hand-written modules, and their
imports are rewritten accordingly.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import re
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "acestage" / "protos"


def generate(target: Path) -> None:
    """Writes the stub packages into `target`, which is emptied first."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
        arguments += [f"--{kind}_out={scratch}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        arguments += ["--mypy_opt=quiet", "--mypy_grpc_opt=quiet"]
        # Beside this interpreter, whether or not its environment is activated.
        scripts = Path(sys.executable).parent
        arguments += [f"--plugin={scripts / f'protoc-gen-{kind}'}" for kind in ("mypy", "mypy_grpc")]
        if protoc.main(arguments + sources) != 0:
            raise SystemExit("protoc failed")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(scratch) / "acestage", target)
    packages = [target, *(path for path in target.rglob("*") if path.is_dir())]
    for package in packages:
        (package / "__init__.py").write_text("")
    (target / "__init__.py").write_text(
        '"""Generated from `protos/` by `scripts/generate_protos.py`; do not edit."""\n'
    )
    for stub in [*target.rglob("*_pb2*.py"), *target.rglob("*_pb2*.pyi")]:
        text = stub.read_text()
        text = re.sub(r"\bacestage\.(?=\w+\.v1(?: import|\.\w+_pb2))", "acestage.protos.", text)
        stub.write_text(text)


def differences(left: Path, right: Path) -> list[str]:
    """Relative names of files that exist on one side only or differ in content."""
    names = {
        str(p.relative_to(side)) for side in (left, right) for p in side.rglob("*_pb2*") if p.suffix != ".pyc"
    }
    return sorted(
        name
        for name in names
        if not (
            (left / name).is_file()
            and (right / name).is_file()
            and filecmp.cmp(left / name, right / name, False)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare with the committed stubs")
    if not parser.parse_args().check:
        generate(STUBS)
        return
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "protos"
        generate(fresh)
        stale = differences(fresh, STUBS)
    if stale:
        sys.exit("stale stubs, run `make protos`:\n  " + "\n  ".join(stale))


if __name__ == "__main__":
    main()
