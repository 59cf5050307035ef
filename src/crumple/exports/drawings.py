"""Closed outlines as SVG and DXF, in mm."""

from __future__ import annotations

import io
import math
from xml.sax.saxutils import escape

import ezdxf
from ezdxf import units

from crumple.exports.regions import TOLERANCE, Region, outlines

INK = "#1d2a3a"
LAYERS = {"OUTLINE": 7, "HOLES": 1, "CELLS": 8}  # with their colours of AutoCAD's index


def svg(region: Region, title: str) -> str:
    """Draw a region as SVG: one path with holes, y down as SVG has it, 1 unit is 1 mm."""
    places = max(0, 1 - math.floor(math.log10(TOLERANCE * region.cell_size)))
    height = region.height

    def path(points) -> str:
        return "M" + "L".join(f"{x:.{places}f} {height - y:.{places}f}" for x, y in points) + "Z"

    shape = "\n".join(path(ring.points) for ring in outlines(region))
    size = f"{region.width:.6g} {height:.6g}"
    width_text, height_text = (f"{number}mm" for number in size.split())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width_text}" height="{height_text}" '
        f'viewBox="0 0 {size}">\n'
        f"<title>{escape(title)}</title>\n<desc>made by crumple; 1 unit is 1 mm</desc>\n"
        f'<path fill="{INK}" fill-rule="evenodd" d="{shape}"/>\n</svg>\n'
    )


def dxf(region: Region) -> str:
    """Draw a region as DXF (AutoCAD 2010), in mm, y up.

    Layers: ``OUTLINE`` with the closed polylines round solid, ``HOLES`` with those round holes, and
    ``CELLS`` with the squares of the cells, which isn't plotted.
    """
    document = ezdxf.new("R2010", units=units.MM)
    for name, colour in LAYERS.items():
        document.layers.add(name, color=colour)
    document.layers.get("CELLS").dxf.plot = 0
    space = document.modelspace()
    for ring in outlines(region):
        layer = "HOLES" if ring.is_hole else "OUTLINE"
        space.add_lwpolyline(ring.points.tolist(), close=True, dxfattribs={"layer": layer})
    side = region.cell_size
    for column in range(region.tiles.columns):
        for row in range(region.tiles.rows):
            x, y = column * side, row * side
            corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
            space.add_lwpolyline(corners, close=True, dxfattribs={"layer": "CELLS"})
    document.header["$EXTMIN"] = (0, 0, 0)
    document.header["$EXTMAX"] = (region.width, region.height, 0)
    document.set_modelspace_vport(1.1 * region.height, (region.width / 2, region.height / 2))
    text = io.StringIO()
    document.write(text)
    return text.getvalue()
