"""`acestage adapters`: what lies in the adapters folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from acestage.adapters import AdapterFolder, ListedAdapter
from acestage.cli.flags import JsonFlag, load_settings
from acestage.cli.terminal import open_console, print_json, whole_table


def adapters(
    adapters_dir: Annotated[Path | None, typer.Option(help="Where LoRA adapters lie.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the LoRA adapters in the adapters folder, and whether they can be used."""
    folder = AdapterFolder(load_settings(adapters_dir=adapters_dir).adapters_dir)
    found = folder.listing()
    if as_json:
        print_json({"folder": folder.path, "adapters": [_facts(one) for one in found]})
    else:
        _print(folder.path, found)


def _facts(listed: ListedAdapter) -> dict[str, Any]:
    adapter = listed.adapter
    return {
        "name": listed.name,
        "path": listed.path,
        "is_usable": adapter is not None,
        "problem": listed.problem,
        "ranks": adapter.ranks if adapter else [],
        "layer_count": len(adapter.layers) if adapter else 0,
        "parameter_count": adapter.parameter_count if adapter else 0,
        "file_bytes": adapter.file_bytes if adapter else 0,
    }


def _print(folder: Path, found: list[ListedAdapter]) -> None:
    console = open_console()
    if not found:
        console.print(f"No adapters in {folder}", soft_wrap=True)
        return
    table = whole_table("adapter", "rank", "layers", "size", "state")
    for one in found:
        if one.adapter is None:
            table.add_row(one.name, "", "", "", f"not usable: {one.problem}")
            continue
        ranks = ", ".join(map(str, one.adapter.ranks))
        table.add_row(
            one.name, ranks, str(len(one.adapter.layers)), decimal(one.adapter.file_bytes), "usable"
        )
    console.print(table)
