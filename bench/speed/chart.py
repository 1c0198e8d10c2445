"""Charts of what a song costs by its length, drawn with Pillow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

BLACK, GREY, WHITE = (34, 34, 34), (221, 221, 221), (255, 255, 255)
COLOURS: Mapping[str, Colour] = {"dit": (0, 90, 160), "vae": (200, 80, 0)}
NAMES = {"dit": "DiT", "vae": "VAE"}

PANEL = (760, 580)
"""Width and height of a chart, in pixels."""
MARGINS = (80, 50, 30, 120)
"""Left, top, right and bottom of what is drawn in; names of lines are below."""
DASH_PX = 8.0
REFERENCE_S = 60
"""The length from which the straight lines are drawn on in proportion."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through `points`; dashed, it is no measurement."""

    name: str
    points: Sequence[Point]
    colour: Colour
    is_dashed: bool = False


def draw_lengths(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws time and memory by length, side by side, as a PNG.

    Args:
        rows: one for each length, with `duration_s` and, for each stage, `seconds`, `peak_bytes` and
            `planned_bytes`.
        path: of the picture.
    """
    times, memories = [], []
    for stage, colour in COLOURS.items():
        name = f"{NAMES[stage]}{' step' if stage == 'dit' else ' decode'}"
        seconds = [(float(row["duration_s"]), float(row[stage]["seconds"])) for row in rows]
        times += [Line(name, seconds, colour), Line("in proportion", proportional(seconds), colour, True)]
        for label, key, is_dashed in (("measured", "peak_bytes", False), ("planned", "planned_bytes", True)):
            sizes = [(float(row["duration_s"]), row[stage][key] / 2**30) for row in rows]
            memories.append(Line(f"{NAMES[stage]}, {label}", sizes, colour, is_dashed))
    width, height = PANEL
    picture = Image.new("RGB", (2 * width, height), WHITE)
    picture.paste(_panel("Seconds by seconds of the song", times), (0, 0))
    picture.paste(_panel("Memory in GiB by seconds of the song", memories), (width, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def proportional(points: Sequence[Point]) -> list[Point]:
    """What each of `points` would be in proportion to that at `REFERENCE_S`, or else to the first one."""
    x, y = next((point for point in points if point[0] == REFERENCE_S), points[0])
    return [(other, y * other / x) for other, _ in points]


def round_step(largest: float) -> float:
    """The distance of ticks, 1, 2 or 5 times a power of ten, of which `largest` has 4 to 10."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= largest / 4)


def _panel(title: str, lines: Sequence[Line]) -> Image.Image:
    picture = Image.new("RGB", PANEL, WHITE)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(16)
    left, top = MARGINS[:2]
    right, bottom = PANEL[0] - MARGINS[2], PANEL[1] - MARGINS[3]
    most_x, most_y = (max(point[axis] for line in lines for point in line.points) for axis in (0, 1))
    most_y = most_y or 1.0

    def place(point: Point) -> Point:
        x, y = point
        return left + (right - left) * x / most_x, bottom - (bottom - top) * y / most_y

    draw.text((left, 14), title, BLACK, ImageFont.load_default(18))
    for tick in _ticks(most_y):
        _, y = place((0, tick))
        draw.line([(left, y), (right, y)], GREY)
        draw.text((left - 10, y), f"{tick:g}", BLACK, font, anchor="rm")
    for tick in _ticks(most_x):
        x, _ = place((tick, 0))
        draw.line([(x, bottom), (x, bottom + 5)], BLACK)
        draw.text((x, bottom + 10), f"{tick:g}", BLACK, font, anchor="ma")
    draw.line([(left, bottom), (right, bottom)], BLACK)
    for number, line in enumerate(lines):
        points = [place(point) for point in line.points]
        x, y = left + 300 * (number // 2), bottom + 60 + 26 * (number % 2)
        _stroke(draw, points, line)
        _stroke(draw, [(x, y), (x + 40, y)], line)
        draw.text((x + 50, y), line.name, BLACK, font, anchor="lm")
        if not line.is_dashed:
            for dot_x, dot_y in points:
                draw.ellipse((dot_x - 4, dot_y - 4, dot_x + 4, dot_y + 4), line.colour)
    return picture


def _ticks(most: float) -> list[float]:
    step = round_step(most)
    return [number * step for number in range(int(most / step) + 1)]


def _stroke(draw: ImageDraw.ImageDraw, points: Sequence[Point], line: Line) -> None:
    if not line.is_dashed:
        draw.line(list(points), line.colour, 3)
        return
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        length = math.hypot(next_x - x, next_y - y)
        count = max(1, round(length / DASH_PX))
        for number in range(0, count, 2):
            start, stop = number / count, min((number + 1) / count, 1.0)
            draw.line(
                [
                    (x + (next_x - x) * start, y + (next_y - y) * start),
                    (x + (next_x - x) * stop, y + (next_y - y) * stop),
                ],
                line.colour,
                2,
            )
