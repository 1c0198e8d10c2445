"""Work in the background, which gets what the others leave of the CPUs."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

LOWEST_PRIORITY = 19
"""The niceness that gives way to all others."""
_AUTOGROUP = Path("/proc/self/autogroup")
_RETRY_S = 0.15
_ATTEMPT_COUNT = 10
"""The kernel lets users change these no more often than every tenth of a second, all of them together."""


def take_lowest_priority() -> None:
    """Puts this process, and those that it starts, behind all others on the CPUs.

    For the leader of a session. Where the kernel groups processes by session (sched(7), "The autogroup
    feature"), niceness counts within one alone, and sessions share the CPUs evenly whatever it is: so the
    whole session steps back.

    `SCHED_IDLE` besides: with niceness alone a song, whose threads wake each other all the time, took half as
    long again as with nothing beside it, and a quarter with both.
    """
    os.nice(LOWEST_PRIORITY)
    with contextlib.suppress(OSError):  # a sandbox that forbids it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_ATTEMPT_COUNT):
        try:
            _AUTOGROUP.write_text(str(LOWEST_PRIORITY))
        except BlockingIOError:
            time.sleep(_RETRY_S)
        except OSError:  # the kernel does not group by session
            return
        else:
            return
