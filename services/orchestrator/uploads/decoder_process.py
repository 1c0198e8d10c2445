"""The process that decodes uploaded audio: `python -m services.orchestrator.uploads.decoder_process JOB`.

Its answer is one line of JSON on stdout. Decoders print as they please, on stdout too, so both standard
streams lead nowhere while they work.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
from pathlib import Path

from acestage.errors import InvalidArgumentError
from services.orchestrator.uploads.audio_facts import RawFormat
from services.orchestrator.uploads.audio_intake import take_in
from services.runtime.processes.parent_death import die_with_parent

MEMORY_BYTES = 1 << 30
"""More than any sound file takes; less than a header with wrong sizes may ask for."""

CPU_S = 60
"""Ten minutes in eight channels at 192 kHz take 4 (measured)."""


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeJob:
    """What to decode, and where to: a file that must not be there yet."""

    source: str
    destination: str
    raw: RawFormat | None
    parent_pid: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DecodeJob:
        values = json.loads(text)
        raw = values.pop("raw")
        return cls(**values, raw=RawFormat(**raw) if raw else None)


def main() -> None:
    job = DecodeJob.from_json(sys.argv[1])
    die_with_parent(job.parent_pid, signal.SIGKILL)
    _limit()
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.write(answer, _answer(job).encode())


def _limit() -> None:
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most_bytes = used_bytes + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(job: DecodeJob) -> str:
    try:
        with open(job.destination, "xb") as destination:
            facts = take_in(Path(job.source), job.raw, destination)
            destination.flush()
            os.fsync(destination.fileno())
        return json.dumps({"facts": facts.to_json()})
    except InvalidArgumentError as error:
        return json.dumps({"violations": [dataclasses.astuple(v) for v in error.violations]})
    except MemoryError:
        violation = ("data", f"takes more than {MEMORY_BYTES >> 20} MiB of memory to decode")
        return json.dumps({"violations": [violation]})
    except OSError as error:
        return json.dumps({"disk": error.strerror or str(error)})


if __name__ == "__main__":
    main()
