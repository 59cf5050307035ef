"""Target curves from CSV files: wide tables, bare numbers, or strain-stress pairs.

Strain is a fraction, stress effective nominal stress in MPa, both positive in compression; other
units are converted where a header names them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crumple.errors import UserError
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN

FACTORS = {"pa": 1e-6, "kpa": 1e-3, "mpa": 1.0, "gpa": 1e3, "%": 1e-2, "": 1.0, "-": 1.0, "1": 1.0}
BARE_COLUMNS = {len(strain): strain for strain in (FRAME_STRAIN, CURVE_STRAIN)}
MOST_STRESS = 1000.0  # MPa; ten times what the base material bears
TOLERANCE = 1e-6  # strains closer than this are the same


class Targets(NamedTuple):
    """Curves at the strains of the model."""

    names: list[str]
    stress: np.ndarray  # (targets, steps) MPa, 0 where unknown
    known: np.ndarray  # (targets, steps) bool


def read_targets(paths: Sequence[Path], strain: np.ndarray) -> Targets:
    """Read target curves and resample them linearly; what a file leaves out stays unknown.

    Parameters
    ----------
    paths
        CSV files (comma or semicolon), each in one of three forms: a header ``target`` and
        strains, and a row with name and stresses per target; rows of 11 or 51 stresses without a
        header; or a header such as ``strain, stress`` or ``strain [%], stress [kPa]`` and a row
        per point of one target, which is named after the file. Empty cells are unknown.
    strain
        ``(steps,)`` strains to resample to.

    Raises
    ------
    UserError
        One sentence with file, row and what is expected, when a file is malformed.
    """
    names: list[str] = []
    stress, known = [], []
    for path in paths:
        for name, given_strain, given_stress in read_curves(Path(path)):
            values, visible = resample(given_strain, given_stress, strain)
            if visible.sum() < 2:
                raise UserError(
                    f"{path}: target {name} gives stress at {visible.sum()} of the model's strains "
                    f"between {strain[0]:g} and {strain[-1]:g}; at least 2 are needed"
                )
            if name in names:
                raise UserError(f"{path}: two targets are called {name}; names must differ")
            names.append(name)
            stress.append(values)
            known.append(visible)
    return Targets(names, np.array(stress), np.array(known))


def resample(
    given_strain: np.ndarray, given_stress: np.ndarray, strain: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate a curve linearly.

    Parameters
    ----------
    given_strain, given_stress
        ``(points,)`` rising strains; NaN stress where unknown.
    strain
        ``(steps,)`` where the curve is wanted.

    Returns
    -------
    stress : ndarray
        ``(steps,)``, 0 where unknown.
    known : ndarray
        ``(steps,)`` bool; false outside the given strains and beside unknown points.
    """
    right = np.searchsorted(given_strain, strain - TOLERANCE).clip(0, len(given_strain) - 1)
    left = np.where(np.abs(given_strain[right] - strain) <= TOLERANCE, right, right - 1).clip(0)
    inside = (given_strain[0] - TOLERANCE <= strain) & (strain <= given_strain[-1] + TOLERANCE)
    known = inside & np.isfinite(given_stress[left]) & np.isfinite(given_stress[right])
    given = np.isfinite(given_stress)
    if not given.any():
        return np.zeros(len(strain)), np.zeros(len(strain), bool)
    stress = np.interp(strain, given_strain[given], given_stress[given])
    return np.where(known, stress, 0), known


def read_curves(path: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, strains and stresses (MPa, NaN where unknown) of each target of one CSV file.

    Raises
    ------
    UserError
        See :func:`read_targets`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the target file {path}: {error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path} holds no target curve")
    delimiter = ";" if ";" in lines[0] else ","
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise UserError(f"cannot read the target file {path}: {error}") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{path}, row {number}: {len(row)} columns where the first row has {len(rows[0])}"
            )
    if rows[0][0].lower().startswith("strain"):
        return [_pairs(path, rows)]
    if all(_is_number(cell) for row in rows for cell in row):
        return _bare(path, rows)
    return _table(path, rows)


def _pairs(path: Path, rows: list[list[str]]) -> tuple[str, np.ndarray, np.ndarray]:
    if len(rows[0]) != 2 or not rows[0][1].lower().startswith("stress"):
        raise UserError(f"{path}: a header that starts with strain needs stress beside it")
    factors = [unit_factor(path, cell) for cell in rows[0]]
    values = np.array([_numbers(path, i, row) for i, row in enumerate(rows[1:], start=2)])
    if len(values) < 2:
        raise UserError(f"{path} holds {len(values)} points; a curve needs at least 2")
    return path.stem, *checked_curve(
        path, path.stem, values[:, 0] * factors[0], values[:, 1] * factors[1]
    )


def _bare(path: Path, rows: list[list[str]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    strain = BARE_COLUMNS.get(len(rows[0]))
    if strain is None:
        raise UserError(
            f"{path} has {len(rows[0])} columns and no header; without a header of strains a row "
            "holds 11 stresses (0.2 %, 2 %, 4 % ... 20 %) or 51 (0, 0.4 % ... 20 %)"
        )
    if len(rows) > 1 and rows[0][-1] and np.allclose(_numbers(path, 1, rows[0]), strain):
        raise UserError(
            f"{path} starts with strains: give that row the heading 'target', and a name "
            "to every other row"
        )
    targets = []
    for number, row in enumerate(rows, start=1):
        name = path.stem if len(rows) == 1 else f"{path.stem}_{number}"
        targets.append((name, *checked_curve(path, name, strain, _numbers(path, number, row))))
    return targets


def _table(path: Path, rows: list[list[str]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    header = rows[0][1:]
    if len(rows) < 2 or not header or not all(cell and _is_number(cell) for cell in header):
        raise UserError(
            f"{path}: expected a header 'target,0.002,0.02,...' of strains and a row of stresses "
            "in MPa per target, or a header 'strain,stress' and a row per point"
        )
    strain = np.array([float(cell) for cell in header])
    targets = []
    for number, row in enumerate(rows[1:], start=2):
        stress = _numbers(path, number, row[1:], first_column=2)
        targets.append((row[0], *checked_curve(path, row[0], strain, stress)))
    return targets


def checked_curve(
    path: Path, name: str, strain: np.ndarray, stress: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve (points,) if its values can be what they are taken for.

    Raises
    ------
    UserError
        When strains don't rise or aren't fractions, or stresses aren't MPa.
    """
    where = f"{path}: target {name}"
    if not np.isfinite(strain).all() or np.any(np.diff(strain) <= 0) or strain[0] < 0:
        raise UserError(
            f"{where}: strains must be given, not negative, and rise from point to point"
        )
    if strain[-1] > 1:
        raise UserError(
            f"{where}: strains up to {strain[-1]:g}; strain is a fraction (0.2 for 20 %), "
            "or name the column 'strain [%]'"
        )
    given = stress[np.isfinite(stress)]
    if np.any(np.abs(given) > MOST_STRESS):
        raise UserError(
            f"{where}: stresses up to {np.abs(given).max():g} MPa; stress is in MPa, or name the "
            "column 'stress [kPa]'"
        )
    if given.sum() < 0:
        raise UserError(f"{where}: stress must be positive in compression")
    return strain, stress


def unit_factor(path: Path, heading: str) -> float:
    """Return the factor of the unit that a heading like ``stress [kPa]`` names.

    Raises
    ------
    UserError
        When it names no unit of strain or stress.
    """
    unit = re.sub(r"^(strain|stress)", "", heading.lower()).strip(" _[]()/")
    allowed = ("%", "", "-", "1") if heading.lower().startswith("strain") else tuple(FACTORS)
    if unit not in allowed or (heading.lower().startswith("stress") and unit in ("%", "-", "1")):
        raise UserError(
            f"{path}: cannot tell the unit of '{heading}'; use strain or strain [%], and stress, "
            "stress [Pa], [kPa], [MPa] or [GPa]"
        )
    return FACTORS[unit]


def _numbers(path: Path, number: int, row: list[str], first_column: int = 1) -> np.ndarray:
    for column, cell in enumerate(row, start=first_column):
        if not _is_number(cell):
            raise UserError(f"{path}, row {number}: '{cell}' in column {column} isn't a number")
    return np.array([float(cell) if cell else np.nan for cell in row])


def _is_number(cell: str) -> bool:
    """Return whether a cell is empty or a finite number."""
    try:
        return cell == "" or bool(np.isfinite(float(cell)))
    except ValueError:
        return False
