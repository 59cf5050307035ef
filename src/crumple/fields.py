"""Finite-element results to pixels: Lagrangian 96x96 frames of one simulated design.

Pixel (i, j) is the material point x = (j + 1/2)/96, y = 1 - (i + 1/2)/96 of the undeformed cell,
solid where the design is. Sampling is linear in the nodal and the quadrature values, so that a
design needs one search for the cells under its pixels, and one sparse matrix each for
displacement and stress.

The smooth outline of the mesh cuts through pixels. Stress is therefore distributed, not sampled:
every bit of the mesh gives its stress times its area to one solid pixel, its own or the nearest
one, preferably in the same row. Then the mean over the pixels and over each row is that of the
mesh, and the frames agree with the platen reaction (benchmarks/fields.py compares with sampling).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from crumple.atomic import claim
from crumple.config import Config
from crumple.dataset import ENERGY_GATE, channel_statistics, write_shard
from crumple.designs import DESIGNS, mirror
from crumple.fem.elements import GAUSS_POINTS, shape_functions, shape_gradients
from crumple.fem.material import von_mises
from crumple.layout import CELL, CHANNELS, CURVE_STRAIN, EULERIAN_CHANNELS, FRAME_STRAIN
from crumple.metrics import largest_plastic_strain
from crumple.progress import progress
from crumple.provenance import (
    hash_designs,
    made_by,
    read_record,
    require_inputs,
    require_settings,
)
from crumple.readers import read_npz
from crumple.simulation import SIMULATION, read_simulation

GATED_ENERGIES = ("kinetic", "barrier", "opening")
SUBSAMPLES = 5  # per pixel and direction; odd, so that one of them is the pixel centre
ROW_PREFERENCE = 3.0  # a pixel in another row counts as this much farther away
QUADRANT = np.array([[0, 3], [1, 2]])  # Gauss point of the quadrant (xi > 0, eta > 0)


class Location(NamedTuple):
    """Where the points of an n x n lattice lie in a mesh.

    ``cell`` (n, n) is the cell that holds the point, -1 outside the mesh; ``xi`` (n, n, 2) are the
    reference coordinates in [-1, 1]^2.
    """

    cell: NDArray[np.int32]
    xi: NDArray[np.float64]


def locate(vertices: NDArray, cells: NDArray, n: int) -> Location:
    """Find the cells under the points of an n x n lattice over the periodic unit cell.

    Parameters
    ----------
    vertices
        (N, 2) positions, undeformed or deformed. What lies beyond x = 0 or 1 is moved by the
        period.
    cells
        (M, 4) bilinear quadrilaterals, counter-clockwise.
    n
        Lattice point (i, j) is x = (j + 1/2)/n, y = 1 - (i + 1/2)/n.
    """
    cell, xi = _locate(np.asarray(vertices, np.float64), np.asarray(cells, np.int32), n)
    return Location(cell, xi)


@numba.njit(cache=True)
def _locate(vertices, cells, n):
    found = np.full((n, n), -1, np.int32)
    local = np.zeros((n, n, 2))
    for c in range(cells.shape[0]):
        x0, x1, x2, x3 = vertices[cells[c]][:, 0]
        y0, y1, y2, y3 = vertices[cells[c]][:, 1]
        j_first = int(np.ceil(min(x0, x1, x2, x3) * n - 0.5))
        j_last = int(np.floor(max(x0, x1, x2, x3) * n - 0.5))
        i_first = int(np.ceil((1 - max(y0, y1, y2, y3)) * n - 0.5))
        i_last = int(np.floor((1 - min(y0, y1, y2, y3)) * n - 0.5))
        # x = ax + bx xi + cx eta + dx xi eta
        ax, bx = (x0 + x1 + x2 + x3) / 4, (-x0 + x1 + x2 - x3) / 4
        cx, dx = (-x0 - x1 + x2 + x3) / 4, (x0 - x1 + x2 - x3) / 4
        ay, by = (y0 + y1 + y2 + y3) / 4, (-y0 + y1 + y2 - y3) / 4
        cy, dy = (-y0 - y1 + y2 + y3) / 4, (y0 - y1 + y2 - y3) / 4
        for i in range(max(i_first, 0), min(i_last, n - 1) + 1):
            y = 1 - (i + 0.5) / n
            for j in range(j_first, j_last + 1):
                x = (j + 0.5) / n
                xi, eta = 0.0, 0.0
                for _ in range(20):  # Newton; 3 to 5 iterations in a convex quadrilateral
                    rx = ax + bx * xi + cx * eta + dx * xi * eta - x
                    ry = ay + by * xi + cy * eta + dy * xi * eta - y
                    if abs(rx) + abs(ry) < 1e-13:
                        break
                    jxx, jxy = bx + dx * eta, cx + dx * xi
                    jyx, jyy = by + dy * eta, cy + dy * xi
                    det = jxx * jyy - jxy * jyx
                    if det == 0.0:
                        break
                    xi -= (jyy * rx - jxy * ry) / det
                    eta -= (jxx * ry - jyx * rx) / det
                if abs(rx) + abs(ry) < 1e-9 and abs(xi) < 1 + 1e-9 and abs(eta) < 1 + 1e-9:
                    found[i, j % n] = c
                    local[i, j % n, 0] = xi
                    local[i, j % n, 1] = eta
    return found, local


class PixelMap(NamedTuple):
    """How one mesh lies under the pixels of its design.

    ``solid`` (96, 96) bool is the design; the rows of both matrices are its solid pixels in
    reading order. ``displacement`` (n, N) interpolates nodal values at pixel centres; ``stress``
    (n, 4M) distributes Gauss-point values as described in the module's head.
    """

    solid: NDArray[np.bool_]
    displacement: sparse.csr_matrix
    stress: sparse.csr_matrix


def pixel_map(nodes: NDArray, cells: NDArray, design: NDArray) -> PixelMap:
    """Relate a mesh to the pixels of its design.

    Parameters
    ----------
    nodes
        (N, 2) undeformed positions in the unit cell, in cell sides.
    cells
        (M, 4) bilinear quadrilaterals, counter-clockwise.
    design
        (96, 96), non-zero where solid.
    """
    solid = np.asarray(design, bool)
    location = locate(nodes, cells, CELL * SUBSAMPLES)
    number = np.full(solid.shape, -1)
    number[solid] = np.arange(solid.sum())
    row, column = np.nonzero(location.cell >= 0)
    cell, xi = location.cell[row, column], location.xi[row, column]
    samples = np.stack([column + 0.5, row + 0.5], axis=-1) / SUBSAMPLES  # in pixels

    pixel = number[row // SUBSAMPLES, column // SUBSAMPLES]
    stray = pixel < 0
    pixel[stray] = _nearest_pixel(solid, samples[stray])
    gauss = QUADRANT[(xi[:, 0] > 0).astype(int), (xi[:, 1] > 0).astype(int)]
    share = np.full(len(cell), 1 / SUBSAMPLES**2)
    shape = solid.sum(), 4 * len(cells)
    stress = sparse.csr_matrix((share, (pixel, 4 * cell + gauss)), shape)

    at = _samples_at_centres(solid, location, samples)
    centres = np.repeat(np.arange(len(at)), 4)
    weights = shape_functions(xi[at]).ravel()
    shape = solid.sum(), len(nodes)
    displacement = sparse.csr_matrix((weights, (centres, cells[cell[at]].ravel())), shape)
    return PixelMap(solid, displacement, stress)


def _nearest_pixel(solid: NDArray, points: NDArray) -> NDArray:
    """Return for points (x, row coordinate) in pixels the number of the nearest solid pixel."""
    i, j = np.nonzero(solid)
    stretch = np.array([1, ROW_PREFERENCE])
    tree = cKDTree((np.stack([j, i], axis=-1) + 0.5) * stretch, boxsize=[CELL, 0])
    return tree.query(points * stretch)[1]


def _samples_at_centres(solid: NDArray, location: Location, samples: NDArray) -> NDArray:
    """Return for every solid pixel the sample at its centre, or the nearest one in the mesh."""
    number = np.full(location.cell.shape, -1)
    number[location.cell >= 0] = np.arange(len(samples))
    middle = slice(SUBSAMPLES // 2, None, SUBSAMPLES)
    at = number[middle, middle][solid]
    i, j = np.nonzero(solid)
    for k in np.flatnonzero(at < 0):  # a few corners that the smooth outline cuts off
        at[k] = np.argmin(np.hypot(samples[:, 0] - j[k] - 0.5, samples[:, 1] - i[k] - 0.5))
    return at


def lagrangian_frames(simulation: Mapping[str, NDArray], pixels: PixelMap) -> NDArray[np.float32]:
    """Sample a simulation at the pixels.

    Parameters
    ----------
    simulation
        Arrays ``u`` (F, N, 2) in cell sides and ``cauchy`` (F, M, 4, 4) = s11, s22, s12, s33 at
        the Gauss points in MPa.
    pixels
        From :func:`pixel_map`.

    Returns
    -------
    numpy.ndarray
        (F, 4, 96, 96): u1, u2, s22 and von Mises stress; void is 0.
    """
    cauchy = np.asarray(simulation["cauchy"], np.float64)
    u = np.asarray(simulation["u"], np.float64)
    covered = np.asarray(pixels.stress.sum(axis=1)).ravel()
    average = sparse.diags(1 / np.where(covered > 0, covered, 1)) @ pixels.stress
    frames = np.zeros((len(u), len(CHANNELS), CELL, CELL), np.float32)
    for frame, displacement, stress in zip(frames, u, cauchy, strict=True):
        frame[:2, pixels.solid] = (pixels.displacement @ displacement).T
        frame[2, pixels.solid] = pixels.stress @ stress[..., 1].ravel()
        # An intensity, not a share of the force: averaged over what a pixel was given.
        frame[3, pixels.solid] = average @ von_mises(stress).ravel()
    return frames


def deformation_gradient(nodes: NDArray, cells: NDArray, u: NDArray) -> NDArray:
    """Return F (..., M, 4, 2, 2) at the Gauss points for displacements (..., N, 2)."""
    gradients = shape_gradients(GAUSS_POINTS)
    jacobian = np.einsum("mni,gnd->mgid", nodes[cells], gradients)
    reference = np.einsum("...mni,gnd->...mgid", np.asarray(u)[..., cells, :], gradients)
    return np.eye(2) + reference @ np.linalg.inv(jacobian)


def nominal_stress(simulation: Mapping[str, NDArray]) -> NDArray:
    """Return P22 (F, M, 4), the vertical force per undeformed width, at the Gauss points in MPa."""
    F = deformation_gradient(simulation["nodes"], simulation["cells"], simulation["u"])
    s22, s12 = (np.asarray(simulation["cauchy"], np.float64)[..., k] for k in (1, 2))
    return s22 * F[..., 0, 0] - s12 * F[..., 1, 0]  # P = J sigma F^-T


def virial_stress(simulation: Mapping[str, NDArray], pixels: PixelMap) -> NDArray:
    """Return the effective stress (F) that the pixels' stresses stand for.

    In equilibrium -mean(J s22)/(1 - strain) over the cell, void included, is the platens'
    reaction per width, in MPa and positive in compression. Self-contact doesn't enter: the forces
    on its two sides cancel.
    """
    F = deformation_gradient(simulation["nodes"], simulation["cells"], simulation["u"])
    J = F[..., 0, 0] * F[..., 1, 1] - F[..., 0, 1] * F[..., 1, 0]
    kirchhoff = J * np.asarray(simulation["cauchy"], np.float64)[..., 1]
    mean = (pixels.stress @ kirchhoff.reshape(len(F), -1).T).sum(axis=0) / CELL**2
    return -mean / (1 - np.asarray(simulation["frame_strain"]))


def eulerian_frame(
    nodes: NDArray, cells: NDArray, u: NDArray, values: NDArray, n: int = CELL
) -> NDArray[np.float32]:
    """Draw one deformed state into the fixed unit cell.

    Parameters
    ----------
    nodes, cells
        The undeformed mesh, (N, 2) and (M, 4).
    u
        (N, 2) displacements; what leaves the cell sideways comes in again on the other side.
    values
        (M, 4, k) at the Gauss points.
    n
        Pixels along a side.

    Returns
    -------
    numpy.ndarray
        (1 + k, n, n): the solid part of each pixel, between 0 and 1, and the mean of each value
        over it, 0 in the void.
    """
    location = locate(nodes + u, cells, n * SUBSAMPLES)
    row, column = np.nonzero(location.cell >= 0)
    pixel = row // SUBSAMPLES * n + column // SUBSAMPLES
    gauss = QUADRANT[tuple((location.xi[row, column] > 0).astype(int).T)]
    sampled = np.asarray(values)[location.cell[row, column], gauss]
    count = np.bincount(pixel, minlength=n * n)
    images = [count / SUBSAMPLES**2]
    for value in sampled.T:
        images.append(np.bincount(pixel, value, n * n) / np.maximum(count, 1))
    return np.array(images, np.float32).reshape(-1, n, n)


def eulerian_frames(simulation: Mapping[str, NDArray]) -> NDArray[np.float32]:
    """Return solid part, s22 and von Mises stress (F, 3, 96, 96) on the deformed cell."""
    mesh = simulation["nodes"], simulation["cells"]
    return np.array(
        [
            eulerian_frame(*mesh, u, np.stack([cauchy[..., 1], von_mises(cauchy)], axis=-1))
            for u, cauchy in zip(simulation["u"], simulation["cauchy"], strict=True)
        ]
    )


# --- stage -------------------------------------------------------------------------------------


def rasterise(config: Config, designs: Path, simulations: Path, out: Path) -> None:
    """Turn the simulations of one shard of designs into a shard of the data set.

    Parameters
    ----------
    config
        Settings of the run; ``fields`` counts here. With ``fields.eulerian`` the shard also holds
        ``eulerian`` (n, F, 3, 96, 96), fields on the deformed cell.
    designs
        npz file of the designs: ``index``, ``quarter`` and facts about how they were found.
    simulations
        Folder with one ``{index:06d}.npz`` per design.
    out
        Shard to write; see :mod:`crumple.dataset`.

    Raises
    ------
    UserError
        When a file is missing or unreadable, or holds the simulation of another design, or one
        with other settings than the rest.
    """
    out, eulerian = claim(out, "rasterise", folder=True), config.fields.eulerian
    known = read_npz(designs, DESIGNS)
    record = read_record(known["made_by"], designs, DESIGNS.advice)
    index = known["index"].tolist()
    count, steps = len(index), len(FRAME_STRAIN)
    arrays = {name: known[name] for name in known if name not in ("status", "made_by")}
    arrays |= {
        "frames": np.zeros((count, steps, len(CHANNELS), CELL, CELL), np.float16),
        "solid": np.array([mirror(quarter) for quarter in known["quarter"]]),
        "curve_strain": CURVE_STRAIN,
        "curve_stress": np.full((count, len(CURVE_STRAIN)), np.nan, np.float32),
        "frame_strain": FRAME_STRAIN,
        "frame_stress": np.full((count, steps), np.nan, np.float32),
        "virial_stress": np.full((count, steps), np.nan, np.float32),
        "channel_statistics": np.zeros((count, 3, steps, 4)),
        "energy_gate": np.zeros(count, bool),
    }
    if eulerian:
        arrays["eulerian"] = np.zeros(
            (count, steps, len(EULERIAN_CHANNELS), CELL, CELL), np.float16
        )
    status: list[str] = []
    wanted: dict[str, Any] = {}
    for row, number in enumerate(progress(index, count, f"rasterise {out.stem}")):
        path = simulations / f"{number:06d}.npz"
        simulation = read_simulation(path)
        found = read_record(simulation["made_by"], path, SIMULATION.advice)
        require_inputs(found, path, designs=hash_designs([number], [known["quarter"][row]]))
        wanted = wanted if row else found["settings"]
        require_settings(found, wanted, path)
        status.append(str(simulation["status"]))
        for name, value in quality_figures(simulation).items():
            arrays.setdefault(name, np.full(count, np.nan, np.float32))[row] = value
        if status[-1] != "ok":
            continue
        solid = arrays["solid"][row]
        pixels = pixel_map(simulation["nodes"], simulation["cells"], solid)
        arrays["frames"][row] = lagrangian_frames(simulation, pixels)
        arrays["curve_stress"][row] = simulation["curve_stress"]
        arrays["frame_stress"][row] = simulation["frame_stress"]
        arrays["virial_stress"][row] = virial_stress(simulation, pixels)
        arrays["channel_statistics"][row] = channel_statistics(
            arrays["frames"][row], pixels.solid, FRAME_STRAIN
        )
        ratios = [arrays[f"{name}_ratio"][row] for name in GATED_ENERGIES]
        arrays["energy_gate"][row] = max(ratios) <= ENERGY_GATE
        if eulerian:
            arrays["eulerian"][row] = eulerian_frames(simulation)
    arrays["status"] = np.array(status)
    attributes: dict[str, Any] = {
        "made_by": made_by("rasterise", config, {"settings": wanted, "inputs": {}}, record)
    }
    if eulerian:
        attributes["eulerian_channels"] = EULERIAN_CHANNELS
    write_shard(out, arrays, attributes)


def quality_figures(simulation: Mapping[str, NDArray]) -> dict[str, float]:
    """Return every number that a simulation file records, its plastic strain and energy ratios.

    The ratios are the largest ones over the load steps of kinetic energy and of the two artificial
    energies (contact barrier, points held open) to the internal energy.
    """
    figures = {
        name: float(value)
        for name, value in simulation.items()
        if value.ndim == 0 and value.dtype.kind in "iufb"
    }
    if "equivalent_plastic_strain" in simulation:
        figures["plastic_strain"] = largest_plastic_strain(simulation)
    if "energies" in simulation:
        energy = dict(
            zip(simulation["energy_names"].tolist(), simulation["energies"].T, strict=True)
        )
        internal = (energy["elastic"] + energy["plastic"])[1:]
        for name in GATED_ENERGIES:
            figures[f"{name}_ratio"] = np.nanmax(energy[name][1:] / internal, initial=0.0)
    return figures
