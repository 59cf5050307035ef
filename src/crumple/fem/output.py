"""Results of one simulation for people: a ParaView time series, the curve as CSV, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyvista
from numpy.typing import NDArray

from crumple.atomic import atomic_path, save_text
from crumple.fem.material import von_mises
from crumple.fem.rendering import SERIES, render
from crumple.plotting import simulation_figure

CURVE, OVERVIEW = "curve.csv", "overview.png"


def write_results(simulation: Mapping[str, NDArray], out: Path) -> None:
    """Write curve, fields and picture of one simulation into a folder.

    Parameters
    ----------
    simulation
        Arrays of a simulation (``crumple.fem.compression.compress``).
    out
        Folder; gets ``curve.csv``, ``overview.png``, ``deformation.pvd`` (open this in ParaView),
        one ``deformation_NN.vtu`` per saved strain, ``deformation.png`` (the last state) and
        ``deformation.gif`` (a movie). After a failure only the states that were reached are
        written.

    Raises
    ------
    CannotDraw
        When picture and movie cannot be drawn, mostly for want of OpenGL; all else is written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    reached = np.isfinite(simulation["frame_stress"])
    names = []
    for k in np.flatnonzero(reached):
        names.append(f"deformation_{k:02d}.vtu")
        with atomic_path(out / names[-1]) as temporary:
            state(simulation, int(k)).save(temporary)
    save_text(out / SERIES, _pvd(simulation["frame_strain"][reached], names))
    save_text(out / CURVE, _csv(simulation["curve_strain"], simulation["curve_stress"]))
    simulation_figure(out / OVERVIEW, simulation)
    if names:
        render(out)


def state(simulation: Mapping[str, NDArray], frame: int) -> pyvista.UnstructuredGrid:
    """Return one saved state: displacement at the nodes, stress and plastic strain in the cells.

    Cell values are means over the four Gauss points; stress (MPa) has the nine components of the
    Cauchy tensor. Positions are undeformed: use ParaView's filter "Warp By Vector".
    """
    nodes, u = simulation["nodes"], np.asarray(simulation["u"][frame], np.float64)
    flat = np.zeros((len(nodes), 1))
    points = np.asarray(simulation["cauchy"][frame], np.float64)
    s11, s22, s12, s33 = np.moveaxis(points.mean(axis=1), -1, 0)
    zero = np.zeros_like(s11)
    stress = np.stack([s11, s12, zero, s12, s22, zero, zero, zero, s33], axis=-1)
    plastic = np.asarray(simulation["equivalent_plastic_strain"][frame], np.float64).mean(axis=1)
    grid = pyvista.UnstructuredGrid(
        {pyvista.CellType.QUAD: np.asarray(simulation["cells"])}, np.hstack([nodes, flat])
    )
    grid.point_data["displacement"] = np.hstack([u, flat])
    grid.cell_data["stress"] = stress
    grid.cell_data["von_mises_stress"] = von_mises(points).mean(axis=1)
    grid.cell_data["equivalent_plastic_strain"] = plastic
    return grid


def _pvd(strains: NDArray, names: list[str]) -> str:
    """Return a ParaView collection whose time is the strain in per cent."""
    states = "".join(
        f'    <DataSet timestep="{100 * strain:.6g}" part="0" file="{name}"/>\n'
        for strain, name in zip(strains, names, strict=True)
    )
    return (
        '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n  <Collection>\n'
        f"{states}  </Collection>\n</VTKFile>\n"
    )


def _csv(strain: NDArray, stress: NDArray) -> str:
    table = pd.DataFrame({"strain (1)": strain, "effective stress (MPa)": stress}).dropna()
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
