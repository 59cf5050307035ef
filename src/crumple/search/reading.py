"""What the page of a search is made of: history, goal, the folder of `crumple winner`, library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crumple.errors import UserError
from crumple.goals import Goal, Measures
from crumple.library import Library, read_library
from crumple.lookup import match
from crumple.provenance import fingerprint, require_inputs
from crumple.readers import refusing
from crumple.search.choice import goal_hash, one_goal
from crumple.search.history import History, read_history
from crumple.search.result import (
    ADVICE,
    CURVES,
    SENSITIVITY,
    TABLE,
    WinnerRecord,
    read_fields,
    read_winner_record,
)

COLUMNS = ("variant", "nrmse_nominal", "stress_20", "energy", "plastic_strain", "status")


class Match(NamedTuple):
    """The nearest design of a library."""

    error: float
    stress: NDArray  # (51,) MPa
    quarter: NDArray


class Found(NamedTuple):
    """Everything that the page shows."""

    goal: Goal
    history: History
    designs: list[dict[str, NDArray]]  # the winner first; crumple.search.result.FIELDS
    table: pd.DataFrame  # of the sensitivity
    curves: pd.DataFrame
    record: WinnerRecord
    library: Library
    match: Match | None  # None: no design of the library keeps to the limits
    tolerance: float

    @property
    def best(self) -> int:
        """Place of the winner in the history."""
        return self.place(self.designs[0])

    def place(self, design: Mapping[str, NDArray]) -> int:
        """Place of one of the designs in the history."""
        return int(np.flatnonzero(self.history.index == design["index"])[0])

    @property
    def violations(self) -> list[str]:
        """Limits that the winner exceeds."""
        return self.goal.violations(self.measures)

    @property
    def measures(self) -> Measures:
        """What limits are about, of the winner."""
        return Measures(*self.designs[0]["measures"].tolist())

    @property
    def error(self) -> float:
        """Error of the winner."""
        return float(self.goal.error(self.designs[0]["curve_stress"]))

    @property
    def is_met(self) -> bool:
        """Whether the winner is within the tolerance and the limits."""
        return self.error <= self.tolerance and not self.violations


class FinerMesh(NamedTuple):
    """The check of the winner."""

    name: str
    error: float  # from the goal
    stress: NDArray  # (51,) MPa


def finer_mesh(found: Found) -> FinerMesh:
    """Return what the sensitivity says of a finer mesh, its first variant."""
    name = str(found.table["variant"][1])
    stress = found.curves[name].to_numpy(float)
    return FinerMesh(name, float(found.goal.error(stress)), stress)


def read_search(
    rounds: Sequence[Path],
    targets: Sequence[Path],
    goal_name: str | None,
    folder: Path,
    library_path: Path | None,
    tolerance: float,
) -> Found:
    """Read what the page shows; parameters as in :func:`crumple.search.page.write_design_page`.

    Raises
    ------
    UserError
        When something cannot be read, or the folder is of another search.
    """
    goal = one_goal(targets, goal_name)
    record = read_winner_record(folder)
    inputs = {"rounds": fingerprint(rounds), "goal": goal_hash(goal)}
    require_inputs(record.model_dump(), folder, **inputs)
    library = read_library(library_path)
    return Found(
        goal,
        read_history(rounds),
        read_fields(folder),
        *_read_sensitivity(folder / SENSITIVITY, goal),
        record,
        library,
        nearest(library, goal),
        tolerance,
    )


def _read_sensitivity(folder: Path, goal: Goal) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read table and curves of `crumple sensitivity`; see :mod:`crumple.sensitivity`."""
    with refusing(folder / TABLE, ADVICE):
        table = pd.read_csv(folder / TABLE)
        _require_columns(table, [*COLUMNS, f"error_{goal.name}"])
    with refusing(folder / CURVES, ADVICE):
        curves = pd.read_csv(folder / CURVES)
        _require_columns(curves, table["variant"].tolist())
    return table, curves


def _require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing or len(table) < 2:
        raise ValueError(f"it lacks {missing[0]}" if missing else "it lacks rows")


def nearest(library: Library, goal: Goal) -> Match | None:
    """Return the nearest design of a library that keeps to the limits of a goal."""
    try:
        found = match(library, goal, 1)
    except UserError:  # no design that was looked at keeps to them
        return None
    row = int(found.row[0])
    return Match(float(found.error[0]), library.curve_stress[row], library.quarter[row])
