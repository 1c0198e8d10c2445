"""Keeps the logs free of what model libraries say about parts of theirs that nobody here uses."""

from __future__ import annotations

import logging

_LOGGERS = (
    "torchao",  # kernels for other versions of Python and CUDA that do not load
    "torch.utils._pytree",  # a deprecated call that torchao makes
    "diffusers.quantizers.torchao.torchao_quantizer",  # loads checkpoints that torchao wrote
)


def quieten() -> None:
    """Lets only errors of these loggers through; call it before diffusers is imported.

    Diffusers imports torchao wherever it is installed.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
