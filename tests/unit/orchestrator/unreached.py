"""A channel for clients of stages that no test calls."""

from __future__ import annotations

from typing import cast

import grpc.aio


class _Unreached:
    """It offers what stubs are made of, and no more."""

    def unary_unary(self, *arguments: object, **options: object) -> None:
        return None


UNREACHED = cast(grpc.aio.Channel, _Unreached())
