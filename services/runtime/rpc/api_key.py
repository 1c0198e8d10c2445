"""The key that our servers ask for."""

from __future__ import annotations

import hmac
from typing import Self

from acestage.settings import Settings

_SCHEME = "bearer "


class ApiKey:
    """A key; without one set, everything opens.

    Args:
        secret: the key, or None.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._secret = secret.encode() if secret else None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.api_key.get_secret_value() if settings.api_key else None)

    @property
    def is_set(self) -> bool:
        """Whether anything is asked for."""
        return self._secret is not None

    def is_in(self, authorization: str) -> bool:
        """Whether `authorization` is the key, with or without "Bearer " before it; takes as long if not."""
        if self._secret is None:
            return True
        given = authorization
        if given[: len(_SCHEME)].lower() == _SCHEME:
            given = given[len(_SCHEME) :]
        return hmac.compare_digest(given.strip().encode(errors="replace"), self._secret)
