"""Line charts as inline SVG: styled by the page's style sheet, read by its script."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 54, 20, 10, 38  # margins around the plot area, in SVG units


class Line(NamedTuple):
    """One curve; ``kind`` is the CSS class that gives it colour and dashes."""

    label: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]


class Axis(NamedTuple):
    """Label, range and scale of an axis."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: np.ndarray) -> np.ndarray:
        """Return where values lie between the ends of the axis, 0 to 1."""
        value = np.asarray(value, float)
        if self.log:
            return np.log(value / self.low) / np.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def ticks(axis: Axis, count: int = 5) -> list[float]:
    """Return about ``count`` round values along an axis.

    A logarithmic axis has its decades with 2 and 5 where they fit, or equal steps where it is
    short.
    """
    if axis.log:
        exponents = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        values = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
        inside = [v for v in values if axis.low <= v * (1 + 1e-9) and v <= axis.high * (1 + 1e-9)]
        if len(inside) > 2 * count:
            return [v for v in inside if f"{v:e}"[0] == "1"]
        if len(inside) > 2:
            return inside
    rough = (axis.high - axis.low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * min((1, 2, 2.5, 5, 10), key=lambda m: abs(m * magnitude - rough))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def upper(values: Sequence[float]) -> float:
    """Return an upper end of an axis that leaves a little room over the values."""
    return 1.06 * max((v for v in values if math.isfinite(v)), default=1.0) or 1.0


def chart(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    background: Sequence[Line] = (),
    size: tuple[int, int] = (460, 320),
    cursor: bool = False,
    title: str = "",
) -> str:
    """Draw curves in one pair of axes.

    Parameters
    ----------
    lines
        Curves, the first one lowest. The page shows their values under the pointer.
    x, y
        The axes; y may be logarithmic.
    background
        Curves that are only drawn, under the others.
    size
        Width and height in SVG units.
    cursor
        Add a vertical line that the script moves with an animation.
    title
        What the chart shows, for screen readers.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    width, height = size
    plot_width, plot_height = width - LEFT - RIGHT, height - TOP - BOTTOM

    def points(line: Line) -> str:
        px = LEFT + x.place(line.x) * plot_width
        py = TOP + (1 - y.place(line.y)) * plot_height
        keep = np.isfinite(px) & np.isfinite(py)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px[keep], py[keep], strict=True))

    def polyline(line: Line) -> str:
        name = f' data-name="{escape(line.label)}"' if line.label else ""
        return f'<polyline class="line {line.kind}"{name} points="{points(line)}"/>'

    marks = []
    for value in ticks(y):
        py = TOP + (1 - float(y.place(value))) * plot_height
        marks.append(
            f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>'
        )
        marks.append(f'<text class="tick y" x="{LEFT - 7}" y="{py + 3.5:.1f}">{value:g}</text>')
    for value in ticks(x):
        px = LEFT + float(x.place(value)) * plot_width
        marks.append(
            f'<text class="tick x" x="{px:.1f}" y="{height - BOTTOM + 16}">{value:.6g}</text>'
        )
    base = height - BOTTOM
    shared = {
        "plot": [LEFT, TOP, plot_width, plot_height],
        "x": [x.low, x.high],
        "lines": [
            {"label": line.label, "kind": line.kind, "x": _short(line.x), "y": _short(line.y)}
            for line in lines
        ],
    }
    return "".join(
        [
            f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" ',
            f'aria-label="{escape(title)}" data-chart="{escape(json.dumps(shared))}">',
            *marks,
            f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{base}" y2="{base}"/>',
            f'<text class="label" x="{LEFT + plot_width / 2:.0f}" y="{height - 5}">'
            f"{escape(x.label)}</text>",
            f'<text class="label" transform="translate(11 {TOP + plot_height / 2:.0f}) '
            f'rotate(-90)">{escape(y.label)}</text>',
            f'<svg x="{LEFT}" y="{TOP}" width="{plot_width}" height="{plot_height}" '
            f'viewBox="{LEFT} {TOP} {plot_width} {plot_height}">',  # cuts what leaves the axes
            f'<g class="background">{"".join(map(polyline, background))}</g>',
            *map(polyline, lines),
            "</svg>",
            f'<line class="cursor" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{base}"/>' * cursor,
            "</svg>",
        ]
    )


def _short(values: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
