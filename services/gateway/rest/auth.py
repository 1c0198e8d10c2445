"""The key of the REST interface; the page asks for it by itself (`page/app.py`)."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyHeader

from acestage.errors import UnauthenticatedError
from services.runtime.rpc.api_key import ApiKey


def check_key(key: ApiKey, authorization: str | None, token: object = None) -> None:
    """Takes the `token` of a body, else the header `authorization`, with or without "Bearer ".

    Raises:
        UnauthenticatedError: the key is missing or wrong.
    """
    if not key.is_in(token if isinstance(token, str) and token else (authorization or "")):
        raise UnauthenticatedError(
            "the key is missing or wrong; accepted: the header `Authorization: Bearer KEY`, or `ai_token` in "
            "the body"
        )


_HEADER = APIKeyHeader(
    name="Authorization", auto_error=False, description="`Bearer KEY`, where the gateway has a key."
)


async def require_key(request: Request, authorization: Annotated[str | None, Security(_HEADER)]) -> None:
    """A dependency of routes that take the key from the header alone.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
    """
    check_key(request.app.state.key, authorization)
