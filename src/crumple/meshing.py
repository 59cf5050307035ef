"""All-quadrilateral periodic meshes of smooth outlines (paper S1.2).

The outline is cut into chords about two element sides long. Gmsh meshes the polygon of the chords
coarsely with quadrilaterals and some triangles. Every side is then halved, which leaves
quadrilaterals only (a triangle gives three, a quadrilateral four). Last, the new boundary nodes
move from the chords onto the outline and the inner nodes are smoothed, both only as far as no
element suffers.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gmsh
import numpy as np
import shapely

from crumple import outline
from crumple.atomic import resumable_folder, save_npz
from crumple.config import Config
from crumple.designs import DESIGNS, check_cell, mirror
from crumple.errors import UserError
from crumple.outline import FREE, SIDES, TOUCH, Ring, cross
from crumple.progress import progress
from crumple.provenance import fingerprint, hash_designs, made_by, read_record
from crumple.readers import Array, Schema, read_npz

LARGEST_BEND = np.radians(45)  # of the outline along one chord; chords are shortened up to half
FEWEST_CHORDS = 4  # around a closed curve
LARGEST_CORNER = np.radians(140)  # a quadrilateral with a larger corner becomes two triangles
BULGE_FLOOR = 0.3  # shape that moving boundary nodes to the outline must leave
SMOOTHING_FLOOR = 0.4  # shape above which smoothing may take some away
SMOOTHING_PASSES = 4
WORST_ACCEPTED = 0.1  # scaled Jacobian of a mesh that is not tried again
MATCH = 2e-3  # largest difference between opposite sides that is evened out, in cell sides
FALLBACKS = (1.0, 0.93, 0.86, 0.8, 0.7)  # element sizes tried in turn, relative to the one asked


NODES = Array("f", ("nodes", 2), low=-0.5, high=1.5)
CELLS = Array("iu", ("cells", 4), low=0)
MESH = Schema(
    "make it again with `crumple mesh`",
    {"made_by": Array("U"), "status": Array("U"), "nodes": NODES, "cells": CELLS},
    optional={"fallback": Array("U")},
    others=Array("f"),
)


class MeshFailure(Exception):
    """An outline that could not be meshed; the message is the reason."""


class QuadMesh(NamedTuple):
    """A mesh of quadrilaterals in the unit square."""

    nodes: np.ndarray  # (N, 2) float64, y up
    cells: np.ndarray  # (M, 4) int32, counter-clockwise


class Chords(NamedTuple):
    """Straight lines around a closed outline; each becomes two element sides."""

    ends: np.ndarray  # (n, 2): chord k runs from ends[k] to ends[k + 1 modulo n]
    middles: np.ndarray  # (n, 2): points of the outline between the ends


@contextlib.contextmanager
def gmsh_session() -> Iterator[None]:
    """Initialise gmsh once for many meshes; inside another session do nothing."""
    if gmsh.isInitialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    gmsh.initialize(interruptible=False)
    signal.signal(signal.SIGTERM, handler)  # gmsh resets it
    try:
        for name, value in {
            "General.Verbosity": 0,
            "General.NumThreads": 1,
            "Mesh.Algorithm": 8,  # frontal Delaunay for quads
            "Mesh.RecombinationAlgorithm": 1,  # blossom
            "Mesh.RecombineAll": 1,
            "Mesh.RecombineOptimizeTopology": 0,  # it inverts an element once in 200 meshes
            "Mesh.MeshSizeExtendFromBoundary": 0,  # small holes must not refine the inside
        }.items():
            gmsh.option.setNumber(name, value)
        yield
    finally:
        gmsh.finalize()


def mesh_cell(cell: np.ndarray, h: float) -> tuple[QuadMesh, str]:
    """Mesh a binary unit cell; see :func:`mesh_region`.

    Parameters
    ----------
    cell
        (n, n), 1 solid, row 0 = top, that passes :func:`crumple.designs.check_cell`.
    h
        Target length of an element side, in cell sides.
    """
    return mesh_region(outline.from_image(cell), h)


def mesh_region(solid: shapely.Geometry, h: float) -> tuple[QuadMesh, str]:
    """Mesh a solid region as :func:`mesh_polygons` does; on failure try smaller elements.

    Returns
    -------
    mesh : QuadMesh
    fallback : str
        Empty, or what was changed to get the mesh.

    Raises
    ------
    MeshFailure
        When every size in ``FALLBACKS`` failed; the message has the first reason.
    """
    reasons = []
    for factor in FALLBACKS:
        try:
            mesh = mesh_polygons(solid, factor * h)
        except MeshFailure as error:
            reasons.append(str(error))
            continue
        return mesh, "" if factor == 1 else f"element size x {factor}: {reasons[0]}"
    raise MeshFailure(reasons[0])


def mesh_polygons(solid: shapely.Geometry, h: float) -> QuadMesh:
    """Mesh a solid region of the unit cell with quadrilaterals of side about ``h``.

    Parameters
    ----------
    solid
        Polygon or multipolygon in the unit square, straight on the cell boundary, densely
        sampled where it is curved (:mod:`crumple.outline` makes such).
    h
        Target length of an element side, in cell sides.

    Returns
    -------
    QuadMesh
        Nodes on the left and right sides match exactly; those on the bottom and top sides where
        the solid does.

    Raises
    ------
    MeshFailure
        When no mesh without poor elements came out; the message is the reason.

    Notes
    -----
    Call inside :func:`gmsh_session`.
    """
    regions = [
        [outline.split(np.asarray(ring.coords)[:-1]) for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(shapely.orient_polygons(solid))
    ]
    if not regions:
        raise MeshFailure("there is no solid in the cell")
    rings = [ring for region in regions for ring in region]
    if not _match(rings, "left", "right"):
        raise MeshFailure("the solid on the left and right sides of the cell differs")
    _match(rings, "bottom", "top")
    chords = [[_cut(ring, h) for ring in region] for region in regions]
    nodes, coarse = _gmsh(chords, 2 * h)
    nodes, cells, middles = _halve(nodes, *_triangles_and_quads(nodes, coarse), chords)
    return _fit(nodes, cells, middles, [ring for region in chords for ring in region])


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
    return cross(np.roll(edge, 1, axis=1), edge) / (length * np.roll(length, 1, axis=1))


def shape(nodes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """How near each quadrilateral is to a square, (M,): 1 is a square, 0 or less is inverted.

    The least over the corners of 2 (a x b) / (a^2 + b^2) with the sides a and b that meet there;
    unlike the scaled Jacobian it also falls when one side is short.
    """
    corners = nodes[cells]
    edge = np.roll(corners, -1, axis=1) - corners
    squared = np.sum(edge**2, axis=-1)
    area = cross(np.roll(edge, 1, axis=1), edge)
    return (2 * area / (squared + np.roll(squared, 1, axis=1))).min(axis=1)


def quality(mesh: QuadMesh) -> dict[str, float]:
    """Smallest scaled Jacobian and angle (degrees), and the mean and smallest side length."""
    corners = mesh.nodes[mesh.cells]
    edge = np.roll(corners, -1, axis=1) - corners
    length = np.hypot(edge[..., 0], edge[..., 1])
    return {
        "min_scaled_jacobian": float(scaled_jacobian(*mesh).min()),
        "min_angle": float(np.degrees((np.pi - _turns(mesh.nodes, mesh.cells)).min())),
        "mean_side": float(length.mean()),
        "min_side": float(length.min()),
    }


def mesh_shard(config: Config, designs: Path, out: Path) -> None:
    """Mesh one shard of designs, one file ``{index:06d}.npz`` each.

    A file holds ``made_by`` (:mod:`crumple.provenance`), ``status`` ('ok' or the reason of the
    failure), ``nodes``, ``cells``, the figures of :func:`quality` and ``fallback`` (empty, or what
    was changed to get a mesh). The same design gives the same file, so that simulations of it are
    kept when a scheduler has it meshed again. Designs that an interrupted run has meshed are kept.

    Parameters
    ----------
    config
        Settings of the run; ``mesh`` counts here.
    designs
        File of :func:`crumple.designs.sample_shard`.
    out
        Folder, written as ``{out}.partial`` and renamed when complete.
    """
    known = read_npz(designs, DESIGNS)
    index, quarters = known["index"], known["quarter"]
    status = known.get("status", np.full(len(index), "ok"))
    record = made_by("mesh", config, read_record(known["made_by"], designs, DESIGNS.advice))
    steps = list(zip(index, quarters, status, strict=True))
    key = record | {"files": fingerprint([designs])}
    with resumable_folder(out, key) as folder, gmsh_session():
        for i, quarter, reason in progress(steps, len(steps), f"mesh {Path(designs).stem}"):
            path = folder / f"{i:06d}.npz"
            if path.exists():
                continue
            if reason == "ok":
                result = _try_to_mesh(mirror(quarter), config.mesh.element_size)
            else:
                result = _failure(f"not acceptable: {reason}")
            own = record | {"inputs": {"designs": hash_designs([i], [quarter])}}
            save_npz(path, made_by=json.dumps(own), **result)


def read_mesh(path: Path) -> dict[str, np.ndarray]:
    """Read a file of :func:`mesh_shard`.

    Raises
    ------
    UserError
        When the file is missing or damaged, or cells name nodes that aren't there.
    """
    mesh = read_npz(path, MESH)
    if len(mesh["cells"]) and mesh["cells"].max() >= len(mesh["nodes"]):
        raise UserError(
            f"cannot read {path}: its cells name nodes that aren't there; {MESH.advice}"
        )
    return mesh


def _try_to_mesh(cell: np.ndarray, h: float) -> dict[str, Any]:
    try:
        check_cell(cell, "design")
        mesh, fallback = mesh_cell(cell, h)
    except (MeshFailure, UserError) as error:
        return _failure(f"not meshable: {error}")
    return {"status": "ok", **mesh._asdict(), **quality(mesh), "fallback": fallback}


def _failure(reason: str) -> dict[str, Any]:
    return {"status": reason, "nodes": np.empty((0, 2)), "cells": np.empty((0, 4), np.int32)}


def _match(rings: list[Ring], one: str, other: str) -> bool:
    """Give the solid on two opposite sides the same end points (in place), if it matches."""
    axis = 1 if one == "left" else 0
    ends = [_ends_on(rings, SIDES.index(side), axis) for side in (one, other)]
    if len(ends[0]) != len(ends[1]):
        return False
    pairs = list(zip(*ends, strict=True))
    if any(abs(a.points[i, axis] - b.points[j, axis]) > MATCH for (a, i), (b, j) in pairs):
        return False
    for (a, i), (b, j) in pairs:
        mean = 0.5 * (a.points[i, axis] + b.points[j, axis])
        a.points[i, axis] = b.points[j, axis] = mean
        a.points[i, 1 - axis], b.points[j, 1 - axis] = 0, 1
    return True


def _ends_on(rings: list[Ring], side: int, axis: int) -> list[tuple[Ring, int]]:
    """Ring and index of the ends of the solid intervals on a side, sorted by coordinate."""
    ends = [
        (ring, index % len(ring.points))
        for ring in rings
        for k in np.flatnonzero(ring.sides == side)
        for index in ring.breaks[k : k + 2]
    ]
    return sorted(ends, key=lambda end: end[0].points[end[1], axis])


def _cut(ring: Ring, h: float) -> Chords:
    """Cut each piece of an outline into chords."""
    cuts = []
    for k, side in enumerate(ring.sides):
        piece = ring.piece(k)
        if side == FREE:
            # A notch in a side would close if its one chord ran along that side.
            notch = np.abs(piece[0] - piece[-1]).min() < TOUCH
            cut = _cut_curve(piece, h, FEWEST_CHORDS if len(ring.sides) == 1 else 1 + notch)
        else:  # from low to high: opposite sides then get the same numbers
            ends = piece[[0, -1]]
            upward = ends[0].sum() < ends[1].sum()
            cut = _cut_curve(ends if upward else ends[::-1], h, 1)
            cut = cut if upward else cut[::-1]
        cuts.append(cut[:-1])
    points = np.concatenate(cuts)
    if len(points) < 6:
        raise MeshFailure("a part of the solid is smaller than an element")
    return Chords(points[::2], points[1::2])


def _cut_curve(points: np.ndarray, h: float, fewest: int) -> np.ndarray:
    """Ends and middles of chords about 2h long, down to half of that where the curve bends."""
    step = np.diff(points, axis=0)
    length = np.concatenate([[0], np.cumsum(np.hypot(*step.T))])
    centre = 0.5 * (length[1:] + length[:-1])
    direction = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    bend = np.interp(centre + h, centre, direction) - np.interp(centre - h, centre, direction)
    density = np.clip(np.abs(bend) / LARGEST_BEND, 1, 2) / (2 * h)
    chords = np.concatenate([[0], np.cumsum(density * np.diff(length))])
    count = max(fewest, round(chords[-1]))
    at = np.interp(np.linspace(0, chords[-1], 2 * count + 1), chords, length)
    return np.stack([np.interp(at, length, coordinate) for coordinate in points.T], axis=1)


def _gmsh(chords: list[list[Chords]], size: float) -> tuple[np.ndarray, np.ndarray]:
    """Mesh the polygons of the chords with quadrilaterals and some triangles.

    Returns
    -------
    nodes : (n, 2)
        The ends of the chords first, in their order.
    cells : (m, 4)
        Counter-clockwise; a triangle repeats its third node.
    """
    for region in chords:
        if not shapely.Polygon(region[0].ends, [hole.ends for hole in region[1:]]).is_valid:
            raise MeshFailure("the chords of the outline cross each other")
    gmsh.clear()
    geo = gmsh.model.geo
    for region in chords:
        loops = []
        for ring in region:
            points = [geo.addPoint(x, y, 0, size) for x, y in ring.ends]
            lines = [geo.addLine(a, b) for a, b in zip(points, np.roll(points, -1), strict=True)]
            for line in lines:
                geo.mesh.setTransfiniteCurve(line, 2)
            loops.append(geo.addCurveLoop(lines))
        geo.addPlaneSurface(loops)
    geo.synchronize()
    gmsh.option.setNumber("Mesh.MeshSizeMax", size)
    try:
        gmsh.model.mesh.generate(2)
    except Exception as error:  # gmsh raises nothing more specific
        raise MeshFailure(f"gmsh: {error}") from error
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    order = np.argsort(tags)
    nodes = coordinates.reshape(-1, 3)[order, :2]
    triangles, quads = (
        np.searchsorted(tags[order], gmsh.model.mesh.getElementsByType(kind)[1]) for kind in (2, 3)
    )
    ends = np.concatenate([ring.ends for region in chords for ring in region])
    if len(nodes) < len(ends) or np.abs(nodes[: len(ends)] - ends).max() > TOUCH:
        raise MeshFailure("gmsh left out nodes of the outline")
    nodes[: len(ends)] = ends
    return nodes, np.concatenate([triangles.reshape(-1, 3)[:, [0, 1, 2, 2]], quads.reshape(-1, 4)])


def _triangles_and_quads(nodes: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Separate triangles (m, 3) from quadrilaterals (k, 4), and split those with a flat corner.

    Where a boundary node had only one element, that element's corner would stay as flat as the
    outline. The diagonal from that corner gives the node two.
    """
    is_triangle = cells[:, 2] == cells[:, 3]
    triangles, quads = cells[is_triangle, :3], cells[~is_triangle]
    turn = _turns(nodes, quads)
    flat = turn.min(axis=1) < np.pi - LARGEST_CORNER
    places = (turn[flat].argmin(axis=1)[:, None] + np.arange(4)) % 4
    a, b, c, d = np.take_along_axis(quads[flat], places, axis=1).T
    halves = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return np.concatenate([triangles, halves]), quads[~flat]


def _turns(nodes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Angle by which the outline of a cell turns at each corner: pi minus the inner angle."""
    edge = nodes[np.roll(cells, -1, axis=1)] - nodes[cells]
    before = np.roll(edge, 1, axis=1)
    return np.arctan2(cross(before, edge), np.sum(before * edge, axis=-1))


def _halve(
    nodes: np.ndarray, triangles: np.ndarray, quads: np.ndarray, chords: list[list[Chords]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Halve every side of a mesh: a triangle gives three quadrilaterals, a quadrilateral four.

    Returns
    -------
    nodes : (N, 2)
        The given ones, the middles of the sides, the centres of triangles and of quadrilaterals.
    cells : (M, 4)
    middles : (sum of n,)
        Index of the middle of each chord.
    """
    base = len(nodes)

    def sides(cells: np.ndarray) -> np.ndarray:
        pair = np.sort(np.stack([cells, np.roll(cells, -1, axis=-1)]), axis=0)
        return pair[0] * base + pair[1]

    keys = np.unique(np.concatenate([sides(triangles).ravel(), sides(quads).ravel()]))
    new_nodes = [nodes, nodes[np.stack([keys // base, keys % base])].mean(axis=0)]
    cells = []
    centre = base + len(keys)
    for polygons in (triangles, quads):
        new_nodes.append(nodes[polygons].mean(axis=1))
        middle = base + np.searchsorted(keys, sides(polygons))
        centres = np.broadcast_to(centre + np.arange(len(polygons))[:, None], polygons.shape)
        corner_cells = np.stack([polygons, middle, centres, np.roll(middle, 1, axis=1)], axis=-1)
        cells.append(corner_cells.reshape(-1, 4))
        centre += len(polygons)
    rings = [len(ring.ends) for region in chords for ring in region]
    starts = np.cumsum([0, *rings])
    chord_keys = [sides(np.arange(a, b)) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    middles = base + np.searchsorted(keys, np.concatenate(chord_keys))
    return np.concatenate(new_nodes), np.concatenate(cells), middles


def _fit(
    nodes: np.ndarray, cells: np.ndarray, middles: np.ndarray, chords: list[Chords]
) -> QuadMesh:
    """Put the boundary nodes on the outline and smooth the inside."""
    curved = np.concatenate([ring.middles for ring in chords])
    on_chord = np.abs(curved - nodes[middles]).max(axis=1) < TOUCH
    nodes[middles[on_chord]] = curved[on_chord]  # exactly the same on opposite sides
    inner = np.ones(len(nodes), bool)
    inner[: len(middles)] = inner[middles] = False
    nodes = _smooth(nodes, cells, inner)
    for _ in range(2):
        nodes = _bulge(nodes, cells, middles, curved)
        nodes = _smooth(nodes, cells, inner)
    worst = scaled_jacobian(nodes, cells).min()
    if not worst >= WORST_ACCEPTED:
        raise MeshFailure(f"a poor element remained (scaled Jacobian {worst:.3f})")
    return QuadMesh(nodes, cells.astype(np.int32))


def _bulge(
    nodes: np.ndarray, cells: np.ndarray, middles: np.ndarray, curved: np.ndarray
) -> np.ndarray:
    """Move the middles of the chords to the outline, part of the way where elements suffer."""
    floor = np.minimum(shape(nodes, cells), BULGE_FLOOR) - 1e-9
    part = np.ones(len(middles))
    poor = np.ones(1, bool)
    while poor.any():
        moved = nodes.copy()
        moved[middles] += part[:, None] * (curved - nodes[middles])
        poor = shape(moved, cells) < floor
        suffers = np.isin(middles, cells[poor])
        part[suffers] = np.maximum(part[suffers] - 0.25, 0)
    return moved


def _smooth(nodes: np.ndarray, cells: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Move inner nodes to the mean of their neighbours where no element suffers."""
    a, b = cells.ravel(), np.roll(cells, -1, axis=1).ravel()
    a, b = np.concatenate([a, b]), np.concatenate([b, a])
    degree = np.bincount(a, minlength=len(nodes))[:, None]
    for _ in range(SMOOTHING_PASSES):
        floor = np.minimum(shape(nodes, cells), SMOOTHING_FLOOR) - 1e-9
        sums = [np.bincount(a, nodes[b, axis], len(nodes)) for axis in range(2)]
        mean = np.stack(sums, axis=1) / degree
        move = inner.copy()
        poor = np.ones(1, bool)
        while poor.any():
            moved = np.where(move[:, None], mean, nodes)
            poor = shape(moved, cells) < floor
            move[cells[poor]] = False
        nodes = moved
    return nodes
