"""Compare the solver with curves and displacements of another code (`crumple verify`).

A case is an npz file with

- ``nodes`` (N, 2), undeformed, in the unit square, and ``cells`` (M, 4), quadrilaterals; a triangle
  repeats its third node;
- ``strain`` (k), increasing, positive in compression, and ``stress_mpa`` (k), the reaction of the
  top platen over the width of the cell;
- optionally ``frame_strain`` (f), increasing, with the displacements ``u`` (f, N, 2);
- optionally ``boundary`` (``tied``, the default, ``bonded`` or ``lubricated``), ``friction`` (0.4)
  and ``damping`` (0.005; 0 for a quasi-static code);
- optionally ``reaction``: ``end`` when the reaction was reported at the end of an increment, as
  quasi-static codes do, or ``hht`` when by the integrator of Hilber, Hughes & Taylor (1977) in
  Abaqus/Standard's implicit dynamics ("moderate dissipation"). Without this entry
  ``--reaction`` says which; its default is ``end``.

What it takes to compare with Abaqus' implicit dynamics, all of it for the comparison only:

- an ``hht`` reaction is weighted in time, (1 + alpha) R(n+1) - alpha R(n) with alpha = -0.41421,
  where the increments are those at which the case has stress or displacements, at most 0.4 % of
  strain each, the first one in two halves;
- the smooth-step amplitude ends at 20.4 % (with an end at 20 % the platen would come to rest, and
  the last points of every reference say that it does not), later for longer curves;
- its strain rates follow Newmark's velocities, those here are backward differences: two increments
  for every one of the reference make up for the lower order;
- the horizontal position of the cell is arbitrary, so the mean horizontal difference is removed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import shapely
from scipy.spatial import cKDTree

from crumple import outline
from crumple.atomic import claim, save_text
from crumple.config import Config, parse_config
from crumple.errors import UserError
from crumple.fem.cell import check_mesh
from crumple.fem.compression import Simulation
from crumple.fem.elements import shape_functions, shape_gradients
from crumple.fem.newton import NotConverged
from crumple.meshing import MeshFailure, gmsh_session, mesh_region
from crumple.metrics import nrmse
from crumple.readers import Array, Schema, read_npz

Reaction = Literal["end", "hht"]

HHT_ALPHA = -0.41421
FINAL_STRAIN = 0.204
LARGEST_INCREMENT = 0.004
INCREMENTS = 2  # of ours for one of the reference
SAME_STRAIN = 1e-5  # strains that differ by less are the same increment
SMALL_STRAIN = 0.1
CASE = Schema(
    "see the format of a case in src/crumple/verification.py",
    {
        "nodes": Array("f", ("nodes", 2), low=-1e-3, high=1.001),
        "cells": Array("iu", ("cells", 4), low=0),
        "strain": Array("f", ("points",), low=0.0, high=0.45),
        "stress_mpa": Array("f", ("points",), low=-1e6, high=1e6),
    },
    optional={
        "frame_strain": Array("f", ("frames",), low=0.0, high=0.45),
        "u": Array("f", ("frames", "nodes", 2), low=-10.0, high=10.0),
        "boundary": Array("U"),
        "reaction": Array("U"),
        "friction": Array("iuf", low=0.0, high=1e6),
        "damping": Array("iuf", low=0.0, high=1e6),
    },
    foreign=True,
)


def read_case(path: Path) -> dict[str, Any]:
    """Read a verification case.

    Returns
    -------
    dict
        The arrays of the file; nodes on the sides of the cell are exactly there, cells are
        counter-clockwise.

    Raises
    ------
    UserError
        When the file is damaged or isn't a case; one sentence.
    """
    case: dict[str, Any] = read_npz(path, CASE)
    reason = _contradiction(case)
    if reason:
        raise UserError(f"cannot read {path}: {reason}; {CASE.advice}")
    nodes = np.asarray(case["nodes"], float)
    sides = np.round(nodes)
    case["nodes"] = np.where(np.abs(nodes - sides) < 1e-5, sides, nodes)
    case["cells"] = _counter_clockwise(case["nodes"], np.asarray(case["cells"], np.int64))
    return case


def _contradiction(case: dict[str, Any]) -> str:
    """What is wrong with the arrays of a case; empty when they fit each other."""
    if not len(case["cells"]) or case["cells"].max() >= len(case["nodes"]):
        return "its cells name nodes that aren't there"
    if not np.any(case["stress_mpa"][case["strain"] > SAME_STRAIN]):
        return "its stress is zero everywhere"
    for name in ("strain", "frame_strain"):
        if np.any(np.diff(case.get(name, [])) <= 0):
            return f"{name} must increase"
    if ("u" in case) != ("frame_strain" in case):
        return "u and frame_strain belong together"
    if str(case.get("reaction", "end")) not in ("end", "hht"):
        return f"the reaction is 'end' or 'hht', not '{case['reaction']}'"
    return ""


def case_config(case: dict[str, Any], base: Config) -> Config:
    """The settings of a case: its boundary, friction and damping, no imperfection."""
    values = base.model_dump()
    final_strain = max(FINAL_STRAIN, 1.02 * float(np.max(case["strain"])))
    values["loading"].update(
        platens=str(case.get("boundary", "tied")), final_strain=final_strain, imperfection=0.0
    )
    values["contact"]["friction"] = float(case.get("friction", 0.4))
    values["material"]["damping"] = float(case.get("damping", 0.005))
    return parse_config(values)


def verify_case(path: Path, config: Config, same_mesh: bool, reaction: Reaction) -> dict[str, Any]:
    """Run one case and compare.

    Parameters
    ----------
    path
        The case.
    config
        Settings; the case's own replace boundary, friction and damping.
    same_mesh
        Use the given cells instead of a new mesh of their outline.
    reaction
        How the reaction was reported, where the case doesn't say so.

    Returns
    -------
    dict
        ``nrmse`` and ``nrmse_10`` (curve, all points and up to 10 % strain), ``u_error`` (per
        frame, relative), ``u_frame_strain``, ``reaction``, ``cpu_s``, ``unknowns``,
        ``newton_iterations``, ``status``. Errors are fractions.

    Raises
    ------
    UserError
        When the file isn't a case, its settings are out of range, or its outline cannot be meshed.
    """
    start = time.process_time()
    case = read_case(path)
    try:
        settings = case_config(case, config)
        check_mesh(case["nodes"], case["cells"])
    except UserError as reason:
        raise UserError(f"cannot use {path}: {reason}") from reason
    nodes, cells = case["nodes"], case["cells"]
    if not same_mesh:
        nodes, cells = _new_mesh(path, nodes, cells, config.mesh.element_size)
    try:
        simulation = Simulation(nodes, cells, settings)
    except UserError as reason:
        raise UserError(f"cannot use {path}: {reason}") from reason
    reaction = cast(Reaction, str(case.get("reaction", reaction)))
    frames = np.asarray(case.get("frame_strain", []), float)
    at = np.asarray(case["strain"], float)
    status, strain, stress, shapes = "ok", [0.0], [0.0], {}
    try:
        for target in reference_increments(np.append(at, frames), reaction):
            for part in np.linspace(simulation.strain, target, INCREMENTS + 1)[1:]:
                simulation.advance(part)
            strain.append(target)
            stress.append(simulation.stress)
            for k in np.flatnonzero(np.abs(frames - target) <= SAME_STRAIN):
                shapes[k] = simulation.displacement()
    except NotConverged as reason:
        status = str(reason)
    simulation.close()
    curve = np.array(stress)
    if reaction == "hht":
        curve = hht_reaction(curve)
    u_error = [
        _displacement_error(nodes, cells, shapes[k], case["nodes"], case["u"][k])
        for k in sorted(shapes)
    ]
    return {
        "file": Path(path).name,
        "status": status,
        **_curve_errors(case, np.array(strain), curve),
        "u_error": u_error,
        "u_frame_strain": [float(frames[k]) for k in sorted(shapes)],
        "reaction": reaction,
        "cpu_s": time.process_time() - start,
        "unknowns": simulation.cell.size,
        "newton_iterations": simulation.newton.counters.iterations,
        "same_mesh": same_mesh,
    }


def _new_mesh(path: Path, nodes: np.ndarray, cells: np.ndarray, element_size: float):
    """Nodes and cells of a new mesh of the outline of a given one."""
    try:
        mesh, _ = mesh_region(outline.from_mesh(nodes, cells), element_size)
    except (MeshFailure, shapely.errors.ShapelyError, ValueError) as reason:
        raise UserError(f"the outline of {path} cannot be meshed: {reason}") from reason
    return mesh


def _curve_errors(case, strain: np.ndarray, stress: np.ndarray) -> dict[str, float | None]:
    """Errors of the curve; None where the simulation didn't come so far or nothing is given."""
    at, reference = (np.asarray(case[name], float) for name in ("strain", "stress_mpa"))
    errors: dict[str, float | None] = {}
    for name, last in (("nrmse", np.inf), ("nrmse_10", SMALL_STRAIN + 1e-4)):
        part = at <= last
        known = np.any(reference[part]) and at[part][-1] <= strain[-1] + SAME_STRAIN
        ours = np.interp(at[part], strain, stress)
        errors[name] = float(nrmse(ours, reference[part])) if known else None
    return errors


def reference_increments(strain: np.ndarray, reaction: Reaction) -> np.ndarray:
    """Strains at which the reference code stood, or might have: every one that it reports.

    Longer increments are divided into equal ones of at most 0.4 %. The first increment of the HHT
    integrator was halved.
    """
    known = np.unique(strain)
    known = known[np.diff(known, prepend=0.0) > SAME_STRAIN]
    gaps = np.diff(known, prepend=0.0)
    parts = np.ceil(gaps / LARGEST_INCREMENT - 1e-3).astype(int).clip(1)
    starts = known - gaps
    increments = [
        np.linspace(a, b, n + 1)[1:] for a, b, n in zip(starts, known, parts, strict=True)
    ]
    result = np.concatenate(increments)
    if reaction == "hht" and result[0] > 0.75 * LARGEST_INCREMENT:
        result = np.append(result[0] / 2, result)
    return result


def hht_reaction(reaction: np.ndarray) -> np.ndarray:
    """The reaction as the HHT integrator reports it, from the values at its increments."""
    weighted = (1 + HHT_ALPHA) * reaction
    weighted[1:] -= HHT_ALPHA * reaction[:-1]
    return weighted


def verify(
    paths: list[Path],
    config: Config,
    same_mesh: bool,
    out: Path | None,
    reaction: Reaction = "end",
) -> None:
    """Run cases, print a line each and median and worst at the end, write JSON when asked."""
    out = claim(out, "verify") if out else None
    cases = []
    print(
        f"{'case':<25} curve %  to 10 %   u % at 10 %   u % worst  CPU s  unknowns  Newton",
    )
    with gmsh_session():
        for path in paths:
            case = verify_case(path, config, same_mesh, reaction)
            cases.append(case)
            print(_line(case), flush=True)
    summary = {}
    for name in ("nrmse", "nrmse_10", "u_error_10"):
        values = [v for v in (_figure(case, name) for case in cases) if v is not None]
        if values:
            summary[name] = {"median": float(np.median(values)), "worst": float(np.max(values))}
            print(f"{name:<12} median {np.median(values):.2%}   worst {np.max(values):.2%}")
    failed = [case["file"] for case in cases if case["status"] != "ok"]
    if out is not None:
        result = {"format": "crumple-verification", "cases": cases, "summary": summary}
        save_text(out, json.dumps(result, indent=1) + "\n")
    if failed:
        raise UserError(f"these cases did not reach the last strain: {', '.join(failed)}")


def _figure(case: dict[str, Any], name: str) -> float | None:
    if name != "u_error_10":
        return case[name]
    near = [
        error
        for error, strain in zip(case["u_error"], case["u_frame_strain"], strict=True)
        if abs(strain - SMALL_STRAIN) < 1e-3
    ]
    return near[0] if near else None


def _line(case: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    worst = max(case["u_error"], default=None)
    line = (
        f"{case['file']:<25} {percent(case['nrmse']):>7}  {percent(case['nrmse_10']):>7}"
        f"   {percent(_figure(case, 'u_error_10')):>11}   {percent(worst):>9}  {case['cpu_s']:5.1f}"
        f"  {case['unknowns']:8d}  {case['newton_iterations']:6d}"
    )
    return line if case["status"] == "ok" else f"{line}  {case['status']}"


def _displacement_error(nodes, cells, u, points, reference) -> float:
    """Relative error at the reference's nodes, up to a common horizontal displacement."""
    ours = u if len(nodes) == len(points) else _interpolate(nodes, cells, u, points)
    difference = ours - reference
    difference[:, 0] -= difference[:, 0].mean()
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def _interpolate(nodes, cells, u, points) -> np.ndarray:
    """Bilinear field at points; one just outside the mesh takes its nearest cell, extrapolated."""
    corners = nodes[cells]
    _, near = cKDTree(corners.mean(axis=1)).query(points, k=8)
    local = np.zeros((*near.shape, 2))
    for _ in range(10):  # Newton on the bilinear map of each of the eight cells
        flat = local.reshape(-1, 2)
        shape = shape_functions(flat).reshape(*near.shape, 4)
        slope = shape_gradients(flat).reshape(*near.shape, 4, 2)
        residual = np.einsum("pka,pkai->pki", shape, corners[near]) - points[:, None]
        jacobian = np.einsum("pkai,pkaj->pkij", corners[near], slope)
        local = local - np.linalg.solve(jacobian, residual[..., None])[..., 0]
        local = np.clip(local, -3.0, 3.0)
    best = np.abs(local).max(axis=2).argmin(axis=1)
    rows = np.arange(len(points))
    shape = shape_functions(local[rows, best])
    return np.einsum("pa,pai->pi", shape, u[cells[near[rows, best]]])


def _counter_clockwise(nodes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Cells with positive area, the repeated node of a triangle last."""
    x = nodes[cells]
    diagonal, other = x[:, 2] - x[:, 0], x[:, 3] - x[:, 1]
    clockwise = diagonal[:, 0] * other[:, 1] - diagonal[:, 1] * other[:, 0] < 0
    cells = cells.copy()
    cells[clockwise] = cells[clockwise][:, [2, 1, 0, 3]]
    triangle = cells[:, 2] == cells[:, 3]
    turned = clockwise & ~triangle & (cells[:, 0] == cells[:, 3])
    cells[turned] = cells[turned][:, [1, 2, 3, 0]]
    return cells
