"""Fields of given designs: p(fields | design), by the space-time model as a forward model.

The solid mask of the state is the clean design, the fields are noise, and no curve is shown. So
what is predicted doesn't know of any target. A design has one deformation, so there is nothing to
choose among: what the denoiser expects at the highest noise level is nearer to it than a sample
that many steps draw, and costs one evaluation (docs/learning.md).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crumple import seeds
from crumple.config import Generation
from crumple.designs import mirror
from crumple.diffusion.model import TrainedModel
from crumple.errors import UserError
from crumple.layout import CELL


def predict_fields(
    model: TrainedModel, quarter: NDArray[np.uint8], settings: Generation, seed: int = 0
) -> NDArray[np.float32]:
    """Predict the fields of designs.

    Parameters
    ----------
    model
        Trained with ``training.known_design`` above 0.
    quarter
        ``(n, 48, 48)`` designs, 1 solid.
    settings
        Highest noise level; how many designs are predicted at once.
    seed
        Of the noise; that of a row is a function of it and of the row's number.

    Returns
    -------
    ndarray
        ``(n, frames, fields, 96, 96)`` in physical units, 0 in the void; frames and fields are
        those of ``model.normalisation``.

    Raises
    ------
    UserError
        When the model doesn't know how to.
    """
    normalisation = model.normalisation
    layout = normalisation.layout
    if not model.known_design:
        raise UserError(
            "this model was trained with training.known_design 0: it draws designs and fields "
            "together and cannot predict the fields of a given design"
        )
    device = next(model.denoiser.parameters()).device
    solid = torch.from_numpy(np.array([mirror(image) for image in quarter], np.float32))
    fields = np.empty((len(solid), layout.frames, layout.fields, CELL, CELL), np.float32)
    for start in range(0, len(solid), settings.batch):
        mask = solid[start : start + settings.batch, None].to(device)
        rows = range(start, start + len(mask))
        noise = torch.stack([layout.noise(CELL, _noise_seed(seed, row), device) for row in rows])
        _, predicted = layout.split(_expected(model, mask, noise, settings.sigma_max))
        fields[start : rows.stop] = (predicted * mask[:, None]).cpu().numpy()
    return fields


def _expected(model: TrainedModel, mask: Tensor, noise: Tensor, sigma_max: float) -> Tensor:
    """Return the expected states of masks ``(batch, 1, 96, 96)``, in physical units."""
    normalisation, batch = model.normalisation, len(mask)
    layout = normalisation.layout
    noise[:, : layout.static] = 0
    fields = mask.new_zeros((batch, layout.frames, layout.fields, CELL, CELL))
    start = normalisation.encode(layout.join(mask, fields)) + noise * sigma_max
    nothing = mask.new_zeros((batch, len(normalisation.curve_strain)))
    given = torch.ones(batch, dtype=torch.bool, device=mask.device)
    with torch.inference_mode():
        state = model.denoiser(
            start, nothing.new_full((batch,), sigma_max), nothing, nothing.bool(), given
        )
    return normalisation.decode(state)


def _noise_seed(seed: int, row: int) -> int:
    return int(seeds.rng(seed, "prediction", row).integers(2**63))
