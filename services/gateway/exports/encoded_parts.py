"""A long sound that is encoded in parts, side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av

from acestage.song_audio import SAMPLE_RATE_HZ
from services.gateway.exports.codec import CHANNEL_LAYOUT, TIME_BASE, Codec, Samples, frames_of
from services.runtime.processes.usable_cpus import usable_core_count

PART_FRAMES = 1_250
"""30 s of mp3. The same on every machine, so that files are."""

_STEP_FRAMES = 12
_SETTLED_FRAMES = 4
"""So many frames of an encoder look back beyond its first sample."""

Blocks = Callable[[int, int], Iterable[Samples]]


class EncodedParts:
    """Encodes parts of a sound on as many cores as there are, and joins them.

    Encoders that began at different samples come to write the same frames, usually within three seconds.
    Behind such a frame a decoder may go on with either: the frame holds the bits that the next one borrows,
    the kind of its last block, and the half of it that overlaps. So an encoder goes on into the next part
    until it has written a frame of that part's own encoder, and there they are joined; where there is none,
    it encodes that part too. What is heard is as one encoder would have written it.

    Args:
        codec: one whose `frames_agree`.
        blocks: gives the samples float32 [count, 2] between two numbers; called in threads.
        sample_count: of the sound, a channel.
    """

    def __init__(self, codec: Codec, blocks: Blocks, sample_count: int) -> None:
        self._codec = codec
        self._blocks = blocks
        self._sample_count = sample_count
        self._frame_samples = _open_encoder(codec).frame_size

    def packets(self) -> Generator[av.Packet[Any], None, None]:
        """All packets of the sound, in order. Close it, if not all are taken.

        Raises:
            InvalidArgumentError: the samples have another shape or type, or some are not finite.
            FFmpegError: the encoder failed.
        """
        starts = range(0, self._sample_count, PART_FRAMES * self._frame_samples)
        if not starts:
            return
        threads = ThreadPoolExecutor(min(len(starts), usable_core_count()))
        try:
            coming = threads.map(self._encode_part, starts)
            part = next(coming)
            for following in coming:
                joint = self._join(part, following)
                if joint is not None:
                    yield from part.packets_before(joint)
                    part = following
                    part.drop_before(joint)
            yield from part.packets
        finally:
            threads.shutdown(cancel_futures=True)

    def _encode_part(self, start: int) -> _Part:
        part = _Part(self._codec, start, self._frame_samples)
        self._go_on(part, min(start + PART_FRAMES * self._frame_samples, self._sample_count))
        return part

    def _join(self, part: _Part, following: _Part) -> int | None:
        """The number of the frame at which `following` can take over.

        `part` is encoded until it is found; where there is none, to the end of `following`.
        """
        number = following.first_frame + _SETTLED_FRAMES
        while True:
            while number < min(part.end_frame, following.end_frame):
                if part.frame(number) == following.frame(number):
                    return number + 1
                number += 1
            if part.position == following.position:
                return None
            self._go_on(part, min(part.position + _STEP_FRAMES * self._frame_samples, following.position))

    def _go_on(self, part: _Part, stop: int) -> None:
        for block in self._blocks(part.position, stop):
            part.encode(block)
        if stop == self._sample_count:
            part.finish()


class _Part:
    """An encoder that began at sample `start`, a multiple of a frame's, and the packets that it gave.

    Attributes:
        position: of the first sample that it has not seen.
        first_frame: number of the first of `packets`, as frames of the whole sound are counted.
    """

    def __init__(self, codec: Codec, start: int, frame_samples: int) -> None:
        self.position = start
        self.first_frame = start // frame_samples
        self.packets: list[av.Packet[Any]] = []
        self._codec = codec
        self._encoder = _open_encoder(codec)

    @property
    def end_frame(self) -> int:
        return self.first_frame + len(self.packets)

    def frame(self, number: int) -> bytes:
        return bytes(self.packets[number - self.first_frame])

    def encode(self, samples: Samples) -> None:
        for frame in frames_of(samples, self._codec, self.position):
            self.packets += self._encoder.encode(frame)
        self.position += len(samples)

    def finish(self) -> None:
        self.packets += self._encoder.encode(None)

    def packets_before(self, number: int) -> list[av.Packet[Any]]:
        return self.packets[: number - self.first_frame]

    def drop_before(self, number: int) -> None:
        self.packets = self.packets[number - self.first_frame :]
        self.first_frame = number


def _open_encoder(codec: Codec) -> Any:
    encoder: Any = av.CodecContext.create(codec.encoder, "w")
    encoder.sample_rate = SAMPLE_RATE_HZ
    encoder.time_base = TIME_BASE
    encoder.layout = CHANNEL_LAYOUT
    encoder.format = codec.sample_format
    encoder.options = dict(codec.options)
    if codec.bit_rate_bps is not None:
        encoder.bit_rate = codec.bit_rate_bps
    encoder.open()
    return encoder
