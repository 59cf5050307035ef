"""The best matches of targets in a library: a table, their designs and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crumple.atomic import atomic_path, claim, save_npz, save_record, save_sums
from crumple.designs import mirror
from crumple.errors import UserError
from crumple.goal_check import NEAR, USUAL, beyond, panel, spacing
from crumple.goals import Goal, Limits, Measures, file_name, measure, read_goals
from crumple.layout import CURVE_STRAIN
from crumple.library import Library, read_library
from crumple.plotting import match_figure
from crumple.progress import progress
from crumple.provenance import hash_designs

MOST_TILES = 16  # matches in a picture
MEASURED = 100  # designs whose struts and gaps are measured, the nearest ones: 0.1 s each
COLUMNS = ("target", "rank", "design", "error", "solid_fraction", "stress_at_20_percent")


class Matches(NamedTuple):
    """The best matches of one target, best first."""

    goal: Goal
    row: NDArray  # (m,) of the library
    error: NDArray  # (m,) fractions; of a curve the NRMSE
    typical: float  # median error of all designs of the library


def lookup(paths: Sequence[Path], library_path: Path | None, count: int, out: Path) -> None:
    """Find and print the best matches of every target, and write and draw them.

    Parameters
    ----------
    paths
        CSV files of curves and YAML files of goals (:func:`crumple.goals.read_goals`).
    library_path
        Another library than the one of the package.
    count
        Matches per target.
    out
        Folder: ``matches.csv``; ``designs.npz``, each design once, which `crumple mesh` takes;
        ``designs/*.png``, which `crumple simulate-one` takes; a picture per target.

    Raises
    ------
    UserError
        When a file is malformed, or no design keeps to the limits of a goal.
    """
    if count < 1:
        raise UserError(f"--count {count} is not possible: ask for at least 1 match per target")
    out = claim(out, "lookup", folder=True)
    goals = read_goals(paths)
    library = read_library(library_path)
    near = spacing(library.curve_stress) if len(library) > 1 else np.empty(0)
    found = [match(library, goal, count) for goal in goals]
    for matches in found:
        print(describe(library, matches, near), end="\n\n")
    record = {
        "stage": "lookup",
        "settings": {"sample": library.record["settings"]["sample"]},
        "inputs": {"library": library.record["inputs"]["designs"]},
    }
    with atomic_path(out) as folder:
        folder.mkdir()
        save_record(folder, record)
        _write_table(folder / "matches.csv", library, found)
        _write_designs(folder, library, found)
        for number, matches in enumerate(found, start=1):
            picture = folder / f"{number:02d}_{file_name(matches.goal.name)}.png"
            _draw(picture, library, matches, near)
        save_sums(folder)
    print(f"{out}: table, designs and a picture per target")


def match(library: Library, goal: Goal, count: int) -> Matches:
    """Return the ``count`` designs (fewer if there are fewer) that are nearest to a goal.

    Raises
    ------
    UserError
        When the goal has limits to which none of the designs that were looked at keeps.
    """
    errors = goal.error(library.curve_stress)
    row = np.argsort(errors, kind="stable")
    if goal.limits != Limits():
        row = _within_limits(library, goal, row, count)
    return Matches(goal, row[:count], errors[row[:count]], float(np.median(errors)))


def _within_limits(library: Library, goal: Goal, row: NDArray, count: int) -> NDArray:
    """Return the first ``count`` of some designs that keep to the limits of a goal.

    Strains are not known of a library, so that a limit of plastic strain doesn't count.
    """
    wide = [Measures(float(f), np.inf, np.inf) for f in library.solid_fraction()[row]]
    violations = [goal.violations(measures) for measures in wide]
    kept = row[[not sentences for sentences in violations]]
    if len(kept) and (goal.limits.strut or goal.limits.gap):
        found: list[int] = []
        looked = kept[:MEASURED]
        for k in progress(iter(looked), len(looked), f"measure {goal.name}"):
            violations = [goal.violations(measure(mirror(library.quarter[k])))]
            found += [] if violations[0] else [k]
            if len(found) == count:
                break
        kept = np.array(found, np.int64)
    if not len(kept):
        raise UserError(
            f"{goal.name}: no design that was looked at keeps to the limits ({violations[-1][0]}): "
            "loosen them"
        )
    return kept


def judge(library: Library, matches: Matches, near: NDArray) -> str:
    """Say how good the best match is, beside how close designs of the library are.

    Parameters
    ----------
    library, matches
        What was found where.
    near
        (d) distances of designs of the library to the nearest other one
        (:func:`crumple.goal_check.spacing`); empty where there is no other.
    """
    error = matches.error[0]
    best = f"Best match {_percent(error)} off"
    if not len(near):
        return f"{best}; the library holds no other design to compare that with."
    middle, most = np.quantile(near, [0.5, USUAL])
    if error <= max(middle, NEAR):
        verdict = "the library covers this target"
    elif error <= max(most, NEAR):
        verdict = "this target is at the edge of what the library covers"
    else:
        asked = beyond(matches.goal, library.curve_stress)
        verdict = "the library doesn't cover this target"
        verdict += f", which asks for {asked}" if asked else ""
    return (
        f"{best}: {verdict}. {100 * np.mean(near < error):.0f} % of its own designs have a nearer "
        f"neighbour (median {_percent(middle)}); half of them are more than "
        f"{_percent(matches.typical)} off this target."
    )


def describe(library: Library, matches: Matches, near: NDArray) -> str:
    """Return the printed table of one target."""
    lines = [
        matches.goal.name,
        *(f"  {words}" for words in matches.goal.words()),
        f"  {'rank':>4} {'design':>7} {'error':>8} {'solid':>6} {'stress at 20 %':>15}",
    ]
    for rank, design, error, solid, end in _rows(library, matches):
        lines.append(
            f"  {rank:4d} {design:7d} {_percent(error):>8} {100 * solid:4.1f} % {end:11.2f} MPa"
        )
    return "\n".join([*lines, f"  {judge(library, matches, near)}"])


def _rows(library: Library, matches: Matches) -> list[tuple[int, int, float, float, float]]:
    """Return rank, design, error, solid fraction and last stress of each match."""
    return [
        (
            rank,
            int(library.index[row]),
            float(error),
            float(library.quarter[row].mean()),
            float(library.curve_stress[row, -1]),
        )
        for rank, (row, error) in enumerate(zip(matches.row, matches.error, strict=True), start=1)
    ]


def _write_table(out: Path, library: Library, found: Sequence[Matches]) -> None:
    with out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for matches in found:
            for rank, design, *values in _rows(library, matches):
                table.writerow([matches.goal.name, rank, design, *(f"{v:.6g}" for v in values)])


def _write_designs(folder: Path, library: Library, found: Sequence[Matches]) -> None:
    """Write each design once: all in one file, and as pictures of the cell."""
    row = np.unique(np.concatenate([matches.row for matches in found]))
    index, quarter = library.index[row], library.quarter[row]
    record = {
        "stage": "lookup",
        "settings": {"sample": library.record["settings"]["sample"]},
        "inputs": {"designs": hash_designs(index, quarter)},
    }
    save_npz(
        folder / "designs.npz",
        made_by=json.dumps(record),
        index=index,
        quarter=quarter,
        seed=np.full(len(index), library.seed),
        threshold=np.full(len(index), np.nan),  # of these two a library knows nothing
        solid_fraction=quarter.mean(axis=(1, 2)),
        tries=np.ones(len(index), np.int64),
    )
    (folder / "designs").mkdir()
    for design, solid in zip(index, quarter, strict=True):
        picture = Image.fromarray(255 * (1 - mirror(solid)))
        picture.save(folder / "designs" / f"{design:06d}.png")


def _draw(out: Path, library: Library, matches: Matches, near: NDArray) -> None:
    shown = list(zip(_rows(library, matches), matches.row, strict=True))[:MOST_TILES]
    low, high = np.percentile(library.curve_stress, [5, 95], axis=0)
    match_figure(
        out,
        judge(library, matches, near),
        panel(matches.goal, None),
        (CURVE_STRAIN, low, high),
        [
            {
                "cell": mirror(library.quarter[row]),
                "curve": library.curve_stress[row],
                "heading": f"{rank}",
                "error": _percent(error),
                "caption": f"design {design},  {100 * solid:.0f} % solid",
            }
            for (rank, design, error, solid, _), row in shown
        ],
    )


def _percent(value: float) -> str:
    digits = 2 if value < 0.0995 else 1 if value < 0.995 else 0
    return f"{100 * value:.{digits}f} %"
