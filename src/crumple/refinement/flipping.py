"""Designs aimed at a curve pixel by pixel.

A step of the outline (:mod:`crumple.refinement.aiming`) ends in pixels, and rounding it to them
changes a curve by more than the last per cent that a search is after. So the change of the curve by
each of many pixels is predicted, one at a time, and sets of them are looked for that together bring
what the curve lacks: min_x |lack - sum_i x_i effect_i| with x_i 0 or 1. It is matching pursuit
(Mallat and Zhang, IEEE Trans. Signal Process. 41, 1993, p. 3397) with whole coefficients; other
sets are found by weighing the pixels at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crumple import config as cfg
from crumple.layout import QUARTER
from crumple.refinement.aiming import Aim
from crumple.refinement.moves import decode, level_set
from crumple.refinement.pool import EMPTY, Judging, Pool, Start

NEAR = 0.75  # pixels from the outline, within which a pixel may change
PIXELS = 80  # of them that are tried
SETS = 30  # of pixels, that are looked for
LARGEST = (2, 16)  # pixels of a set, at most
WEIGHTS = (0.7, 1.3)  # of the pixels, at random
ROUNDS = 2  # a set on top of the other
TURNS = 60  # of a pursuit; it ends before in all but strange cases


def flipped(
    start: Start,
    aim: Aim,
    judge: Judging,
    generator: np.random.Generator,
    settings: cfg.Designs,
) -> Pool:
    """Change pixels of a design so that its curve comes nearer to the one that is wanted.

    Parameters
    ----------
    start
        The design and its curve.
    aim
        What is wanted.
    judge
        Predicts what pixels change.
    generator
        Chooses them.
    settings
        Acceptance rules.

    Returns
    -------
    Pool
        All acceptable designs that were looked at, with a single pixel or with a set changed.
    """
    pool, merit = EMPTY, np.inf
    quarter, curve = start
    for _ in range(ROUNDS):
        single = judge(one_by_one(quarter, generator, settings), "flip")
        before = judge(quarter[None], "flip").curve_stress[0]
        effect = np.where(aim.known, (single.curve_stress - before)[:, 1:], 0)
        lack = np.where(aim.known, aim.stress - curve[1:], 0)
        sets = [pursue(effect, lack, generator) for _ in range(SETS if len(effect) else 0)]
        changed = [quarter ^ np.any(single.quarter[x] != quarter, axis=0) for x in sets]
        together = judge(acceptable(changed, settings), "flip")
        pool += single + together
        if together.merit.min(initial=np.inf) >= merit:
            break
        best = np.argmin(together.merit)
        quarter, curve = together.quarter[best], together.curve_stress[best]
        merit = together.merit[best]
    return pool


def one_by_one(
    quarter: NDArray, generator: np.random.Generator, settings: cfg.Designs
) -> NDArray[np.uint8]:
    """Return acceptable designs ``(n, 48, 48)`` that differ from one in a pixel of its outline."""
    places = np.argwhere(np.abs(level_set(quarter)) < NEAR)
    chosen = generator.permutation(places)[:PIXELS]
    changed = np.repeat(quarter[None], len(chosen), axis=0)
    changed[np.arange(len(chosen)), *chosen.T] ^= 1
    made = acceptable(changed, settings)
    return made[np.count_nonzero(made != quarter, axis=(1, 2)) == 1]


def acceptable(images: Sequence[NDArray] | NDArray, settings: cfg.Designs) -> NDArray[np.uint8]:
    """Return the designs ``(n, 48, 48)`` among images, without what isn't connected, each once."""
    made = [decode(np.where(image, 1.0, -1.0), settings) for image in images]
    kept = {image.tobytes(): image for image in made if image is not None}
    return np.array([*kept.values()], np.uint8).reshape(-1, QUARTER, QUARTER)


def pursue(effect: NDArray, lack: NDArray, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Choose effects ``(n, d)`` whose sum comes near to ``(d,)``; return which, ``(n,)``.

    In turn, the one is put in or taken out that brings the sum nearest, until none does.
    """
    chosen, rest = np.zeros(len(effect), bool), lack.copy()
    size = np.square(effect).sum(axis=1)
    most = generator.integers(LARGEST[0], LARGEST[1], endpoint=True)
    for _ in range(TURNS):
        sign = np.where(chosen, -1, 1)
        change = size - 2 * sign * (effect @ rest)  # of the squared distance
        change *= generator.uniform(*WEIGHTS, len(effect))
        if np.count_nonzero(chosen) >= most:
            change[~chosen] = np.inf
        best = np.argmin(change)
        if change[best] >= 0:
            break
        rest = rest - sign[best] * effect[best]
        chosen[best] = not chosen[best]
    return chosen
