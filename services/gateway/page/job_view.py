"""A job on an open page: what is shown of it until it ends, and how it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from acestage.errors import AcestageError
from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobState
from services.gateway.page import views
from services.gateway.page.texts import Texts

TICK_S = 0.5


@dataclass(slots=True)
class Shown:
    """The job that an open page shows; each has its own.

    Attributes:
        turn: how often something was shown; what was shown before is over.
        is_told: that it is too late to stop it.
    """

    job_id: str = ""
    turn: int = 0
    is_told: bool = False

    def show(self, job: Job) -> int:
        """Shows `job`; returns its turn."""
        self.job_id, self.turn, self.is_told = job.job_id, self.turn + 1, False
        return self.turn


class JobView:
    """Shows jobs. What it yields is status, faults, players, finished takes, and the list of songs.

    Args:
        gateway: the parts behind the page.
        texts: its words.
    """

    def __init__(self, gateway: Gateway, texts: Texts) -> None:
        self._gateway = gateway
        self._texts = texts

    async def begun(self, job: Job, shown: Shown) -> AsyncIterator[list[Any]]:
        """A job that was just ordered."""
        turn = shown.show(job)
        listed = job.record.state
        yield [self._progress(job), {}, "", {}, self.choices(shown, picks=True)]
        async for update in self._follow(job, shown, turn, listed):
            yield update

    async def picked(self, shown: Shown, job_id: str | None) -> AsyncIterator[list[Any]]:
        """A job out of the list."""
        try:
            job = self._gateway.book.find(job_id or "")
        except AcestageError as error:
            said = self.failed(error) if job_id else self._texts.pick_first
            yield [said, {}, "", {}, self.choices(shown)]
            return
        turn = shown.show(job)
        listed = job.record.state
        # Of a song that is being made, too: the player waits for its sound.
        yield [self._progress(job), {}, self._figures(job), {}, self.choices(shown, picks=True)]
        if not listed.is_final:
            async for update in self._follow(job, shown, turn, listed, has_player=True):
                yield update

    async def rejoined(self, shown: Shown) -> AsyncIterator[list[Any]]:
        """The job that goes on, for a page that is opened anew."""
        jobs = self._gateway.book.jobs()
        for state in (JobState.RUNNING, JobState.QUEUED):
            for job in jobs:
                if job.record.state is state:
                    async for update in self.picked(shown, job.job_id):
                        yield update
                    return
        yield [*[gr.skip()] * 4, self.choices(shown)]

    async def stop(self, shown: Shown) -> str:
        """Stops the job that is shown; returns what there is to say."""
        if not shown.job_id:
            return self._texts.ready
        try:
            job = self._gateway.book.find(shown.job_id)
            if job.record.progress.is_writing:
                shown.is_told = True
                return self._progress(job, shown)
            job = await self._gateway.book.cancel(shown.job_id)
        except AcestageError as error:
            return self.failed(error)
        return self._progress(job)

    def failed(self, error: AcestageError) -> str:
        return self._texts.filled(self._texts.failed, message=self._texts.translated(error.message))

    def choices(self, shown: Shown, *, picks: bool = False) -> Any:
        """The last jobs and the one that is shown, which is picked in the list where it `picks`."""
        choices = views.history_choices(self._gateway, self._texts, shown.job_id)
        return gr.update(choices=choices, value=shown.job_id) if picks else gr.update(choices=choices)

    async def _follow(
        self, job: Job, shown: Shown, turn: int, listed: JobState, *, has_player: bool = False
    ) -> AsyncIterator[list[Any]]:
        """What changes on the page until the job ends, or the page shows another one.

        Args:
            job: to follow.
            shown: what the page shows.
            turn: that of the job.
            listed: what the list of songs says of it.
            has_player: whether there are players for it.
        """
        while not job.record.state.is_final:
            try:
                async with asyncio.timeout(TICK_S):
                    await job.changed()
            except TimeoutError:
                pass
            if shown.turn != turn:
                return
            begins = not has_player and job.live_take(0) is not None
            has_player = has_player or begins
            sound = self._figures(job, plays=True) if begins else gr.skip()
            history = gr.skip() if job.record.state is listed else self.choices(shown)
            listed = job.record.state
            yield [self._progress(job, shown), gr.skip(), sound, gr.skip(), history]
        if shown.turn != turn:
            return
        takes: Any = gr.skip()
        if job.record.state is not JobState.SUCCEEDED:
            sound = ""  # a player of what broke off plays nothing
        elif has_player and len(job.record.takes) == job.record.order.take_count:
            # It plays on, and the rest comes to it.
            sound, takes = gr.skip(), views.finished_takes(job, self._gateway, self._texts)
        else:
            sound = self._figures(job)
        yield [self._progress(job), gr.skip(), sound, takes, self.choices(shown, picks=True)]

    def _progress(self, job: Job, shown: Shown | None = None) -> str:
        said = views.progress(job, self._gateway, self._texts)
        is_told = shown is not None and shown.is_told and job.record.progress.is_writing
        return f"{said}\n{self._texts.made_already}" if is_told else said

    def _figures(self, job: Job, *, plays: bool = False) -> str:
        return views.figures(job, self._gateway, self._texts, plays=plays)
