"""A service that is stopped and never goes on: who waits for it hears of it, and its end repairs all."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from acestage.errors import ServiceUnreachableError
from acestage.keepalive import KEEPALIVE_TIME_MS, PING_TIMEOUT_MS
from tests.chaos.chaos_stack import ChaosStack, steady, until_gone

NOTICED_S = (KEEPALIVE_TIME_MS + PING_TIMEOUT_MS) / 1000
SLACK_S = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("service", ["dit", "orchestrator"])
def test_who_waits_for_a_silent_service_hears_of_it(
    small_device: ChaosStack, service: str, record_property: Callable[[str, object], None]
) -> None:
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
        assert job.outcome(90) == ServiceUnreachableError.reason
        record_property("status_s", round(job.ended_at - stopped_at, 2))
        assert job.ended_at - stopped_at < NOTICED_S + SLACK_S
    finally:
        process.kill()
    small_device.fail()
    until_gone(doomed, 10)
    small_device.until_quiet(40)
    assert small_device.can_be_had(20)
    assert small_device.song().tracks[0].samples_sha256 == plain.tracks[0].samples_sha256
