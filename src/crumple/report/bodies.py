"""Deforming bodies for the page: Lagrangian pixel frames become triangles that move.

The outline runs through the mid-points of pixel edges, as that of the finite-element mesh does,
and is softened alike. Predicted and simulated frames go through the same steps, so that what
differs on the screen differs in the data.
"""

from __future__ import annotations

import base64
import zlib
from typing import NamedTuple

import numpy as np
from scipy import sparse

SOFTENING_PASSES = 2
STRESS_QUANTILE = 0.995  # of the solid pixels: where the colour scale ends
LENGTH_UNIT = 1 / 2048  # of the packed coordinates, in cell sides
LEVELS = 127  # packed values run from -127 to 127 between the limits of the colour scale

# Corners of a grid cell: 0 upper left, 1 upper right, 2 lower right, 3 lower left; 4 + k is the
# mid-point of the edge from corner k to the next. Polygons by the bits of the solid corners;
# corners that touch across a diagonal stay apart.
_POLYGONS: dict[int, list[tuple[int, ...]]] = {
    0b0000: [],
    0b0001: [(0, 4, 7)],
    0b0010: [(1, 5, 4)],
    0b0011: [(0, 1, 5, 7)],
    0b0100: [(2, 6, 5)],
    0b0101: [(0, 4, 7), (2, 6, 5)],
    0b0110: [(1, 2, 6, 4)],
    0b0111: [(0, 1, 2, 6, 7)],
    0b1000: [(3, 7, 6)],
    0b1001: [(0, 4, 6, 3)],
    0b1010: [(1, 5, 4), (3, 7, 6)],
    0b1011: [(0, 1, 5, 6, 3)],
    0b1100: [(2, 3, 7, 5)],
    0b1101: [(0, 4, 5, 2, 3)],
    0b1110: [(1, 2, 3, 7, 4)],
    0b1111: [(0, 1, 2, 3)],
}
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])  # (row, column) from the upper left one


class Body(NamedTuple):
    """Triangles that move, with a value that colours them: cell sides, y up."""

    position: np.ndarray  # (frames, vertices, 2) deformed
    value: np.ndarray  # (frames, vertices), of pixel frames sigma_22 in MPa
    triangles: np.ndarray  # (triangles, 3)
    outline: np.ndarray  # (edges, 2) sides of triangles along the outline


def body(solid: np.ndarray, frames: np.ndarray) -> Body:
    """Triangulate the solid pixels of a cell and move them through its frames.

    Parameters
    ----------
    solid
        ``(n, n)``, nonzero where solid, undeformed.
    frames
        ``(frames, 3, n, n)`` u1, u2 in cell sides and sigma_22 in MPa of the pixel centres.

    Returns
    -------
    Body
        Empty arrays where nothing is solid.
    """
    solid = np.asarray(solid, bool)
    grid_solid, grid = _with_margins(solid, np.asarray(frames, np.float64))
    values, triangles, outline = _triangulate(grid_solid, grid)
    values = _soften(values, outline)
    position = values[:, :2] + values[:, 2:4]
    return Body(position.transpose(0, 2, 1), values[:, 4], triangles, outline)


def _with_margins(solid: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put a frame of points on the cell boundary around the pixel centres.

    The cell is periodic in x; on the platens the fields of the nearest pixel hold. Returns the
    solid ``(n + 2, n + 2)`` and ``(frames, 5, n + 2, n + 2)`` x, y, u1, u2, sigma_22.
    """
    n = len(solid)
    centres = (np.arange(n) + 0.5) / n
    axis = np.concatenate([[0.0], centres, [1.0]])
    solid = np.pad(solid, 1, mode="edge")
    fields = np.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    seam = (fields[..., 0] + fields[..., -1]) / 2
    fields[..., 0] = fields[..., -1] = seam
    solid[:, 0] = solid[:, -1] = solid[:, 0] & solid[:, -1]
    x, y = np.meshgrid(axis, 1 - axis)
    places = np.broadcast_to(np.stack([x, y]), (len(frames), 2, n + 2, n + 2))
    return solid, np.concatenate([places, fields], axis=1)


def _triangulate(solid: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values ``(frames, 5, vertices)``, triangles and outline edges by marching squares."""
    rows, columns = solid.shape
    number = np.arange(rows * columns).reshape(rows, columns)
    right = number + rows * columns  # mid-point of the edge to the right neighbour
    below = number + 2 * rows * columns
    bits = sum(
        solid[r : rows - 1 + r, c : columns - 1 + c].astype(int) << k
        for k, (r, c) in enumerate(_CORNERS)
    )
    corner = [number[r : rows - 1 + r, c : columns - 1 + c] for r, c in _CORNERS]
    middle = [right[:-1, :-1], below[:-1, 1:], right[1:, :-1], below[:-1, :-1]]
    names = np.stack(corner + middle)  # (8, rows - 1, columns - 1)
    triangles, outline = [], []
    for pattern, polygons in _POLYGONS.items():
        here = names[:, bits == pattern].T
        for polygon in polygons:
            for a, b in zip(polygon[1:], polygon[2:], strict=False):
                triangles.append(here[:, [polygon[0], a, b]])
            for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                if a >= 4 and b >= 4:
                    outline.append(here[:, [a, b]])
    values = np.concatenate(_edge_values(solid, grid), axis=2)
    used, flat = np.unique(np.concatenate([t.ravel() for t in triangles]), return_inverse=True)
    renumber = np.zeros(3 * rows * columns, np.int64)
    renumber[used] = np.arange(len(used))
    return values[:, :, used], flat.reshape(-1, 3), renumber[np.concatenate(outline)]


def _edge_values(solid: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the grid's values, then those in the middle of the edges to the right and below.

    All are flattened, ``(frames, 5, points)``. Places are averaged; fields are continued from the
    solid end, linearly where its other neighbour is solid too, so that an outline turns with the
    solid beside it.
    """
    flat = [grid.reshape(*grid.shape[:2], -1)]
    for axis in (1, 0):
        ahead = np.roll(grid, -1, axis=2 + axis)
        solid_ahead = np.roll(solid, -1, axis=axis)
        before = _continued(grid, solid, axis, +1)
        after = np.roll(_continued(grid, solid, axis, -1), -1, axis=2 + axis)
        value = np.where(solid, before, np.where(solid_ahead, after, 0.0))
        value[:, :2] = (grid[:, :2] + ahead[:, :2]) / 2
        flat.append(value.reshape(*grid.shape[:2], -1))
    return tuple(flat)


def _continued(grid: np.ndarray, solid: np.ndarray, axis: int, direction: int) -> np.ndarray:
    """Return the fields half a pixel from each point, in ``direction`` along ``axis``."""
    behind = np.roll(grid, direction, axis=2 + axis)
    known = np.roll(solid, direction, axis=axis)
    return np.where(known, 1.5 * grid - 0.5 * behind, grid)


def _soften(values: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Average outline vertices with their two neighbours, 1/4-1/2-1/4; ends stay."""
    count = values.shape[2]
    rows = values.shape[0] * values.shape[1]
    a, b = outline.T
    links = sparse.coo_array((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (count, count))
    inner = links.sum(axis=0) == 2
    for _ in range(SOFTENING_PASSES):
        total = (values.reshape(rows, count) @ links).reshape(values.shape)
        values = np.where(inner, values / 2 + total / 4, values)
    return values


def mesh_body(
    nodes: np.ndarray, cells: np.ndarray, displacement: np.ndarray, value: np.ndarray
) -> Body:
    """Move the quadrilaterals of a mesh, each as two triangles.

    The outline leaves out the sides of the cell, where the solid goes on or a platen lies.

    Parameters
    ----------
    nodes
        ``(vertices, 2)`` undeformed, in cell sides, y up.
    cells
        ``(quadrilaterals, 4)``, counter-clockwise.
    displacement
        ``(frames, vertices, 2)`` in cell sides.
    value
        ``(frames, vertices)`` what colours them.
    """
    cells = np.asarray(cells)
    triangles = cells[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    sides = cells[:, [0, 1, 1, 2, 2, 3, 3, 0]].reshape(-1, 2)
    _, place, count = np.unique(np.sort(sides), axis=0, return_index=True, return_counts=True)
    outline = sides[np.sort(place[count == 1])]
    one, other = nodes[outline[:, 0]], nodes[outline[:, 1]]
    at_side = [np.isclose(end, edge, rtol=0, atol=1e-9) for edge in (0, 1) for end in (one, other)]
    inside = ~((at_side[0] & at_side[1]) | (at_side[2] & at_side[3])).any(axis=1)
    outline = outline[inside]
    return Body(nodes + displacement, value, triangles, outline)


def stress_limit(s22: np.ndarray) -> float:
    """Return the end of a symmetric colour scale, in MPa, rounded up to 5."""
    stress = np.abs(np.asarray(s22, np.float32))
    solid = stress[stress > 0]
    high = np.quantile(solid, STRESS_QUANTILE) if len(solid) else 1.0
    return float(5.0 * np.ceil(high / 5))


def pack(moving: Body, low: float, high: float) -> dict[str, int | str]:
    """Pack a body for the page: integers, differences along the vertices, deflated, base64.

    Parameters
    ----------
    moving
        The body.
    low, high
        Values at the ends of the colour scale; what is beyond them is cut.

    Returns
    -------
    dict
        ``frames``, ``vertices``, ``triangles``, ``edges`` (counts) and ``data``, the little-endian
        16-bit positions (in ``LENGTH_UNIT``), 16-bit triangles and outline, and 8-bit values.
    """
    position = np.round(moving.position / LENGTH_UNIT).astype(np.int64).transpose(0, 2, 1)
    level = np.clip(2 * (moving.value - low) / (high - low) - 1, -1, 1) * LEVELS
    parts = [
        _differences(position, "<i2"),
        _differences(moving.triangles.ravel(), "<i2"),
        _differences(moving.outline.ravel(), "<i2"),
        _differences(np.round(level).astype(np.int64), "i1"),
    ]
    return {
        "frames": len(moving.position),
        "vertices": moving.position.shape[1],
        "triangles": len(moving.triangles),
        "edges": len(moving.outline),
        "data": base64.b64encode(zlib.compress(b"".join(parts), 9)).decode(),
    }


def _differences(values: np.ndarray, kind: str) -> bytes:
    """Return the differences along the last axis as wrapping integers; they compress better."""
    steps = np.diff(values, axis=-1, prepend=0)
    return (
        (steps & ((1 << 8 * np.dtype(kind).itemsize) - 1)).astype(kind.replace("i", "u")).tobytes()
    )
