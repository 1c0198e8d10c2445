"""Uploads over gRPC: what is kept, what is refused, and that nothing is left of what stops halfway."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from acestage import AsyncClient, Client
from acestage.audio import CHUNK_BYTES, Audio
from acestage.errors import (
    AcestageError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    QueueFullError,
    ResourceExhaustedError,
)
from acestage.protos.audio.v1 import audio_pb2 as pb
from acestage.protos.audio.v1 import audio_pb2_grpc
from acestage.rpc_errors import from_rpc_error
from services.orchestrator.uploads.audio_decoding import decode
from services.orchestrator.uploads.audio_facts import AudioFacts, RawFormat
from tests.running_stack import wait_until
from tests.unit.audio_files import encoded, tone
from tests.unit.audio_server import Served

TIMEOUT_S = 30.0


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path / "audio")


def upload(served: Served, source: Any, **options: Any) -> Audio:
    with Client(served.target) as client:
        return client.upload(source, timeout_s=TIMEOUT_S, **options)


def send(served: Served, *requests: pb.UploadRequest) -> pb.UploadResponse:
    """Sends these messages as they are."""
    with grpc.insecure_channel(served.target) as channel:
        try:
            response: pb.UploadResponse = audio_pb2_grpc.AudioServiceStub(channel).Upload(
                iter(requests), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, target="service") from error
    return response


HEADER = pb.UploadRequest(header=pb.UploadHeader())
RAW = pb.UploadRequest(header=pb.UploadHeader(raw=pb.RawFormat(sample_rate_hz=48_000, channel_count=2)))


def data(value: bytes) -> pb.UploadRequest:
    return pb.UploadRequest(data=value)


def test_a_file_is_uploaded_asked_for_and_deleted(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "tone.flac"
    path.write_bytes(encoded(tone(2.0, 44_100, 0.5, 0.25), 44_100, "FLAC"))

    def scenario() -> None:
        with Client(served.target) as client:
            audio = client.upload(path, timeout_s=TIMEOUT_S)
            assert (audio.duration_s, audio.sample_count, audio.sample_rate_hz) == (2.0, 96_000, 48_000)
            assert (audio.original_format, audio.original_sample_rate_hz) == ("FLAC PCM_16", 44_100)
            assert (audio.channel_count, audio.original_channel_count, audio.warnings) == (2, 2, ())
            assert audio.peak == pytest.approx(0.5, rel=1e-3)
            assert client.audio(audio.audio_id) == audio
            assert served.files() == [f"{audio.audio_id}.audio"]
            client.delete_audio(audio.audio_id)
            for ask in (client.audio, client.delete_audio):
                with pytest.raises(NotFoundError, match=f"{audio.audio_id}.* upload it again"):
                    ask(audio.audio_id)

    served.run(scenario)
    assert served.files() == []


def test_the_same_audio_has_the_same_id_whatever_it_comes_in(served: Served, tmp_path: Path) -> None:
    integers = np.round(tone(1.0, 48_000, 0.5, 0.25) * 32_768).astype(np.int16)
    samples = integers / 32_768
    path = tmp_path / "tone.wav"
    path.write_bytes(encoded(integers, 48_000))

    def scenario() -> set[str]:
        return {
            upload(served, path).audio_id,
            upload(served, str(path)).audio_id,
            upload(served, io.BytesIO(encoded(integers, 48_000, "FLAC"))).audio_id,
            upload(served, samples, sample_rate_hz=48_000).audio_id,
            upload(served, samples.astype(np.float32), sample_rate_hz=48_000).audio_id,
        }

    (audio_id,) = served.run(scenario)
    assert served.files() == [f"{audio_id}.audio"]


def test_the_asyncio_client_does_the_same(served: Served) -> None:
    async def talk() -> None:
        async with AsyncClient(served.target) as client:
            audio = await client.upload(tone(1.0, 48_000, 0.5), sample_rate_hz=48_000, timeout_s=TIMEOUT_S)
            assert await client.audio(audio.audio_id) == audio
            await client.delete_audio(audio.audio_id)
            with pytest.raises(NotFoundError):
                await client.audio(audio.audio_id)
            with pytest.raises(InvalidArgumentError, match="data: is no audio"):
                await client.upload(io.BytesIO(b"text" * 999), timeout_s=TIMEOUT_S)

    served.run(lambda: asyncio.run(talk()))
    assert served.files() == []


def test_progress_is_told_chunk_by_chunk(served: Served) -> None:
    samples = tone(8.0, 48_000, 0.5, 0.5)
    heard: list[tuple[int, int | None]] = []
    served.run(
        lambda: upload(served, samples, sample_rate_hz=48_000, on_progress=lambda *told: heard.append(told))
    )
    counts = [*range(CHUNK_BYTES, samples.nbytes, CHUNK_BYTES), samples.nbytes]
    assert heard == [(count, samples.nbytes) for count in counts]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([], "header: must be the first message of the stream"),
        ([data(b"x")], "header: must be the first message of the stream"),
        ([pb.UploadRequest()], "header: must be the first message of the stream"),
        ([HEADER, HEADER], "header: was sent twice"),
        ([HEADER, pb.UploadRequest()], "part: is empty; accepted after the header: data"),
        ([HEADER, data(b"")], "data: has an empty chunk; accepted: 1 byte to 1 MiB"),
        ([HEADER], "data: is empty; accepted: WAV"),
        ([RAW], "data: is empty"),
        ([RAW, data(bytes(12))], "data: has 12 bytes; accepted: a multiple of 8"),
        ([HEADER, data(b"hello")], "data: is no audio that can be read: Format not recognised"),
        (
            [pb.UploadRequest(header=pb.UploadHeader(raw=pb.RawFormat())), data(bytes(8))],
            "header.raw.sample_rate_hz: has 0 samples a second; accepted: 4000 to 384000; "
            "header.raw.channel_count: has 0 channels; accepted: 1 to 16",
        ),
        (
            [RAW, *[data(bytes(CHUNK_BYTES))] * 3],
            "data: has 3145728 bytes or more; accepted: up to 3000000",
        ),
    ],
)  # fmt: skip
def test_an_upload_that_cannot_be_used_is_refused_and_leaves_nothing(
    requests: list[pb.UploadRequest], expected: str, tmp_path: Path
) -> None:
    served = Served(tmp_path, max_upload_bytes=3_000_000)

    def scenario() -> None:
        with pytest.raises(InvalidArgumentError) as caught:
            send(served, *requests)
        assert caught.value.message.startswith(expected)
        assert served.files() == []
        upload(served, tone(1.0, 48_000, 0.5), sample_rate_hz=48_000)

    served.run(scenario)


def test_too_many_raw_samples_are_refused_while_they_come(served: Served) -> None:
    raw = pb.UploadRequest(header=pb.UploadHeader(raw=pb.RawFormat(sample_rate_hz=4_000, channel_count=1)))

    def endless() -> Iterator[pb.UploadRequest]:
        yield raw
        while True:
            yield data(bytes(CHUNK_BYTES))

    def scenario() -> None:
        expected = (
            r"data: has 10485760 bytes or more; accepted: up to 9600000, 600 s of 1 channels at 4000 Hz"
        )
        with pytest.raises(InvalidArgumentError, match=expected):
            send(served, *[raw, *[data(bytes(CHUNK_BYTES))] * 10])
        with grpc.insecure_channel(served.target) as channel, pytest.raises(grpc.RpcError):
            audio_pb2_grpc.AudioServiceStub(channel).Upload(endless(), timeout=TIMEOUT_S)

    served.run(scenario)


@asynccontextmanager
async def half_an_upload(target: str) -> AsyncIterator[grpc.aio.StreamUnaryCall[Any, Any]]:
    """A call that has sent its header and a chunk."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = audio_pb2_grpc.AudioServiceStub(channel)
        call = stub.Upload()
        await call.write(RAW)
        await call.write(data(bytes(CHUNK_BYTES)))
        yield call


def test_a_cancelled_upload_leaves_nothing(served: Served) -> None:
    async def talk() -> None:
        async with half_an_upload(served.target) as call:
            await asyncio.to_thread(wait_until, lambda: served.files() == ["upload"], "it is on disk")
            call.cancel()
            await asyncio.to_thread(wait_until, lambda: served.files() == [], "it is removed")

    def scenario() -> None:
        asyncio.run(talk())
        upload(served, tone(1.0, 48_000, 0.5), sample_rate_hz=48_000)

    served.run(scenario)


def test_half_an_upload_is_not_decoded(tmp_path: Path) -> None:
    """However short a decoder takes: what it decoded would be kept."""
    decoded: list[Path] = []

    async def record(source: Path, raw: RawFormat | None, destination: Path) -> AudioFacts:
        decoded.append(source)
        raise InvalidArgumentError.at("data", "is half of what was meant")

    served = Served(tmp_path, decode=record)

    async def talk() -> None:
        for _ in range(20):
            async with half_an_upload(served.target) as call:
                await asyncio.to_thread(wait_until, lambda: served.files() == ["upload"], "it is on disk")
                call.cancel()
                await asyncio.to_thread(wait_until, lambda: served.files() == [], "it is removed")

    served.run(lambda: asyncio.run(talk()))
    assert decoded == []


def test_the_upload_of_a_killed_client_leaves_nothing(served: Served) -> None:
    script = (
        "import sys; from acestage import Client\n"
        "class Stuck:\n"
        "    def read(self, size):\n"
        "        print('reading', flush=True); return sys.stdin.buffer.read(size)\n"
        "Client(sys.argv[1]).upload(Stuck())"
    )

    def scenario() -> None:
        command = [sys.executable, "-c", script, served.target]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdin is not None
            client.stdin.write(bytes(CHUNK_BYTES + 1))
            client.stdin.flush()
            wait_until(lambda: served.files() == ["upload"], "it is on disk")
            os.kill(client.pid, signal.SIGKILL)
        wait_until(lambda: served.files() == [], "it is removed")
        upload(served, tone(1.0, 48_000, 0.5), sample_rate_hz=48_000)

    served.run(scenario)


def test_a_client_that_sends_nothing_is_given_up(tmp_path: Path) -> None:
    served = Served(tmp_path, chunk_timeout_s=0.2)

    async def talk() -> None:
        async with half_an_upload(served.target) as call:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
        error = from_rpc_error(caught.value, target="service")
        assert isinstance(error, DeadlineExceededError)
        assert error.message == "nothing came from the client for 0.2 s; the upload was given up"

    served.run(lambda: asyncio.run(talk()))
    assert served.files() == []


def test_a_client_that_sends_a_little_now_and_then_is_given_up_as_well(tmp_path: Path) -> None:
    served = Served(tmp_path, upload_timeout_s=0.2)

    async def trickle() -> AsyncIterator[pb.UploadRequest]:
        yield RAW
        while True:
            await asyncio.sleep(0.01)
            yield data(bytes(8))

    async def talk() -> None:
        async with grpc.aio.insecure_channel(served.target) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await audio_pb2_grpc.AudioServiceStub(channel).Upload(trickle(), timeout=TIMEOUT_S)
        error = from_rpc_error(caught.value, target="service")
        assert isinstance(error, DeadlineExceededError)
        assert error.message == "not everything came from the client within 0.2 s; the upload was given up"

    served.run(lambda: asyncio.run(talk()))
    assert served.files() == []


def test_more_uploads_than_there_are_places_are_told_to_come_again(tmp_path: Path) -> None:
    served = Served(tmp_path, max_upload_count=1)

    async def talk() -> None:
        async with half_an_upload(served.target) as call:
            await asyncio.to_thread(wait_until, lambda: served.files() == ["upload"], "it is on disk")
            with pytest.raises(
                QueueFullError, match="1 uploads are going on; accepted at a time: 1"
            ) as caught:
                await asyncio.to_thread(send, served, RAW, data(bytes(8)))
            assert caught.value.retry_delay_s == 5.0
            call.cancel()
        await asyncio.to_thread(wait_until, lambda: served.files() == [], "it is removed")
        # Its place is free a moment after its files are gone.
        await asyncio.to_thread(wait_until, is_accepted, "another one is taken")

    def is_accepted() -> bool:
        try:
            upload(served, tone(1.0, 48_000, 0.5), sample_rate_hz=48_000)
        except QueueFullError:
            return False
        return True

    served.run(lambda: asyncio.run(talk()))


def test_the_decoder_of_a_cancelled_upload_ends(tmp_path: Path) -> None:
    states: list[str] = []

    async def decode_for_ever(source: Path, raw: RawFormat | None, destination: Path) -> AudioFacts:
        states.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")
        raise AssertionError

    served = Served(tmp_path, decode=decode_for_ever)

    async def talk() -> None:
        async with half_an_upload(served.target) as call:
            await call.done_writing()
            await asyncio.to_thread(wait_until, lambda: states == ["began"], "it decodes")
            call.cancel()
            await asyncio.to_thread(wait_until, lambda: states == ["began", "ended"], "it ends")

    served.run(lambda: asyncio.run(talk()))
    assert served.files() == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """A limit of the process on file sizes fails a write just as a full disk does."""
    served = Served(tmp_path)

    def scenario() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(ResourceExhaustedError, match="cannot be written to disk: File too large"):
                upload(served, tone(2.0, 48_000, 0.5), sample_rate_hz=48_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert served.files() == []
        upload(served, tone(2.0, 48_000, 0.5), sample_rate_hz=48_000)

    served.run(scenario)


class Breaking(io.BytesIO):
    """A file that fails after its first chunk."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read(size)


def refuse(sent_bytes: int, total_bytes: int | None) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_on_the_clients_side_ends_the_upload(is_async: bool, served: Served) -> None:
    def attempt(**options: Any) -> None:
        source = Breaking(bytes(2 * CHUNK_BYTES))
        if not is_async:
            upload(served, source, **options)
            return

        async def talk() -> None:
            async with AsyncClient(served.target) as client:
                await client.upload(source, timeout_s=TIMEOUT_S, **options)

        asyncio.run(talk())

    def scenario() -> None:
        with pytest.raises(InvalidArgumentError, match=r"source: .*cannot be read: Input/output error"):
            attempt()
        with pytest.raises(ZeroDivisionError):
            attempt(on_progress=refuse)
        wait_until(lambda: served.files() == [], "it is removed")

    served.run(scenario)


def test_a_decoder_in_a_process_of_its_own_answers_the_same(tmp_path: Path) -> None:
    real = Served(tmp_path, decode=decode)

    def scenario() -> None:
        for content in (b"", b"fLaC" + bytes(99)):
            with pytest.raises(AcestageError, match="data: "):
                upload(real, io.BytesIO(content))
        assert real.files() == []
        audio = upload(real, io.BytesIO(encoded(tone(1.5, 22_050, 0.5), 22_050, "OGG")))
        assert real.files() == [f"{audio.audio_id}.audio"]

    real.run(scenario)
