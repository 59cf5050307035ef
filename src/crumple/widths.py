"""The narrowest strut and the narrowest gap of a design, measured on its smooth outline.

Shrink the solid by r on all sides. As long as 2 r is less than the narrowest strut, all that
changes is the shape; then that strut breaks, and the solid has another number of parts and holes.
So the width of the narrowest strut is twice the least r at which the topology changes, and the
narrowest gap, or hole, is found alike by growing the solid. In the words of Morse theory, r is the
first critical value of the distance to the outline. Corners and free ends, which no skeleton or
largest inscribed circle can tell from thin struts, do not count.

The outline is that which is meshed, exported and built; pixels would give widths in whole pixels,
and 1.4 times too much or too little along diagonals. The topology is that of the tiling: struts
and gaps that the boundary of the cell cuts are measured whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
import shapely.affinity

from crumple import outline
from crumple.layout import CELL

WIDEST = 20.0  # pixels; nothing wider is measured
STEP = 0.25  # pixels by which the solid shrinks or grows between two looks at its topology
HALVINGS = 4  # of the last step
SIMPLER = 0.01  # pixels that the outline may move where points are left out
ARCS = 4  # straight pieces per quarter circle
ASIDE = 0.1234 / CELL  # by which the solid is moved: outlines may run along the sides of the cell


class Widths(NamedTuple):
    """Narrowest places of a tiling, in pixels (1/96 of a cell side); ``WIDEST`` where wider."""

    strut: float
    gap: float


def narrowest(cell: np.ndarray) -> Widths:
    """Measure the narrowest strut and gap of a unit cell, to 0.03 pixels.

    Parameters
    ----------
    cell
        (96, 96), 1 solid, row 0 = top; continued periodically in x and mirrored in y.
    """
    solid = outline.with_surroundings(cell).simplify(SIMPLER / CELL)
    solid = shapely.affinity.translate(solid, ASIDE)
    return Widths(strut=_first_change(solid, -1), gap=_first_change(solid, +1))


def _first_change(solid: shapely.Geometry, sign: int) -> float:
    """Twice the distance in pixels by which the solid shrinks or grows until its topology changes.

    Later changes may undo the number (a part breaks off, then it vanishes); small steps don't
    miss the first of them.
    """
    whole = topology(solid)

    def changed(distance: float) -> bool:
        return topology(solid.buffer(sign * distance / CELL, quad_segs=ARCS)) != whole

    steps = np.arange(STEP, WIDEST / 2 + STEP, STEP)
    above = next((float(r) for r in steps if changed(r)), None)
    if above is None:
        return WIDEST
    below = above - STEP
    for _ in range(HALVINGS):
        middle = 0.5 * (below + above)
        below, above = (below, middle) if changed(middle) else (middle, above)
    return below + above


def topology(solid: shapely.Geometry) -> tuple[int, bool, bool]:
    """Euler number of the tiling, whether it is void, and whether it is full.

    The Euler number, parts minus holes, is that of a cell and its mirror image, closed to a torus.
    Gluing takes what is shared away once: with chi of a line the intervals that the solid covers,
    one cell of the two has
    chi(cell) - chi(left) - (chi(bottom) + chi(top) - chi(bottom corner) - chi(top corner)) / 2.
    A strip around the torus has none, whether it is there or not; hence the other two.

    Parameters
    ----------
    solid
        Region that covers the unit square and some of its surroundings.
    """
    cell = outline.in_cell(solid)
    parts = shapely.get_parts(cell)
    chi = len(parts) - int(shapely.get_num_interior_rings(parts).sum())
    sides = ([(0, 0), (0, 1)], [(0, 0), (1, 0)], [(0, 1), (1, 1)])
    cuts = shapely.intersection(solid, shapely.linestrings(sides))
    intervals, side = shapely.get_parts(cuts, return_index=True)
    left, bottom, top = np.bincount(side[shapely.length(intervals) > 0], minlength=3)
    corners = shapely.intersects_xy(solid, [0, 0], [0, 1]).sum()
    euler = 2 * (chi - left) - (bottom + top - corners)
    return int(euler), len(parts) == 0, cell.area > 1 - 1e-9
