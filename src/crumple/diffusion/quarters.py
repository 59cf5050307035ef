"""Designs and curves as the networks of a design see them.

A design is an image of the signed distance to its outline: unlike a binary image it has no edges
that noise of a small level could not move, and its zero is the outline. Curves differ by factors
of a hundred in size, and their error counts relative to it, so a network is shown a strain step's
stress on a linear and on a logarithmic scale, and relative to the size of the curve.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from crumple.diffusion.preconditioning import SIGMA_DATA

FARTHEST = 6  # pixels; what is farther from the outline says nothing more about it
# What makes the root mean square of the distance SIGMA_DATA; 4.45 pixels on 8,192 random designs.
SCALE = SIGMA_DATA / 4.45
FEATURES = 4  # of a strain step


def signed_distance(quarter: NDArray) -> NDArray[np.float32]:
    """Return the distance of each pixel's centre to the outline, positive in the solid.

    Parameters
    ----------
    quarter
        ``(48, 48)``, nonzero where solid; it is continued by its mirror images.

    Returns
    -------
    ndarray
        ``(48, 48)`` in pixels, cut off at ``FARTHEST``.
    """
    margin = FARTHEST + 2
    solid = np.pad(np.asarray(quarter, bool), margin, mode="symmetric")
    distance = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)
    distance -= np.sign(distance) / 2  # from centre to centre: the outline is half a pixel nearer
    inner = distance[margin:-margin, margin:-margin]
    return inner.clip(-FARTHEST, FARTHEST).astype(np.float32)


def encode_quarters(quarter: NDArray) -> Tensor:
    """Return the states ``(n, 1, 48, 48)`` of designs ``(n, 48, 48)``."""
    distance = np.stack([signed_distance(image) for image in quarter])
    return torch.from_numpy(distance)[:, None] * SCALE


def decode_quarters(state: Tensor) -> NDArray[np.uint8]:
    """Return the binary images ``(n, 48, 48)`` of states ``(n, 1, 48, 48)``, 1 where solid."""
    return (state[:, 0] > 0).cpu().numpy().astype(np.uint8)


def curve_features(stress: Tensor, known: Tensor) -> Tensor:
    """Return the features of curves, ``(n, FEATURES * steps)``; 0 where unknown.

    Parameters
    ----------
    stress
        ``(n, steps)`` in units of its root mean square over the training set.
    known
        ``(n, steps)`` bool.
    """
    stress = stress.masked_fill(~known, 0)
    count = known.sum(dim=1, keepdim=True).clamp(min=1)
    size = (stress.square().sum(dim=1, keepdim=True) / count).sqrt().clamp(min=1e-6)
    logarithmic = torch.asinh(30 * stress) / 4
    features = torch.stack([stress, logarithmic, stress / size, known.to(stress)], dim=-1)
    return (features * known[..., None]).flatten(1)
