"""What the orchestrator asks of stages."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_status import rpc_status

from acestage import tensors
from acestage.errors import AcestageError, InternalError, InvalidArgumentError, ServiceUnreachableError
from acestage.protos.dit.v1 import dit_pb2, dit_pb2_grpc
from acestage.protos.stage.v1 import stage_pb2, stage_pb2_grpc
from acestage.protos.tensor.v1.tensor_pb2 import TensorChunk
from acestage.protos.text_encoder.v1 import text_encoder_pb2
from acestage.protos.vae.v1 import vae_pb2
from acestage.rpc_errors import to_status
from acestage.tensors import WireTensor
from services.orchestrator.stage_clients import (
    Deadline,
    DitClient,
    StageClient,
    TextEncoderClient,
    VaeClient,
)
from services.runtime.rpc.channels import CHANNEL_OPTIONS, SERVER_OPTIONS, channel_between_services
from tests.unit.job_events import run


@asynccontextmanager
async def running(server: grpc.aio.Server, target: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Runs `server` until the block ends, and says where it answers if that is a port."""
    port = server.add_insecure_port(target)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


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
        async with running(server) as target, grpc.aio.insecure_channel(target) as channel:
            await StageClient("dit", "here", channel).info(**options)

    asyncio.run(talk())
    assert stage.asked == [asked]


def local_target() -> str:
    """An address that nobody else can take, also while no server has it."""
    return f"unix-abstract:{uuid.uuid4().hex}"


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
        target = local_target()
        ending.add_insecure_port(target)
        await ending.start()
        async with (
            channel_between_services(target) as channel,
            asyncio.TaskGroup() as tasks,
        ):
            asking = tasks.create_task(StageClient("dit", "here", channel).info())
            await before.was_asked.wait()
            await ending.stop(0)
            begun.add_insecure_port(target)
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


def test_a_stage_that_answers_but_cannot_be_reached_for_songs_is_named() -> None:
    async def scenario() -> None:
        server = grpc.aio.server()
        stage_pb2_grpc.add_StageServiceServicer_to_server(NotingStage(), server)
        async with (
            running(server) as target,
            grpc.aio.insecure_channel("127.0.0.1:1") as songs,
            grpc.aio.insecure_channel(target) as aside,
        ):
            with pytest.raises(ServiceUnreachableError, match=r"^dit at here does not answer within 0\.2 s$"):
                await StageClient("dit", "here", songs, aside).info(0.2)

    run(scenario())


async def read(requests: AsyncIterator[object]) -> None:
    """Takes all of a stream, as stages do: a sender that is stopped half-way may not hear why."""
    async for _ in requests:
        pass


class RefusingAll(grpc.GenericRpcHandler):
    """Counts calls of all kinds, and refuses them."""

    def __init__(self) -> None:
        self.call_count = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        self.call_count += 1
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, request_iterator: AsyncIterator[bytes], context: Any) -> None:
        await read(request_iterator)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED)


NEVER = Deadline(None)
SOME = WireTensor("some", "float32", (1, 1, 1), bytes(4))
PROMPT, AUDIO = text_encoder_pb2.EncodeParameters(), vae_pb2.EncodeParameters()
CODES = text_encoder_pb2.TokenizeParameters()
NOISE, LATENTS = dit_pb2.DenoiseParameters(), vae_pb2.DecodeParameters()


@pytest.mark.parametrize(
    ("client", "call", "is_for_songs"),
    [
        (StageClient, lambda stage: stage.info(), False),
        (TextEncoderClient, lambda encoder: encoder.encode(PROMPT, [], print, NEVER), True),
        (TextEncoderClient, lambda encoder: encoder.tokenize(CODES, SOME, print, NEVER), False),
        (DitClient, lambda dit: dit.check_adapters([], 10.0), False),
        (DitClient, lambda dit: dit.denoise(NOISE, [], SOME.shape, print, NEVER), True),
        (DitClient, lambda dit: dit.denoise(NOISE, [], SOME.shape, print, NEVER, is_preview=True), False),
        (VaeClient, lambda vae: vae.encode(AUDIO, SOME, SOME.shape, print, NEVER), False),
        (VaeClient, lambda vae: anext(vae.decode(LATENTS, SOME, NEVER)), True),
        (VaeClient, lambda vae: anext(vae.decode(LATENTS, SOME, NEVER, is_preview=True)), False),
    ],
    ids=["info", "encode", "tokenize", "adapters", "denoise", "preview", "source", "decode", "heard early"],
)
def test_only_work_on_whole_songs_goes_through_their_channel(
    client: type[StageClient], call: Callable[[Any], Awaitable[object]], is_for_songs: bool
) -> None:
    async def scenario() -> None:
        songs, aside = RefusingAll(), RefusingAll()
        async with AsyncExitStack() as stack:
            channels = []
            for handler in (songs, aside):
                target = await stack.enter_async_context(running(grpc.aio.server(handlers=[handler])))
                channels.append(await stack.enter_async_context(grpc.aio.insecure_channel(target)))
            with pytest.raises(AcestageError, match=r"^stage at here answered PERMISSION_DENIED"):
                await call(client("stage", "here", *channels))
        assert (songs.call_count, aside.call_count) == (is_for_songs, not is_for_songs)

    run(scenario())


class RefusingDit(dit_pb2_grpc.DitServiceServicer):
    """Names a field of its own request."""

    def __init__(self, field: str) -> None:
        self._error = InvalidArgumentError.at(field, "is wrong")

    async def Denoise(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        await read(request_iterator)
        await context.abort_with_status(rpc_status.to_status(to_status(self._error)))


def denoise(servicer: dit_pb2_grpc.DitServiceServicer) -> None:
    """Asks for two takes of three frames with four channels."""

    async def scenario() -> None:
        server = grpc.aio.server()
        dit_pb2_grpc.add_DitServiceServicer_to_server(servicer, server)
        async with running(server) as target, grpc.aio.insecure_channel(target) as channel:
            await DitClient("dit", "here", channel).denoise(
                dit_pb2.DenoiseParameters(), [], (2, 3, 4), lambda event: None, Deadline(None)
            )

    run(scenario())


class Replica(dit_pb2_grpc.DitServiceServicer, stage_pb2_grpc.StageServiceServicer):
    """Notes the steps of what it denoised."""

    def __init__(self) -> None:
        self.step_counts: list[int] = []

    async def GetStageInfo(
        self, request: stage_pb2.GetStageInfoRequest, context: Any
    ) -> stage_pb2.GetStageInfoResponse:
        return stage_pb2.GetStageInfoResponse()

    async def Denoise(self, request_iterator: Any, context: Any) -> AsyncIterator[dit_pb2.DenoiseResponse]:  # type: ignore[override]
        async for request in request_iterator:
            self.step_counts.append(request.parameters.step_count)
        for chunk in latents(1, 1, 1):
            yield dit_pb2.DenoiseResponse(tensor=chunk)


PREVIEW, SONG = 2, 8


def served(replica: Replica) -> grpc.aio.Server:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    dit_pb2_grpc.add_DitServiceServicer_to_server(replica, server)
    stage_pb2_grpc.add_StageServiceServicer_to_server(replica, server)
    return server


async def steps(dit: DitClient, step_count: int) -> None:
    """Has something denoised in so many steps."""
    parameters = dit_pb2.DenoiseParameters(step_count=step_count)
    is_preview = step_count == PREVIEW
    await dit.denoise(parameters, [], (1, 1, 1), lambda event: None, Deadline(None), is_preview=is_preview)


def test_songs_go_to_replicas_in_turns_whatever_is_asked_and_previewed_between_them() -> None:
    async def scenario() -> list[list[int]]:
        replicas = [Replica(), Replica()]
        servers = [served(replica) for replica in replicas]
        ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
        for server in servers:
            await server.start()
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        async with channel_between_services(target) as songs, channel_between_services(target) as aside:
            dit = DitClient("dit", target, songs, aside)
            while not all(replica.step_counts for replica in replicas):  # until both are connected
                await steps(dit, SONG)
            for replica in replicas:
                replica.step_counts.clear()
            for _ in range(4):
                await dit.info()
                await dit.info()
                await steps(dit, PREVIEW)
                await steps(dit, SONG)
        for server in servers:
            await server.stop(0)
        return [replica.step_counts for replica in replicas]

    for step_counts in asyncio.run(scenario()):
        assert step_counts.count(SONG) == 2


def test_a_stage_that_answers_at_last_is_there_for_songs_as_well() -> None:
    async def scenario() -> None:
        replica, target = Replica(), local_target()
        # Connections that are not shared, as where there are certificates.
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        async with (
            grpc.aio.insecure_channel(target, options) as songs,
            grpc.aio.insecure_channel(target, options) as aside,
        ):
            dit = DitClient("dit", target, songs, aside)
            with pytest.raises(ServiceUnreachableError):
                await steps(dit, SONG)
            async with running(served(replica), target):
                await dit.info()
                await steps(dit, SONG)
        assert replica.step_counts == [SONG]

    run(scenario())


def test_what_a_stage_refuses_is_named_as_in_the_request() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        denoise(RefusingDit("parameters.adapters[0].name"))
    assert [violation.field for violation in caught.value.violations] == ["adapters[0].name"]


def test_tensors_that_a_stage_refuses_are_not_the_fault_of_the_request() -> None:
    with pytest.raises(InternalError, match=r"^dit at here refuses .*tensor.context_latents: is wrong"):
        denoise(RefusingDit("tensor.context_latents"))


class AnsweringDit(dit_pb2_grpc.DitServiceServicer):
    """Answers with what it is given."""

    def __init__(self, answer: Sequence[TensorChunk]) -> None:
        self._answer = answer

    async def Denoise(self, request_iterator: Any, context: Any) -> AsyncIterator[dit_pb2.DenoiseResponse]:  # type: ignore[override]
        await read(request_iterator)
        for chunk in self._answer:
            yield dit_pb2.DenoiseResponse(tensor=chunk)


def latents(*shape: int, dtype: str = "float32") -> list[TensorChunk]:
    data = bytes(math.prod(shape) * tensors.ITEM_BYTES[dtype])
    return list(tensors.encode(WireTensor("latents", dtype, shape, data)))


@pytest.mark.parametrize(
    "answer",
    [
        latents(2, 2, 4),
        latents(2, 6, 4),
        latents(1, 3, 4),
        latents(3, 3, 4),
        latents(2, 3, 3),
        latents(2, 3, 4, dtype="int64"),
        latents(2, 3, 4)[:1],
        latents(2, 3, 4) * 2,
        [TensorChunk()],
        [],
    ],
    ids=["short", "long", "few", "many", "channels", "type", "no data", "twice", "empty", "nothing"],
)
def test_a_wrong_answer_is_the_fault_of_the_stage_and_not_of_the_request(
    answer: Sequence[TensorChunk],
) -> None:
    with pytest.raises(InternalError, match=r"^dit at here gave a wrong answer: tensor") as caught:
        denoise(AnsweringDit(answer))
    assert caught.value.metadata == {"stage": "dit"}
