"""The tables of `acestage status` and `acestage top`."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console, RenderableType

from acestage.cli.status_view import Outage, OutageView, StatusView
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.status import StageModel, Status, status_from_pb
from tests.statuses import NOW, status_message

STATUS = status_from_pb(status_message(), NOW)
TARGET = "127.0.0.1:50050"


def rendered(view: RenderableType, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=False).print(view)
    return output.getvalue()


def row(text: str, first: str) -> list[str]:
    """The cells of the one row that begins with `first`."""
    (found,) = [line for line in text.splitlines() if line.startswith(first)]
    return re.split(r" {2,}", found.strip())


def shown(status: Status = STATUS, width: int = 80) -> str:
    return rendered(StatusView(status, TARGET), width)


@pytest.mark.parametrize("width", [80, 100, 189, 190, 300])
def test_every_figure_is_there_at_any_width(width: int) -> None:
    text = shown(width=width)
    assert max(map(len, text.splitlines())) <= width
    words = ["9.8.7", TARGET, "up for 3 h 7 min", "1 running, 2 of 200 queued", "10 succeeded", "4 failed"]
    words += ["1650", "4096 MiB", "3500 MiB", "596 MiB", "one holder", "24.0 GiB", "dit@studio:4700"]
    words += [str(2**32 + 7), "waits, place 1", "vae at 127.0.0.1:50053 is down", "busy, 2 jobs"]
    words += ["dit/worker", "3333 MiB", "job000000001", "WORKER_CRASHED", "2 x 1 min 30 s", "waits 2.5 s"]
    missing = [word for word in words if word not in text]
    assert missing == []


def test_devices_say_what_is_used_free_and_leased() -> None:
    text = shown(width=120)
    assert row(text, "cuda:0  NVIDIA") == [
        *("cuda:0", "NVIDIA GeForce GTX 1650"),
        *("4096 MiB", "3500 MiB", "596 MiB", "3705 MiB", "one holder"),
    ]
    assert row(text, "cuda:1") == [
        "cuda:1",
        "known to the ledger alone",
        "24.0 GiB",
        "?",
        "?",
        "0 MiB",
        "shared",
    ]


def test_holders_are_warm_or_not_and_waiters_say_for_how_long() -> None:
    text = shown(width=120)
    assert row(text, "cuda:0    dit@")[2:] == ["3005 MiB", str(2**32 + 7), "active", "12 s"]
    assert row(text, "cuda:0    text_encoder@")[-2:] == ["warm", "12 s"]
    assert row(text, "cuda:0    other-program@")[-2:] == ["warm, revoking", "12 s"]
    assert row(text, "cuda:0    vae@")[2:] == ["321 MiB", "waits, place 1", "3.2 s"]


def test_memory_that_cannot_be_dropped_has_a_sum_and_resident_memory_none() -> None:
    text = shown()
    assert row(text, "dit/worker") == ["dit/worker", "4711", "3200 MiB", "6400 MiB", "800 MiB", "3333 MiB"]
    assert row(text, "orchestrator") == ["orchestrator", "4500", "64 MiB", "128 MiB", "16 MiB", "-"]
    anonymous = 2 * (68 + 400) // 4 + 3200 // 4 + 64 // 4
    assert row(text, "together") == ["together", f"{anonymous} MiB", "3333 MiB"]


def test_jobs_are_the_newest_first_with_their_outcome() -> None:
    text = shown()
    assert row(text, "job000000003") == ["job000000003", "5.0 s ago", "4.2 s", "1 min 30 s", "WORKER_CRASHED"]
    assert text.index("job000000003") < text.index("job000000002") < text.index("job000000001")


def test_where_there_is_room_stages_have_addresses() -> None:
    assert "127.0.0.1:50052" not in shown(width=99)
    assert "127.0.0.1:50052" in shown(width=100)
    assert row(shown(width=120), "dit  ") == [
        *("dit", "busy, 2 jobs", "acestep-v15-turbo", "cuda:0", "3005 MiB bfloat16 int8", "127.0.0.1:50052")
    ]


def test_every_model_of_a_stage_is_there_and_the_one_on_the_device_is_marked() -> None:
    base = StageModel("acestep-v15-base", "bfloat16", 3006 << 20)
    stages = tuple(replace(stage, models=(*stage.models, base)) for stage in STATUS.stages)
    text = shown(replace(STATUS, stages=stages), width=120)
    assert row(text, "dit  ")[2] == "acestep-v15-turbo (placed)"
    weights = [line.split()[1:] for line in text.splitlines() if line.strip().startswith("acestep-v15-base")]
    assert weights == [["3006", "MiB", "bfloat16"]] * 2


def test_a_wide_terminal_has_two_columns_of_tables() -> None:
    assert len(shown(width=190).splitlines()) < 0.8 * len(shown(width=189).splitlines())


def test_an_idle_orchestrator_says_so() -> None:
    text = shown(status_from_pb(pb.GetStatusResponse(version="1"), NOW))
    assert "No lease is held, and nobody waits for one." in text
    assert "No job has ended yet." in text
    assert "No stage says what its device is." in text
    assert "just started" not in text


def test_text_from_elsewhere_is_no_markup() -> None:
    models = (StageModel("[red]:cat:[/x]", "bfloat16", 1),)
    stages = tuple(replace(stage, models=models) for stage in STATUS.stages)
    assert "[red]:cat:[/x]" in shown(replace(STATUS, stages=stages), width=120)


def test_long_names_are_folded_and_lose_nothing() -> None:
    holder = "a-program-with-a-name-" + "0123456789" * 10
    leases = (replace(STATUS.leases[0], holder=holder),)
    text = shown(replace(STATUS, leases=leases, waiters=()))
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("lease on"))
    folded = "".join(re.split(r" {2,}", line[8:].strip() + "   ")[0] for line in lines[start + 1 : start + 8])
    assert holder in folded


def test_an_outage_says_since_when_and_why_above_what_was_so_last() -> None:
    outage = Outage(NOW - timedelta(seconds=75), "SERVICE_UNREACHABLE: it [does not] answer")
    text = rendered(OutageView(outage, NOW, TARGET, STATUS))
    assert f"{TARGET} cannot be reached since 11:58:45 UTC (1 min 15 s)" in text
    assert "SERVICE_UNREACHABLE: it [does not] answer" in text
    assert "This was so at 12:00:00 UTC" in text
    assert "job000000003" in text
    assert "This was so" not in rendered(OutageView(outage, NOW, TARGET, None))
