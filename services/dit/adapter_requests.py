"""The adapters of a request: found in the folder and read as far as a plan needs, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from acestage.adapters import Adapter, AdapterFolder
from acestage.checks import Checks
from acestage.errors import CheckpointError, NotFoundError
from services.dit.parameters import AdapterUse
from services.runtime.rpc.request_limits import ADAPTER_SCALE, MAX_ADAPTER_COUNT


class WantedAdapter(Protocol):
    """The message `Adapter`."""

    @property
    def name(self) -> str: ...

    @property
    def scale(self) -> float: ...

    def HasField(self, field_name: Any, /) -> bool: ...


def resolve_adapters(
    folder: AdapterFolder, wanted: Sequence[WantedAdapter], field: str
) -> tuple[AdapterUse, ...]:
    """The adapters that `wanted` names. Blocks while it reads headers, so it is not for the event loop.

    Args:
        folder: where they lie.
        wanted: their names and scales.
        field: of the request that has them, for errors.

    Raises:
        InvalidArgumentError: with every wrong field.
    """
    checks = Checks()
    checks.at_most(len(wanted), "adapters", field, MAX_ADAPTER_COUNT)
    checks.done()
    uses = []
    for index, one in enumerate(wanted):
        scale = one.scale if one.HasField("scale") else 1.0
        checks.within(scale, f"{field}[{index}].scale", *ADAPTER_SCALE)
        is_first = all(one.name != before.name for before in wanted[:index])
        checks.require(
            is_first, f"{field}[{index}].name", f"{one.name[:100]!r} is there twice; accepted: once"
        )
        try:
            adapter = folder.open(one.name)
        except (NotFoundError, CheckpointError) as error:
            checks.require(False, f"{field}[{index}].name", error.message)
            continue
        uses.append(
            AdapterUse(
                name=one.name,
                scale=scale,
                file=str(adapter.file),
                config_file=None if adapter.config is None else str(adapter.config.path),
                config_digest=adapter.config_digest,
                file_bytes=adapter.file_bytes,
                modified_ns=adapter.modified_ns,
                parameter_count=adapter.parameter_count,
                widest=_widest(adapter),
            )
        )
    checks.done()
    return tuple(uses)


def _widest(adapter: Adapter) -> int:
    """Of the layers that see every token; others see a few."""
    return max((part.up.shape[0] for part in adapter.layers if part.module.startswith("layers.")), default=0)
