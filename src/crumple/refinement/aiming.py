"""Designs aimed at a curve: Gauss-Newton steps of the outline.

How a curve changes when the outline moves by a smooth field is the gradient of the forward model
(:mod:`crumple.diffusion.response`), corrected by what has been simulated, if anything has; how far
a curve is off is known of a simulated design. Together they give the most likely field that would
bring the curve to the goal. Nobody knows how far the gradient holds, so there is a step for each of
many dampings (Levenberg-Marquardt; Nocedal and Wright, Numerical Optimization, 2006, section 10.3);
the forward model chooses one, and the next step begins there. Starts that are far from each other
lead to different designs.

With J the derivative of the curve's components with respect to the field's amplitudes, S the
variances of these in a likely field, and r what is missing, a step is S J^T (J S J^T + ridge)^-1 r.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from crumple import config as cfg
from crumple.diffusion.quarter_networks import QuarterRegressor
from crumple.diffusion.quarters import SCALE, encode_quarters
from crumple.diffusion.response import SOFT, ResponseModel
from crumple.layout import QUARTER
from crumple.refinement.moves import decode, level_set
from crumple.refinement.pool import EMPTY, Judging, Pool, Start

SHAPES = 10  # cosines over strain that stand for a curve
MODES = 16  # cosines per side that a field is made of
EXPONENT = 2.0  # of the spectrum of fields; designs are drawn with 3
# Times the mean stiffness. The components of a curve differ in stiffness by factors of thousands,
# and what is missing of a good design is in the weak ones.
DAMPINGS = np.geomspace(1, 1e-6, 9)
LARGEST = 3.0  # pixels, root mean square of a step

# What the forward model misses (n, 50), on its own scale, by the features of designs (n, d).
Correcting = Callable[[Tensor], Tensor]


class Aim(NamedTuple):
    """Curve that is wanted."""

    stress: NDArray  # (50,) MPa
    known: NDArray  # (50,) bool; where it says something

    def missing(self, stress: NDArray) -> NDArray:
        """Components ``(SHAPES,)`` of what a curve ``(50,)`` lacks.

        The difference is taken on the forward model's scale, asinh(stress / SOFT), on which it
        changes more evenly, and counts as it does in stress.
        """
        difference = np.arcsinh(self.stress / SOFT) - np.arcsinh(stress / SOFT)
        return components(self.weight() * difference)

    def weight(self) -> NDArray:
        """Stress per difference on the forward model's scale, ``(50,)``; 0 where unknown."""
        return np.where(self.known, np.hypot(self.stress, SOFT), 0)


def components(curves: NDArray) -> NDArray:
    """Return the first amplitudes ``(..., SHAPES)`` of curves ``(..., 50)``."""
    return fft.dct(curves, norm="ortho")[..., :SHAPES]


def jacobian(
    model: ResponseModel, quarter: NDArray, weight: NDArray, correction: Correcting | None = None
) -> NDArray:
    """Return how a design's predicted curve changes when its outline moves.

    Parameters
    ----------
    model
        Forward model.
    quarter
        ``(48, 48)``.
    weight
        ``(50,)`` of :class:`Aim`.
    correction
        Of the model, differentiable.

    Returns
    -------
    ndarray
        ``(SHAPES, MODES, MODES)`` change of a component per amplitude of an orthonormal cosine, in
        pixels outward.
    """
    rows = torch.from_numpy(components(np.diag(weight)).T).float().to(model.mean)
    state = encode_quarters(quarter[None]).to(model.mean).repeat(SHAPES, 1, 1, 1).requires_grad_()
    members = cast(list[QuarterRegressor], list(model.members))
    seen = [member.features(state) for member in members]
    read = [member.read(features) for member, features in zip(members, seen, strict=True)]
    curves = torch.stack(read).mean(dim=0) * model.deviation
    if correction is not None:
        curves = curves + correction(torch.cat(seen, dim=1))
    (gradient,) = torch.autograd.grad((curves * rows).sum(), state)
    pixels = gradient[:, 0].cpu().double().numpy() * SCALE
    return fft.dctn(pixels, axes=(1, 2), norm="ortho")[:, :MODES, :MODES]


def steps(derivative: NDArray, missing: NDArray) -> Iterator[NDArray]:
    """Yield fields ``(48, 48)`` in pixels, which bring a curve the nearer the bolder they are.

    Parameters
    ----------
    derivative
        Of :func:`jacobian`.
    missing
        ``(SHAPES,)`` of :class:`Aim`.
    """
    if not np.any(derivative):
        return
    waves = np.arange(MODES) / 2  # per side of the quarter
    length = np.maximum(np.hypot(waves[:, None], waves), 0.5)
    variance = length ** (-2 * EXPONENT)
    stiffness = np.tensordot(derivative * variance, derivative, axes=((1, 2), (1, 2)))
    unit = np.trace(stiffness) / SHAPES * np.eye(SHAPES)
    for damping in DAMPINGS:
        pull = np.linalg.solve(stiffness + damping * unit, missing)
        amplitude = variance * np.tensordot(pull, derivative, axes=1)
        field = fft.idctn(amplitude, s=(QUARTER, QUARTER), norm="ortho")
        if np.sqrt(np.mean(field**2)) > LARGEST:
            break
        yield field


def aimed(
    start: Start,
    aim: Aim,
    model: ResponseModel,
    judge: Judging,
    settings: cfg.Designs,
    count: int,
    correction: Correcting | None = None,
) -> Pool:
    """Change a design so that its curve comes nearer to the one that is wanted.

    Parameters
    ----------
    start
        The design and its curve.
    aim
        What is wanted.
    model
        Forward model, for its gradient.
    judge
        Chooses among the steps.
    settings
        Acceptance rules.
    count
        At most so many steps, one after the other.
    correction
        Of the forward model.

    Returns
    -------
    Pool
        All acceptable designs on the way.
    """
    pool, merit = EMPTY, np.inf
    quarter, curve = start
    distance = level_set(quarter)
    for _ in range(count):
        derivative = jacobian(model, quarter, aim.weight(), correction)
        moved = [distance + field for field in steps(derivative, aim.missing(curve[1:]))]
        images = [decode(one, settings) for one in moved]
        new = [k for k, one in enumerate(images) if one is not None and np.any(one != quarter)]
        if not new:
            break
        judged = judge(np.array([images[k] for k in new]), "aim")
        pool += judged
        best = np.argmin(judged.merit)
        if judged.merit[best] >= merit:
            break
        distance, merit = moved[new[best]], judged.merit[best]
        quarter, curve = judged.quarter[best], judged.curve_stress[best]
    return pool
