"""What goals were understood as, in words and as a picture, and whether a library covers them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crumple.atomic import claim
from crumple.errors import UserError
from crumple.goals import Goal, read_goals
from crumple.layout import CURVE_STRAIN
from crumple.plotting import Panel, goal_figure
from crumple.progress import progress
from crumple.wishes import Points, Stretch, span, stress_at

SAMPLE = 256  # curves of a library that are compared with all others
USUAL = 0.95  # part of the curves of a library that have another within the usual distance
NEAR = 0.02  # error that needs no warning


def outside(goal: Goal, curves: NDArray) -> str:
    """Say whether a goal is farther from the curves of a library than these are from each other.

    Parameters
    ----------
    goal
        What is wanted.
    curves
        (n, 51) effective stress of the designs of a library, MPa; NaN where they ended early.

    Returns
    -------
    str
        Empty, or a sentence that warns.
    """
    curves = np.asarray(curves, np.float64)
    curves = curves[np.isfinite(curves).all(axis=1)]
    if len(curves) < 2:
        return ""
    nearest = float(goal.error(curves).min())
    usual = float(np.quantile(spacing(curves), USUAL))
    if nearest <= max(usual, NEAR):
        return ""
    sentence = (
        f"{goal.name} is outside what the {len(curves)} designs of the library cover: the nearest "
        f"is {nearest:.0%} away, while {USUAL:.0%} of them have another within {usual:.1%}"
    )
    asked = beyond(goal, curves)
    return f"{sentence}; it asks for {asked}" if asked else sentence


def spacing(curves: NDArray) -> NDArray:
    """Return how far curves are from the nearest other one.

    Parameters
    ----------
    curves
        (n, 51) at least two, MPa.

    Returns
    -------
    ndarray
        (d) NRMSE of at most ``SAMPLE`` of them, evenly spread.
    """
    curves = np.asarray(curves, np.float64)
    rows = np.unique(np.linspace(0, len(curves) - 1, min(SAMPLE, len(curves))).astype(int))
    size = (curves**2).sum(axis=1)
    square = size[rows, None] + size - 2 * curves[rows] @ curves.T  # |a - b|^2, fast
    square[np.arange(len(rows)), rows] = np.inf
    return np.sqrt(np.maximum(square.min(axis=1), 0) / size[rows])


def beyond(goal: Goal, curves: NDArray) -> str:
    """Say where a goal asks for more or less stress than any curve (n, 51) has; may be empty."""
    parts = []
    for item in goal.response:
        bounds = item.wish().bounds()
        if bounds is None:
            continue
        at = stress_at(curves, bounds.strain)
        more, less = bounds.low > at.max(axis=0), bounds.high < at.min(axis=0)
        for strains, word in ((bounds.strain[more], "more"), (bounds.strain[less], "less")):
            if len(strains):
                parts.append(
                    f"{word} stress than any of them at {len(strains)} strains {span(strains)}"
                )
    return " and ".join(parts)


def check_goals(paths: Sequence[Path], picture: Path | None, library: Path | None) -> None:
    """Print what goals were understood as, and draw them.

    Parameters
    ----------
    paths
        YAML or CSV files; see :func:`crumple.goals.read_goals`.
    picture
        PNG file to draw, or None.
    library
        ``dataset.json`` of designs among which the nearest is looked for, or None; where even that
        is far, a warning is printed.

    Raises
    ------
    UserError
        When a goal or the data set cannot be read.
    """
    picture = claim(picture, "check-goal") if picture else None
    goals = read_goals(paths)
    curves = library_curves(library) if library else np.empty((0, len(CURVE_STRAIN)))
    nearest = [goal.error(curves) for goal in goals]
    for goal, errors in zip(goals, nearest, strict=True):
        print(goal.name, *goal.words(), sep="\n  ")
        if len(errors):
            print(f"  nearest of {len(errors)} designs: {errors.min():.1%} away")
        warning = outside(goal, curves)
        if warning:
            print(f"crumple: warning: {warning}", file=sys.stderr)
    if picture is not None:
        panels = [
            panel(goal, curves[errors.argmin()] if len(errors) else None)
            for goal, errors in zip(goals, nearest, strict=True)
        ]
        goal_figure(picture, CURVE_STRAIN, panels)


def library_curves(path: Path) -> NDArray:
    """Read the curves (n, 51) of the valid designs of a data set, MPa.

    Raises
    ------
    UserError
        When it cannot be read or holds no valid design.
    """
    from crumple.dataset import Dataset  # zarr takes half a second

    dataset = Dataset(path)
    count = len(dataset.manifest["shards"])
    found = [np.empty((0, len(CURVE_STRAIN)))]
    for number in progress(range(count), count, "read curves", unit="shard"):
        shard = dataset.shard(number)
        found.append(shard["curve_stress"][:][shard["status"][:] == "ok"].astype(float))
    curves = np.concatenate(found)
    if not len(curves):
        raise UserError(f"{path} holds no valid design to compare with")
    return curves


def panel(goal: Goal, nearest: NDArray | None) -> Panel:
    """What is drawn of a goal."""
    wishes = [item.wish() for item in goal.response]
    levels = [(w.bounds(), isinstance(w, Points)) for w in wishes]
    return Panel(
        goal.name,
        goal.words(),
        [(*bounds, dots) for bounds, dots in levels if bounds is not None],
        [
            (wish.start, wish.end, type(wish).__name__.lower())
            for wish in wishes
            if isinstance(wish, Stretch) and wish.bounds() is None
        ],
        nearest,
    )
