"""From Gauss points to pixels: how well does each method keep the balance with the platens?

python benchmarks/fields.py --count 16

Per method the virial identity, mean(J s22) = -(1 - strain) x reaction, from 2 % strain on, and the
rows of P22 at 2 % strain, before walls touch: each carries the platens' force.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from crumple import designs, fields, meshing
from crumple.config import Config
from crumple.fem.compression import compress
from crumple.fem.elements import GAUSS_POINTS, build_geometry, shape_functions
from crumple.layout import CELL
from crumple.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=16)
    args = parser.parse_args()
    config = Config()
    virial: dict[str, list] = {}
    rows: dict[str, list] = {}
    cpu = {"search and matrices": 0.0, "frames": 0.0}
    with meshing.gmsh_session():
        for index in progress(range(args.count), args.count, "fields"):
            design = designs.mirror(designs.sample(config.seed, index, config.designs).quarter)
            mesh, _ = meshing.mesh_cell(design, config.mesh.element_size)
            result = compress(mesh.nodes, mesh.cells, config)
            if result["status"] != "ok":
                continue
            start = time.process_time()
            pixels = fields.pixel_map(mesh.nodes, mesh.cells, design)
            middle = time.process_time()
            fields.lagrangian_frames(result, pixels)
            cpu["search and matrices"] += middle - start
            cpu["frames"] += time.process_time() - middle
            compare(result, pixels, virial, rows)
    print(f"{'':42} {'virial, % of the reaction':^26} {'rows of P22, rms %':^26}")
    print(f"{'':42} {'median':>12} {'worst':>12}  {'median':>12} {'worst':>12}")
    for name in virial:
        values = [100 * f(np.abs(t[name])) for t in (virial, rows) for f in (np.median, np.max)]
        print(f"{name:42} {values[0]:12.2f} {values[1]:12.2f}  {values[2]:12.2f} {values[3]:12.2f}")
    for name, seconds in cpu.items():
        print(f"{name}: {seconds / args.count:.4f} CPU s per design")


def compare(result: dict, pixels: fields.PixelMap, virial: dict, rows: dict) -> None:
    """Append the errors of all methods for one design."""
    nodes, cells = result["nodes"], result["cells"]
    F = fields.deformation_gradient(nodes, cells, result["u"])
    kirchhoff = np.linalg.det(F) * result["cauchy"][..., 1]
    nominal = fields.nominal_stress(result)
    for name, method in methods(nodes, cells, pixels).items():
        mean = np.array([method(values).mean() for values in kirchhoff[1:]])
        reaction = result["frame_stress"][1:] * (1 - result["frame_strain"][1:])
        virial.setdefault(name, []).append(np.abs(-mean / reaction - 1).max())
        error = -method(nominal[1]).mean(axis=1) / result["frame_stress"][1] - 1
        rows.setdefault(name, []).append(np.sqrt(np.mean(error**2)))


def methods(nodes: np.ndarray, cells: np.ndarray, pixels: fields.PixelMap) -> dict:
    """Return functions from Gauss-point values (M, 4) to images (96, 96)."""
    solid = pixels.solid
    location = fields.locate(nodes, cells, CELL)
    inside = location.cell >= 0
    nearest = fields.QUADRANT[tuple((location.xi > 0).astype(int).transpose(2, 0, 1))]
    flat = location.xi.reshape(-1, 2)
    linear = shape_functions(flat * np.sqrt(3)).reshape(CELL, CELL, 4)
    nodal = shape_functions(flat).reshape(CELL, CELL, 4)
    covered = np.asarray(pixels.stress.sum(axis=1)).ravel()

    weights = build_geometry(nodes[cells]).weights
    shape = shape_functions(GAUSS_POINTS)
    local_mass = np.einsum("mg,ga,gb->mab", weights, shape, shape)
    places = np.repeat(cells, 4, axis=1).ravel(), np.tile(cells, (1, 4)).ravel()
    mass = splu(sparse.csc_matrix((local_mass.ravel(), places), (len(nodes),) * 2))

    def distributed(values, divide_by=1.0):
        image = np.zeros((CELL, CELL))
        image[solid] = pixels.stress @ values.ravel() / divide_by
        return image

    def projected(values):
        load = np.einsum("mg,mg,ga->ma", weights, values, shape)
        at_nodes = mass.solve(np.bincount(cells.ravel(), load.ravel(), len(nodes)))
        return (nodal * at_nodes[cells[location.cell]]).sum(axis=-1) * inside * solid

    return {
        "force distributed to pixels (in use)": distributed,
        "mean over the solid part of a pixel": lambda v: distributed(v, np.maximum(covered, 0.01)),
        "nearest Gauss point at the centre": lambda v: v[location.cell, nearest] * inside * solid,
        "linear in the element, at the centre": (
            lambda v: (linear * v[location.cell]).sum(axis=-1) * inside * solid
        ),
        "continuous L2 projection, at the centre": projected,
    }


if __name__ == "__main__":
    main()
