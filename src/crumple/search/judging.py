"""What is expected of designs before they are simulated, and how promising they are.

A prediction is a set of curves (:mod:`crumple.search.screening`). Far from what has been simulated
they scatter, which adds to the error of each: counted in full, nothing would be as promising as a
copy of the best design. Not counted at all, the boldest promise would win, which is hardly ever
kept. So a part of it counts, ``DOUBT``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.goals import Goal
from crumple.layout import CURVE_STRAIN
from crumple.refinement.pool import EMPTY, Pool
from crumple.search.screening import DRAWS, Screen

DOUBT = 0.5  # of the scatter, in the same units as the error


class Simulated(NamedTuple):
    """Designs with their simulated curves."""

    quarter: NDArray  # (n, 48, 48)
    curve_stress: NDArray  # (n, 51) MPa
    score: NDArray  # (n,) error, infinite where a limit is exceeded


class Judge:
    """Judges designs for a goal, by the forward model and all that is known.

    Parameters
    ----------
    goal
        What is wanted.
    known
        Simulated designs.
    screen
        Predicts curves.
    generator
        Of the numbers that stand for the scatter, the same for all designs.
    """

    def __init__(
        self, goal: Goal, known: Simulated, screen: Screen, generator: np.random.Generator
    ) -> None:
        self.goal, self.screen = goal, screen
        raw = screen.raw(known.quarter, keep=True)
        self.correction = screen.fit(raw, known.curve_stress, known.score)
        self.draws = generator.standard_normal((DRAWS, len(CURVE_STRAIN) - 1))

    def __call__(self, quarter: NDArray, source: str | NDArray) -> Pool:
        """Return designs ``(n, 48, 48)`` with what is predicted of them.

        Parameters
        ----------
        quarter
            The designs.
        source
            What made them, all or each.
        """
        if not len(quarter):
            return EMPTY
        curves = self.correction.curves(self.screen.raw(quarter), self.draws)
        mean = curves.mean(axis=1)
        expected = np.sqrt(np.square(self.goal.error(curves)).mean(axis=1))
        merit = np.hypot(
            np.sqrt(1 - DOUBT**2) * self.goal.error(mean),
            DOUBT * expected,
        )
        return Pool(quarter, np.broadcast_to(source, len(quarter)), mean, expected, merit)
