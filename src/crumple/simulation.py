"""The stage that compresses meshed designs: one shard, or one design of a user."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from crumple import outline
from crumple.atomic import resumable_folder, save_npz, save_npz_uncompressed
from crumple.config import Config
from crumple.designs import read_design
from crumple.errors import UserError
from crumple.fem.compression import compress
from crumple.fem.output import write_results
from crumple.fem.rendering import CannotDraw
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.meshing import (
    CELLS,
    MESH,
    NODES,
    MeshFailure,
    QuadMesh,
    gmsh_session,
    mesh_region,
    read_mesh,
)
from crumple.progress import progress
from crumple.provenance import fingerprint, made_by, read_record
from crumple.readers import Array, Schema, read_npz

LARGEST = 6e4  # cell sides or MPa; pixels are stored as float16
ENERGIES = ("elastic", "plastic", "kinetic", "barrier", "opening")  # that are looked at later
STEPS, FRAMES = len(CURVE_STRAIN), len(FRAME_STRAIN)
RESULTS = {  # see crumple.fem.compression.compress
    "frame_strain": Array("f", (FRAMES,)),
    "frame_stress": Array("f", (FRAMES,)),
    "u": Array("f", (FRAMES, "nodes", 2)),
    "cauchy": Array("f", (FRAMES, "cells", 4, 4)),
    "equivalent_plastic_strain": Array("f", (FRAMES, "cells", 4)),
    "curve_strain": Array("f", (STEPS,)),
    "curve_stress": Array("f", (STEPS,)),
    "energies": Array("f", (STEPS, "kinds")),
    "energy_names": Array("U", ("kinds",)),
}
SIMULATION = Schema(
    "make it again with `crumple simulate`",
    {"made_by": Array("U"), "status": Array("U"), "nodes": NODES, "cells": CELLS},
    optional=RESULTS,
    others=Array("iuf"),
)


def simulate_shard(config: Config, meshes: Path, out: Path) -> None:
    """Compress every mesh of a shard, one file ``{index:06d}.npz`` each.

    A file holds ``made_by`` (:mod:`crumple.provenance`) and what
    :func:`crumple.fem.compression.compress` returns; a design that could not be meshed or did not
    reach the last strain has the reason as its ``status``. Designs that an interrupted run has
    finished are kept.

    Parameters
    ----------
    config
        Settings of the run; ``material``, ``contact`` and ``loading`` count here.
    meshes
        Folder of :func:`crumple.meshing.mesh_shard`.
    out
        Folder, written as ``{out}.partial`` and renamed when complete.

    Raises
    ------
    UserError
        When the folder holds no meshes.
    """
    files = sorted(Path(meshes).glob("*.npz"))
    if not files:
        raise UserError(f"there are no meshes in {meshes}: run `crumple mesh` first")
    key = made_by("simulate", config) | {"files": fingerprint(files)}
    with resumable_folder(out, key) as folder:
        for path in progress(files, len(files), f"simulate {Path(meshes).name}"):
            if not (folder / path.name).exists():
                # compression would take 4 % of the time of a simulation
                save_npz_uncompressed(folder / path.name, **_simulate_file(path, config))


def _simulate_file(path: Path, config: Config) -> dict[str, np.ndarray]:
    mesh = read_mesh(path)
    record = made_by("simulate", config, read_record(mesh["made_by"], path, MESH.advice))
    result: dict[str, Any] = {
        "status": str(mesh["status"]),
        "nodes": mesh["nodes"],
        "cells": mesh["cells"],
    }
    if result["status"] == "ok":
        try:
            result = compress(mesh["nodes"], mesh["cells"], config)
        except UserError as reason:
            result["status"] = f"not simulated: {reason}"
    return {"made_by": json.dumps(record)} | result


def read_simulation(path: Path) -> dict[str, np.ndarray]:
    """Read a file of :func:`simulate_shard`.

    Raises
    ------
    UserError
        When the file is missing or damaged, or lacks the result of a design that was compressed.
    """
    result = read_npz(path, SIMULATION)
    if str(result["status"]) == "ok":
        missing = [name for name in RESULTS if name not in result]
        if missing:
            raise UserError(f"cannot read {path}: it lacks {missing[0]}; {SIMULATION.advice}")
        for name in ("frame_stress", "u", "cauchy", "curve_stress"):
            if not (np.abs(result[name]) <= LARGEST).all():
                raise UserError(f"cannot read {path}: {name} isn't finite; {SIMULATION.advice}")
        if not set(ENERGIES) <= set(result["energy_names"].tolist()):
            raise UserError(f"cannot read {path}: energies are missing; {SIMULATION.advice}")
    return result


def mesh_design(config: Config, cell: np.ndarray, design: Path, offset: float = 0.0) -> QuadMesh:
    """Mesh one design of a user.

    Parameters
    ----------
    config
        Settings; ``mesh`` counts here.
    cell
        (96, 96), 1 solid, row 0 = top.
    design
        What messages call it.
    offset
        Distance in cell sides by which the solid grows outward everywhere.

    Raises
    ------
    UserError
        When it cannot be meshed.
    """
    try:
        with gmsh_session():
            solid = outline.from_image(cell, offset)
            return mesh_region(solid, config.mesh.element_size)[0]
    except MeshFailure as reason:
        raise UserError(f"{design} cannot be meshed: {reason}") from reason


def simulate_design(config: Config, design: Path, out: Path) -> dict[str, np.ndarray]:
    """Mesh and compress one design of a user and write curve, fields and picture.

    Parameters
    ----------
    config
        Settings; ``mesh``, ``material``, ``contact`` and ``loading`` count here.
    design
        PNG or npz, see :func:`crumple.designs.read_design`.
    out
        Folder for ``curve.csv``, the ParaView series, pictures, the movie and ``simulation.npz``.
        Where there is no OpenGL, one sentence says that picture and movie are missing.

    Raises
    ------
    UserError
        When the design cannot be read or meshed, or did not reach the last strain; what was
        computed until then is written.
    """
    cell = read_design(design)
    Path(out).mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    mesh = mesh_design(config, cell, design)
    result = compress(mesh.nodes, mesh.cells, config)
    save_npz(Path(out) / "simulation.npz", **result)
    try:
        write_results(result, Path(out))
    except CannotDraw as reason:
        print(f"crumple: {reason}; all other results are in {out}", file=sys.stderr)
    if result["status"] != "ok":
        raise UserError(f"{design} was compressed in part: {result['status']}; see {out}")
    return result
