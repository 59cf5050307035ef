"""Compare the solver with curves and displacements of another code (`crumple verify`).

A case is an npz file with ``nodes`` (N, 2), ``cells`` (M, 4; a triangle repeats its third node),
``strain`` (k) and ``stress_mpa`` (k), and optionally ``frame_strain`` (f), ``u`` (f, N, 2),
``boundary`` (``tied``, ``bonded`` or ``lubricated``), ``friction`` and ``damping``.

The references are solutions of Abaqus/Standard's implicit dynamics. What it takes to compare with
them, all of it for the comparison only:

- the reported reaction is an output of the HHT integrator (alpha = -0.41421), weighted in time:
  (1 + alpha) R(n+1) - alpha R(n), one increment per 0.4 % of strain, the first one split at 0.2 %;
- the smooth-step amplitude ends at 20.4 % (with an end at 20 % the platen would come to rest, and
  the last points of every reference say that it does not);
- its strain rates follow Newmark's velocities, those here are backward differences: two increments
  for every one of the reference make up for the lower order;
- the horizontal position of the cell is arbitrary, so the mean horizontal difference is removed.
"""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from crumple import outline
from crumple.atomic import save_text
from crumple.config import Config, parse_config
from crumple.errors import UserError
from crumple.fem.compression import Simulation
from crumple.fem.elements import shape_functions, shape_gradients
from crumple.fem.newton import NotConverged
from crumple.meshing import MeshFailure, gmsh_session, mesh_region
from crumple.metrics import nrmse

HHT_ALPHA = -0.41421
FINAL_STRAIN = 0.204
INCREMENT = 0.004
INCREMENTS = 2  # of ours for one of the reference
SMALL_STRAIN = 0.1


def read_case(path: Path) -> dict[str, Any]:
    """Read a verification case.

    Raises
    ------
    UserError
        When the file is unreadable or lacks an array.
    """
    try:
        with np.load(path) as file:
            case = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the case {path}: {error}") from error
    missing = {"nodes", "cells", "strain", "stress_mpa"} - set(case)
    if missing:
        raise UserError(f"the case {path} lacks {', '.join(sorted(missing))}")
    nodes = np.asarray(case["nodes"], float)
    sides = np.round(nodes)
    case["nodes"] = np.where(np.abs(nodes - sides) < 1e-5, sides, nodes)
    case["cells"] = _counter_clockwise(case["nodes"], np.asarray(case["cells"], np.int64))
    return case


def case_config(case: dict[str, Any], base: Config) -> Config:
    """The settings of a case: its boundary, friction and damping, no imperfection."""
    values = base.model_dump()
    values["loading"].update(
        platens=str(case.get("boundary", "tied")), final_strain=FINAL_STRAIN, imperfection=0.0
    )
    values["contact"]["friction"] = float(case.get("friction", 0.4))
    values["material"]["damping"] = float(case.get("damping", 0.005))
    return parse_config(values)


def verify_case(path: Path, config: Config, same_mesh: bool) -> dict[str, Any]:
    """Run one case and compare.

    Parameters
    ----------
    path
        The case.
    config
        Settings; the case's own replace boundary, friction and damping.
    same_mesh
        Use the given cells instead of a new mesh of their outline.

    Returns
    -------
    dict
        ``nrmse`` and ``nrmse_10`` (curve, all points and up to 10 % strain), ``u_error`` (per
        frame, relative), ``u_frame_strain``, ``cpu_s``, ``unknowns``, ``newton_iterations``,
        ``status``. Errors are fractions.
    """
    start = time.process_time()
    case = read_case(path)
    settings = case_config(case, config)
    nodes, cells = case["nodes"], case["cells"]
    if not same_mesh:
        try:
            mesh, _ = mesh_region(outline.from_mesh(nodes, cells), config.mesh.element_size)
        except MeshFailure as reason:
            raise UserError(f"the outline of {path} cannot be meshed: {reason}") from reason
        nodes, cells = mesh
    simulation = Simulation(nodes, cells, settings)
    frames = np.asarray(case.get("frame_strain", []), float)
    status, strain, stress, shapes = "ok", [0.0], [0.0], {}
    try:
        for target in reference_increments(case["strain"]):
            for part in np.linspace(simulation.strain, target, INCREMENTS + 1)[1:]:
                simulation.advance(part)
            strain.append(target)
            stress.append(simulation.stress)
            for k in np.flatnonzero(np.abs(frames - target) < 1e-3 * INCREMENT + 1e-5):
                shapes[k] = simulation.displacement()
    except NotConverged as reason:
        status = str(reason)
    simulation.close()
    weighted = time_weighted(np.array(stress))
    u_error = [
        _displacement_error(nodes, cells, shapes[k], case["nodes"], case["u"][k])
        for k in sorted(shapes)
    ]
    result = {
        "file": Path(path).name,
        "status": status,
        "u_error": u_error,
        "u_frame_strain": [float(frames[k]) for k in sorted(shapes)],
        "cpu_s": time.process_time() - start,
        "unknowns": simulation.cell.size,
        "newton_iterations": simulation.newton.counters.iterations,
        "same_mesh": same_mesh,
    }
    at = np.asarray(case["strain"], float)
    reached = at <= strain[-1] + 1e-5
    reference = np.asarray(case["stress_mpa"], float)
    for name, last in (("nrmse", np.inf), ("nrmse_10", SMALL_STRAIN + 1e-4)):
        part = at <= last
        complete = bool(reached[part].all())
        ours = np.where(reached, np.interp(at, strain, weighted), np.nan)
        result[name] = float(nrmse(ours[part], reference[part])) if complete else None
    return result


def reference_increments(strain: np.ndarray) -> np.ndarray:
    """Strains at which the reference code stood: multiples of 0.4 % and the first one's half."""
    last = round(float(np.max(strain)) / INCREMENT)
    return np.append(INCREMENT / 2, np.arange(1, last + 1) * INCREMENT)


def time_weighted(reaction: np.ndarray) -> np.ndarray:
    """The reaction as the HHT integrator reports it, from the values at its increments."""
    weighted = (1 + HHT_ALPHA) * reaction
    weighted[1:] -= HHT_ALPHA * reaction[:-1]
    return weighted


def verify(paths: list[Path], config: Config, same_mesh: bool, out: Path | None) -> None:
    """Run cases, print a line each and median and worst at the end, write JSON when asked."""
    cases = []
    print(
        f"{'case':<25} curve %  to 10 %   u % at 10 %   u % worst  CPU s  unknowns  Newton",
    )
    with gmsh_session():
        for path in paths:
            case = verify_case(path, config, same_mesh)
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
        save_text(out, json.dumps({"cases": cases, "summary": summary}, indent=1) + "\n")
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
