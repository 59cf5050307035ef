"""How far curves and fields are apart, and the curve that a field stands for; pure functions."""

from __future__ import annotations

import numpy as np


def nrmse(stress: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the normalised root mean square error of stress-strain curves (paper eq. 6).

    Parameters
    ----------
    stress, reference
        ``(..., steps)`` effective stress, MPa; they broadcast against each other. Steps where the
        reference is NaN do not count.

    Returns
    -------
    ndarray
        ``(...)`` |stress - reference| / |reference|, a fraction.
    """
    reference = np.asarray(reference, np.float64)
    known = np.isfinite(reference)
    difference = np.where(known, stress - reference, 0)
    return np.linalg.norm(difference, axis=-1) / np.linalg.norm(
        np.where(known, reference, 0), axis=-1
    )


def field_error(field: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the relative L2 error of a field per strain step (paper eq. 7).

    Parameters
    ----------
    field, reference
        ``(..., rows, columns)``, one image per strain step, any unit; void is 0.

    Returns
    -------
    ndarray
        ``(...)`` Frobenius norm of the difference over that of the reference, a fraction.
    """
    reference = np.asarray(reference, np.float64)
    difference = np.linalg.norm(field - reference, axis=(-2, -1))
    return difference / np.linalg.norm(reference, axis=(-2, -1))


def predicted_curve(s22: np.ndarray, frame_strain: np.ndarray) -> np.ndarray:
    """Read the effective stress-strain curve from the vertical stress field (paper 2.3).

    The vertical force per initial width is the mean Cauchy stress over the deformed height, hence
    the factor 1/(1 - strain). A constant offset of the field is taken out: the line through the
    first two points is made to pass through zero.

    Parameters
    ----------
    s22
        ``(..., frames, rows, columns)`` vertical Cauchy stress on the pixels, MPa; void is 0.
    frame_strain
        ``(frames,)`` applied strain, positive in compression.

    Returns
    -------
    ndarray
        ``(..., frames)`` effective nominal stress, MPa, positive in compression.
    """
    strain = np.asarray(frame_strain, np.float64)
    stress = -np.asarray(s22, np.float64).mean(axis=(-2, -1)) / (1 - strain)
    slope = (stress[..., 1] - stress[..., 0]) / (strain[1] - strain[0])
    offset = stress[..., 0] - slope * strain[0]
    return stress - offset[..., None]
