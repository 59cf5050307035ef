"""Random designs and their meshes: acceptance, failures with reasons, quality, sizes, CPU time.

python benchmarks/meshing.py --count 1000
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from crumple import designs, meshing, outline
from crumple.config import Config
from crumple.progress import progress


def main() -> None:
    defaults = Config()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--element-size", type=float, default=defaults.mesh.element_size)
    args = parser.parse_args()

    rows, tries, solid_fraction, failures, fallbacks = [], [], [], [], []
    seconds = {"sampling": 0.0, "meshing": 0.0}
    with meshing.gmsh_session():
        for index in progress(range(args.count), args.count, "mesh"):
            start = time.process_time()
            design = designs.sample(args.seed, index, defaults.designs)
            middle = time.process_time()
            cell = designs.mirror(design.quarter)
            tries.append(design.tries)
            solid_fraction.append(cell.mean())
            try:
                mesh, fallback = meshing.mesh_cell(cell, args.element_size)
            except meshing.MeshFailure as error:
                failures.append(f"{index}: {error}")
                continue
            finally:
                seconds["sampling"] += middle - start
                seconds["meshing"] += time.process_time() - middle
            if fallback:
                fallbacks.append(f"{index}: {fallback}")
            rows.append(figures(cell, mesh, args.element_size))

    print(designs.statistics(np.array(tries), np.array(solid_fraction)))
    print(f"meshes: {len(rows)} of {args.count} with element size {args.element_size}")
    for title, lines in (("failures", failures), ("fallbacks", fallbacks)):
        print(f"{title}: {len(lines)}")
        for line in lines:
            print(f"  {line}")
    for stage, total in seconds.items():
        print(f"{stage}: {total / args.count:.4f} CPU s per design")
    print(f"{'':34} {'min':>9} {'1 %':>9} {'median':>9} {'mean':>9} {'99 %':>9} {'max':>9}")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        low, median, high = np.percentile(values, [1, 50, 99])
        columns = (values.min(), low, median, values.mean(), high, values.max())
        print(f"{name:34} " + " ".join(f"{value:9.4g}" for value in columns))


def figures(cell: np.ndarray, mesh: meshing.QuadMesh, h: float) -> dict[str, float]:
    """What a mesh is judged by."""
    corners = mesh.nodes[mesh.cells]
    area = 0.5 * np.abs(outline.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]))
    quality = meshing.quality(mesh)
    return {
        "nodes": len(mesh.nodes),
        "worst scaled Jacobian of the mesh": quality["min_scaled_jacobian"],
        "smallest angle (degrees)": quality["min_angle"],
        "mean side / element size": quality["mean_side"] / h,
        "smallest side / element size": quality["min_side"] / h,
        "area of solid, mesh / outline": area.sum() / outline.from_image(cell).area,
        "area of solid, mesh / pixels": area.sum() / cell.mean(),
    }


if __name__ == "__main__":
    main()
