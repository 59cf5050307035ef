"""All-quadrilateral periodic meshes of smooth outlines (paper S1.2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import gmsh
import numpy as np
import shapely
from scipy.spatial import cKDTree

QUALITY_FLOOR = 0.25  # scaled Jacobian below which a boundary node stays nearer to its chord
TOUCH = 1e-9  # distance at which an outline point lies on the cell boundary
MATCH = 2e-3  # largest difference between opposite sides that is evened out, in cell sides
CORNER = np.radians(45)  # turning angle at which an outline point is kept as a corner
FEWEST_LINES = 4  # lines around a closed curve without corners
SMOOTHING_PASSES = 6
SIDES = ("left", "right", "bottom", "top")
FREE = -1


class MeshFailure(Exception):
    """An outline that could not be meshed; the message is the reason."""


class Mesh(NamedTuple):
    """A mesh of quadrilaterals in the unit square."""

    nodes: np.ndarray  # (N, 2) float64, y up
    cells: np.ndarray  # (M, 4) int32, counter-clockwise


class Ring(NamedTuple):
    """A closed outline, cut into pieces where it meets the cell boundary or has a corner."""

    points: np.ndarray  # (n, 2), dense, the first one is a break, no repeated end point
    breaks: np.ndarray  # (b + 1,) indices; piece k is points[breaks[k] : breaks[k + 1] + 1]
    sides: np.ndarray  # (b,) index into SIDES, or FREE


class Lines(NamedTuple):
    """Boundary lines of a closed ring; each becomes two element sides."""

    ends: np.ndarray  # (n, 2): line k runs from ends[k] to ends[k + 1 modulo n]
    middles: np.ndarray  # (n, 2), on the outline half-way between the ends


@contextlib.contextmanager
def gmsh_session() -> Iterator[None]:
    """Initialise gmsh once for many meshes."""
    gmsh.initialize(interruptible=False)
    try:
        for name, value in {
            "General.Verbosity": 0,
            "General.NumThreads": 1,
            "Mesh.Algorithm": 8,  # frontal Delaunay for quads
            "Mesh.RecombinationAlgorithm": 3,  # blossom, full quad
            "Mesh.RecombineAll": 1,
        }.items():
            gmsh.option.setNumber(name, value)
        yield
    finally:
        gmsh.finalize()


def mesh_polygons(solid: shapely.Geometry, h: float) -> Mesh:
    """Mesh a solid region of the unit cell with quadrilaterals of side about ``h``.

    Every boundary line spans two element sides. Gmsh meshes the polygon of these chords; then
    the nodes between the ends of each chord move onto the outline and the mesh is smoothed.
    Nodes on opposite sides of the cell match exactly where the solid does.

    Parameters
    ----------
    solid
        Polygon or multipolygon in the unit square, straight on the cell boundary, densely
        sampled elsewhere.
    h
        Target length of an element side, in cell sides.

    Raises
    ------
    MeshFailure
        When no valid mesh of quadrilaterals came out; the message is the reason.

    Notes
    -----
    Call inside :func:`gmsh_session`.
    """
    regions = [
        [_split(np.asarray(ring.coords)[:-1]) for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(shapely.orient_polygons(solid))
    ]
    if not regions:
        raise MeshFailure("there is no solid in the cell")
    rings = [ring for region in regions for ring in region]
    _match(rings, "left", "right", required=True)
    _match(rings, "bottom", "top", required=False)
    lines = [[_sample(ring, h) for ring in region] for region in regions]
    _check_chords(lines)
    nodes, cells = _gmsh_quads(lines, h)
    return _improve(nodes, cells, [ring for region in lines for ring in region])


def _split(points: np.ndarray) -> Ring:
    """Cut a closed outline where it meets the cell boundary and at its corners."""
    x, y = points.T
    on_side = np.abs([x, x - 1, y, y - 1]) < TOUCH
    along = on_side & np.roll(on_side, -1, axis=1)  # both ends of the segment on that side
    side = np.where(along.any(0), along.argmax(0), FREE)
    step = np.roll(points, -1, 0) - points
    before = np.roll(step, 1, 0)
    turn = np.arctan2(_cross(before, step), np.sum(before * step, axis=1))
    first = np.flatnonzero((side != np.roll(side, 1)) | ((side == FREE) & (np.abs(turn) > CORNER)))
    if not len(first):
        return Ring(points, np.array([0, len(points)]), np.array([FREE]))
    return Ring(
        np.roll(points, -first[0], axis=0),
        np.append(first - first[0], len(points)),
        side[first],
    )


def _match(rings: list[Ring], one: str, other: str, required: bool) -> None:
    """Give the solid on two opposite sides exactly the same end points (in place)."""
    axis = 1 if one == "left" else 0
    a, b = (_intervals(rings, SIDES.index(side), axis) for side in (one, other))
    matches = len(a) == len(b)
    if matches and a:
        low_high = np.array([[v for v, *_ in pair] for pair in (a, b)])
        matches = np.abs(low_high[0] - low_high[1]).max() < MATCH
    if not matches:
        if required:
            raise MeshFailure(f"the solid on the {one} and {other} sides of the cell differs")
        return
    for (value, ring, index), (value_other, ring_other, index_other) in zip(a, b, strict=True):
        mean = 0.5 * (value + value_other)
        ring.points[index, axis] = ring_other.points[index_other, axis] = mean
    for ends, level in ((a, 0.0), (b, 1.0)):
        for _, ring, index in ends:
            ring.points[index, 1 - axis] = level


def _intervals(rings: list[Ring], side: int, axis: int) -> list[tuple[float, Ring, int]]:
    """Coordinate, ring and index of each end of the solid intervals on a side, sorted."""
    ends = [
        (ring.points[index % len(ring.points), axis], ring, index % len(ring.points))
        for ring in rings
        for k in np.flatnonzero(ring.sides == side)
        for index in ring.breaks[k : k + 2]
    ]
    return sorted(ends, key=lambda end: end[0])


def _sample(ring: Ring, h: float) -> Lines:
    """Points at equal distances of about ``h`` along each piece, every second one an end."""
    points = []
    for k, side in enumerate(ring.sides):
        piece = ring.points[np.arange(ring.breaks[k], ring.breaks[k + 1] + 1) % len(ring.points)]
        closed = len(ring.sides) == 1
        if side == FREE:
            points.append(_resample(piece, 2 * h, FEWEST_LINES if closed else 1)[:-1])
        else:  # the same numbers on opposite sides, whatever the direction
            low_first = piece[[0, -1]][np.argsort(piece[[0, -1]].sum(1))]
            straight = _resample(low_first, 2 * h, 1)
            points.append((straight if piece[0].sum() < piece[-1].sum() else straight[::-1])[:-1])
    both = np.concatenate(points)
    return Lines(both[::2], both[1::2])


def _resample(points: np.ndarray, spacing: float, fewest: int) -> np.ndarray:
    """Points of a polyline at equal arc lengths: n lines of about ``spacing``, halved."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    lines = max(fewest, round(length[-1] / spacing))
    at = np.linspace(0, length[-1], 2 * lines + 1)
    return np.stack([np.interp(at, length, coordinate) for coordinate in points.T], axis=1)


def _check_chords(lines: list[list[Lines]]) -> None:
    """Raise when the straight chords cross each other."""
    parts = [shapely.Polygon(r[0].ends, [hole.ends for hole in r[1:]]) for r in lines]
    if not all(part.is_valid for part in parts):
        raise MeshFailure("the chords of the outline cross each other")


def _gmsh_quads(lines: list[list[Lines]], h: float) -> tuple[np.ndarray, np.ndarray]:
    """Mesh the polygons of the chords with gmsh."""
    gmsh.clear()
    geo = gmsh.model.geo
    for region in lines:
        loops = []
        for ring in region:
            tags = [geo.addPoint(x, y, 0, h) for x, y in ring.ends]
            curves = [geo.addLine(a, b) for a, b in zip(tags, tags[1:] + tags[:1], strict=True)]
            for curve in curves:
                geo.mesh.setTransfiniteCurve(curve, 3)
            loops.append(geo.addCurveLoop(curves))
        geo.addPlaneSurface(loops)
    geo.synchronize()
    try:
        gmsh.model.mesh.generate(2)
    except Exception as error:
        raise MeshFailure(f"gmsh: {error}") from error
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    triangles, _ = gmsh.model.mesh.getElementsByType(2)
    _, connectivity = gmsh.model.mesh.getElementsByType(3)
    if len(triangles) or not len(connectivity):
        raise MeshFailure(f"gmsh left {len(triangles)} triangles")
    index = np.zeros(int(tags.max()) + 1, np.int64)
    index[tags] = np.arange(len(tags))
    used, cells = np.unique(index[connectivity], return_inverse=True)
    nodes = coordinates.reshape(-1, 3)[used, :2]
    cells = cells.reshape(-1, 4)
    clockwise = scaled_jacobian(nodes, cells).max(1) < 0
    cells[clockwise] = cells[clockwise][:, ::-1]
    return nodes, cells


def _improve(nodes: np.ndarray, cells: np.ndarray, rings: list[Lines]) -> Mesh:
    """Put the boundary nodes on the outline and smooth, without spoiling any element."""
    ends = np.concatenate([ring.ends for ring in rings])
    middles = np.concatenate([ring.middles for ring in rings])
    chords = np.concatenate([0.5 * (r.ends + np.roll(r.ends, -1, 0)) for r in rings])
    distance, found = cKDTree(nodes).query(np.concatenate([ends, chords]))
    if distance.max() > 1e-6:
        raise MeshFailure("gmsh moved or left out boundary nodes")
    nodes = nodes.copy()
    nodes[found] = np.concatenate([ends, chords])
    inner = np.ones(len(nodes), bool)
    inner[found] = False
    odd = found[len(ends) :]
    nodes = _smooth(nodes, cells, inner)
    for _ in range(2):
        nodes = _bulge(nodes, cells, odd, chords, middles)
        nodes = _smooth(nodes, cells, inner)
    worst = scaled_jacobian(nodes, cells).min()
    if worst <= 0:
        raise MeshFailure(f"an element is inverted (scaled Jacobian {worst:.3f})")
    return Mesh(nodes, cells.astype(np.int32))


def _bulge(nodes, cells, odd, chords, middles) -> np.ndarray:
    """Move the mid-nodes of the chords onto the outline, as far as quality allows."""
    before = scaled_jacobian(nodes, cells).min(1)
    floor = np.minimum(before, QUALITY_FLOOR) - 1e-9
    part = np.ones(len(odd))
    for _ in range(8):
        moved = nodes.copy()
        moved[odd] = chords + part[:, None] * (middles - chords)
        poor = scaled_jacobian(moved, cells).min(1) < floor
        if not poor.any():
            return moved
        touched = np.zeros(len(nodes), bool)
        touched[cells[poor]] = True
        part = np.where(touched[odd], np.maximum(part - 0.25, 0), part)
    return nodes


def _smooth(nodes: np.ndarray, cells: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Move inner nodes toward the mean of their neighbours where no element suffers."""
    a, b = cells.ravel(), np.roll(cells, -1, axis=1).ravel()
    degree = np.bincount(np.concatenate([a, b]), minlength=len(nodes))
    for _ in range(SMOOTHING_PASSES):
        before = scaled_jacobian(nodes, cells).min(1)
        floor = np.minimum(before, 0.6) - 1e-9
        mean = np.stack(
            [
                (
                    np.bincount(a, nodes[b, axis], len(nodes))
                    + np.bincount(b, nodes[a, axis], len(nodes))
                )
                / degree
                for axis in range(2)
            ],
            axis=1,
        )
        move = inner.copy()
        for _ in range(10):
            moved = np.where(move[:, None], mean, nodes)
            poor = scaled_jacobian(moved, cells).min(1) < floor
            if not poor.any():
                nodes = moved
                break
            move[cells[poor]] = False
    return nodes


def scaled_jacobian(nodes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Sine of the corner angles of quadrilaterals, negative where a corner is inverted.

    Returns
    -------
    numpy.ndarray
        (M, 4); the minimum over a cell is its scaled Jacobian, 1 for a rectangle.
    """
    corners = nodes[cells]
    edge = np.roll(corners, -1, axis=1) - corners
    length = np.hypot(edge[..., 0], edge[..., 1])
    return _cross(np.roll(edge, 1, axis=1), edge) / (length * np.roll(length, 1, axis=1))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
