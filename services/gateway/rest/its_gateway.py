"""How routes come by the gateway."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.gateway.gateway import Gateway


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


ItsGateway = Annotated[Gateway, Depends(_gateway)]
"""A parameter of a route: the gateway of its application, of whichever door it is."""
