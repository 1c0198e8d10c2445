"""Forks a process for every request on a socket. For processes of one thread: a fork has no others."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class ForkServer:
    """What is done for requests, each of which brings descriptors.

    Attributes:
        requests: where they come from.
        request_bytes: size of the longest request.
        descriptor_count: how many come with each.
        run: the child's work, with the request and its descriptors; those of `serve` are closed, and its
            signal handlers gone.
        forked: hears of every child: its process and the descriptors, which are its to close.
        exited: hears of its end: its process and the exit code.
        failed: hears that a process could not be forked; the descriptors are closed.
    """

    requests: socket.socket
    request_bytes: int
    descriptor_count: int
    run: Callable[[bytes, Sequence[int]], NoReturn]
    forked: Callable[[int, Sequence[int]], None]
    exited: Callable[[int, int], None]
    failed: Callable[[OSError], None]

    def serve(self) -> None:
        """Returns once the other end of `requests` is closed."""
        wakeup_read, wakeup_write = os.pipe()
        os.set_blocking(wakeup_read, False)
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        selector = selectors.DefaultSelector()
        selector.register(self.requests, selectors.EVENT_READ)
        selector.register(wakeup_read, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if wakeup_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup_read, 4096)
                self._report_exits()
            if self.requests in ready:
                request, descriptors, _, _ = socket.recv_fds(
                    self.requests, self.request_bytes, self.descriptor_count
                )
                if not request:
                    return
                try:
                    pid = os.fork()
                except OSError as error:
                    _close(descriptors)
                    self.failed(error)
                    continue
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    self.requests.close()
                    os.close(wakeup_read)
                    os.close(wakeup_write)
                    self.run(request, descriptors)
                self.forked(pid, descriptors)

    def _report_exits(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.exited(pid, os.waitstatus_to_exitcode(status))


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
