"""A process steps back, and its session with it where that is its own."""

from __future__ import annotations

import os

import pytest

from services.runtime.processes import low_priority
from services.runtime.processes.low_priority import LOWEST_PRIORITY, take_lowest_priority


class Autogroup:
    """The kernel's file of a session's niceness, which refuses so many times first."""

    def __init__(self, *refusals: OSError) -> None:
        self.refusals = list(refusals)
        self.written: list[str] = []

    def write_text(self, text: str) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.written.append(text)


@pytest.fixture(autouse=True)
def niceness(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What this process was told to add to its own, instead of doing so: it could not go back."""
    added: list[int] = []
    monkeypatch.setattr(os, "nice", added.append)
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, param: None)
    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid())
    monkeypatch.setattr(low_priority, "_RETRY_S", 0.0)
    return added


def with_autogroup(monkeypatch: pytest.MonkeyPatch, *refusals: OSError) -> Autogroup:
    autogroup = Autogroup(*refusals)
    monkeypatch.setattr(low_priority, "_AUTOGROUP", autogroup)
    return autogroup


def test_the_leader_of_a_session_takes_it_along(monkeypatch: pytest.MonkeyPatch, niceness: list[int]) -> None:
    autogroup = with_autogroup(monkeypatch)
    take_lowest_priority()
    assert (niceness, autogroup.written) == ([LOWEST_PRIORITY], [str(LOWEST_PRIORITY)])


def test_the_session_of_another_is_left_alone(monkeypatch: pytest.MonkeyPatch, niceness: list[int]) -> None:
    autogroup = with_autogroup(monkeypatch)
    monkeypatch.setattr(os, "getsid", lambda pid: os.getppid())
    take_lowest_priority()
    assert (niceness, autogroup.written) == ([LOWEST_PRIORITY], [])


def test_a_kernel_that_was_asked_just_before_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    autogroup = with_autogroup(monkeypatch, BlockingIOError(), BlockingIOError())
    take_lowest_priority()
    assert autogroup.written == [str(LOWEST_PRIORITY)]


def test_a_kernel_that_never_has_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    autogroup = with_autogroup(monkeypatch, *(BlockingIOError() for _ in range(100)))
    take_lowest_priority()
    assert autogroup.written == []
    assert autogroup.refusals


def test_a_sandbox_that_forbids_the_policy_is_no_error(
    monkeypatch: pytest.MonkeyPatch, niceness: list[int]
) -> None:
    def refuse(pid: int, policy: int, param: os.sched_param) -> None:
        raise PermissionError

    autogroup = with_autogroup(monkeypatch)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    take_lowest_priority()
    assert (niceness, autogroup.written) == ([LOWEST_PRIORITY], [str(LOWEST_PRIORITY)])


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError()])
def test_a_kernel_without_groups_by_session_is_no_error(
    monkeypatch: pytest.MonkeyPatch, error: OSError, niceness: list[int]
) -> None:
    autogroup = with_autogroup(monkeypatch, error)
    take_lowest_priority()
    assert (niceness, autogroup.written) == ([LOWEST_PRIORITY], [])
