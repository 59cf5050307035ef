r"""Model alone and searches: simulations and CPU minutes to an error.

    .venv/bin/python benchmarks/comparison.py FOLDER --alone results/RUN --searches package \
        --drawing 26 --own 0.38

FOLDER holds searches of benchmarks/search.py, in a folder of their own each, and RUN candidates of
the model for the same targets, all of them simulated (docs/design.md has the commands). The
candidates count in the order in which the model ranks them. CPU time is that of the simulations,
and what all else takes: `--drawing` seconds per target, `--own` seconds per simulation of a search.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from crumple.goals import Goal, file_name, read_goals
from crumple.library import read_library
from search import PAPER

TOLERANCES = (0.10, 0.05, 0.02, 0.01)


class Way(NamedTuple):
    """Simulations for one target, in their order."""

    error: NDArray
    minutes: NDArray  # CPU, of all until then

    def to(self, tolerance: float) -> tuple[float, float]:
        """Return simulations and CPU minutes to an error; infinite where it isn't reached."""
        met = np.flatnonzero(self.error <= tolerance)
        return (met[0] + 1.0, self.minutes[met[0]]) if len(met) else (np.inf, np.inf)


def simulations(shards: Sequence[Path]) -> dict[int, tuple[NDArray, float]]:
    """Return curve and CPU seconds of all designs in shards, by their number."""
    found = {}
    for path in shards:
        if (path / "zarr.json").exists():  # a shard of no designs is none
            shard = zarr.open_group(str(path), mode="r")
            columns = (np.asarray(shard[name]) for name in ("index", "curve_stress", "cpu_seconds"))
            for index, curve, seconds in zip(*columns, strict=True):
                found[int(index)] = curve.astype(float), float(seconds)
    return found


def model_alone(run: Path, goal: Goal, drawing: float) -> Way:
    """Return the candidates of a run for a goal, best rank first."""
    known = simulations(sorted(run.glob("verified/shards/*.zarr")))
    with (run / "evaluation/candidates.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["target"] == goal.name and row["index"]]
    done = [known[int(row["index"])] for row in sorted(rows, key=lambda row: int(row["rank"]))]
    return way(goal, done, drawing, 0)


def searched(folder: Path, goal: Goal, own: float) -> Way:
    """Return the simulations of a search."""
    found = simulations(sorted((folder / file_name(goal.name)).glob("rounds/*/shards/*.zarr")))
    return way(goal, [found[index] for index in sorted(found)], 0, own)


def way(goal: Goal, done: Sequence[tuple[NDArray, float]], before: float, each: float) -> Way:
    """Put errors and times together; a design without a curve meets nothing."""
    error = goal.error(np.stack([curve for curve, _ in done]))
    seconds = before + np.cumsum([seconds + each for _, seconds in done])
    return Way(np.where(np.isfinite(error), error, np.inf), seconds / 60)


def show(name: str, ways: Sequence[Way]) -> None:
    """Print medians over targets, and how many of them were met."""
    cells = []
    for tolerance in TOLERANCES:
        count, minutes = np.transpose([way.to(tolerance) for way in ways])
        met = np.isfinite(count)
        middle = (
            f"{np.median(count):.0f}, {np.median(minutes):.1f} min" if met.mean() > 0.5 else "-"
        )
        cells.append(f"{middle} ({met.sum()}/{len(ways)})".rjust(24))
    print(f"{name:28}", *cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--alone", type=Path, required=True, help="run of the model alone")
    parser.add_argument("--searches", nargs="+", required=True, help="folders in FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--drawing", type=float, required=True, help="CPU s per target")
    parser.add_argument("--own", type=float, required=True, help="CPU s per simulation")
    args = parser.parse_args(arguments)
    first = args.folder / args.searches[0]
    held_out, hard = read_goals([first / "held_out.csv"]), read_goals([PAPER])
    print(f"{'median (targets)':28}", *(f"to {100 * t:.0f} %".rjust(24) for t in TOLERANCES))
    for group, goals, known in (("held out", held_out, first / "known.npz"), ("hard", hard, None)):
        show(f"{group}: model", [model_alone(args.alone, goal, args.drawing) for goal in goals])
        for name in args.searches:
            places = [args.folder / name / f"seed-{seed}" for seed in args.seeds]
            found = [searched(place, goal, args.own) for place in places for goal in goals]
            show(f"{group}: search {name}", found)
        curves = read_library(known).curve_stress
        match = 100 * np.array([goal.error(curves).min() for goal in goals])
        print(f"{group}: best match, % {np.round(match, 1)}, median {np.median(match):.1f}")


if __name__ == "__main__":
    main()
