"""Every process is killed, ended and stopped at every moment of a job.

The client of the job gets the status of the table in time, no process of the victim outlives what it should,
the whole device can be had afterwards, and the next song is the same as ever.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, get_args

import psutil
import pytest
from _pytest.mark import ParameterSet

from acestage.generation import StageWaiting
from services.runtime.devices.fake_device.spec import Fault
from services.runtime.jobs.stay import CANCEL_GRACE_S, WAKING_S
from tests.chaos.chaos_stack import TTL_S, ChaosStack, Job, steady, until_gone
from tests.chaos.conftest import PROGRESS_TIMEOUT_S
from tests.running_stack import wait_until

KILL, TERM, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
Victim = Literal["worker", "stage", "orchestrator"]
Moment = Literal["idle", "waiting", "text_encoder", "dit", "vae"]

SERVICE_GRACE_S = 3.0
"""A service that is told to end lets calls go on for so long."""
SLACK_S = 3.0
"""For two slow cores."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to whom and when, and what comes of it.

    Attributes:
        number: the signal.
        victim: of which process. While a job waits: the worker that it waits for, or the stage that waits.
        moment: "idle": a worker without work has its weights on the device; "waiting": a stage waits in line,
            as another is busy in the DiT; else the stage that is busy.
        job: how the job in the moment's stage ends; of two, the one that has the device. None: there is none.
        within_s: of the signal, or of SIGCONT where that ends the job.
        waiter: how the job ends that waits in line.
    """

    number: signal.Signals
    victim: Victim
    moment: Moment
    job: str | None
    within_s: float = SLACK_S
    waiter: str | None = None

    def __str__(self) -> str:
        return f"{self.number.name}-{self.victim}-{self.moment}"


_STALLED_S = PROGRESS_TIMEOUT_S + WAKING_S + SLACK_S
_ENDED_S = SERVICE_GRACE_S + SLACK_S
BUSY: tuple[Moment, ...] = ("text_encoder", "dit", "vae")

CASES = (
    Case(KILL, "worker", "idle", None),
    Case(TERM, "worker", "idle", None),
    Case(STOP, "worker", "idle", None),
    Case(KILL, "worker", "waiting", "WORKER_CRASHED", waiter="SUCCEEDED"),
    Case(TERM, "worker", "waiting", "WORKER_CRASHED", waiter="SUCCEEDED"),
    Case(STOP, "worker", "waiting", "WORKER_STALLED", _STALLED_S, waiter="SUCCEEDED"),
    *(Case(KILL, "worker", stage, "WORKER_CRASHED") for stage in BUSY),
    *(Case(TERM, "worker", stage, "WORKER_CRASHED") for stage in BUSY),
    *(Case(STOP, "worker", stage, "WORKER_STALLED", _STALLED_S) for stage in BUSY),
    Case(KILL, "stage", "idle", None),
    Case(TERM, "stage", "idle", None),
    Case(STOP, "stage", "idle", None),
    Case(KILL, "stage", "waiting", "SUCCEEDED", waiter="SERVICE_UNREACHABLE"),
    Case(TERM, "stage", "waiting", "SUCCEEDED", _ENDED_S, waiter="SERVICE_UNREACHABLE"),
    Case(STOP, "stage", "waiting", "SUCCEEDED", waiter="LEASE_LOST"),
    *(Case(KILL, "stage", stage, "SERVICE_UNREACHABLE") for stage in BUSY),
    *(Case(TERM, "stage", stage, "SERVICE_UNREACHABLE", _ENDED_S) for stage in BUSY),
    *(Case(STOP, "stage", stage, "LEASE_LOST") for stage in BUSY),
    Case(KILL, "orchestrator", "idle", None),
    Case(TERM, "orchestrator", "idle", None),
    Case(STOP, "orchestrator", "idle", None),
    Case(KILL, "orchestrator", "waiting", "SERVICE_UNREACHABLE", waiter="SERVICE_UNREACHABLE"),
    Case(TERM, "orchestrator", "waiting", "SERVICE_UNREACHABLE", _ENDED_S, waiter="SERVICE_UNREACHABLE"),
    Case(STOP, "orchestrator", "waiting", "LEASE_LOST", waiter="SUCCEEDED"),
    *(Case(KILL, "orchestrator", stage, "SERVICE_UNREACHABLE") for stage in BUSY),
    *(Case(TERM, "orchestrator", stage, "SERVICE_UNREACHABLE", _ENDED_S) for stage in BUSY),
    *(Case(STOP, "orchestrator", stage, "LEASE_LOST") for stage in BUSY),
)


def _in_turn(cases: tuple[Case, ...]) -> list[Case]:
    """Victims in turn: a service that dies again and again is started again later and later."""
    victims = [[case for case in cases if case.victim == victim] for victim in get_args(Victim)]
    return [case for turn in zip_longest(*victims) for case in turn if case is not None]


def _with_marks(cases: list[Case]) -> list[ParameterSet]:
    """Restarts of a service take longest: where time is short, one busy stage and one signal must do."""
    return [
        pytest.param(
            case,
            id=str(case),
            marks=[pytest.mark.slow]
            if case.victim != "worker" and (case.moment in ("text_encoder", "vae") or case.number == TERM)
            else [],
        )
        for case in cases
    ]


@pytest.fixture(scope="module")
def undisturbed(small_device: ChaosStack) -> str:
    """The checksum of the song that every case ends with."""
    return small_device.song().tracks[0].samples_sha256


@pytest.mark.parametrize("case", _with_marks(_in_turn(CASES)))
def test_it_recovers(
    small_device: ChaosStack,
    undisturbed: str,
    case: Case,
    record_property: Callable[[str, object], None],
) -> None:
    small_device.until_quiet()
    job, waiter = _bring_about(small_device, case.moment)
    victim = _victim(small_device, case)
    doomed = [victim, *victim.children(recursive=True)]
    signalled_at = time.monotonic()
    victim.send_signal(case.number)
    if case.number == STOP and case.victim != "worker":
        _while_stopped(small_device, case, job)
        signalled_at = time.monotonic()
        victim.send_signal(signal.SIGCONT)
    for one, expected in ((job, case.job), (waiter, case.waiter)):
        if one is not None and expected != "SUCCEEDED":
            assert one.outcome(60) == expected, one.result
            record_property("status_s", round(one.ended_at - signalled_at, 2))
            assert one.ended_at - signalled_at < case.within_s
    small_device.fail()  # what goes on is not slowed down any more
    for one, expected in ((job, case.job), (waiter, case.waiter)):
        if one is not None:
            assert one.outcome(60) == expected, one.result
    if case.number != STOP:
        until_gone(doomed, _ENDED_S)
    small_device.until_quiet(40)
    assert small_device.can_be_had(2 * TTL_S + CANCEL_GRACE_S)
    if case.victim == "worker":
        until_gone(doomed, SLACK_S)
    assert small_device.song().tracks[0].samples_sha256 == undisturbed


def _bring_about(chaos: ChaosStack, moment: Moment) -> tuple[Job | None, Job | None]:
    """Returns the job that is busy, and the one that waits."""
    match moment:
        case "idle":
            if not chaos.workers():
                chaos.song()
            wait_until(lambda: [lease.is_idle for lease in chaos.leases()] == [True], "a stage is warm")
            return None, None
        case "text_encoder":
            chaos.fail(Fault("text_encoder", "slow", seconds=30))
            job = chaos.job(duration_s=10)
        case "dit" | "waiting":
            chaos.fail(*steady("dit", 0.75, 40))
            job = chaos.job(duration_s=10, step_count=40)
        case "vae":
            chaos.fail(*steady("vae", 0.5, 60))
            job = chaos.job(duration_s=60, step_count=1)
    chaos.until_struck()
    if moment != "waiting":
        return job, None
    waiter = chaos.job(duration_s=10, step_count=1)
    waiter.until(lambda event: isinstance(event, StageWaiting), "the second job waits in line")
    # That tells of the line in the stage; the ledger's answer to the stage comes after it, and is there once
    # the stage, which every status asks, has answered again.
    wait_until(lambda: bool(chaos.status().waiters), "the ledger has it in line")
    chaos.status()
    return job, waiter


def _victim(chaos: ChaosStack, case: Case) -> psutil.Process:
    if case.victim == "orchestrator":
        return chaos.service("orchestrator")
    if case.victim == "worker":
        (worker,) = chaos.workers()
        return worker
    stages = {"idle": "vae", "waiting": "text_encoder"}
    return chaos.service(stages.get(case.moment, case.moment))


def _while_stopped(chaos: ChaosStack, case: Case, job: Job | None) -> None:
    """Checks what must hold while the orchestrator or a stage is stopped."""
    if case.victim == "orchestrator":
        # Nobody confirms the lease, so the stage gives it up, and its worker with it.
        wait_until(lambda: not chaos.workers(), "no worker is left", TTL_S + SLACK_S)
    elif case.moment == "waiting":
        # It is granted the device in its turn; as it does not renew, others have theirs.
        assert job is not None
        chaos.fail()
        assert job.outcome(30) == "SUCCEEDED", job.result
    else:
        # Nobody can end the worker, so nobody else gets the device.
        (worker,) = chaos.workers()
        wait_until(lambda: _states(chaos) == ["quarantined"], "the lease has expired", TTL_S + SLACK_S)
        assert not chaos.can_be_had(1.0)
        assert _states(chaos) == ["quarantined"]
        assert worker.is_running()


def _states(chaos: ChaosStack) -> list[str]:
    return [lease.state for lease in chaos.leases()]
