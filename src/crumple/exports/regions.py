"""The solid of n x m cells as closed outlines in mm: what is drawn, cut and extruded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import shapely
import shapely.affinity

from crumple import outline
from crumple.errors import UserError

GRID = 1e-6  # cell sides; tiles meet exactly once their points are rounded to it
TOLERANCE = 5e-5  # cell sides (0.005 pixels) that an outline may move where points are left out


class Tiles(NamedTuple):
    """How many cells are side by side and on top of each other."""

    columns: int
    rows: int


class Region(NamedTuple):
    """Solid of n x m cells, the lower left corner at the origin, y up."""

    solid: shapely.MultiPolygon  # mm
    tiles: Tiles
    cell_size: float  # mm

    @property
    def width(self) -> float:
        """mm"""
        return self.tiles.columns * self.cell_size

    @property
    def height(self) -> float:
        """mm"""
        return self.tiles.rows * self.cell_size


class Outline(NamedTuple):
    """A closed outline; the first point isn't repeated."""

    points: np.ndarray  # (n, 2) mm
    is_hole: bool


def tile(cell: np.ndarray, tiles: Tiles, cell_size: float) -> Region:
    """Join n x m cells to one region along the smooth outline that is meshed as well.

    Parameters
    ----------
    cell
        (96, 96), 1 solid, row 0 = top.
    tiles
        Number of cells.
    cell_size
        Side of a cell in mm.

    Raises
    ------
    UserError
        When cells are put on top of each other whose top and bottom differ.
    """
    if tiles.rows > 1 and not np.array_equal(cell, cell[::-1]):
        raise UserError(
            "the upper half of the design is not the mirror image of its lower half, so that cells "
            f"on top of each other don't fit: export one row, --tiles {tiles.columns}x1"
        )
    solid = outline.from_image(cell)
    moved = [
        shapely.affinity.translate(solid, column, row)
        for column in range(tiles.columns)
        for row in range(tiles.rows)
    ]
    joined = shapely.union_all(moved, grid_size=GRID).simplify(TOLERANCE)
    scaled = shapely.affinity.scale(joined, cell_size, cell_size, origin=(0, 0))
    parts = [p for p in shapely.get_parts(scaled) if isinstance(p, shapely.Polygon)]
    return Region(shapely.orient_polygons(shapely.MultiPolygon(parts)), tiles, cell_size)


def outlines(region: Region) -> Iterator[Outline]:
    """The closed outlines of a region: round solid counter-clockwise, round holes clockwise."""
    for polygon in region.solid.geoms:
        yield Outline(np.asarray(polygon.exterior.coords)[:-1], False)
        for ring in polygon.interiors:
            yield Outline(np.asarray(ring.coords)[:-1], True)
