"""Charts and moving bodies of the page of a search; pure, from what has been read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.goal_check import panel
from crumple.goals import Goal
from crumple.layout import CURVE_STRAIN
from crumple.report.bodies import mesh_body, pack, stress_limit
from crumple.report.charts import Axis, Chart, Dots, Line, chart, upper
from crumple.report.panes import STRAIN, STRESS
from crumple.report.words import GAP, percent
from crumple.search.history import History

QUANTILE = 0.995  # of the nodes: where the colour scale of the plastic strain ends
STRAIN_STOPS = [  # elastic to much plastic strain: the sand of unloaded solid to dark purple
    (222, 216, 203),
    (229, 190, 122),
    (216, 138, 76),
    (178, 78, 92),
    (113, 42, 108),
    (48, 20, 74),
]
ROOM = 0.8  # of the least error that a logarithmic axis shows, below it
LEAST = 1e-4  # error that counts as that where an axis is logarithmic


class Legend(NamedTuple):
    """An entry of the legend of a chart."""

    kind: str  # CSS class
    label: str
    error: str = ""
    as_dot: bool = False


class Layers(NamedTuple):
    """What a chart shows of a goal."""

    lines: list[Line]
    dots: list[Dots]
    legend: list[Legend]


def short(error: float | None) -> str:
    """An error as per cent, with more digits where it is small."""
    if error is None or not np.isfinite(error):
        return "–"
    return percent(error, 2 if error < 0.0995 else 1 if error < 0.995 else 0)


def goal_layers(goal: Goal, top: float) -> Layers:
    """Draw a goal: curves, given points, bands between bounds, and where shapes count.

    Parameters
    ----------
    goal
        What is wanted.
    top
        MPa at the upper end of the axis, where bands without an upper bound end.
    """
    found = Layers([], [], [])
    seen = panel(goal, None)
    for strain, low, high, as_points in seen.bounds:
        if as_points:
            found.lines.append(Line("", "asked", strain, low))
            found.dots.append(Dots("target", strain, low))
            found.legend.append(Legend("target", "asked for", as_dot=True))
        elif np.array_equal(low, high):
            found.lines.append(Line("asked for", "target", strain, low))
            found.legend.append(Legend("target", "asked for"))
        else:
            inside = np.maximum(low, 0), np.minimum(high, top)
            middle, half = (inside[1] + inside[0]) / 2, (inside[1] - inside[0]) / 2
            found.lines.append(Line("", "bounds", strain, middle, half))
            for name, bound in (("at least", low), ("at most", high)):
                known = np.isfinite(bound)
                if known.any():
                    found.lines.append(Line(name, "edge", strain[known], bound[known]))
            found.legend.append(Legend("bounds", "allowed"))
    for start, end, name in seen.shapes:
        ends, half = [start, end], [top / 2, top / 2]
        found.lines.append(Line("", "shape", ends, half, half))
        found.legend.append(Legend("shape", f"{name} asked for"))
    legend = list(dict.fromkeys(found.legend))
    return Layers(found.lines, found.dots, legend)


def stress_chart(
    goal: Goal,
    curves: Sequence[tuple[Line, float | None]],
    background: Sequence[Line],
    title: str,
    cursor: bool = False,
    highest: float = 0.0,
) -> tuple[Chart, list[Legend]]:
    """Draw curves over what is wanted.

    Parameters
    ----------
    goal
        What is wanted.
    curves
        Lines with their errors from the goal, the first one lowest; None: no error is shown.
    background
        Curves that are drawn faintly.
    title
        What the chart shows.
    cursor
        Whether an animation moves with the strain.
    highest
        MPa that the axis reaches at least.
    """
    levels = [b[np.isfinite(b)] for _, *both, _ in panel(goal, None).bounds for b in both]
    top = upper([highest, *np.concatenate([*levels, *(line.y for line, _ in curves)])])
    layers = goal_layers(goal, top)
    drawn = chart(
        layers.lines + [line for line, _ in curves],
        Axis(STRAIN, 0.0, CURVE_STRAIN[-1]),
        Axis(STRESS, 0.0, top),
        background=background,
        dots=layers.dots,
        cursor=cursor,
        title=title,
    )
    entries = [
        Legend(line.kind, line.label, "" if error is None else short(error))
        for line, error in curves
    ]
    return drawn, layers.legend + entries


def best_so_far(history: History) -> NDArray:
    """Least score (n) of every design and those before it; infinite before the first."""
    return np.minimum.accumulate(history.score)


def search_chart(
    history: History, tolerance: float, first_match: float | None, best: int
) -> tuple[Chart, list[Legend]]:
    """Draw how the search went: the error of each design, and the least so far.

    Parameters
    ----------
    history
        All simulated designs, at least one.
    tolerance
        Error at which the goal is met.
    first_match
        Error of the nearest design of the library.
    best
        Place of the winner.
    """
    count = len(history.error)
    number = np.arange(1, count + 1)
    shown = [tolerance, *history.error[np.isfinite(history.error)]]
    low, high = ROOM * max(min(shown), LEAST), max([*shown, first_match or 0.0]) / ROOM
    place = 100 * np.clip(history.error, low, high)
    failed = ~np.isfinite(history.error)
    outside = ~failed & (history.violation != "")
    least = best_so_far(history)
    steps = np.repeat(100 * np.maximum(least, low), 2)[:-1], np.repeat(number, 2)[1:]
    known = np.isfinite(steps[0])
    ends = [0, count]
    lines = [Line("tolerance", "tolerance", ends, [100 * max(tolerance, low)] * 2)]
    legend = [Legend("tolerance", "tolerance", short(tolerance))]
    if first_match is not None:
        lines.append(Line("nearest of the library", "match", ends, [100 * first_match] * 2))
        legend.append(Legend("match", "nearest of the library", short(first_match)))
    lines.append(Line("best so far", "fe", steps[1][known], steps[0][known]))
    legend.append(Legend("fe", "best so far", short(least[-1])))
    names = {"tried": "a simulated design", "outside": "exceeds a limit", "failed": "no result"}
    dots = []
    for kind, mask in (("tried", ~failed & ~outside), ("outside", outside), ("failed", failed)):
        if mask.any():
            labels = [_label(history, k) for k in np.flatnonzero(mask).tolist()]
            dots.append(Dots(kind, number[mask], place[mask], labels))
            legend.append(Legend(kind, names[kind], as_dot=True))
    winner = Dots("best", [number[best]], [place[best]], [_label(history, best)])
    drawn = chart(
        lines,
        Axis("simulations", 0.0, float(count)),
        Axis("error, %", 100 * low, 100 * high, log=True),
        dots=[*dots, winner],
        size=(620, 360),
        title="Error of the simulated designs in the order of the search",
    )
    return drawn, [*legend, Legend("best", "the winner", as_dot=True)]


def _label(history: History, place: int) -> str:
    """What the page says of a design under the pointer."""
    words = f"design {history.index[place]}, {history.source[place]}"
    if history.status[place] != "ok":
        return f"{words}: {history.status[place]}"
    words += f"\nerror {short(history.error[place])}"
    expected = history.predicted_error[place]
    if np.isfinite(expected):
        words += f", expected {short(expected)}"
    return f"{words}\n{history.violation[place]}" if history.violation[place] else words


# --- moving bodies -------------------------------------------------------------------------------


class Scales(NamedTuple):
    """Ends of the colour scales that all bodies of the page share."""

    stress: float  # MPa
    strain: float

    def words(self) -> tuple[str, str]:
        """Both, for people."""
        return f"{self.stress:.0f}{GAP}MPa", f"{self.strain:g}"


def scales(designs: Sequence[Mapping[str, NDArray]]) -> Scales:
    """Choose colour scales for the fields of designs (:data:`crumple.search.result.FIELDS`)."""
    stress = max(stress_limit(one["vertical_stress"]) for one in designs)
    strain = max(float(np.quantile(one["plastic_strain"][-1], QUANTILE)) for one in designs)
    return Scales(stress, max(float(np.ceil(10 * strain)), 1.0) / 10)


def moving_bodies(design: Mapping[str, NDArray], ends: Scales) -> list[dict[str, Any]]:
    """Pack the deformation of a design twice, coloured by vertical stress and plastic strain."""
    mesh = design["nodes"], design["cells"], design["displacement"]
    stress = pack(mesh_body(*mesh, design["vertical_stress"]), -ends.stress, ends.stress)
    strain = pack(mesh_body(*mesh, design["plastic_strain"]), 0.0, ends.strain)
    return [stress | {"colour": "stress"}, strain | {"colour": "strain"}]
