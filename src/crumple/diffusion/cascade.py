"""Candidates from the cascade: designs first, judged by the forward model, then their fields.

p(design, fields | curve) = p(design | curve) p(fields | design). Many designs are drawn
(:mod:`crumple.diffusion.designer`), because each costs little. Each is cut to the design that would
be simulated, and the forward model (:mod:`crumple.diffusion.response`), which isn't shown the
target, predicts its curve. The best of them become candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple import config as cfg
from crumple import seeds
from crumple.diffusion.designer import DesignModel, frame_stress
from crumple.diffusion.response import ResponseModel
from crumple.metrics import nrmse
from crumple.topology import acceptance, largest_domain


class Drawn(NamedTuple):
    """Designs drawn for one target, the best first."""

    quarter: NDArray  # (n, 48, 48) uint8
    status: NDArray  # (n,) str, 'ok' or why it isn't acceptable
    stress: NDArray  # (n, 11) predicted, MPa
    spread: NDArray  # (n, 11) standard deviation of the prediction, MPa
    error: NDArray  # (n,) NRMSE of the prediction against the target
    seed: NDArray  # (n,) int64, of the noise


def draw_designs(
    designer: DesignModel,
    response: ResponseModel,
    goal: NDArray,
    target: int,
    config: cfg.Config,
) -> Drawn:
    """Draw designs for one target and keep the most promising ones.

    Parameters
    ----------
    designer, response
        Draws designs; predicts their curves.
    goal
        ``(11,)`` target at ``FRAME_STRAIN``, MPa; NaN where it says nothing.
    target
        Number of the target: the noise depends on it and on ``config.seed``.
    config
        ``generation`` (how many are drawn and kept) and the acceptance rules of ``designs``.

    Returns
    -------
    Drawn
        ``generation.candidates`` of them: acceptable ones before others, different ones before
        repetitions, then by the predicted error.
    """
    settings = config.generation
    numbers = range(target * settings.draws, (target + 1) * settings.draws)
    seed = np.array([seeds.rng(config.seed, "generation", i).integers(2**63) for i in numbers])
    images = [
        designer.sample(np.tile(goal, (len(part), 1)), part.tolist(), settings)
        for part in np.split(seed, range(settings.batch, len(seed), settings.batch))
    ]
    quarter = np.stack([largest_domain(image) for image in np.concatenate(images)])
    status = np.array([acceptance(image, config.designs) for image in quarter])
    prediction = response.predict(quarter)
    stress, spread = frame_stress(prediction.stress), frame_stress(prediction.spread)
    error = nrmse(stress, goal)
    first = np.zeros(len(quarter), bool)
    first[np.unique(quarter.reshape(len(quarter), -1), axis=0, return_index=True)[1]] = True
    best = np.lexsort((error, ~first, status != "ok"))[: settings.candidates]
    return Drawn(quarter[best], status[best], stress[best], spread[best], error[best], seed[best])
