"""How much the curve of one design depends on what nobody controls exactly.

A design whose curve changes much with a finer mesh, another friction, the fixing at the platens,
the imperfection or a little more or less material isn't one to build on. Each is changed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crumple.atomic import atomic_path, claim, save_record
from crumple.config import Config
from crumple.designs import read_design
from crumple.errors import UserError
from crumple.fem.compression import compress
from crumple.goal_check import panel
from crumple.goals import Goal, measure, read_goals
from crumple.layout import CELL, CURVE_STRAIN
from crumple.meshing import QuadMesh
from crumple.metrics import largest_plastic_strain, nrmse
from crumple.plotting import sensitivity_figure
from crumple.progress import progress
from crumple.provenance import PHYSICS, hash_file, stages_of
from crumple.simulation import mesh_design
from crumple.widths import narrowest

FINER = 0.010  # element size, cell sides
COARSEST_STEP = 0.75  # of the element size, where it is fine already
FRICTION = (0.3, 0.5)
IMPERFECTION = (0.5, 2.0)  # factors
OFFSET = 0.25  # pixels
TABLE, CURVES, PICTURE = "sensitivity.csv", "curves.csv", "sensitivity.png"


class Variant(NamedTuple):
    """The design, or the design with one thing changed."""

    name: str
    config: Config
    offset: float = 0.0  # pixels by which the solid grows outward everywhere


class Outcome(NamedTuple):
    """What the simulation of a variant gave."""

    variant: Variant
    stress: NDArray  # (51,) MPa, NaN from where it ended early
    plastic_strain: float  # crumple.metrics.largest_plastic_strain
    status: str


def variants(config: Config) -> list[Variant]:
    """List what is simulated, the design as it is first.

    Parameters
    ----------
    config
        Settings of the design as it is.
    """
    size, loading = config.mesh.element_size, config.loading
    finer = min(FINER, COARSEST_STEP * size)
    other = "lubricated" if loading.platens != "lubricated" else "bonded"
    found = [
        Variant("nominal", config),
        Variant(f"finer mesh, h = {finer:.3g}", _with(config, mesh={"element_size": finer})),
    ]
    found += [
        Variant(f"friction {value:g}", _with(config, contact={"friction": value}))
        for value in FRICTION
        if value != config.contact.friction
    ]
    found.append(Variant(f"{other} platens", _with(config, loading={"platens": other})))
    for factor in IMPERFECTION:
        changed = _with(config, loading={"imperfection": factor * loading.imperfection})
        found.append(Variant(f"imperfection x {factor:g}", changed))
    return found + [
        Variant(f"outline {sign * OFFSET:+g} px", config, sign * OFFSET) for sign in (1, -1)
    ]


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    """Return a configuration with some settings of some sections changed."""
    changed = {
        name: getattr(config, name).model_copy(update=values) for name, values in sections.items()
    }
    return config.model_copy(update=changed)


def simulate_variants(cell: NDArray, chosen: Sequence[Variant], design: Path) -> Iterator[Outcome]:
    """Mesh and compress a design in all variants, one after the other.

    Parameters
    ----------
    cell
        (96, 96), 1 solid, row 0 = top.
    chosen
        What to simulate; see :func:`variants`.
    design
        What messages call it.

    Yields
    ------
    Outcome
        Where a variant cannot be meshed or compressed, its ``status`` says why.
    """
    strut = narrowest(cell).strut
    meshes: dict[tuple[float, float], QuadMesh] = {}
    for variant in chosen:
        nothing = Outcome(variant, np.full(len(CURVE_STRAIN), np.nan), np.nan, "")
        if strut <= -2 * variant.offset:
            yield nothing._replace(status=f"a strut of {strut:.2g} px is lost")
            continue
        key = (variant.offset, variant.config.mesh.element_size)
        try:
            if key not in meshes:
                meshes[key] = mesh_design(variant.config, cell, design, variant.offset / CELL)
            mesh = meshes[key]
            result = compress(mesh.nodes, mesh.cells, variant.config)
        except UserError as reason:
            yield nothing._replace(status=str(reason))
            continue
        plastic = largest_plastic_strain(result)
        yield Outcome(variant, result["curve_stress"], plastic, str(result["status"]))


def table(outcomes: Sequence[Outcome], goals: Sequence[Goal]) -> pd.DataFrame:
    """Compare the variants with the first of them and with goals.

    Returns
    -------
    pandas.DataFrame
        A row per variant: ``variant``, ``nrmse_nominal`` (a fraction), ``error_NAME`` per goal,
        ``stress_20`` (MPa), ``energy`` (MJ/m3), ``plastic_strain`` and ``status``.
    """
    curves = np.array([outcome.stress for outcome in outcomes])
    columns: dict[str, Any] = {
        "variant": [outcome.variant.name for outcome in outcomes],
        "nrmse_nominal": nrmse(curves, curves[0]),
    }
    columns |= {f"error_{goal.name}": goal.error(curves) for goal in goals}
    step = np.diff(CURVE_STRAIN)
    columns |= {
        "stress_20": curves[:, -1],
        "energy": 0.5 * (curves[:, 1:] + curves[:, :-1]) @ step,
        "plastic_strain": [outcome.plastic_strain for outcome in outcomes],
        "status": [outcome.status for outcome in outcomes],
    }
    return pd.DataFrame(columns)


def sensitivity(config: Config, design: Path, targets: Sequence[Path], out: Path) -> None:
    """Simulate a design of a user in all variants; write the table and draw the curves.

    Parameters
    ----------
    config
        Settings of the design as it is; ``mesh``, ``material``, ``contact`` and ``loading`` count.
    design
        PNG or npz, see :func:`crumple.designs.read_design`.
    targets
        Goals (YAML or CSV) that the curves are compared with; may be empty. The one that the
        design is nearest to is drawn.
    out
        Folder for ``sensitivity.csv`` (:func:`table`), ``curves.csv`` (a column per variant) and
        ``sensitivity.png``; what this command wrote there before is replaced.

    Raises
    ------
    UserError
        When the design or a goal cannot be read, or the design as it is does not reach the last
        strain.
    """
    out = claim(out, "sensitivity", folder=True)
    cell, goals = read_design(design), read_goals(targets)
    outcomes = simulate_all(config, cell, design)
    with atomic_path(out) as folder:
        rows = write_outcomes(folder, outcomes, goals)
        record = {
            "stage": "sensitivity",
            "settings": stages_of(config, PHYSICS),
            "inputs": {"design": hash_file(design)}
            | {f"target {path.name}": hash_file(path) for path in targets},
        }
        save_record(folder, record)
    print("\n".join(_lines(rows, goals)))
    measures = measure(cell)._replace(plastic_strain=outcomes[0].plastic_strain)
    for goal in goals:
        for violation in goal.violations(measures):
            print(f"{goal.name}: {violation}")


def simulate_all(config: Config, cell: NDArray, design: Path) -> list[Outcome]:
    """Simulate a design in all variants; parameters as in :func:`simulate_variants`.

    Raises
    ------
    UserError
        When the design as it is does not reach the last strain.
    """
    chosen = variants(config)
    steps = simulate_variants(cell, chosen, design)
    outcomes = []
    for outcome in progress(steps, len(chosen), "sensitivity", "variant"):
        outcomes.append(outcome)
        if outcomes[0].status != "ok":
            raise UserError(f"{design} as it is cannot be simulated: {outcomes[0].status}")
    return outcomes


def simulate_finer(config: Config, cell: NDArray, design: Path) -> Outcome:
    """Simulate a design on a finer mesh; parameters as in :func:`simulate_variants`."""
    return next(simulate_variants(cell, variants(config)[1:2], design))


def write_outcomes(
    folder: Path, outcomes: Sequence[Outcome], goals: Sequence[Goal]
) -> pd.DataFrame:
    """Write ``TABLE``, ``CURVES`` and ``PICTURE`` into a new folder; return the :func:`table`.

    The goal that the design is nearest to is drawn.
    """
    rows = table(outcomes, goals)
    curves = pd.DataFrame({o.variant.name: o.stress for o in outcomes})
    curves.insert(0, "strain (1)", CURVE_STRAIN)
    nearest = min(goals, key=lambda goal: rows[f"error_{goal.name}"][0], default=None)
    folder.mkdir()
    rows.to_csv(folder / TABLE, index=False, float_format="%.5g", lineterminator="\n")
    curves.to_csv(folder / CURVES, index=False, float_format="%.6g", lineterminator="\n")
    target = panel(nearest, None) if nearest else None
    sensitivity_figure(folder / PICTURE, rows, curves, target)
    return rows


def _lines(rows: pd.DataFrame, goals: Sequence[Goal]) -> Iterator[str]:
    """The errors of the table in words."""
    wide = rows["variant"].str.len().max()
    for _, row in rows.iterrows():
        parts = [f"{row['nrmse_nominal']:6.1%} from nominal"]
        parts += [f"{row[f'error_{goal.name}']:6.1%} from {goal.name}" for goal in goals]
        line = ", ".join(parts) if row["status"] == "ok" else row["status"]
        yield f"{row['variant']:{wide}} {line}"
