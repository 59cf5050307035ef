"""The periodic cell as a dolfinx problem: mesh, displacement space, constraints, boundary edges.

dolfinx owns mesh, function space, dofmap and geometry. Constraints are an index map: every
component of every node is a free unknown, the top platen's vertical displacement, or zero. Left and
right nodes share their unknowns (period 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from crumple.errors import UserError
from crumple.fem.compat import (
    cell_table,
    create_quadrilateral_mesh,
    displacement_space,
    dolfinx,
)
from crumple.fem.elements import Geometry, build_geometry, volume_factors

TOLERANCE = 1e-7
SMALLEST_AREA = 1e-12  # of a quarter of a cell


@dataclass(frozen=True)
class Cell:
    """A meshed unit cell and its constrained unknowns.

    Attributes
    ----------
    space
        dolfinx displacement space; its dof ``2 n + i`` is component i of node n.
    rest_positions
        (N, 2) undeformed positions, imperfection included, in the order of the dofmap.
    input_nodes
        (N,) row of every dofmap node in the mesh that was given (a triangle's repeated corner is
        a second node with the same row).
    input_cells
        (M,) row of every dolfinx cell in the mesh that was given.
    corners
        (M, 4) nodes of the cells, counter-clockwise.
    node_dofs
        (N, 2) index of every component in the extended vector ``z``.
    cell_dofs
        (M, 8) the same per cell.
    size
        number of free unknowns n; ``z[n]`` is the top platen's vertical displacement and
        ``z[n + 1]`` is zero.
    rest_y
        (n + 2,) undeformed height of every unknown that is a vertical displacement, else 0.
    edges
        (B, 2) boundary edges that can touch others (not on the left and right sides), nodes
        oriented as in their cell.
    attached
        (N,) True where a node is attached to a platen.
    left
        (N,) True on the left side, with ``partner`` the node at the same height on the right.
    """

    space: dolfinx.fem.FunctionSpace
    rest_positions: np.ndarray
    input_nodes: np.ndarray
    input_cells: np.ndarray
    corners: np.ndarray
    geometry: Geometry
    node_dofs: np.ndarray
    cell_dofs: np.ndarray
    size: int
    rest_y: np.ndarray
    edges: np.ndarray
    attached: np.ndarray
    left: np.ndarray
    partner: np.ndarray


def imperfection(points: np.ndarray, amplitude: float) -> np.ndarray:
    """The fixed smooth geometric imperfection (points, 2): of period 1/2 in x, zero on the platens.

    The same field for every design and mesh, so that the buckling branch is a function of the
    design and not of rounding or of the mesh. It has neither mirror symmetry of the cell, which
    would leave two equally good branches, and keeps its one other symmetry: a design that is
    mirrored about x = 1/2 and moved by half a period is again such a design, and deforms alike.
    """
    x, y = points.T
    horizontal = np.sin(np.pi * y) * (0.6 + 0.3 * np.cos(4 * np.pi * x + 1.0))
    horizontal += 0.3 * np.sin(2 * np.pi * y) * (1.0 + np.sin(4 * np.pi * x + 0.4))
    vertical = 0.4 * np.sin(2 * np.pi * y) * np.cos(4 * np.pi * x - 0.7)
    return amplitude * np.column_stack([horizontal, vertical])


def build_cell(nodes: np.ndarray, cells: np.ndarray, platens: str, amplitude: float) -> Cell:
    """Build the dolfinx problem of one cell.

    Parameters
    ----------
    nodes
        (N, 2) undeformed nodes in the unit square, matching on the left and right sides.
    cells
        (M, 4) counter-clockwise quadrilaterals; a triangle repeats its third corner.
    platens
        ``bonded`` (no horizontal motion at top and bottom), ``lubricated`` (free) or ``tied`` (top
        and bottom nodes at the same x move together horizontally).
    amplitude
        size of the fixed imperfection, in cell sides.

    Raises
    ------
    UserError
        When the mesh is damaged, the cell does not reach both platens or its sides do not match.
    """
    check_mesh(nodes, cells)
    nodes, cells, original = _open_triangles(nodes, cells)
    mesh = create_quadrilateral_mesh(nodes, cells)
    space = displacement_space(mesh)
    coordinates = space.tabulate_dof_coordinates()[:, :2]
    corners = cell_table(space.dofmap.list, 4)[:, [0, 1, 3, 2]].astype(np.int64)
    # original_cell_index restores the order of the input; corners then name the input nodes
    input_cells = np.asarray(mesh.topology.original_cell_index)
    input_nodes = np.empty(len(coordinates), np.int64)
    input_nodes[corners] = cells[input_cells]
    # nodes that repeat another one (triangles) are tied to it
    row_of = np.empty_like(input_nodes)
    row_of[input_nodes] = np.arange(len(input_nodes))
    same = row_of[original[input_nodes]]
    unique = same == np.arange(len(same))

    rest = coordinates + imperfection(coordinates, amplitude)
    left, right, bottom, top = (side & unique for side in _sides(coordinates))
    partner = _match(coordinates, left, right, axis=1, what="left and right")
    node_dofs, size = _constrain(coordinates, same, left, partner, bottom, top, platens)
    cell_dofs = node_dofs[corners].reshape(len(corners), 8)
    rest_y = np.zeros(size + 2)
    rest_y[node_dofs[:, 1]] = rest[:, 1]
    rest_y[size:] = 0.0
    return Cell(
        space=space,
        rest_positions=rest,
        input_nodes=original[input_nodes],
        input_cells=input_cells,
        corners=corners,
        geometry=build_geometry(rest[corners]),
        node_dofs=node_dofs,
        cell_dofs=np.ascontiguousarray(cell_dofs),
        size=size,
        rest_y=rest_y,
        edges=_boundary_edges(same[corners], left, right),
        attached=bottom | top,
        left=left,
        partner=partner,
    )


def check_mesh(nodes: np.ndarray, cells: np.ndarray) -> None:
    """Refuse a damaged mesh, which would end in a crash of dolfinx or a wrong answer.

    Raises
    ------
    UserError
        When a node has no cell, or a cell names a node twice or has no positive area.
    """
    unused = np.setdiff1d(np.arange(len(nodes)), cells)
    if len(unused):
        raise UserError(f"node {unused[0]} of the mesh belongs to no cell")
    first, second = np.triu_indices(4, 1)
    twice = cells[:, first] == cells[:, second]
    twice[:, -1] = False  # the third and fourth corner of a triangle
    if twice.any():
        raise UserError(
            f"cell {np.flatnonzero(twice.any(axis=1))[0]} of the mesh names a node twice"
        )
    inverted = ~(volume_factors(nodes[cells]) > SMALLEST_AREA).all(axis=1)
    if inverted.any():
        raise UserError(
            f"cell {np.flatnonzero(inverted)[0]} of the mesh is turned inside out or has no area"
        )


def _open_triangles(nodes, cells):
    """Give the repeated node of a triangle a twin, since dolfinx wants four distinct corners.

    Returns nodes, cells, and for every node the one it repeats (itself, mostly).
    """
    triangles = np.flatnonzero(cells[:, 2] == cells[:, 3])
    repeated = cells[triangles, 3]
    cells = cells.copy()
    cells[triangles, 3] = len(nodes) + np.arange(len(triangles))
    original = np.concatenate([np.arange(len(nodes)), repeated])
    return nodes[original], cells, original


def _sides(points: np.ndarray) -> tuple[np.ndarray, ...]:
    x, y = points.T
    sides = (x < TOLERANCE, x > 1 - TOLERANCE, y < TOLERANCE, y > 1 - TOLERANCE)
    for name, side in zip(("bottom", "top"), sides[2:], strict=True):
        if not side.any():
            raise UserError(f"the mesh has no node on its {name}: a cell must touch both platens")
    return sides


def _match(points, first, second, axis, what):
    """For every node of ``first`` the node of ``second`` at the same position along the side."""
    a, b = np.flatnonzero(first), np.flatnonzero(second)
    a, b = a[np.argsort(points[a, axis])], b[np.argsort(points[b, axis])]
    if len(a) != len(b) or not np.allclose(points[a, axis], points[b, axis], atol=1e-6):
        raise UserError(f"the nodes on the {what} sides of the mesh do not match")
    partner = np.arange(len(points))
    partner[a] = b
    return partner


def _constrain(points, same, left, partner, bottom, top, platens):
    """Map every (node, component) to a free unknown, the platen (n) or zero (n + 1)."""
    count = len(points)
    platen, zero = 2 * count, 2 * count + 1
    pairs = [(2 * np.arange(count) + i, 2 * same + i) for i in range(2)]
    pairs += [(2 * np.flatnonzero(left) + i, 2 * partner[left] + i) for i in range(2)]
    pairs.append((2 * np.flatnonzero(top) + 1, np.full(top.sum(), platen)))
    pairs.append((2 * np.flatnonzero(bottom) + 1, np.full(bottom.sum(), zero)))
    if platens == "bonded":
        held = np.flatnonzero(bottom | top)
    else:
        # a free cell could drift sideways: hold one node
        held = np.flatnonzero(bottom)[:1]
    pairs.append((2 * held, np.full(len(held), zero)))
    if platens == "tied":
        below = _match(points, top, bottom, axis=0, what="top and bottom")
        pairs.append((2 * np.flatnonzero(top), 2 * below[top]))
    rows, cols = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_matrix((np.ones(len(rows)), (rows, cols)), shape=(2 * count + 2,) * 2)
    groups, label = connected_components(graph, directed=False)
    free = np.setdiff1d(np.arange(groups), [label[platen], label[zero]])
    number = np.empty(groups, np.int64)
    number[free] = np.arange(len(free))
    number[label[platen]] = len(free)
    number[label[zero]] = len(free) + 1
    return number[label[: 2 * count]].reshape(count, 2), len(free)


def _boundary_edges(corners, left, right):
    """Edges with one cell, except those on the periodic sides, with the solid on their left."""
    sides = np.concatenate([corners[:, [k, (k + 1) % 4]] for k in range(4)])
    sides = sides[sides[:, 0] != sides[:, 1]]
    keys = np.sort(sides, axis=1)
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    edges = sides[first[counts == 1]]
    on_side = (left[edges].all(axis=1)) | (right[edges].all(axis=1))
    return edges[~on_side]
