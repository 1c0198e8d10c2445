"""Checkpoints of ACE-Step 1.5 on this machine: found, described, checked, downloaded and listed.

What this offers imports no torch; `loading`, `modules` and `silence`, for the engines, do.
"""

from acestage.checkpoints.checkpoint import Checkpoint, Layout, ModelFacts
from acestage.checkpoints.hub import pull
from acestage.checkpoints.library_logs import quieten
from acestage.checkpoints.listing import list_local
from acestage.checkpoints.opening import open_checkpoint, open_checkpoints
from acestage.checkpoints.repositories import REPOSITORIES

__all__ = [
    "REPOSITORIES",
    "Checkpoint",
    "Layout",
    "ModelFacts",
    "list_local",
    "open_checkpoint",
    "open_checkpoints",
    "pull",
]

quieten()
