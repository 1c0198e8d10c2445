"""`bench.speed`: turns, ratios, ticks, and the page that comes of the results alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.speed.chart import PANEL, draw_lengths, proportional, round_step
from bench.speed.dit import relative_distance
from bench.speed.machine import cpu_facts
from bench.speed.report import page
from bench.speed.scope import interleaved
from bench.speed.tables import ratios, signed_percent, table, whole_mib

MACHINE = {
    "cpu": "a processor",
    "cpu_count": 2,
    "cpu_flags": ["avx2"],
    "memory_bytes": 24 << 30,
    "versions": {"python": "3.11.7"},
}
RUN = {
    "began": "2026-01-02T03:04:05+00:00",
    "checkpoint": "tiny-turbo",
    "thread_count": 2,
    "round_count": 2,
    "is_quick": False,
    "load_average_before": 0.5,
    "load_average_after": 1.5,
    "seconds": 12.3,
}


def test_every_other_round_goes_backwards() -> None:
    done: list[str] = []

    def noting(name: str) -> Callable[[], int]:
        def note() -> int:
            done.append(name)
            return len(done)

        return note

    rounds = list(interleaved({"a": noting("a"), "b": noting("b")}, 2))
    assert done == ["a", "b", "b", "a"]
    assert rounds == [{"a": 1, "b": 2}, {"a": 4, "b": 3}]


def test_a_ratio_is_taken_within_its_round() -> None:
    assert ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == "3.00 (2.00-4.00)"
    assert signed_percent([1.1, 0.9], [1.0, 1.0]) == "0.0 (-10.0-10.0)"


def test_a_table_in_markdown() -> None:
    assert table(("a", "b"), [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    assert (whole_mib(3 << 30), whole_mib(0)) == ("3,072", "-")


@pytest.mark.parametrize(("largest", "step"), [(0, 1), (0.9, 0.2), (4, 1), (39, 5), (41, 10), (600, 100)])
def test_ticks_are_round(largest: float, step: float) -> None:
    assert round_step(largest) == pytest.approx(step)


def test_the_straight_line_goes_through_the_figure_for_60_s() -> None:
    assert proportional([(30, 7), (60, 4), (600, 99)]) == [(30, 2), (60, 4), (600, 40)]
    assert proportional([(10, 7), (20, 5)]) == [(10, 7), (20, 14)]


def test_a_distance_is_relative_to_the_reference() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert relative_distance(torch.tensor([3.0, 4.5]), reference) == pytest.approx(0.1)


def test_the_first_processor_is_read() -> None:
    assert cpu_facts("model name\t: one\nflags\t\t: a b\n\nmodel name\t: two\n")["model name"] == "one"


def test_the_page_has_sections_for_what_was_measured() -> None:
    found = {
        "run": RUN,
        "dtype": "bfloat16",
        "token_count": 256,
        "kernels": "compiled",
        "lengths": [
            {
                "duration_s": 30,
                "jobs": [
                    {"diffusers": [9.0, 4.0, 6.0], "bfloat16": [3.0, 2.0, 2.0], "int8": [3.0, 1.0, 1.0]}
                ],
            }
        ],
        "weights_bytes": {"diffusers": 104 << 20, "bfloat16": 100 << 20, "int8": 52 << 20},
        "block_errors": [0.01, 0.03, 0.02],
        "distances": {
            "duration_s": 30,
            "step_count": 8,
            "precise_from_diffusers": 0.01,
            "eager_from_compiled": 0.001,
            "int8_from_precise": 0.02,
        },
    }
    text = page({"machine": MACHINE, "parts": {"dit": found}}, "chart.png")
    assert "| 30 s, bfloat16 | 2.000 | 2.50 (2.00-3.00) | 3.000 |" in text
    assert "52 as int8: 50.0% of the first,\n52.0% of the second." in text
    assert "| dit | 2026-01-02T03:04:05+00:00 | tiny-turbo | 2 | 2 | 12 | 0.5, 1.5 |" in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Benchmarks",
        "## A step of the DiT",
    ]


def test_both_charts_are_drawn(tmp_path: Path) -> None:
    figures = {"seconds": 1.0, "peak_bytes": 1 << 30, "planned_bytes": 1 << 31}
    rows = [{"duration_s": seconds, "dit": figures, "vae": figures} for seconds in (10, 60)]
    draw_lengths(rows, tmp_path / "images" / "chart.png")
    with Image.open(tmp_path / "images" / "chart.png") as picture:
        width, height = PANEL
        assert picture.size == (2 * width, height)
        left = picture.crop((0, 0, width, height))
        right = picture.crop((width, 0, 2 * width, height))
        assert left.tobytes() != right.tobytes()
        assert len(left.getcolors(1 << 16) or []) > 2
