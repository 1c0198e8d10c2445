"""From errors to HTTP answers, at one place."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import grpc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from acestage.errors import FULL_DISK, AcestageError, FieldViolation, InvalidArgumentError
from services.runtime.processes.tmp_folder import disk_error

log = logging.getLogger(__name__)

_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 409,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.DATA_LOSS: 502,
}
_ACCEPTED = {
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "up to {le}",
    "enum": "{expected}",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "bool_parsing": "true or false",
}
"""By pydantic's types of errors."""
_SHOWN_LENGTH = 50
_RETRY_S = 10.0
_CLIENT_LEFT = 499
"""As nginx has it; nobody hears it, but figures show it."""


class ErrorAnswer(BaseModel):
    """What went wrong: a text for people, the reason that programs can rely on, and each wrong field."""

    detail: str
    reason: str | None = None
    fields: dict[str, str] | None = None


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the documentation of a route: it may answer with these."""
    return {status: {"model": ErrorAnswer} for status in statuses}


def status_of(error: AcestageError) -> int:
    """The HTTP status that says what `error` says. What no device here can hold is a value out of range."""
    if error.reason == "VRAM_BUDGET_EXCEEDED":
        return 400
    return _STATUSES.get(error.code, 500)


def answer(error: AcestageError) -> JSONResponse:
    """`{"detail": text}`, with the reason and each wrong field beside it."""
    status = status_of(error)
    body: dict[str, Any] = {"detail": error.message, "reason": error.reason}
    if isinstance(error, InvalidArgumentError) and error.violations:
        body["fields"] = {violation.field: violation.description for violation in error.violations}
    elif field := error.metadata.get("field"):
        body["fields"] = {field: error.message.removeprefix(f"{field}: ")}
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(error.retry_delay_s or _RETRY_S))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def _violation(fault: Mapping[str, Any]) -> FieldViolation:
    """What pydantic says of a parameter, in our words where we have any."""
    name = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == "missing":
        return FieldViolation(name, "is missing")
    words = _ACCEPTED.get(fault["type"])
    accepted = words.format(**fault.get("ctx", {})) if words else fault["msg"]
    return FieldViolation(name, f"is {str(fault['input'])[:_SHOWN_LENGTH]!r}; accepted: {accepted}")


def add_error_answers(app: FastAPI) -> None:
    """Answers every error of `acestage.errors`, wrong parameters, forbidden paths, and clients that left."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AcestageError)
        return answer(error)

    async def on_forbidden(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 403)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = error.errors()
        response = answer(InvalidArgumentError.of(_violation(fault) for fault in faults))
        if all(fault["type"] == "missing" for fault in faults):
            response.status_code = 422  # as upstream answers it
        return response

    async def on_system_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, OSError) or error.errno not in FULL_DISK:
            raise error
        log.error("what a client sent cannot be written to disk: %s", error.strerror)
        return answer(disk_error(error.strerror))

    async def on_gone(request: Request, error: Exception) -> Response:
        log.info("a client left before all of its request was here")
        return Response(status_code=_CLIENT_LEFT)

    app.add_exception_handler(AcestageError, on_error)
    app.add_exception_handler(ClientDisconnect, on_gone)
    app.add_exception_handler(OSError, on_system_error)
    app.add_exception_handler(PermissionError, on_forbidden)
    app.add_exception_handler(RequestValidationError, on_invalid)
