"""Smooth outlines of the solid: from pixels, or from the boundary of a given mesh."""

from __future__ import annotations

import numpy as np
import shapely
from contourpy import contour_generator
from scipy.interpolate import CubicSpline

LEVEL = 0.5001  # just above 1/2, so that the contour separates pixels that touch at a corner
PAD = 12  # pixels of the neighbouring cells that the outline is traced through
SMALLEST_AREA = 3.0  # square pixels; smaller holes and islands are dropped
SAMPLES = 4  # points of the smooth outline per contour point


def from_image(image: np.ndarray) -> shapely.MultiPolygon:
    """Smooth solid region of a binary unit cell.

    The contour runs through the mid-points of the pixel edges of the image, continued
    periodically in x and mirrored in y (for a mirror-symmetric cell both are the same). Two
    1/4-1/2-1/4 passes and a periodic cubic spline smooth it. Where two pixels touch at a corner
    only, the contour separates them. Holes and islands under ``SMALLEST_AREA`` are dropped.

    Parameters
    ----------
    image
        (n, n), 1 solid, row 0 = top.

    Returns
    -------
    shapely.MultiPolygon
        The solid inside the unit square, y up; straight on the cell boundary.
    """
    size = len(image)
    padded = np.pad(np.asarray(image, float), ((0, 0), (PAD, PAD)), mode="wrap")
    padded = np.pad(padded, ((PAD, PAD), (0, 0)), mode="symmetric")
    padded = np.pad(padded, 1)
    centres = (np.arange(len(padded)) - PAD - 0.5) / size
    lines = contour_generator(centres, centres, padded[::-1]).lines(LEVEL)
    solids, holes = [], []
    for line in lines:
        area = _signed_area(line[:-1])
        if abs(area) < SMALLEST_AREA / size**2:
            continue
        ring = shapely.Polygon(_smooth_closed(_soften(line[:-1])))
        (solids if area > 0 else holes).append(ring if ring.is_valid else ring.buffer(0))
    solid = shapely.union_all(solids).difference(shapely.union_all(holes))
    return as_multipolygon(solid.intersection(shapely.box(0, 0, 1, 1)))


def as_multipolygon(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """The polygons of a geometry; points and lines (touching boundaries) are left out."""
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, shapely.Polygon)]
    return shapely.MultiPolygon(parts)


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _soften(ring: np.ndarray) -> np.ndarray:
    """Two passes of the weights 1/4, 1/2, 1/4 along a closed ring without repeated end point."""
    for _ in range(2):
        ring = 0.25 * np.roll(ring, 1, 0) + 0.5 * ring + 0.25 * np.roll(ring, -1, 0)
    return ring


def _smooth_closed(ring: np.ndarray) -> np.ndarray:
    """Points of the periodic cubic spline through a closed ring, ``SAMPLES`` per given point."""
    closed = np.vstack([ring, ring[:1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    parameter = np.interp(np.arange(len(ring) * SAMPLES) / SAMPLES, np.arange(len(closed)), length)
    return CubicSpline(length, closed, bc_type="periodic")(parameter)
