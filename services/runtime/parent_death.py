"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, signal_number: signal.Signals) -> None:
    """Asks the kernel to send `signal_number` to this process when its parent dies (prctl(2)).

    The kernel clears the request on fork, so every process asks for itself. Where the parent died before
    the request was made, the signal is sent at once.

    Args:
        parent_pid: the process that started this one.
        signal_number: SIGKILL for workers, SIGTERM for services that clean up.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal_number)
