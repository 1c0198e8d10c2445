"""How routes come by the gateway."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.gateway.gateway import Gateway


def gateway_of(request: Request) -> Gateway:
    """The gateway of the application, of whichever door it is."""
    gateway: Gateway = request.app.state.gateway
    return gateway


ItsGateway = Annotated[Gateway, Depends(gateway_of)]
"""A parameter of a route."""
