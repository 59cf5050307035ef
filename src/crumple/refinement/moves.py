"""New designs from known ones: small changes and mixtures of signed distances.

A design is where the signed distance to its outline is positive. Any smooth field may be added to
that, and it may be mixed with that of another design. The outline is a smooth one, as the finite
elements have it: with the distance to the edges of pixels, a move by less than half a pixel would
change none of them. Every move maps signed distances ``(48, 48)`` in pixels to one, with randomness
from a generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

from crumple import config as cfg
from crumple.designs import accept
from crumple.diffusion.quarters import signed_distance
from crumple.layout import QUARTER
from crumple.topology import largest_domain

BLUR = 1.0  # pixels, standard deviation by which an outline is smoothed
NEAR = 2.0  # pixels from the outline, within which that counts
LEAST = 0.02  # pixels; distance of a corner that the smooth outline cuts off
WAVES = (0.02, 4.0)  # pixels, root mean square by which the outline is moved everywhere
EXPONENTS = (1.0, 3.5)  # of the spectrum of those moves; designs are drawn with 3
DENT = (0.8, 5.0)  # pixels, radius of a move at one place
DEPTH = (0.3, 3.0)  # pixels
ATTEMPTS = 20  # to make one acceptable design


def level_set(quarter: NDArray) -> NDArray:
    """Return the signed distance to the smooth outline of a design.

    Blurred by a Gaussian, a straight edge is the normal distribution's integral over the distance;
    so near the outline the distance is its inverse, of the blurred design.

    Parameters
    ----------
    quarter
        ``(48, 48)``, nonzero where solid; it is continued by its mirror images.

    Returns
    -------
    ndarray
        ``(48, 48)`` in pixels, positive exactly where the design is solid.
    """
    distance = signed_distance(quarter).astype(float)
    blurred = gaussian_filter(np.asarray(quarter, float), BLUR, mode="reflect")
    with np.errstate(divide="ignore"):
        smooth = BLUR * ndtri(blurred)
    near = np.abs(distance) < NEAR
    distance[near] = smooth[near]
    solid = np.asarray(quarter, bool)
    return np.where(solid, np.maximum(distance, LEAST), np.minimum(distance, -LEAST))


def smooth_field(generator: np.random.Generator, exponent: float) -> NDArray:
    """Random field ``(48, 48)``, mirror-symmetric at its edges, mean 0 and standard deviation 1."""
    k = np.arange(QUARTER) / 2  # waves per side of the quarter, doubled by the mirror image
    radius = np.hypot(k[:, None], k[None, :])
    radius[0, 0] = np.inf
    field = fft.idctn(generator.standard_normal((QUARTER, QUARTER)) * radius**-exponent)
    return field / field.std()


def wave(distances: Sequence[NDArray], generator: np.random.Generator) -> NDArray:
    """Move the whole outline by a random field: a step in the latent of the random designs."""
    amplitude = np.exp(generator.uniform(*np.log(WAVES)))
    return distances[0] + amplitude * smooth_field(generator, generator.uniform(*EXPONENTS))


def dent(distances: Sequence[NDArray], generator: np.random.Generator) -> NDArray:
    """Move the outline at one place, outward or inward."""
    distance = distances[0]
    rows, columns = np.nonzero(np.abs(distance) < 1)
    place = generator.integers(len(rows))
    y, x = np.ogrid[:QUARTER, :QUARTER]
    radius = np.exp(generator.uniform(*np.log(DENT)))
    depth = np.exp(generator.uniform(*np.log(DEPTH))) * generator.choice([-1, 1])
    square = (y - rows[place]) ** 2 + (x - columns[place]) ** 2
    return distance + depth * np.exp(-square / (2 * radius**2))


def blend(distances: Sequence[NDArray], generator: np.random.Generator) -> NDArray:
    """Mix two designs by the same weight everywhere."""
    weight = generator.uniform(0, 0.5)
    return (1 - weight) * distances[0] + weight * distances[1]


def graft(distances: Sequence[NDArray], generator: np.random.Generator) -> NDArray:
    """Take one design in a part of the quarter, and another one in the rest."""
    field = smooth_field(generator, 3.0) + generator.uniform(-1, 1)
    weight = 1 / (1 + np.exp(-field / 0.2))
    return (1 - weight) * distances[0] + weight * distances[1]


MOVES: tuple[Callable[[Sequence[NDArray], np.random.Generator], NDArray], ...] = (
    wave,
    dent,
    blend,
    graft,
)


def decode(distance: NDArray, settings: cfg.Designs) -> NDArray | None:
    """The design of a signed distance, or None where the rules of the data set forbid it."""
    return accept(largest_domain(distance > 0), settings)


def children(
    parents: Sequence[NDArray],
    count: int,
    generator: np.random.Generator,
    settings: cfg.Designs,
) -> tuple[NDArray, NDArray]:
    """Make designs from others.

    Parameters
    ----------
    parents
        Signed distances, each as likely as another.
    count
        How many are made; a few less where no acceptable one is found.
    generator
        Source of all choices.
    settings
        Acceptance rules.

    Returns
    -------
    quarter : ndarray
        ``(n, 48, 48)`` uint8.
    move : ndarray
        ``(n,)`` name of the move that made each.
    """
    made, names = [], []
    for _ in range(count):
        for _ in range(ATTEMPTS):
            move = MOVES[generator.integers(len(MOVES))]
            one, other = generator.integers(len(parents), size=2)
            pair = [parents[one], parents[other]]
            if generator.random() < 0.5:
                pair[1] = pair[1][:, ::-1]  # the same cell, shifted by half a period
            quarter = decode(move(pair, generator), settings)
            if quarter is not None:
                made.append(quarter)
                names.append(move.__name__)
                break
    return np.array(made, np.uint8).reshape(-1, QUARTER, QUARTER), np.array(names, str)
