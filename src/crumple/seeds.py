"""Independent random streams: a function of (global seed, stage, index), never of the sharding."""

from __future__ import annotations

from typing import Literal

import numpy as np

STAGES = {
    "designs": 1,
    "training": 2,
    "generation": 3,
    "split": 4,
    "epochs": 5,
    "validation": 6,
    "response": 7,
    "designer": 8,
    "forward": 9,
    "prediction": 10,
    "search": 11,
    "refinement": 12,
}
Stage = Literal[
    "designs",
    "training",
    "generation",
    "split",
    "epochs",
    "validation",
    "response",
    "designer",
    "forward",
    "prediction",
    "search",
    "refinement",
]


def rng(seed: int, stage: Stage, index: int = 0) -> np.random.Generator:
    """Return the generator of one item of one stage.

    Parameters
    ----------
    seed
        Global seed of the run.
    stage
        Name of the stage that draws.
    index
        Global index of the item (design, candidate, epoch ...) within the stage.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STAGES[stage], index)))


def in_validation(seed: int, index: int, fraction: float) -> tuple[bool, float]:
    """Return whether a design is held out, and its place in the order of the held-out ones.

    Both are functions of (seed, index), so that a larger data set keeps its split.
    """
    draw = rng(seed, "split", index).random()
    return bool(draw < fraction), draw
