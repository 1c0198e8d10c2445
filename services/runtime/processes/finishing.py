"""Waits: such that a cancellation must not cut short, and such that the first of several ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` to its end, however often the caller is cancelled meanwhile.

    The cancellation is raised afterwards.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # nobody else asks for it
        raise cancelled
    return task.result()


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Returns once one of `waits` has ended; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels `task` and returns once it has ended, however it ends and however often we are cancelled."""
    task.cancel()
    await settled(task)


async def settled(future: asyncio.Future[Any]) -> None:
    """Returns once `future` is done, however it ends and however often we are cancelled."""
    await finish(_outcome_heard(future))


async def _outcome_heard(future: asyncio.Future[Any]) -> None:
    await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # else asyncio logs that nobody asked for it
