"""Extruded cells as STL, closed and without a gap."""

from __future__ import annotations

import io

import numpy as np
import shapely
import trimesh

from crumple.errors import UserError
from crumple.exports.regions import Region

VOLUME_TOLERANCE = 1e-4  # relative; STL holds numbers of 7 digits


def stl(region: Region, thickness: float) -> bytes:
    """Extrude a region to a binary STL, in mm.

    Parameters
    ----------
    region
        What is extruded, from z = 0.
    thickness
        mm.

    Returns
    -------
    bytes
        The file; it was read again and is watertight, with the volume of the region.

    Raises
    ------
    UserError
        When it is not: parts of the solid touch in a point.
    """
    bodies = [_extrude(polygon, thickness) for polygon in region.solid.geoms]
    content = trimesh.util.concatenate(bodies).export(file_type="stl")
    written = trimesh.load_mesh(io.BytesIO(content), file_type="stl")
    volume = region.solid.area * thickness
    if not written.is_watertight or abs(written.volume / volume - 1) > VOLUME_TOLERANCE:
        raise UserError(
            "the extruded solid is not watertight, because parts of it touch in a point: leave "
            "stl out of --formats, or change the design there"
        )
    return content


def _extrude(polygon: shapely.Polygon, thickness: float) -> trimesh.Trimesh:
    """Extrude one polygon by the Delaunay triangles between its own points."""
    triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(polygon))
    corners = shapely.get_coordinates(shapely.orient_polygons(triangles)).reshape(-1, 4, 2)[:, :3]
    points, faces = np.unique(corners.reshape(-1, 2), axis=0, return_inverse=True)
    return trimesh.creation.extrude_triangulation(points, faces.reshape(-1, 3), thickness)
