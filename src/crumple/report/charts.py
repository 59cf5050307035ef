"""Line charts: where everything goes; the template ``chart.html`` draws it as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

LEFT, RIGHT, TOP, BOTTOM = 54, 20, 10, 38  # margins around the plot area, in SVG units
INTERVALS = 6  # between the ticks of an axis, at most
Values = Sequence[float] | np.ndarray


class Line(NamedTuple):
    """One curve; ``kind`` is the CSS class that gives it colour and dashes."""

    label: str
    kind: str
    x: Values
    y: Values
    spread: Values | None = None  # half the height of a band around it


class Dots(NamedTuple):
    """Points that aren't joined; ``kind`` is the CSS class that gives them their look."""

    kind: str
    x: Values
    y: Values
    labels: Sequence[str] = ()  # what the page says of each under the pointer


class Axis(NamedTuple):
    """Label, range and scale of an axis."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: Values | float) -> np.ndarray:
        """Return where values lie between the ends of the axis, 0 to 1."""
        value = np.asarray(value, float)
        if self.log:
            return np.log(value / self.low) / np.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Shape(NamedTuple):
    """A polyline or a polygon."""

    label: str
    kind: str
    points: str  # as SVG has them


class Dot(NamedTuple):
    """A point in SVG units."""

    label: str
    kind: str
    x: float
    y: float


class Chart(NamedTuple):
    """What the template draws; positions in SVG units."""

    title: str
    size: tuple[int, int]
    plot: tuple[int, int, int, int]  # left, top, width, height
    x: Axis
    y: Axis
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    background: list[Shape]
    bands: list[Shape]
    lines: list[Shape]
    dots: list[Dot]
    cursor: bool
    data: dict[str, Any]  # for the script: values under the pointer


def ticks(axis: Axis) -> list[float]:
    """Return round values along an axis.

    A logarithmic axis has its decades, with 2 and 5 where they fit, or equal steps where it is
    short.
    """
    low, high = axis.low * (1 - 1e-9), axis.high * (1 + 1e-9)

    def inside(values: Values) -> list[float]:
        return [float(value) for value in values if low <= value <= high]

    if axis.log:
        for multiples in ((1.0, 2.0, 5.0), (1.0,)):
            decades = LogLocator(subs=multiples, numticks=10)
            values = inside(decades.tick_values(axis.low, axis.high))
            if 2 < len(values) <= 10:
                return values
    steps = MaxNLocator(INTERVALS, steps=[1, 2, 2.5, 5, 10])
    return inside(steps.tick_values(axis.low, axis.high))


def upper(values: Sequence[float]) -> float:
    """Return an upper end of an axis that leaves a little room over the values."""
    return 1.06 * max((v for v in values if math.isfinite(v)), default=1.0) or 1.0


def chart(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    background: Sequence[Line] = (),
    dots: Sequence[Dots] = (),
    size: tuple[int, int] = (460, 320),
    cursor: bool = False,
    title: str = "",
) -> Chart:
    """Lay out curves in one pair of axes.

    Parameters
    ----------
    lines
        Curves, the first one lowest. The page shows their values under the pointer.
    x, y
        The axes; y may be logarithmic.
    background
        Curves that are only drawn, under the others.
    dots
        Points, over the curves; those that aren't known are left out.
    size
        Width and height in SVG units.
    cursor
        Add a vertical line that the script moves with an animation.
    title
        What the chart shows, for screen readers.
    """
    width, height = size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM

    def across(value: Values | float) -> np.ndarray:
        return LEFT + x.place(value) * width

    def down(value: Values | float) -> np.ndarray:
        return TOP + (1 - y.place(value)) * height

    def shape(line: Line) -> Shape:
        return Shape(line.label, line.kind, _points(across(line.x), down(line.y)))

    def band(line: Line) -> Shape:
        middle, half = np.asarray(line.y, float), np.asarray(line.spread, float)
        known = np.isfinite(middle) & np.isfinite(half)
        places = across(np.asarray(line.x, float)[known])
        low, high = (down((middle + sign * half)[known]) for sign in (-1, 1))
        points = _points(np.r_[places, places[::-1]], np.r_[high, low[::-1]])
        return Shape(line.label, line.kind, points)

    def points(group: Dots) -> list[Dot]:
        labels = group.labels or [""] * len(group.x)
        places = zip(labels, across(group.x), down(group.y), strict=True)
        return [
            Dot(label, group.kind, float(a), float(b))
            for label, a, b in places
            if math.isfinite(a + b)
        ]

    return Chart(
        title=title,
        size=size,
        plot=(LEFT, TOP, width, height),
        x=x,
        y=y,
        x_ticks=[(float(across(value)), f"{value:.6g}") for value in ticks(x)],
        y_ticks=[(float(down(value)), f"{value:g}") for value in ticks(y)],
        background=[shape(line) for line in background],
        bands=[band(line) for line in lines if line.spread is not None],
        lines=[shape(line) for line in lines],
        dots=[dot for group in dots for dot in points(group)],
        cursor=cursor,
        data={
            "plot": [LEFT, TOP, width, height],
            "x": [x.low, x.high],
            "lines": [
                {"label": line.label, "x": _short(line.x), "y": _short(line.y)} for line in lines
            ],
        },
    )


def _points(x: np.ndarray, y: np.ndarray) -> str:
    """Return points as SVG has them, without those that aren't known."""
    known = np.isfinite(x) & np.isfinite(y)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[known], y[known], strict=True))


def _short(values: Values) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
