"""Candidates from the cascade: designs first, judged by the forward model, then their fields.

p(design, fields | curve) = p(design | curve) p(fields | design). Many designs are drawn
(:mod:`crumple.diffusion.designer`), because each costs little. Each is cut to the design that would
be simulated, and the forward model (:mod:`crumple.diffusion.response`), which isn't shown the
target, predicts its curve. The best of them become candidates. Which of those is the first choice
depends on how far the members of the forward model disagree as well (:mod:`crumple.candidates`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crumple import config as cfg
from crumple import seeds
from crumple.designs import mirror
from crumple.diffusion.designer import DesignModel
from crumple.diffusion.joint import quarters_from_fields, read_sample
from crumple.diffusion.model import TrainedModel
from crumple.diffusion.prediction import predict_fields
from crumple.diffusion.response import ResponseModel, predict_frames
from crumple.layout import CELL, FRAME_STRAIN, GENERATED_CHANNELS
from crumple.refinement.refining import refine
from crumple.topology import acceptance, largest_domain


def cascade_candidates(
    designer: DesignModel,
    response: ResponseModel,
    model: TrainedModel | None,
    goal: NDArray,
    target: int,
    config: cfg.Config,
) -> dict[str, NDArray]:
    """Draw designs for one target and describe the most promising ones.

    Parameters
    ----------
    designer, response, model
        Draws designs; predicts their curves; predicts the fields of the candidates. Without the
        last one fields are NaN.
    goal
        ``(11,)`` target at ``FRAME_STRAIN``, MPa; NaN where it says nothing.
    target
        Number of the target: the noise depends on it and on ``config.seed``.
    config
        ``generation`` (how many are drawn and kept) and the acceptance rules of ``designs``.

    Returns
    -------
    dict
        Columns of the store (:mod:`crumple.candidates`), ``generation.candidates`` rows: improved
        designs before others, designs that are acceptable before others, different ones before
        repetitions, then by the predicted error. The seed of an improved design, to which many
        draws contribute, is that of the first draw.
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
    refined = quarter[:0]
    if settings.refinements and np.any(status == "ok"):
        generator = seeds.rng(config.seed, "refinement", target)
        refined = refine(quarter[status == "ok"], goal, response, config, generator)
    quarter = np.concatenate([refined, quarter])
    status = np.concatenate([np.full(len(refined), "ok"), status])
    seed = np.concatenate([np.full(len(refined), seed[0]), seed])
    drawn = np.arange(len(quarter)) >= len(refined)
    predicted = predict_frames(response, quarter, goal)
    repeated = np.ones(len(quarter), bool)
    repeated[np.unique(quarter.reshape(len(quarter), -1), axis=0, return_index=True)[1]] = False
    best = np.lexsort((predicted.error, repeated, status != "ok", drawn))[: settings.candidates]
    count = len(best)
    shape = (count, len(FRAME_STRAIN), len(GENERATED_CHANNELS), CELL, CELL)
    mask = np.stack([mirror(quarter[row]) for row in best]).astype(np.float32)
    frames, by_fields = np.full(shape, np.nan, np.float16), np.zeros_like(quarter[best])
    if model is not None:
        fields = predict_fields(model, quarter[best], settings, int(seed[best[0]]))
        physical = np.concatenate([mask[:, None], fields.reshape(count, -1, CELL, CELL)], axis=1)
        frames = read_sample(physical, model.normalisation)[1].astype(np.float16)
        by_fields = quarters_from_fields(physical, model.normalisation)
    return {
        "frames": frames,
        "mask": mask.astype(np.float16),
        "predicted_stress": predicted.stress[best].astype(np.float32),
        "predicted_spread": predicted.spread[best].astype(np.float32),
        "predicted_nrmse": predicted.error[best].astype(np.float32),
        "target_stress": np.tile(goal, (count, 1)).astype(np.float32),
        "target": np.full(count, target, np.int32),
        "quarter": quarter[best],
        "status": status[best],
        "quarter_fields": by_fields,
        "seed": seed[best],
    }
