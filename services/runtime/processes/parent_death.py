"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
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


def die_with_peer(descriptor: int) -> None:
    """Asks the kernel to kill this process when the other end of a stream socket is closed (fcntl(2)).

    For a process whose parent is not the one that it must die with. Nothing may be sent over the socket, and
    it must stay open. Where its other end is closed already, the process ends at once.
    """
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
