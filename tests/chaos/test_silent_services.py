"""A service that is stopped and never goes on: who waits for it hears of it, and once it is dead all is well."""

from __future__ import annotations

import signal
import time

import pytest

from acestage.errors import ServiceUnreachableError
from tests.chaos.chaos_stack import ChaosStack, steady, until_gone

PING_S = 20.0 + 5.0
"""Of our keepalive: how long a peer may be silent, and how long it may take to answer the ping."""
SLACK_S = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("service", ["dit", "orchestrator"])
def test_who_waits_for_a_silent_service_hears_of_it(small_device: ChaosStack, service: str) -> None:
    small_device.fail()
    plain = small_device.song()
    small_device.fail(*steady("dit", 0.3, 200))
    job = small_device.job(duration_s=10, step_count=200)
    small_device.until_struck()
    process = small_device.service(service)
    doomed = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        assert job.outcome(60) == ServiceUnreachableError.reason
        assert job.ended_at - stopped_at < PING_S + SLACK_S
    finally:
        process.kill()
    small_device.fail()
    until_gone(doomed, 10)
    small_device.until_quiet(40)
    assert small_device.can_be_had(20)
    assert small_device.song().tracks[0].samples_sha256 == plain.tracks[0].samples_sha256
