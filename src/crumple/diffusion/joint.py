"""Candidates from the space-time model alone: designs and fields at once, as in the paper.

A sample holds a mask and fields; the design is read from the mask. It is cut to what would be
simulated before the forward model predicts its curve, as in :mod:`crumple.diffusion.cascade`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crumple import seeds
from crumple.config import Config, Generation
from crumple.designs import mirror
from crumple.diffusion.data import Normalisation
from crumple.diffusion.model import TrainedModel
from crumple.diffusion.response import FramePrediction, ResponseModel, predict_frames
from crumple.diffusion.sampling import (
    SAMPLERS,
    Noise,
    ancestral,
    cosine_sigmas,
    guided,
    karras_sigmas,
    thresholded,
)
from crumple.errors import UserError
from crumple.layout import CELL, GENERATED_CHANNELS, QUARTER, pixel_height
from crumple.metrics import nrmse, predicted_curve, volume_change
from crumple.targets import Targets
from crumple.topology import design_from_fields, read_designs


def sample(
    model: TrainedModel, stress: Tensor, known: Tensor, noise: Noise, settings: Generation
) -> Tensor:
    """Draw one sample per row of the noise.

    Parameters
    ----------
    model
        From :func:`crumple.diffusion.model.load_model`.
    stress
        ``(batch, steps)`` effective stress in MPa; looked at where ``known``.
    known
        ``(batch, steps)`` bool.
    noise
        Returns noise ``(batch, channels, 96, 96)`` (:meth:`crumple.diffusion.network.Layout.noise`)
        of the start, 0, and of a step of the ancestral sampler.
    settings
        Sampler, noise levels, guidance.

    Returns
    -------
    Tensor
        Of the shape of the noise, physical units; the order of channels is that of
        ``model.normalisation``.
    """
    denoise = guided(
        model.denoiser,
        model.normalisation.encode_curve(stress),
        known,
        settings.guidance,
        settings.guidance_interval,
    )
    if settings.threshold < 1:
        denoise = thresholded(denoise, settings.threshold)
    with torch.inference_mode():
        if settings.sampler == "ancestral":
            sigmas = cosine_sigmas(settings.steps)
            state = ancestral(denoise, noise(0) * sigmas[0], sigmas, noise)
        else:
            sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max)
            state = SAMPLERS[settings.sampler](denoise, noise(0) * settings.sigma_max, sigmas)
    return model.normalisation.decode(state)


def joint_candidates(
    model: TrainedModel,
    response: ResponseModel | None,
    targets: Targets,
    numbers: range,
    config: Config,
) -> dict[str, np.ndarray]:
    """Sample candidates and describe them.

    Parameters
    ----------
    model, response
        Draws samples; predicts the curves of their designs. Without the second a curve is read
        from the sampled fields, which were shown the target and flatter.
    targets
        What to draw for, ``generation.candidates`` each.
    numbers
        Of the candidates, counted over all targets.
    config
        ``seed``, ``generation`` and the acceptance rules of ``designs``.

    Returns
    -------
    dict
        Columns of the store, see :mod:`crumple.candidates`.

    Raises
    ------
    UserError
        When the model doesn't know how to draw designs, or not for these targets or settings.
    """
    published = model.settings.kind == "published"
    if published and not targets.known.all():
        raise UserError(
            "the published network is shown whole curves alone: let the targets say something at "
            "every strain, up to 0.2"
        )
    if config.generation.threshold < 1 and not published:
        raise UserError(
            "generation.threshold cuts states off that go from -1 to 1, which are those of the "
            "published network alone: set it to 1"
        )
    if model.known_design == 1:
        raise UserError(
            "this model was trained with training.known_design 1: it predicts the fields of given "
            "designs and cannot draw any; train it with less, or use generation.method cascade"
        )
    device = next(model.denoiser.parameters()).device
    target = np.array(numbers) // config.generation.candidates
    seed = [int(seeds.rng(config.seed, "generation", i).integers(2**63)) for i in numbers]
    layout = model.normalisation.layout

    def noise(step: int) -> Tensor:
        return torch.stack([layout.noise(CELL, (s + step) % 2**63, device) for s in seed])

    state = sample(
        model,
        torch.tensor(targets.stress[target], dtype=torch.float32, device=device),
        torch.tensor(targets.known[target], device=device),
        noise,
        config.generation,
    )
    physical = state.float().cpu().numpy()
    mask, frames, curve = read_sample(physical, model.normalisation)
    readout = read_designs(mask, config.designs)
    goal = np.where(targets.known[target], targets.stress[target], np.nan)
    if response is None:
        known = np.where(np.isfinite(curve), goal, np.nan)
        with np.errstate(invalid="ignore"):
            error = nrmse(np.nan_to_num(curve), known)
        predicted = FramePrediction(curve, np.full_like(curve, np.nan), error)
    else:
        predicted = predict_frames(response, readout.quarter, goal)
    return {
        "frames": frames.astype(np.float16),
        "mask": mask.astype(np.float16),
        "predicted_stress": predicted.stress.astype(np.float32),
        "predicted_spread": predicted.spread.astype(np.float32),
        "predicted_nrmse": predicted.error.astype(np.float32),
        "target_stress": goal.astype(np.float32),
        "target": target.astype(np.int32),
        "quarter": readout.quarter,
        "status": readout.status,
        "quarter_fields": quarters_from_fields(physical, model.normalisation),
        "seed": np.array(seed, np.int64),
    }


def read_sample(
    physical: np.ndarray, normalisation: Normalisation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read mask, fields and the predicted curve from samples of any kind of model.

    Parameters
    ----------
    physical
        ``(n, channels, 96, 96)`` samples in physical units.
    normalisation
        Says what the channels are.

    Returns
    -------
    mask : ndarray
        ``(n, 96, 96)`` in [0, 1]; without a mask channel what the displacement (paper 4.7) or the
        solid of the least deformed frame says.
    frames : ndarray
        ``(n, steps, 3, 96, 96)`` u1, u2 and s22 on the undeformed cell, 0 in the void, NaN where
        not predicted.
    curve : ndarray
        ``(n, steps)`` predicted effective stress, MPa, NaN where not predicted.
    """
    layout, names = normalisation.layout, normalisation.fields
    static, fields = (part.numpy() for part in layout.split(torch.from_numpy(physical)))
    strain = np.array(normalisation.frame_strain)
    steps = np.searchsorted(normalisation.curve_strain, strain - 1e-9)
    shape = (len(physical), len(normalisation.curve_strain))
    frames = np.full((*shape, len(GENERATED_CHANNELS), CELL, CELL), np.nan, np.float32)
    curve = np.full(shape, np.nan)
    by_name = {name: fields[:, :, i] for i, name in enumerate(names)}
    if "w2" in by_name:
        by_name["u2"] = by_name["w2"] - strain[:, None, None] * pixel_height()

    if normalisation.mask:
        mask = static[:, 0].clip(0, 1)
    elif "solid" in by_name:
        mask = by_name["solid"][:, 0].clip(0, 1)
    else:
        quarters = quarters_from_fields(physical, normalisation)
        mask = np.array([mirror(quarter) for quarter in quarters], np.float32)
    if "s22" in by_name:
        cover = by_name["solid"].clip(0, 1) if "solid" in by_name else (mask > 0.5)[:, None]
        J: np.ndarray | float = 1.0
        if "u1" in by_name and "u2" in by_name:
            displacement = np.stack([by_name["u1"], by_name["u2"]], axis=2)
            J = volume_change(displacement, (mask > 0.5)[:, None])
        curve[:, steps] = predicted_curve(by_name["s22"] * cover, strain, J)
    if normalisation.reference_frame == "lagrangian":
        for channel, name in enumerate(GENERATED_CHANNELS):
            if name in by_name:
                frames[:, steps, channel] = by_name[name] * (mask > 0.5)[:, None]
    return mask, frames, curve


def quarters_from_fields(physical: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Read designs without the mask: from u2 where a model generates it, else from all fields.

    Parameters as in :func:`read_sample`.

    Returns
    -------
    ndarray
        ``(n, 48, 48)`` uint8; all zero for models without fields on the undeformed cell.
    """
    names = list(normalisation.fields)
    if not names or normalisation.reference_frame == "eulerian":
        return np.zeros((len(physical), QUARTER, QUARTER), np.uint8)
    fields = normalisation.layout.split(torch.from_numpy(physical))[1].numpy()
    if "u2" in names:
        fields = fields[:, :, [names.index("u2")]]
    return np.array([design_from_fields(sample) for sample in fields])
