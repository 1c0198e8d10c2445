"""Why a file could not be made; never crosses a wire, so `acestage.errors` has no place for it."""

from __future__ import annotations

from acestage.errors import FailedPreconditionError


class ExportError(FailedPreconditionError):
    """The disk is full, the folder is missing or not ours, or an encoder is not there."""

    reason = "EXPORT_FAILED"
