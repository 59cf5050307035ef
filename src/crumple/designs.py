"""Binary unit-cell designs: Gaussian random fields (paper 4.1), acceptance, mirroring, files."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from crumple import config as cfg
from crumple import seeds

SIZE = 48  # pixels along a side of the quarter; the unit cell has twice as many
CONVENTION = "1 is solid, row 0 is the top"


class Design(NamedTuple):
    """One accepted design and how it was found."""

    quarter: np.ndarray  # (48, 48) uint8, upper left quarter, 1 solid
    threshold: float
    tries: int  # fields drawn until one was accepted


def amplitude(size: int, exponent: float) -> np.ndarray:
    """Spectral amplitude |k|^-exponent on the Fourier grid of a (size, size) image, 0 at k = 0."""
    k = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(k[:, None], k[None, :])
    radius[0, 0] = np.inf
    return radius**-exponent


def gaussian_random_field(generator: np.random.Generator, spectrum: np.ndarray) -> np.ndarray:
    """Standardised real part of the inverse DFT of complex white noise times ``spectrum``.

    Parameters
    ----------
    generator
        Source of the noise; 2 n^2 normal numbers are drawn.
    spectrum
        (n, n) amplitudes from :func:`amplitude`.

    Returns
    -------
    numpy.ndarray
        (n, n), mean 0 and standard deviation 1.
    """
    real, imaginary = generator.standard_normal((2, *spectrum.shape))
    field = np.fft.ifft2((real + 1j * imaginary) * spectrum).real
    return (field - field.mean()) / field.std()


def accept(quarter: np.ndarray, settings: cfg.Designs) -> np.ndarray | None:
    """The part of a binary quarter that is one connected domain touching all four sides.

    Parameters
    ----------
    quarter
        (n, n), non-zero where solid.
    settings
        ``side_fraction``: part of each side (rounded down, at least one pixel) that the domain
        must cover; ``islands``: what to do with solid outside that domain.

    Returns
    -------
    numpy.ndarray or None
        (n, n) uint8, or None when there is no such domain (or other solid and ``islands`` is
        ``reject``). Neighbours share an edge; two domains never both qualify unless they are
        apart, and then the larger one counts.
    """
    solid = np.asarray(quarter, bool)
    least = max(1, int(settings.side_fraction * len(solid)))
    if min(side.sum() for side in _sides(solid)) < least:
        return None
    labels, count = ndimage.label(solid)
    if count > 1 and settings.islands == "reject":
        return None
    covering = [
        domain
        for domain in (labels == label for label in range(1, count + 1))
        if min(side.sum() for side in _sides(domain)) >= least
    ]
    return max(covering, key=np.sum).astype(np.uint8) if covering else None


def _sides(image: np.ndarray) -> tuple[np.ndarray, ...]:
    return image[0], image[-1], image[:, 0], image[:, -1]


def sample(seed: int, index: int, settings: cfg.Designs) -> Design:
    """Draw fields and thresholds until one is accepted (paper Algorithm 1).

    The result depends on (seed, index) and the settings only, whatever the sharding.
    """
    generator = seeds.rng(seed, "designs", index)
    spectrum = amplitude(SIZE, settings.spectral_exponent)
    tries = 0
    while True:
        tries += 1
        field = gaussian_random_field(generator, spectrum)
        threshold = generator.uniform(0, settings.threshold_max)
        quarter = accept(field > threshold, settings)
        if quarter is not None:
            return Design(quarter, threshold, tries)


def mirror(quarter: np.ndarray) -> np.ndarray:
    """The (2n, 2n) unit cell whose upper left quarter is given, mirrored along both edges."""
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return np.concatenate([half, half[::-1]], axis=0)
