"""Sizes, channels, strains and units that all stages share; no code but the grid of the pixels.

An image of a unit cell has row 0 at the top: pixel (i, j) is the material point x = (j + 1/2)/96,
y = 1 - (i + 1/2)/96 of the undeformed cell. Lengths are in cell sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUARTER = 48  # pixels along a side of the upper left quarter, which is what a design is
CELL = 2 * QUARTER  # pixels along a side of the unit cell, four mirror images of the quarter

# Strains at which fields are kept (paper 4.2), and those of the curves; positive in compression.
FRAME_STRAIN = np.round(np.append(0.002, np.arange(1, 11) * 0.02), 6)
CURVE_STRAIN = np.round(np.arange(51) * 0.004, 6)
FRAME_STRAIN.flags.writeable = CURVE_STRAIN.flags.writeable = False

CHANNELS = ("u1", "u2", "s22", "mises")  # of a stored frame on the undeformed cell
EULERIAN_CHANNELS = ("solid", "s22", "mises")  # of a stored frame on the deformed cell
GENERATED_CHANNELS = CHANNELS[:3]  # of a generated frame
SCALED = ("u1", "w2", "s22")  # what a network learns; w2 = u2 + strain * y
UNITS = {
    "u1": "cell sides",
    "u2": "cell sides",
    "w2": "cell sides",
    "s22": "MPa",
    "mises": "MPa",
    "curve_stress": "MPa",
    "frame_stress": "MPa",
    "curve_strain": "1",
    "frame_strain": "1",
}


def pixel_height() -> NDArray[np.float64]:
    """Return y (96, 96) of the pixel centres."""
    return np.tile(1 - (np.arange(CELL)[:, None] + 0.5) / CELL, (1, CELL))
