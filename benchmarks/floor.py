"""The field error that a perfect model would still have: how far a design has one deformation.

python benchmarks/floor.py --count 8

Field error of s22, mean over the strain steps as `crumple evaluate` has it, and NRMSE of the curve,
of one simulation of each design against

- one whose imperfection is moved by half a period, on the same mesh: what the solver makes of the
  half-period shift, an exact symmetry of the network. Control: an imperfection of period 1;
- the mirror images of its own fields. A design is its own mirror image, and its deformation isn't:
  a model trained with mirrored copies has to guess which of the four it is asked for. A perfect one
  guesses each as often, so that its error is the mean over the four, one of which is right;
- one on a finer mesh, and one of the design moved by half a period, moved back: what the mesh alone
  changes. The mesh follows from the design, but no model will learn where its nodes are.

The designs are the first ones of the presets' data set (seed 0).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from crumple import dataset, designs, meshing
from crumple.config import Config
from crumple.fem import cell
from crumple.fem.compression import compress
from crumple.fields import lagrangian_frames, pixel_map
from crumple.layout import CELL, CHANNELS, FRAME_STRAIN
from crumple.metrics import field_error, nrmse
from crumple.progress import progress

FINER = 0.93  # elements of the second mesh
S22 = CHANNELS.index("s22")
MIRRORED = ("mirrored left-right", "mirrored top-bottom", "mirrored both ways")

Imperfection = Callable[[np.ndarray, float], np.ndarray]
OF_PRESETS: Imperfection = cell.imperfection


class Simulated(NamedTuple):
    """A simulation of a design."""

    frames: np.ndarray  # (11, 4, 96, 96)
    curve: np.ndarray  # (51,) MPa


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8, help="designs; default 8")
    args = parser.parse_args()
    config = Config()
    errors: dict[str, list[tuple[float, float]]] = {}
    with meshing.gmsh_session():
        for index in progress(range(args.count), args.count, "floor"):
            design = designs.mirror(designs.sample(config.seed, index, config.designs).quarter)
            for name, found in compare(design, config).items():
                errors.setdefault(name, []).append(found)
    print(f"\n{'':40} {'field error, %':^22} {'curve, %':^15}")
    print(f"{'':40} {'mean':>7} {'median':>7} {'worst':>6} {'mean':>7} {'worst':>7}")
    for name, found in errors.items():
        field, curve = 100 * np.array(found).T
        print(
            f"{name:40} {field.mean():7.3f} {np.median(field):7.3f} {field.max():6.2f}"
            f" {curve.mean():7.3f} {curve.max():7.3f}"
        )
    mirrored = [np.mean([field for field, _ in errors[name]]) for name in MIRRORED]
    print(f"a perfect model, trained with mirrored copies: {100 * sum(mirrored) / 4:.2f} %")


def compare(design: np.ndarray, config: Config) -> dict[str, tuple[float, float]]:
    """Return field error and curve error of everything that a design is compared with."""
    size = config.mesh.element_size
    mesh, _ = meshing.mesh_cell(design, size)
    first = simulate(design, mesh, config)
    found = {
        "imperfection moved by half a period": error(
            simulate(design, mesh, config, moved(OF_PRESETS)), first
        ),
        "control: imperfection of period 1, moved": error(
            simulate(design, mesh, config, moved(period_one)),
            simulate(design, mesh, config, period_one),
        ),
    }
    left_right = dataset.mirror_x(first.frames)
    images = (
        left_right,
        dataset.mirror_y(first.frames, design, FRAME_STRAIN),
        dataset.mirror_y(left_right, design, FRAME_STRAIN),
    )
    for name, image in zip(MIRRORED, images, strict=True):
        found[name] = error(Simulated(image, first.curve), first)
    finer, _ = meshing.mesh_cell(design, FINER * size)
    found["a finer mesh"] = error(simulate(design, finer, config), first)
    shifted = np.roll(design, CELL // 2, axis=1)
    other, _ = meshing.mesh_cell(shifted, size)
    result = simulate(shifted, other, config)
    found["design moved by half a period"] = error(
        Simulated(dataset.shift_x(result.frames), result.curve), first
    )
    return found


def error(found: Simulated, reference: Simulated) -> tuple[float, float]:
    """Return the error of s22, mean over the strain steps, and that of the curve."""
    fields = field_error(found.frames[:, S22], reference.frames[:, S22])
    return float(fields.mean()), float(nrmse(found.curve, reference.curve))


def simulate(
    design: np.ndarray,
    mesh: meshing.QuadMesh,
    config: Config,
    imperfection: Imperfection = OF_PRESETS,
) -> Simulated:
    """Compress a mesh of an image of a cell."""
    with patch.object(cell, "imperfection", imperfection):
        result = compress(mesh.nodes, mesh.cells, config)
    if result["status"] != "ok":
        raise SystemExit(f"a design could not be simulated: {result['status']}")
    pixels = pixel_map(result["nodes"], result["cells"], design)
    return Simulated(lagrangian_frames(result, pixels), result["curve_stress"])


def moved(imperfection: Imperfection) -> Imperfection:
    """Return an imperfection moved by half a period."""
    return lambda points, amplitude: imperfection(points + [0.5, 0.0], amplitude)


def period_one(points: np.ndarray, amplitude: float) -> np.ndarray:
    """Return an imperfection as :func:`crumple.fem.cell.imperfection`, but of period 1 in x."""
    return OF_PRESETS(points * [0.5, 1.0], amplitude)


if __name__ == "__main__":
    main()
