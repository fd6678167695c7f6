"""A line plot as an SVG file, without any library."""

from __future__ import annotations

import itertools
import math
from html import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart."""

STEPS = (1, 2, 5)
MOST_DOTS = 60
"""Lines of more points are drawn without dots."""

Points = list[tuple[float, float]]


def line_plot(title: str, x_label: str, y_label: str, series: dict[str, Points], *, logarithmic: bool = True) -> str:
    """An SVG document with one line a series. Both axes are logarithmic, or both linear and begin at 0.

    Raises ValueError when there is no point, or one that is negative or has no logarithm.
    """
    points = [point for line in series.values() for point in line]
    least = min((min(point) for point in points), default=-1.0)
    if least < 0 or (logarithmic and least == 0):
        raise ValueError(f"{title}: needs points, none of them below 0, and on logarithmic axes all of them above 0")
    kind = _Axis if logarithmic else _LinearAxis
    x_axis, y_axis = (kind([point[place] for point in points]) for place in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + across * x_axis.place(x), HEIGHT - BOTTOM - up * y_axis.place(y)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, title, "start", 15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label),
        f'<g transform="translate(16 {HEIGHT / 2}) rotate(-90)">{_text(0, 0, y_label)}</g>',
    ]
    for tick in x_axis.ticks:
        x, y = at(tick, y_axis.low)
        out += [_line((x, y), (x, TOP), "#ddd", 1), _text(x, y + 18, _number(tick))]
    for tick in y_axis.ticks:
        x, y = at(x_axis.low, tick)
        out += [_line((x, y), (WIDTH - RIGHT, y), "#ddd", 1), _text(x - 8, y + 4, _number(tick), "end")]
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(x, y) for x, y in sorted(line)]
        out += [_line(one, other, colour, 2) for one, other in itertools.pairwise(places)]
        if len(places) <= MOST_DOTS:
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        row = TOP + 12 + 18 * number
        out += [_line((WIDTH - RIGHT + 14, row - 4), (WIDTH - RIGHT + 34, row - 4), colour, 2)]
        out += [_text(WIDTH - RIGHT + 40, row, name, "start")]
    return "\n".join([*out, "</svg>"]) + "\n"


class _Axis:
    """A logarithmic axis whose ends are ticks at 1, 2 or 5 times a power of ten."""

    def __init__(self, values: list[float]) -> None:
        first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1
        ladder = [step * 10.0**power for power in range(first, last + 1) for step in STEPS]
        self.low = max(tick for tick in ladder if tick <= min(values))
        self.high = min(tick for tick in ladder if tick >= max(values) and tick > self.low)
        self.ticks = [tick for tick in ladder if self.low <= tick <= self.high]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return math.log(value / self.low) / math.log(self.high / self.low)


class _LinearAxis:
    """An axis from 0, with ticks at multiples of 1, 2 or 5 times a power of ten."""

    def __init__(self, values: list[float]) -> None:
        most = max(values) or 1.0
        power = 10.0 ** math.floor(math.log10(most / 5))
        step = next(one * power for one in (*STEPS, 10) if most / (one * power) <= 6)
        self.low = 0.0
        self.high = step * math.ceil(most / step)
        self.ticks = [step * number for number in range(round(self.high / step) + 1)]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return value / self.high


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, width: int) -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:g}"
