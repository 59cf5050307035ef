"""The stage that compresses meshed designs: one shard, or one design of a user."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crumple.atomic import fingerprint, resumable_folder, save_npz
from crumple.config import Config
from crumple.designs import read_design
from crumple.errors import UserError
from crumple.fem.compression import compress
from crumple.fem.output import write_results
from crumple.meshing import MeshFailure, gmsh_session, mesh_cell
from crumple.progress import progress


def simulate_shard(config: Config, meshes: Path, out: Path) -> None:
    """Compress every mesh of a shard, one file ``{index:06d}.npz`` each.

    A file holds what :func:`crumple.fem.compression.compress` returns; a design that could not be
    meshed or did not reach the last strain has the reason as its ``status``. Designs that an
    interrupted run has finished are kept.

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
    key = {
        "stage": "simulate",
        "config": config.model_dump(include={"material", "contact", "loading"}),
        "meshes": fingerprint(files),
    }
    with resumable_folder(out, key) as folder:
        for path in progress(files, len(files), f"simulate {Path(meshes).name}"):
            if not (folder / path.name).exists():
                save_npz(folder / path.name, **_simulate_file(path, config))


def _simulate_file(path: Path, config: Config) -> dict[str, np.ndarray]:
    with np.load(path) as mesh:
        status, nodes, cells = str(mesh["status"]), mesh["nodes"], mesh["cells"]
    if status != "ok":
        return {"status": status, "nodes": nodes, "cells": cells}
    try:
        return compress(nodes, cells, config)
    except UserError as reason:
        return {"status": f"not simulated: {reason}", "nodes": nodes, "cells": cells}


def simulate_design(config: Config, design: Path, out: Path) -> dict[str, np.ndarray]:
    """Mesh and compress one design of a user and write curve, fields and picture.

    Parameters
    ----------
    config
        Settings; ``mesh``, ``material``, ``contact`` and ``loading`` count here.
    design
        PNG or npz, see :func:`crumple.designs.read_design`.
    out
        Folder for ``curve.csv``, the ParaView series, the picture and ``simulation.npz``.

    Raises
    ------
    UserError
        When the design cannot be read or meshed, or did not reach the last strain; what was
        computed until then is written.
    """
    cell = read_design(design)
    try:
        with gmsh_session():
            mesh, _ = mesh_cell(cell, config.mesh.element_size)
    except MeshFailure as reason:
        raise UserError(f"{design} cannot be meshed: {reason}") from reason
    result = compress(mesh.nodes, mesh.cells, config)
    save_npz(Path(out) / "simulation.npz", **result)
    write_results(result, Path(out))
    if result["status"] != "ok":
        raise UserError(f"{design} was compressed in part: {result['status']}; see {out}")
    return result
