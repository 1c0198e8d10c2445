"""What the REST interface says of itself holds, whatever is sent to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.running_gateway import RunningGateway
from tests.running_stack import RunningStack

EXAMPLE_COUNT = 15
STARTED: dict[str, Callable[[Any], str]] = {
    "/release_task": lambda said: said["data"]["task_id"],
    "/v1/jobs": lambda said: said["job_id"],
}
"""The job in an answer, whose song nobody waits for."""
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


def test_no_request_makes_a_server_error_and_every_answer_is_as_documented(
    turbo_stack: RunningStack, tmp_path: Path
) -> None:
    with RunningGateway.start(turbo_stack.target, tmp_path) as gateway:
        schema = schemathesis.openapi.from_url(f"{gateway.url()}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 25
        for operation in operations:

            @seed(1)
            @settings(
                max_examples=EXAMPLE_COUNT,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def check(case: schemathesis.Case) -> None:
                answer = case.call()
                # It needs a language model, and says that there is none.
                expected = {503} if case.operation.path == "/format_input" else set()
                if answer.status_code not in expected:
                    assert answer.status_code < 500, answer.text
                case.validate_response(answer, checks=CHECKS)
                if case.method == "POST" and case.path in STARTED and answer.status_code < 300:
                    job_id = STARTED[case.path](answer.json())
                    httpx.delete(f"{gateway.url()}/v1/jobs/{job_id}").raise_for_status()

            try:
                check()
            except BaseException as error:
                error.add_note(f"at {operation.method.upper()} {operation.path}")
                raise
        assert "Traceback" not in gateway.log()
