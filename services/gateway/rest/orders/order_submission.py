"""From a request to a job."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain
from typing import Any

from fastapi import Request

from acestage.errors import (
    AcestageError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    VramBudgetExceededError,
)
from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.order import JobOrder
from services.gateway.rest.bodies.request_body import MAX_FILE_COUNT, RequestBody, checked_body
from services.gateway.rest.orders.example_songs import SAMPLES, SongSample
from services.gateway.rest.orders.field_names import in_field_names
from services.gateway.rest.orders.field_values import FieldValues
from services.gateway.rest.orders.order_fields import order_of
from services.gateway.rest.orders.request_fields import RequestFields
from services.gateway.rest.orders.song_fields import read
from services.gateway.rest.orders.source_audio import bring

_AUDIO_FIELDS = {"src_audio_path": "source_id", "reference_audio_path": "reference_id"}


async def submit(request: Request, idempotency_key: str = "", *, is_forgiving: bool = False) -> Job:
    """Starts what `request` orders, as JSON or as a form. The key is checked before anything is done with it.

    Args:
        request: that orders it.
        idempotency_key: orders with the same key are one job.
        is_forgiving: what does not go with the rest is left out, and the job's notes say so.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
        InvalidArgumentError: with every wrong field, by its name here.
        HTTPException: 415 for other content types, 400 for damaged forms.
        AcestageError: the orchestrator cannot take it.
    """
    gateway: Gateway = request.app.state.gateway
    order = await _read_order(request, idempotency_key, is_forgiving)
    try:
        return await gateway.book.submit(order, idempotency_key)
    except InvalidArgumentError as error:
        raise error.retold(in_field_names) from error
    except VramBudgetExceededError as error:
        raise _no_room(error) from error
    except NotFoundError as error:
        raise _unknown_audio(error, order) from error


async def _read_order(request: Request, idempotency_key: str, is_forgiving: bool) -> JobOrder:
    gateway: Gateway = request.app.state.gateway
    async with checked_body(request, MAX_FILE_COUNT) as body:
        values = FieldValues(RequestFields(body.values))
        notes: list[str] = []
        if read(values, "sample_mode"):
            # The same request with the same key is the same order.
            sample = random.Random(idempotency_key or None).choice(SAMPLES)
            values = _sampled(values, body, sample, notes)
        order = order_of(values, body, gateway.formats, is_forgiving=is_forgiving)
        values.done()
        order = replace(order, notes=(*notes, *order.notes))
        return await _with_audio(order, gateway, body)


def _sampled(values: FieldValues, body: RequestBody, sample: SongSample, notes: list[str]) -> FieldValues:
    """With the fields of `sample`, unless those that were sent say what the music is like."""
    if read(values, "prompt") or read(values, "sample_query"):
        notes.append("sample_mode was left out: the prompt says what the music is like")
        return values
    notes.append("sample_mode took a song to begin with: no language model is served to write one")
    return FieldValues(RequestFields(body.values, sample.to_dict()))


async def _with_audio(order: JobOrder, gateway: Gateway, body: RequestBody) -> JobOrder:
    """`order` with the files of `body` in the orchestrator's hands."""
    found = {
        "source_id": await bring(gateway.client, body, "src_audio"),
        "reference_id": await bring(gateway.client, body, "reference_audio"),
    }
    brought = {option: audio for option, audio in found.items() if audio is not None}
    ids: Any = {option: audio.audio_id for option, audio in brought.items()}
    notes = chain.from_iterable(audio.notes for audio in brought.values())
    return replace(order, options=order.options | ids, notes=(*order.notes, *notes))


def _no_room(error: VramBudgetExceededError) -> VramBudgetExceededError:
    """`error`, where it names an option, said of the field for it."""
    option = error.metadata.get("field")
    if option is None:
        return error
    wrong = in_field_names(FieldViolation(option, error.message.removeprefix(f"{option}: ")))
    metadata = error.metadata | {"field": wrong.field}
    return VramBudgetExceededError(f"{wrong.field}: {wrong.description}", metadata=metadata)


def _unknown_audio(error: NotFoundError, order: JobOrder) -> AcestageError:
    """The fields that named audio which is not there; `error` itself where that is not what it says."""
    audio_id = error.metadata.get("audio_id")
    fields = [name for name, option in _AUDIO_FIELDS.items() if order.options.get(option) == audio_id]
    if audio_id is None or not fields:
        return error
    return InvalidArgumentError.of(
        FieldViolation(
            name,
            f"is {audio_id!r}, which is not, or no longer, kept here; accepted: what /v1/uploads returned",
        )
        for name in fields
    )
