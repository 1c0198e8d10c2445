"""What the orchestrator asks of stages."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest
from grpc_status import rpc_status

from acestage.errors import InvalidArgumentError, ServiceUnreachableError
from acestage.protos.dit.v1 import dit_pb2, dit_pb2_grpc
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.rpc_errors import to_status
from services.orchestrator.stage_clients import Deadline, DitClient, StageClient
from services.runtime.rpc.channels import channel_between_services
from tests.unit.job_events import run


class NotingStage(stage_pb2_grpc.StageServiceServicer):
    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def GetStageInfo(
        self, request: stage_pb2.GetStageInfoRequest, context: Any
    ) -> stage_pb2.GetStageInfoResponse:
        self.asked.append(request.with_memory)
        return stage_pb2.GetStageInfoResponse()


@pytest.mark.parametrize(("options", "asked"), [({}, False), ({"with_memory": True}, True)])
def test_a_stage_tells_its_memory_to_who_asks_for_it_alone(options: dict[str, bool], asked: bool) -> None:
    """Looking takes time from a job that runs, and every generation asks stages what they are."""
    stage = NotingStage()

    async def talk() -> None:
        server = grpc.aio.server()
        stage_pb2_grpc.add_StageServiceServicer_to_server(stage, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await StageClient("dit", "here", channel).info(**options)
        await server.stop(0)

    asyncio.run(talk())
    assert stage.asked == [asked]


class LoadingStage(stage_pb2_grpc.StageServiceServicer):
    """Has been asked, and does not know yet."""

    def __init__(self) -> None:
        self.was_asked = asyncio.Event()

    async def GetStageInfo(
        self, request: stage_pb2.GetStageInfoRequest, context: Any
    ) -> stage_pb2.GetStageInfoResponse:
        self.was_asked.set()
        await asyncio.Event().wait()
        raise AssertionError


def test_a_stage_that_ends_as_it_is_asked_is_asked_again_when_it_is_back() -> None:
    async def scenario() -> None:
        before, after = LoadingStage(), NotingStage()
        ending, begun = grpc.aio.server(), grpc.aio.server()
        stage_pb2_grpc.add_StageServiceServicer_to_server(before, ending)
        stage_pb2_grpc.add_StageServiceServicer_to_server(after, begun)
        port = ending.add_insecure_port("127.0.0.1:0")
        await ending.start()
        async with (
            channel_between_services(f"127.0.0.1:{port}") as channel,
            asyncio.TaskGroup() as tasks,
        ):
            asking = tasks.create_task(StageClient("dit", "here", channel).info())
            await before.was_asked.wait()
            await ending.stop(0)
            begun.add_insecure_port(f"127.0.0.1:{port}")
            await begun.start()
            await asking
        assert after.asked == [False]
        await begun.stop(0)

    run(scenario())


def test_a_stage_that_stays_away_is_named() -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            with pytest.raises(ServiceUnreachableError, match=r"^dit at here does not answer within 0\.2 s$"):
                await StageClient("dit", "here", channel).info(0.2)

    run(scenario())


class RefusingDit(dit_pb2_grpc.DitServiceServicer):
    """Names the fields of its own request."""

    async def Denoise(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        error = InvalidArgumentError.at("parameters.adapters[0].name", "is gone")
        await context.abort_with_status(rpc_status.to_status(to_status(error)))


def test_what_a_stage_refuses_is_named_as_in_the_request() -> None:
    async def scenario() -> InvalidArgumentError:
        server = grpc.aio.server()
        dit_pb2_grpc.add_DitServiceServicer_to_server(RefusingDit(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            dit = DitClient("dit", "here", channel)
            with pytest.raises(InvalidArgumentError) as caught:
                await dit.denoise(dit_pb2.DenoiseParameters(), [], lambda event: None, Deadline(None))
        await server.stop(0)
        return caught.value

    refused = asyncio.run(scenario())
    assert [violation.field for violation in refused.violations] == ["adapters[0].name"]
