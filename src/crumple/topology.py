"""From sampled fields to a binary design: the two read-outs, and the designs to verify.

A design is its upper left quarter (48, 48), 1 solid, row 0 at the top. Both read-outs end in the
acceptance rules that random designs have to meet (:mod:`crumple.designs`).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


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


def design_from_mask(mask: np.ndarray, level: float = 0.5) -> np.ndarray:
    """Read the design from the solid-mask channel of one sample.

    The mask is averaged over the frames and over its four mirror images, then cut at ``level``;
    the largest domain remains.

    Parameters
    ----------
    mask
        ``(96, 96)``, or ``(frames, 96, 96)`` where every frame has its own; 0 void, 1 solid.
    level
        Solid where the average exceeds it.

    Returns
    -------
    ndarray
        ``(48, 48)`` uint8, the upper left quarter.
    """
    frames = mask.reshape(-1, *mask.shape[-2:]).astype(np.float64)
    return largest_domain(mirror_average(frames.mean(axis=0)) > level)


def design_from_displacement(u2: np.ndarray, tolerance: float = 0.02) -> np.ndarray:
    """Read the design from the vertical displacement, as published (paper 4.7).

    A pixel of the upper left quarter is void where its displacement stays within ``tolerance`` of
    zero at every strain step, relative to the range of the displacement over the whole sample.

    Parameters
    ----------
    u2
        ``(frames, 96, 96)`` vertical displacement, near zero in the void.
    tolerance
        Part of the range that counts as zero.

    Returns
    -------
    ndarray
        ``(48, 48)`` uint8, the largest domain of the upper left quarter.
    """
    rows, columns = u2.shape[-2] // 2, u2.shape[-1] // 2
    quarter = u2[:, :rows, :columns].astype(np.float64)
    return largest_domain(np.abs(quarter).max(axis=0) > tolerance * np.ptp(u2.astype(np.float64)))
