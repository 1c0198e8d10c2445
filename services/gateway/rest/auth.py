"""The key of the front doors."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyHeader

from acestage.errors import UnauthenticatedError


class Key:
    """The key that requests must bring; without one set, all may come.

    Args:
        secret: the key, or None.
    """

    def __init__(self, secret: str | None) -> None:
        self._secret = secret.encode() if secret else None

    @property
    def is_set(self) -> bool:
        return self._secret is not None

    def check(self, authorization: str | None, token: object = None) -> None:
        """Takes the `token` of a body, else the header `authorization`, with or without "Bearer ".

        Raises:
            UnauthenticatedError: the key is missing or wrong.
        """
        if self._secret is None:
            return
        given = token if isinstance(token, str) and token else (authorization or "")
        if given[:7].lower() == "bearer ":
            given = given[7:]
        if not hmac.compare_digest(given.strip().encode(errors="replace"), self._secret):
            raise UnauthenticatedError(
                "the key is missing or wrong; accepted: the header `Authorization: Bearer KEY`, or "
                "`ai_token` in the body"
            )


_HEADER = APIKeyHeader(
    name="Authorization", auto_error=False, description="`Bearer KEY`, where the gateway has a key."
)


async def require_key(request: Request, authorization: Annotated[str | None, Security(_HEADER)]) -> None:
    """A dependency of routes that take the key from the header alone.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
    """
    key: Key = request.app.state.key
    key.check(authorization)
