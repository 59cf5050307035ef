"""Drawn designs, improved under the forward model until their predicted curves meet a target.

The forward model knows better what a design will do than the design model, and says how to change
it. A round aims the best designs that are far from each other at the target
(:mod:`crumple.refinement.aiming`, :mod:`crumple.refinement.flipping`), and changes and mixes the
best of all (:mod:`crumple.refinement.moves`). A search for small errors finds the errors of the
forward model too, so the disagreement of its networks counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crumple import config as cfg
from crumple.diffusion.response import ResponseModel, at_frames
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.metrics import expected_nrmse
from crumple.refinement.aiming import Aim, aimed
from crumple.refinement.flipping import flipped
from crumple.refinement.moves import children, level_set
from crumple.refinement.pool import EMPTY, Pool, apart

STARTS = 6  # designs that are aimed at the target in a round
STEPS = 2  # of each
FLIPPED = 3  # of them, whose pixels are looked at one by one
FAR = 100  # pixels by which designs of two families differ
PARENTS = 8  # best designs that the moves of a round begin with, and as many of other families
CHILDREN = 100  # designs that they make
DIFFERENT = 20  # pixels by which all that are kept differ


class Predicted:
    """Judges designs for a target by the forward model alone.

    Parameters
    ----------
    model
        Forward model.
    goal
        ``(11,)`` target at ``FRAME_STRAIN``, MPa; NaN where it says nothing.
    """

    def __init__(self, model: ResponseModel, goal: NDArray) -> None:
        self.model, self.goal = model, goal

    def __call__(self, quarter: NDArray, source: str | NDArray) -> Pool:
        """Return designs ``(n, 48, 48)`` with what is predicted of them."""
        if not len(quarter):
            return EMPTY
        predicted = self.model.predict(quarter)
        frames = at_frames(predicted, self.goal)
        expected = expected_nrmse(frames.error, frames.spread, self.goal)
        names = np.broadcast_to(source, len(quarter))
        return Pool(quarter, names, predicted.stress, expected, expected)


def refine(
    quarter: NDArray,
    goal: NDArray,
    model: ResponseModel,
    config: cfg.Config,
    generator: np.random.Generator,
) -> NDArray[np.uint8]:
    """Improve designs for a target.

    Parameters
    ----------
    quarter
        ``(n, 48, 48)`` acceptable designs, at least one.
    goal
        ``(11,)`` target at ``FRAME_STRAIN``, MPa; NaN where it says nothing.
    model
        Forward model.
    config
        ``generation`` (how many rounds, how many designs are wanted) and the acceptance rules of
        ``designs``.
    generator
        Source of all choices.

    Returns
    -------
    ndarray
        ``(m, 48, 48)``, at most ``generation.candidates``: the best of families that are ``FAR``
        from each other, then others that differ by ``DIFFERENT`` pixels; in both the smallest
        expected error comes first.
    """
    judge, aim = Predicted(model, goal), aim_at(goal)
    pool = judge(quarter, "model")
    rules, count = config.designs, config.generation.candidates
    for _ in range(config.generation.refinements):
        starts = apart(pool.quarter, _ranked(pool), STARTS, FAR)
        for row in starts:
            pool += aimed(pool.start(row), aim, model, judge, rules, STEPS)
        for row in starts[:FLIPPED]:
            pool += flipped(pool.start(row), aim, judge, generator, rules)
        ranked = _ranked(pool)
        parents = ranked[:PARENTS] + apart(pool.quarter, ranked, PARENTS, FAR)
        made = children(
            [level_set(pool.quarter[row]) for row in parents], CHILDREN, generator, rules
        )
        pool += judge(*made)
    chosen: list[int] = []
    for pixels in (FAR, DIFFERENT):
        chosen += apart(pool.quarter, _ranked(pool), count - len(chosen), pixels, chosen=chosen)
    return pool.quarter[chosen]


def aim_at(goal: NDArray) -> Aim:
    """Return a target ``(11,)`` at ``FRAME_STRAIN`` as a curve, known between known stresses."""
    known = np.isfinite(goal)
    stress = np.interp(CURVE_STRAIN, FRAME_STRAIN[known], goal[known])
    inside = np.interp(CURVE_STRAIN, FRAME_STRAIN, known.astype(float)) == 1
    return Aim(stress[1:], inside[1:])


def _ranked(pool: Pool) -> list[int]:
    return np.argsort(pool.merit, kind="stable").tolist()
