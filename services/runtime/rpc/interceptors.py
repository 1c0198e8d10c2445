"""The one place where errors become gRPC statuses."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from acestage.errors import AcestageError, InternalError, InvalidArgumentError, UnauthenticatedError
from acestage.rpc_errors import to_status
from services.runtime.processes.request_context import REQUEST_ID_KEY, accepted_request_id, bound_request_id
from services.runtime.rpc.api_key import ApiKey

log = logging.getLogger(__name__)

_HEALTH = "/grpc.health.v1.Health/"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps `AcestageError` to its status with details, and any other exception to a bare INTERNAL.

    Binds the request id of each call, from its `x-request-id` metadata or a new one, and asks for the key.
    Handlers must be async; the generator of a streaming handler is closed as soon as its call ends, however
    it ends.
    """

    def __init__(self, service: str, key: ApiKey | None = None) -> None:
        """
        Args:
            service: the process's name for people, for example "dit".
            key: what every call must bring but those that ask for health; None asks for none.
        """
        self._service = service
        self._key = key or ApiKey()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        wrap, behavior = _kind(handler)
        method = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata or ())
        request_id = accepted_request_id(metadata.get(REQUEST_ID_KEY))

        async def unary(request: Any, context: Context) -> Any:
            return await behavior(request, context)

        async def streaming(request: Any, context: Context) -> None:
            responses = behavior(request, context)
            if inspect.isawaitable(responses):  # the handler writes to the context by itself
                await responses
                return
            async with aclosing(responses):
                async for response in responses:
                    await context.write(response)

        run = streaming if handler.response_streaming else unary

        async def guarded(request: Any, context: Context) -> Any:
            with bound_request_id(request_id):
                try:
                    self._check_key(method, metadata)
                    read = _parsed_stream if handler.request_streaming else _parsed
                    return await run(read(request), context)
                except grpc.aio.InternalError as error:
                    # A message could not be sent: the caller is gone. gRPC would log that as our defect.
                    log.info("%s: its caller left: %s", method, error, extra={"request_id": request_id})
                    raise asyncio.CancelledError from error
                except grpc.aio.BaseError:
                    raise  # gRPC's own, such as an abort
                except AcestageError as error:
                    status = to_status(error)
                except Exception:  # a defect: the caller learns where to look, not what happened
                    if context.code() is grpc.StatusCode.UNIMPLEMENTED:  # or a method that the servicer lacks
                        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
                    log.exception("%s failed", method, extra={"request_id": request_id})
                    status = to_status(self._internal_error(request_id))
                await context.abort_with_status(rpc_status.to_status(status))

        parse = handler.request_deserializer and _parser(handler.request_deserializer)
        return wrap(guarded, parse, handler.response_serializer)

    def _check_key(self, method: str, metadata: Mapping[str, str | bytes]) -> None:
        authorization = metadata.get("authorization", "")
        is_open = method.startswith(_HEALTH)
        if not is_open and not (isinstance(authorization, str) and self._key.is_in(authorization)):
            raise UnauthenticatedError(
                f"the key of {self._service} is missing or wrong; accepted: `authorization: Bearer KEY` in "
                "the metadata, which clients take from ACESTAGE_API_KEY"
            )

    def _internal_error(self, request_id: str) -> InternalError:
        return InternalError(
            f"internal error, see the log of {self._service}; request_id={request_id}",
            metadata={"service": self._service, "request_id": request_id},
        )


def _parser(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`parse`, which gRPC calls where nothing maps its error: that is returned instead, for `_parsed`."""

    def parse_or_tell(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError as error:
            return error

    return parse_or_tell


def _parsed(request: Any) -> Any:
    if isinstance(request, DecodeError):
        raise InvalidArgumentError.at(
            "request", "cannot be parsed; accepted: the message of this call, with strings in UTF-8"
        ) from request
    return request


async def _parsed_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parsed(request)


def _kind(handler: Handler) -> tuple[Callable[..., Handler], Callable[[Any, Any], Any]]:
    """What makes a handler of the same kind, and the method that `handler` calls."""
    wrap: Callable[..., Handler]
    behavior: Callable[[Any, Any], Any] | None
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            wrap, behavior = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            wrap, behavior = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            wrap, behavior = grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            wrap, behavior = grpc.stream_stream_rpc_method_handler, handler.stream_stream
    assert behavior is not None
    return wrap, behavior
