"""Where audio goes while it comes: a file, a pipe, a player. All methods may block."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Protocol

from acestage.cli.players import Player
from acestage.errors import FailedPreconditionError
from acestage.wav_stream import wav_stream_header

STDOUT = "-"

_STOP_S = 2.0


class Sink(Protocol):
    """Takes interleaved little-endian float32 samples."""

    def begin(self, sample_rate_hz: int, channel_count: int) -> None:
        """Before the first sample."""

    def write(self, samples: bytes) -> None:
        """Raises `BrokenPipeError` where nobody listens any more."""

    def close(self) -> None:
        """After the last sample; returns once all was taken."""

    def abandon(self) -> None:
        """Ends at once; another thread may be in one of the other methods."""


class FileSink:
    """A file or a named pipe, or stdout for "-"; `with_header` puts the header of a WAV file before."""

    def __init__(self, path: str, *, with_header: bool) -> None:
        self._path = path
        self._with_header = with_header
        self._fd = -1

    def begin(self, sample_rate_hz: int, channel_count: int) -> None:
        if self._path == STDOUT:
            self._fd = sys.stdout.fileno()
        else:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        if self._with_header:
            self.write(wav_stream_header(sample_rate_hz, channel_count))

    def write(self, samples: bytes) -> None:
        _write_all(self._fd, samples)

    def close(self) -> None:
        if self._path != STDOUT and self._fd >= 0:
            os.close(self._fd)

    def abandon(self) -> None:
        """Leaves it as it is: whoever reads it sees the end when this process ends."""


class PlayerSink:
    """A player, started with the first samples; `close` returns when it has played them all."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, sample_rate_hz: int, channel_count: int) -> None:
        command = self._player.command(sample_rate_hz, channel_count)
        self.process = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        if self._player.takes_wav:
            self.write(wav_stream_header(sample_rate_hz, channel_count))

    def write(self, samples: bytes) -> None:
        process = self.process
        assert process is not None
        assert process.stdin is not None
        try:
            _write_all(process.stdin.fileno(), samples)
        except ValueError:  # abandoned meanwhile, and closed
            raise BrokenPipeError from None
        except BrokenPipeError:
            self._check_end(process)
            raise

    def close(self) -> None:
        process = self.process
        if process is None:
            return
        self._check_end(process)

    def abandon(self) -> None:
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def _check_end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        if (status := process.wait()) != 0:
            raise FailedPreconditionError(f"--play: {self._player.name} ended with status {status}")


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
