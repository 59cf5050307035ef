"""Three designs under one version of dolfinx, and the comparison of versions (see run.sh)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-6  # of the largest stress of a curve
DESIGNS = (0, 3, 5)  # two of them close contacts


def mesh(folder: str) -> None:
    """Mesh the designs once, so that every version gets the same nodes."""
    from crumple import designs, meshing
    from crumple.config import Config

    Path(folder).mkdir(parents=True, exist_ok=True)
    config = Config()
    with meshing.gmsh_session():
        for index in DESIGNS:
            design = designs.mirror(designs.sample(config.seed, index, config.designs).quarter)
            result, _ = meshing.mesh_cell(design, config.mesh.element_size)
            np.savez(f"{folder}/{index}.npz", nodes=result.nodes, cells=result.cells)


def compress(folder: str, out: str) -> None:
    """Compress all meshes and save the curves."""
    import dolfinx

    from crumple.config import Config
    from crumple.fem.compression import compress

    curves = []
    for index in DESIGNS:
        with np.load(f"{folder}/{index}.npz") as file:
            result = compress(file["nodes"], file["cells"], Config())
        print(
            f"dolfinx {dolfinx.__version__}, NumPy {np.__version__}, design {index}: "
            f"{result['status']}, {result['newton_iterations']} Newton iterations",
            flush=True,
        )
        curves.append(result["curve_stress"])
    np.savez(out, version=dolfinx.__version__, curves=curves)


def compare(reference: str, *others: str) -> None:
    """Exit with 1 when a curve differs from the reference's by more than the tolerance."""
    with np.load(reference) as file:
        here, version = file["curves"], str(file["version"])
    worst = 0.0
    for other in others:
        with np.load(other) as file:
            scale = here.max(axis=1, keepdims=True)
            difference = np.abs(file["curves"] / scale - here / scale).max(axis=1)
            print(f"dolfinx {version} and {file['version']}: {difference.max():.1e} of the peak")
            assert str(file["version"]) != version, "both results come from the same version"
            worst = max(worst, *np.nan_to_num(difference, nan=np.inf))
    between = np.abs(here[0] - here[1]).max() / here.max()
    assert between > 1000 * TOLERANCE, "the designs are too alike to tell anything"
    sys.exit(int(worst > TOLERANCE))


if __name__ == "__main__":
    {"mesh": mesh, "compress": compress, "compare": compare}[sys.argv[1]](*sys.argv[2:])
