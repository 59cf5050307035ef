"""Files for those who build or check a design: drawings, solids, input of other codes.

One design, in mm, as n x m cells (drawings and solids) or as the meshed cell (input of Abaqus and
CalculiX, and the simulated states for ParaView).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crumple.atomic import atomic_path, claim, save_record
from crumple.config import Config
from crumple.designs import read_design
from crumple.errors import UserError
from crumple.exports.abaqus import input_file
from crumple.exports.drawings import dxf, svg
from crumple.exports.regions import Region, Tiles, tile
from crumple.exports.solids import stl
from crumple.fem.compression import compress
from crumple.fem.output import write_results
from crumple.fem.rendering import CannotDraw
from crumple.layout import CELL
from crumple.provenance import PHYSICS, hash_file, stages_of
from crumple.simulation import mesh_design
from crumple.widths import WIDEST, narrowest

FORMATS = ("svg", "dxf", "stl", "inp", "vtu")
MOST_TILES = 1000


def export_design(
    config: Config,
    design: Path,
    out: Path,
    cell_size: float,
    thickness: float,
    tiles: Tiles,
    formats: Sequence[str],
) -> None:
    """Write one design for people and programs that go on with it.

    Parameters
    ----------
    config
        Settings; ``mesh``, ``material``, ``contact`` and ``loading`` count for ``inp`` and ``vtu``.
    design
        PNG or npz, see :func:`crumple.designs.read_design`.
    out
        Folder, written as a whole; what this command wrote there before is replaced.
    cell_size, thickness
        mm.
    tiles
        Cells side by side and on top of each other, of drawings and solids.
    formats
        Some of ``FORMATS``.

    Raises
    ------
    UserError
        When the design cannot be read, tiled, extruded or meshed; nothing is written then.
    """
    out = claim(out, "export", folder=True)
    cell = read_design(design)
    region = tile(cell, tiles, cell_size)
    with atomic_path(out) as folder:
        folder.mkdir()
        write_formats(config, cell, region, thickness, formats, design, folder)
        made = {"cell_size": cell_size, "thickness": thickness, "tiles": list(tiles)}
        record = {
            "stage": "export",
            "settings": stages_of(config, PHYSICS) | {"export": made},
            "inputs": {"design": hash_file(design)},
        }
        save_record(folder, record)
    print(_summary(cell, region, thickness), f"written to {out}", sep="\n")


def write_formats(
    config: Config,
    cell: np.ndarray,
    region: Region,
    thickness: float,
    formats: Sequence[str],
    design: Path,
    folder: Path,
) -> None:
    """Write a design in some formats into a folder.

    Parameters
    ----------
    config
        Settings; ``mesh``, ``material``, ``contact`` and ``loading`` count for ``inp`` and ``vtu``.
    cell
        (96, 96), 1 solid, row 0 = top.
    region
        Its solid, :func:`crumple.exports.regions.tile`.
    thickness
        mm.
    formats
        Some of ``FORMATS``.
    design
        What messages call it; its name is that of the files, but for their suffix.
    folder
        Where they go.

    Raises
    ------
    UserError
        When the design cannot be extruded or meshed.
    """
    base = folder / design.name
    title = f"{design.name}, cells of {region.cell_size:g} mm"
    if "svg" in formats:
        base.with_suffix(".svg").write_text(svg(region, title), encoding="utf-8")
    if "dxf" in formats:
        base.with_suffix(".dxf").write_text(dxf(region), encoding="utf-8")
    if "stl" in formats:
        base.with_suffix(".stl").write_bytes(stl(region, thickness))
    if "inp" in formats or "vtu" in formats:
        mesh = mesh_design(config, cell, design)
    if "inp" in formats:
        text = input_file(mesh, config, region.cell_size, thickness, title)
        base.with_suffix(".inp").write_text(text, encoding="utf-8")
    if "vtu" in formats:
        _write_states(compress(mesh.nodes, mesh.cells, config), design, folder)


def parse_tiles(text: str) -> Tiles:
    """Return the numbers of ``4x3``.

    Raises
    ------
    UserError
        When it isn't two numbers, or too many cells.
    """
    numbers = [int(n) if n.isascii() and n.isdigit() and len(n) < 5 else 0 for n in text.split("x")]
    if len(numbers) != 2 or not 1 <= numbers[0] * numbers[1] <= MOST_TILES:
        raise UserError(
            f"--tiles {text}: write columns x rows, as 4x3, of at most {MOST_TILES} cells"
        )
    return Tiles(*numbers)


def parse_formats(text: str) -> list[str]:
    """Return the formats of ``svg,stl``.

    Raises
    ------
    UserError
        When one of them is unknown.
    """
    names = [name.strip().lower() for name in text.split(",")]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise UserError(f"--formats: '{unknown[0]}' is none of {', '.join(FORMATS)}")
    return names


def _write_states(result: dict[str, np.ndarray], design: Path, folder: Path) -> None:
    """Write curve and states of a simulation, and say what is missing."""
    try:
        write_results(result, folder)
    except CannotDraw as reason:
        print(f"crumple: {reason}; all else is written", file=sys.stderr)
    if result["status"] != "ok":
        print(
            f"crumple: warning: {design} was compressed in part: {result['status']}",
            file=sys.stderr,
        )


def _summary(cell: np.ndarray, region: Region, thickness: float) -> str:
    """Sizes of what was exported, in words."""
    columns, rows = region.tiles
    strut, gap = (
        f"more than {region.cell_size * width / CELL:.3g} mm"
        if width == WIDEST
        else f"{region.cell_size * width / CELL:.3g} mm"
        for width in narrowest(cell)
    )
    solid = region.solid.area / (region.width * region.height)
    return (
        f"{columns} x {rows} cells of {region.cell_size:g} mm: {region.width:g} x "
        f"{region.height:g} x {thickness:g} mm, {100 * solid:.1f} % solid\n"
        f"narrowest strut {strut}, narrowest gap {gap}"
    )
