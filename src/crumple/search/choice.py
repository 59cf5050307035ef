"""Which simulated designs of a search are shown: the winner, and others of another shape."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crumple.errors import UserError
from crumple.goals import Goal, read_goals
from crumple.search.history import History

RUNNERS_UP = 4
DIFFERENT = 0.1  # part of the pixels; small moves of an outline change a few per cent
TIMES, NEAR = 3.0, 0.05  # a runner-up is at most so many times as far off as the best, or so near
CONTENDERS = 6  # designs that a finer mesh decides between
ALIKE = 1.25  # they are at most so many times as far off as the best


def one_goal(paths: Sequence[Path], name: str | None) -> Goal:
    """Read the goal that a search was for.

    Parameters
    ----------
    paths
        YAML or CSV files; see :func:`crumple.goals.read_goals`.
    name
        Which goal of several; None where there is one.

    Raises
    ------
    UserError
        When a file cannot be read, or it isn't clear which goal is meant.
    """
    goals = {goal.name: goal for goal in read_goals(paths)}
    if name is None and len(goals) == 1:
        return next(iter(goals.values()))
    if name not in goals:
        which = "several goals" if name is None else f"no goal {name}"
        raise UserError(
            f"{', '.join(map(str, paths))}: there is {which}; name one with --goal: "
            f"{', '.join(goals)}"
        )
    return goals[name]


def goal_hash(goal: Goal) -> str:
    """Return the hash of a goal, by which results of a search and its page know it."""
    return hashlib.sha256(goal.model_dump_json().encode()).hexdigest()


def difference(one: NDArray, other: NDArray) -> float:
    """Part of the pixels in which two quarters (48, 48) differ, wherever their tiling begins.

    A cell moved by half its period, sideways or upward, has the quarter flipped; of these the
    nearest counts.
    """
    flips = (other, other[::-1], other[:, ::-1], other[::-1, ::-1])
    return min(float(np.mean(one != flip)) for flip in flips)


def contenders(history: History, tolerance: float) -> list[int]:
    """Choose the designs that are as good as the best one.

    A search tries designs until one fits, so that its best owes a part of that to its mesh. Where
    the goal is met, all that meet it are as good; else those that are ``ALIKE``. Designs that
    exceed a limit of the goal count only where all do.

    Parameters
    ----------
    history
        Simulated designs.
    tolerance
        Error at which the goal counts as met.

    Returns
    -------
    list of int
        At most ``CONTENDERS`` places in the history, the best first.

    Raises
    ------
    UserError
        When no design has a curve.
    """
    error = _counted(history)
    if not np.isfinite(error).any():
        raise UserError(
            f"none of the {len(error)} designs of the search could be simulated: search on with "
            "`crumple design`"
        )
    order = np.argsort(error, kind="stable")[:CONTENDERS]
    least = error[order[0]]
    most = tolerance if least <= tolerance else ALIKE * least
    return order[error[order] <= most].tolist()


def choose(history: History, winner: int, runners_up: int = RUNNERS_UP) -> list[int]:
    """Choose runners-up that differ from the winner, and from each other, in shape.

    Taken one after the other by their error, each must differ from those before it in
    ``DIFFERENT`` of the pixels (:func:`difference`). Designs that exceed a limit of the goal count
    only where all do.

    Parameters
    ----------
    history
        Simulated designs.
    winner
        Its place in the history.
    runners_up
        At most so many.

    Returns
    -------
    list of int
        Places in the history, the winner first.
    """
    error = _counted(history)
    most = max(TIMES * error[winner], NEAR)
    chosen = [winner]
    for place in np.argsort(error, kind="stable"):
        if len(chosen) > runners_up or error[place] > most:
            break
        quarter = history.quarter[place]
        if all(difference(quarter, history.quarter[one]) >= DIFFERENT for one in chosen):
            chosen.append(int(place))
    return chosen


def _counted(history: History) -> NDArray:
    """Return the errors of designs that keep to all limits, or where none does, of all."""
    return history.score if np.isfinite(history.score).any() else history.error
