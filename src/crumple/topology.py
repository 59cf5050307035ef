"""From sampled fields to a binary design: two read-outs, and whether the result is acceptable.

A design is its upper left quarter (48, 48), 1 solid, row 0 at the top. Both read-outs end in the
acceptance rules that random designs have to meet (:mod:`crumple.designs`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from crumple import config as cfg
from crumple import designs

MASK_LEVEL = 0.5
# In pixels. Noise of single pixels goes, walls of one pixel stay; of held-out random designs one
# pixel in 100,000 changes.
MASK_BLUR = 0.65


def mirror_average(image: np.ndarray) -> np.ndarray:
    """Average an image over its four mirror images.

    Parameters
    ----------
    image
        ``(..., 2m, 2n)`` whole cells.

    Returns
    -------
    ndarray
        ``(..., m, n)`` upper left quarters, averaged over the four quarters turned onto it.
    """
    rows, columns = image.shape[-2] // 2, image.shape[-1] // 2
    folded = (image + image[..., ::-1]) / 2
    folded = (folded + folded[..., ::-1, :]) / 2
    return folded[..., :rows, :columns]


def largest_domain(solid: np.ndarray) -> np.ndarray:
    """Keep the largest 4-connected solid domain of an image; the first one where two tie.

    Parameters
    ----------
    solid
        ``(m, n)``, nonzero where solid.

    Returns
    -------
    ndarray
        ``(m, n)`` uint8; all zero where nothing is solid.
    """
    labels, count = ndimage.label(solid)
    if count == 0:
        return np.zeros(labels.shape, np.uint8)
    sizes = np.bincount(labels.ravel())[1:]
    return (labels == 1 + np.argmax(sizes)).astype(np.uint8)


def design_from_mask(mask: np.ndarray) -> np.ndarray:
    """Read the design from the solid-mask channel of one sample.

    The mask is averaged over the frames, smoothed by a Gaussian of ``MASK_BLUR`` pixels, averaged
    over its four mirror images, and cut at ``MASK_LEVEL``; the largest domain remains.

    Parameters
    ----------
    mask
        ``(96, 96)``, or ``(frames, 96, 96)`` where every frame has its own; 0 void, 1 solid.

    Returns
    -------
    ndarray
        ``(48, 48)`` uint8, the upper left quarter.
    """
    image = mask.reshape(-1, *mask.shape[-2:]).astype(np.float64).mean(axis=0)
    image = ndimage.gaussian_filter(image, MASK_BLUR, mode=("nearest", "wrap"))
    return largest_domain(mirror_average(image) > MASK_LEVEL)


def design_from_fields(fields: np.ndarray, tolerance: float = 0.02) -> np.ndarray:
    """Read the design from the fields, as published for the vertical displacement (paper 4.7).

    A pixel of the upper left quarter is void where every field stays within ``tolerance`` of zero
    at every strain step, relative to the range of that field over the whole sample.

    Parameters
    ----------
    fields
        ``(frames, fields, 96, 96)``, near zero in the void: u2 alone as published, or several
        fields that are not all zero anywhere in the solid.
    tolerance
        Part of the range that counts as zero.

    Returns
    -------
    ndarray
        ``(48, 48)`` uint8, the largest domain of the upper left quarter.
    """
    fields = fields.astype(np.float64)
    rows, columns = fields.shape[-2] // 2, fields.shape[-1] // 2
    largest = np.abs(fields[..., :rows, :columns]).max(axis=0)
    threshold = tolerance * np.ptp(fields, axis=(0, 2, 3))
    return largest_domain((largest > threshold[:, None, None]).any(axis=0))


def acceptance(quarter: np.ndarray, settings: cfg.Designs) -> str:
    """Say whether a read-out is a design that random sampling would have accepted.

    Parameters
    ----------
    quarter
        ``(48, 48)``, nonzero where solid.
    settings
        The rules of the data set.

    Returns
    -------
    str
        ``ok``, or the reason why not.
    """
    if not np.any(quarter):
        return "no solid"
    if designs.accept(quarter, settings) is not None:
        return "ok"
    least = max(1, int(settings.side_fraction * len(quarter)))
    sides = {"top": quarter[0], "bottom": quarter[-1], "left": quarter[:, 0]}
    sides["right"] = quarter[:, -1]
    short = [name for name, side in sides.items() if np.count_nonzero(side) < least]
    if not short:
        return "more than one domain"
    return f"fewer than {least} solid pixels on the {', '.join(short)} of the quarter"


class Readout(NamedTuple):
    """Designs of a batch of samples and whether they may be built."""

    quarter: np.ndarray  # (n, 48, 48) uint8
    status: np.ndarray  # (n,) str, 'ok' or the reason


def read_designs(mask: np.ndarray, settings: cfg.Designs) -> Readout:
    """Read a design from every mask of a batch (:func:`design_from_mask`) and check it.

    Parameters
    ----------
    mask
        ``(n, 96, 96)`` or ``(n, frames, 96, 96)``.
    settings
        The acceptance rules of the data set.
    """
    quarters = [design_from_mask(sample) for sample in mask]
    return Readout(np.array(quarters), np.array([acceptance(q, settings) for q in quarters]))
