"""Durations and moments as protobuf has them."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def duration(seconds: float) -> Duration:
    """`seconds`, rounded to nanoseconds."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def seconds(message: Duration) -> float:
    """The seconds of a duration."""
    return message.ToNanoseconds() / 1e9


def timestamp(moment: datetime) -> Timestamp:
    """`moment`, which knows its time zone."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message
