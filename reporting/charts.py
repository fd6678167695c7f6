"""Charts as inline SVG, drawn for a narrow screen and scaled up on a wide one. Colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pipeline.transfer import pq_inverse_eotf

Array = np.ndarray

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 14, 36
MARK_WORDS_WIDE = 150
MOST_POINTS = 380
"""More frames than this are drawn as so many stretches of frames, about one a pixel."""

NITS_TICKS = (0.1, 1, 10, 100, 203, 1000, 4000, 10000)


@dataclass(frozen=True)
class Series:
    """One line of a chart. values: one a frame; name: for the legend; kind: "a", "b" or "c", the colour; peaks: a stretch of frames is shown by its
    largest value instead of its mean."""

    name: str
    values: Array
    kind: str
    peaks: bool


@dataclass(frozen=True)
class Scale:
    """A vertical axis: where a value lies (0 bottom, 1 top), and its (value, words) ticks."""

    top: float
    ticks: tuple[tuple[float, str], ...]
    by_nits: bool

    def place(self, values: Array) -> Array:
        """Values of any shape -> 0 to 1 up the chart; clipped."""
        if not self.by_nits:
            return np.clip(values / self.top, 0, 1)
        return np.clip(_signal(values) / _signal(np.array(self.top)), 0, 1)


def nits_scale(top_nits: float) -> Scale:
    """Brightness as the eye and the PQ curve space it, from 0 to the first round number above top_nits."""
    top = next((tick for tick in NITS_TICKS if tick >= top_nits and tick != 203), 10000.0)
    top = max(top, 10.0)
    ticks = tuple((float(tick), f"{tick:g}") for tick in (0, *NITS_TICKS) if tick <= top and tick != 203)
    return Scale(top, ticks, True)


def share_scale(largest: float) -> Scale:
    """Shares from 0 to a round percentage above the largest."""
    percent = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if step >= min(100 * largest, 100))
    ticks = tuple((percent * part / 100, f"{percent * part:g} %") for part in (0, 0.5, 1))
    return Scale(percent / 100, ticks, False)


def over_time(
    label: str, seconds: Array, series: Sequence[Series], scale: Scale, mark: tuple[float, str] | None = None
) -> str:
    """Lines over time. seconds: (F,) rising, one a frame; mark: a dashed level and its words; label: what a screen reader says."""
    start, end = float(seconds[0]), float(seconds[-1])
    length = max(end - start, 1e-9)
    parts = _frame(scale, [((at - start) / length, words) for at, words in _time_ticks(start, end)])
    if mark is not None:
        parts.append(_mark(scale, *mark))
    for line in series:
        x, y = _stretches((seconds - start) / length, line.values, line.peaks)
        points = " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in zip(x, scale.place(y), strict=True))
        single = f'<circle class="dot {line.kind}" cx="{_x(x[0]):.1f}" cy="{_y(scale.place(y[:1])[0]):.1f}" r="3"/>'
        parts.append(single if len(x) == 1 else f'<polyline class="line {line.kind}" points="{points}"/>')
    return _svg(label, parts)


def histogram(label: str, edges_nits: Array, counts: Sequence[tuple[Array, str]], mark: tuple[float, str]) -> str:
    """How many pixels are how bright: brightness across as PQ spaces it, share of the pixels up.

    edges_nits: (B + 1,); counts: ((B,) pixels, kind) each, the first filled and the others as lines; mark: a dashed brightness and its words
    """
    shares = [values / max(values.sum(), 1) for values, _ in counts]
    used = max((int(np.flatnonzero(share)[-1]) + 1 for share in shares if share.any()), default=1)
    across = nits_scale(float(edges_nits[used]))
    scale = share_scale(max(float(share.max()) for share in shares))
    parts = _frame(scale, [(float(across.place(np.array(value))), words) for value, words in across.ticks])
    place = across.place(edges_nits)
    for share, (_, kind) in zip(shares, counts, strict=True):
        corners = [(place[0], 0.0)]
        for number, value in enumerate(scale.place(share)[:used]):
            corners += [(place[number], value), (place[number + 1], value)]
        corners.append((place[used], 0.0))
        points = " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in corners)
        parts.append(f'<polyline class="{"area" if share is shares[0] else "line"} {kind}" points="{points}"/>')
    x = _x(float(across.place(np.array(mark[0]))))
    parts.append(f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    anchor = "start" if x + MARK_WORDS_WIDE < WIDTH - RIGHT else "end"
    parts.append(
        f'<text class="tick" x="{x + (-4 if anchor == "end" else 4):.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(mark[1])}</text>'
    )
    return _svg(label, parts, across_words="nits")


def waveform(label: str, image_uri: str, scale: Scale, mark: tuple[float, str]) -> str:
    """A waveform picture (pictures.waveform_png of scale.top) with its axis."""
    parts = _frame(scale, [])
    parts.append(
        f'<image href="{image_uri}" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" preserveAspectRatio="none"/>'
    )
    parts.append(_mark(scale, *mark))
    return _svg(label, parts, across_words="left to right as in the picture")


def _svg(label: str, parts: list[str], across_words: str = "") -> str:
    words = f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(across_words)}</text>'
    inside = "".join([*parts, words if across_words else ""])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def _frame(scale: Scale, across: Sequence[tuple[float, str]]) -> list[str]:
    """Grid lines and the words of both axes."""
    parts = []
    for value, words in scale.ticks:
        y = _y(float(scale.place(np.array(value))))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(words)}</text>')
    for place, words in across:
        anchor = "end" if place > 0.97 else "start" if place < 0.03 else "middle"
        parts.append(
            f'<text class="tick" x="{_x(place):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="{anchor}">{escape(words)}</text>'
        )
    return parts


def _mark(scale: Scale, value: float, words: str) -> str:
    y = _y(float(scale.place(np.array(value))))
    return (
        f'<path class="mark" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end">{escape(words)}</text>'
    )


def _stretches(x: Array, y: Array, peaks: bool) -> tuple[Array, Array]:
    """At most MOST_POINTS points: each is a stretch of frames, its middle time and its largest or mean value."""
    if len(x) <= MOST_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MOST_POINTS + 1).astype(np.int64)
    lengths = np.diff(edges)
    values = np.maximum.reduceat(y, edges[:-1]) if peaks else np.add.reduceat(y, edges[:-1]) / lengths
    return np.add.reduceat(x, edges[:-1]) / lengths, values


def _time_ticks(start: float, end: float) -> list[tuple[float, str]]:
    """About four round times between start and end, in seconds, with their words. Adding 0.0 makes -0.0 a plain 0."""
    length = end - start
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
    step = next((step for step in steps if length / step <= 5), 86400 * np.ceil(length / 432000))
    first = np.ceil(start / step - 1e-9)
    times = [number * step + 0.0 for number in np.arange(first, np.floor(end / step + 1e-9) + 1)]
    return [(float(at), clock(float(at), step < 1)) for at in times]


def clock(seconds: float, tenths: bool = False) -> str:
    """12.3 s, 4:05 or 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s" if tenths else f"{seconds:.0f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _signal(nits: Array) -> Array:
    import torch

    return pq_inverse_eotf(
        torch.as_tensor(np.array(nits, np.float64))
    ).numpy()  # a column of a table is no tensor: copied


def _x(place: float) -> float:
    return LEFT + place * (WIDTH - LEFT - RIGHT)


def _y(place: float) -> float:
    return HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
