"""Decodes uploaded audio in a child process, which a damaged file may crash or hang without other harm."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from acestage.errors import FieldViolation, InternalError, InvalidArgumentError, ResourceExhaustedError
from services.orchestrator.uploads.audio_facts import AudioFacts, RawFormat
from services.orchestrator.uploads.decoder_process import CPU_S, DecodeJob
from services.runtime.processes.finishing import finish
from services.runtime.processes.tmp_folder import disk_error

log = logging.getLogger(__name__)

DECODER = (sys.executable, "-m", "services.orchestrator.uploads.decoder_process")

TIMEOUT_S = 4.0 * CPU_S
"""A machine that is busy gives a process a quarter of a processor or more."""


async def decode(
    source: Path, raw: RawFormat | None, destination: Path, *, command: Sequence[str] = DECODER
) -> AudioFacts:
    """Writes the audio of `source` to the new file `destination`: interleaved stereo, float32, 48 kHz.

    Cancelling it ends the child.

    Args:
        source: what was uploaded.
        raw: its format where it is bare samples; None where it is a file that says so by itself.
        destination: must not exist; where an error comes, part of it may be there.
        command: what decodes.

    Raises:
        InvalidArgumentError: it is no audio that can be used.
        ResourceExhaustedError: the disk is full, or the machine has no memory left.
        InternalError: a defect of the decoder.
    """
    job = DecodeJob(str(source), str(destination), raw, os.getpid())
    try:
        process = await asyncio.create_subprocess_exec(
            *command, job.to_json(), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise ResourceExhaustedError(
            f"no process could be started to decode the audio: {error.strerror}", retry_delay_s=5.0
        ) from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer, _ = await process.communicate()
    except TimeoutError:
        raise _refused(f"takes more than {TIMEOUT_S:.0f} s to decode") from None
    finally:
        if process.returncode is None:
            process.kill()
            await finish(process.wait())
    assert process.returncode is not None
    return _facts(answer, process.returncode)


def _facts(answer: bytes, code: int) -> AudioFacts:
    if code == 0:
        match json.loads(answer):
            case {"facts": str(facts)}:
                return AudioFacts.from_json(facts)
            case {"violations": list(violations)}:
                raise InvalidArgumentError.of([FieldViolation(*violation) for violation in violations])
            case {"disk": problem}:
                raise disk_error(problem)
    raise _death(code)


def _death(code: int) -> Exception:
    if code == -signal.SIGKILL:  # the kernel's way when memory is short
        return ResourceExhaustedError(
            "the audio's decoder was killed; does the machine have memory left?", retry_delay_s=5.0
        )
    if code == -signal.SIGXCPU:
        return _refused(f"takes more than {CPU_S} s of computing to decode")
    if code < 0:
        log.warning("a decoder crashed", extra={"signal": signal.Signals(-code).name})
        return _refused(f"is damaged in a way that crashes its decoder ({signal.Signals(-code).name})")
    return InternalError(f"the audio's decoder failed with exit code {code}, see the orchestrator's log")


def _refused(description: str) -> InvalidArgumentError:
    return InvalidArgumentError.at("data", description)
