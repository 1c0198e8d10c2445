"""What comes of a request while it is worked on reaches every attempt, from the first piece on."""

from __future__ import annotations

import asyncio
import contextlib

from acestage import errors
from services.runtime.jobs.feed import Feed
from services.runtime.jobs.stage_event import Report
from services.runtime.workers.messages import Message, error_message
from tests.unit.stage_fakes import DONE, PLACED, Stage, denoise_request
from tests.unit.waiting import until

OUT_OF_MEMORY = error_message(errors.VramBudgetExceededError("no memory"))


def piece(number: int) -> Message:
    return Message("piece", {"piece": number})


def later_count(stage: Stage, worker: int) -> int:
    return [message.kind for message in stage.workers[worker].sent].count("later")


def test_messages_come_in_order_and_those_to_come_are_waited_for() -> None:
    async def scenario() -> None:
        feed = Feed()
        feed.put(piece(1))
        messages = feed.messages()
        assert await anext(messages) == piece(1)
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        assert not waiting.done()
        feed.put(piece(2))
        assert await waiting == piece(2)
        again = feed.messages()
        assert [await anext(again), await anext(again)] == [piece(1), piece(2)]

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_job_is_fed_while_it_runs_and_a_second_attempt_gets_everything() -> None:
    async def scenario() -> None:
        stage = Stage([PLACED], [PLACED])
        feed = Feed()
        feed.put(piece(1))
        async with stage.runner:

            async def listen() -> list[object]:
                return [event async for event in stage.runner.run(denoise_request(), feed)]

            listening = asyncio.ensure_future(listen())
            await until(lambda: later_count(stage, 0) == 1)
            feed.put(piece(2))
            await until(lambda: later_count(stage, 0) == 2)
            stage.workers[0].answers.put_nowait(OUT_OF_MEMORY)
            await until(lambda: later_count(stage, 1) == 2)
            feed.put(piece(3))
            await until(lambda: later_count(stage, 1) == 3)
            stage.workers[1].answers.put_nowait(DONE)
            events = await listening
        assert isinstance(events[-1], Report)
        assert {message.fields["number"] for message in stage.workers[1].sent[2:]} == {1}

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_nothing_is_fed_once_the_job_is_done() -> None:
    async def scenario() -> None:
        stage = Stage([PLACED, DONE])
        feed = Feed()
        async with stage.runner:
            [event async for event in stage.runner.run(denoise_request(), feed)]
            feed.put(piece(1))
            for _ in range(10):
                await asyncio.sleep(0)
        assert later_count(stage, 0) == 0

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_job_that_is_given_up_is_no_longer_fed() -> None:
    async def scenario() -> None:
        stage = Stage([PLACED])
        feed = Feed()
        async with stage.runner:
            async with contextlib.aclosing(stage.runner.run(denoise_request(), feed)) as events:
                await anext(events)
                await until(lambda: len(stage.workers) > 0 and len(stage.workers[0].sent) == 2)
            feed.put(piece(1))
            await until(lambda: stage.runner.active_job_count == 0)
        assert later_count(stage, 0) == 0

    asyncio.run(asyncio.wait_for(scenario(), 10))
