"""Smooth outlines of the solid: from pixels, or from the boundary of a given mesh."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # imports its parts at their first use; a look-up needs none
import shapely
from contourpy import contour_generator

LEVEL = 0.5001  # just above 1/2, so that the contour separates pixels that touch at a corner
PAD = 12  # pixels of the neighbouring cells that the outline is traced through
OFFSET_ARCS = 8  # straight pieces per quarter circle where an offset rounds a corner
SMALLEST_AREA = 3.0  # square pixels; smaller holes and islands are dropped
SAMPLES = 4  # points of a spline per given point
TOUCH = 1e-9  # distance at which an outline point lies on the cell boundary
CORNER = np.radians(60)  # turning angle at which an outline keeps a corner
SIDES = ("left", "right", "bottom", "top")
FREE = -1


class Ring(NamedTuple):
    """A closed outline, cut where it meets the cell boundary and at its corners."""

    points: np.ndarray  # (n, 2); the first one is a break unless there is none; not repeated
    breaks: np.ndarray  # (b + 1,) indices; piece k is points[breaks[k] : breaks[k + 1] + 1]
    sides: np.ndarray  # (b,) index into SIDES, or FREE

    def piece(self, k: int) -> np.ndarray:
        """Points of piece k with both its ends."""
        return self.points[np.arange(self.breaks[k], self.breaks[k + 1] + 1) % len(self.points)]


def from_image(image: np.ndarray, offset: float = 0.0) -> shapely.MultiPolygon:
    """Smooth solid region of a binary unit cell.

    Parameters
    ----------
    image
        (n, n), 1 solid, row 0 = top.
    offset
        Distance in cell sides by which the solid grows outward everywhere; negative: it shrinks.

    Returns
    -------
    shapely.MultiPolygon
        The solid inside the unit square, y up; straight on the cell boundary.
    """
    solid = with_surroundings(image)
    if offset:
        solid = solid.buffer(offset, quad_segs=OFFSET_ARCS)
    return in_cell(solid)


def with_surroundings(image: np.ndarray) -> shapely.Geometry:
    """Smooth solid region of a binary unit cell and of a strip of its neighbours.

    The contour runs through the mid-points of the pixel edges of the image, continued
    periodically in x and mirrored in y (for a mirror-symmetric cell both are the same). Two
    1/4-1/2-1/4 passes and a periodic cubic spline smooth it. What is smaller than the method can
    draw has a defined treatment: where two pixels touch at a corner only, the contour separates
    them; holes and islands under ``SMALLEST_AREA`` are dropped, also those that the cell boundary
    cuts (the area is that of the whole hole, with its periodic image).

    Parameters
    ----------
    image
        (n, n), 1 solid, row 0 = top.

    Returns
    -------
    shapely.Geometry
        The solid inside the unit square and ``PAD`` pixels around it, y up.
    """
    size = len(image)
    padded = np.pad(np.asarray(image, float), ((0, 0), (PAD, PAD)), mode="wrap")
    padded = np.pad(padded, ((PAD, PAD), (0, 0)), mode="symmetric")
    padded = np.pad(padded, 1)  # closes every contour
    centres = (np.arange(len(padded)) - PAD - 0.5) / size
    solids: list[shapely.Geometry] = []
    holes: list[shapely.Geometry] = []
    for line in contour_generator(centres, centres, padded[::-1]).lines(LEVEL):
        line = np.asarray(line)
        area = _signed_area(line[:-1])
        if abs(area) >= SMALLEST_AREA / size**2:
            ring = shapely.Polygon(_spline(_soften(line[:-1]), closed=True))
            (solids if area > 0 else holes).append(ring if ring.is_valid else ring.buffer(0))
    return shapely.union_all(solids).difference(shapely.union_all(holes))


def in_cell(solid: shapely.Geometry) -> shapely.MultiPolygon:
    """The part of a region in the unit square, without parts of no area."""
    inside = shapely.get_parts(solid.intersection(shapely.box(0, 0, 1, 1)))
    return shapely.MultiPolygon([part for part in inside if isinstance(part, shapely.Polygon)])


def from_mesh(nodes: np.ndarray, cells: np.ndarray) -> shapely.MultiPolygon:
    """Smooth solid region that a given mesh covers.

    Cubic splines run through the boundary nodes; corners and the straight pieces on the cell
    boundary are kept.

    Parameters
    ----------
    nodes
        (N, 2) in the unit square; rounding errors on its sides are removed.
    cells
        (M, 4), in either sense of rotation; a triangle repeats its third node.

    Returns
    -------
    shapely.MultiPolygon
        As :func:`from_image`.
    """
    nodes = np.asarray(nodes, float)
    nearest = np.round(nodes)
    nodes = np.where(np.abs(nodes - nearest) < 1e-5, nearest, nodes)
    covered = shapely.coverage_union_all(shapely.polygons(nodes[cells]))
    solid = shapely.Polygon()
    for part in shapely.get_parts(covered):
        rings = [
            shapely.Polygon(_smooth_ring(np.asarray(ring.coords)[:-1]))
            for ring in (part.exterior, *part.interiors)
        ]
        solid = solid.union(rings[0].difference(shapely.union_all(rings[1:])))
    return in_cell(solid)


def split(points: np.ndarray) -> Ring:
    """Cut a closed outline (n, 2) where it meets the cell boundary and at its corners."""
    x, y = points.T
    on_side = np.abs([x, x - 1, y, y - 1]) < TOUCH
    along = on_side & np.roll(on_side, -1, axis=1)  # both ends of the segment on that side
    side = np.where(along.any(axis=0), along.argmax(axis=0), FREE)
    step = np.roll(points, -1, axis=0) - points
    turn = _angle(np.roll(step, 1, axis=0), step)
    corner = (side == FREE) & (np.abs(turn) > CORNER)
    first = np.flatnonzero((side != np.roll(side, 1)) | corner)
    if not len(first):
        return Ring(points, np.array([0, len(points)]), np.array([FREE]))
    return Ring(
        np.roll(points, -first[0], axis=0),
        np.append(first - first[0], len(points)),
        side[first],
    )


def _smooth_ring(points: np.ndarray) -> np.ndarray:
    """Splines through the free pieces of a closed outline, its straight pieces unchanged."""
    ring = split(points)
    if len(ring.sides) == 1:
        return _spline(points, closed=True)
    pieces = [ring.piece(k) for k in range(len(ring.sides))]
    return np.concatenate(
        [
            _spline(piece, closed=False) if side == FREE and len(piece) > 2 else piece[:-1]
            for piece, side in zip(pieces, ring.sides, strict=True)
        ]
    )


def _spline(points: np.ndarray, closed: bool) -> np.ndarray:
    """``SAMPLES`` points per interval of the cubic spline through points; no end point."""
    through = np.vstack([points, points[:1]]) if closed else points
    step = np.hypot(*np.diff(through, axis=0).T)
    length = np.concatenate([[0], np.cumsum(step)])
    at = (length[:-1, None] + step[:, None] * np.arange(SAMPLES) / SAMPLES).ravel()
    kind = "periodic" if closed else "natural"
    return scipy.interpolate.CubicSpline(length, through, bc_type=kind)(at)


def _soften(ring: np.ndarray) -> np.ndarray:
    """Two passes of the weights 1/4, 1/2, 1/4 along a closed ring."""
    for _ in range(2):
        ring = 0.25 * np.roll(ring, 1, 0) + 0.5 * ring + 0.25 * np.roll(ring, -1, 0)
    return ring


def _signed_area(ring: np.ndarray) -> float:
    return 0.5 * float(np.sum(cross(ring, np.roll(ring, -1, axis=0))))


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.arctan2(cross(a, b), np.sum(a * b, axis=-1))


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Component out of the plane of the cross product of vectors (..., 2)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
