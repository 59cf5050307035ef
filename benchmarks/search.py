"""How near searches come to held-out responses and to the paper's hard targets, and at what cost.

    .venv/bin/python benchmarks/search.py FOLDER --held-out 12 --budget 200 --seeds 0 1

Held-out designs are those that the models of the package haven't seen; for them the library is the
rest of it. Printed are the errors of the best match and of the best design after some numbers of
simulations, and the CPU seconds per simulation of the finite elements and of all else. A benchmark
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crumple.config import DatasetSplit, load_config
from crumple.goals import file_name, read_goals
from crumple.layout import CURVE_STRAIN
from crumple.library import Library, read_library, save_library
from crumple.provenance import hash_designs
from crumple.results import HELD_OUT
from crumple.search.design import run
from crumple.search.history import History
from crumple.search.rounds import GoalSearch, Sources
from crumple.search.workers import finite_elements

PAPER = Path(__file__).parents[1] / "workflow/targets/paper.csv"
LOOKS = (25, 50, 100, 200, 400, 1000)  # numbers of simulations


def without_held_out(folder: Path, count: int) -> tuple[Path, Path]:
    """Write held-out curves as targets, and the library without all held-out designs."""
    library = read_library()
    held = library.held_out(DatasetSplit().validation_fraction)
    kept = np.setdiff1d(np.arange(len(library)), held)
    index, quarter = library.index[kept], library.quarter[kept]
    record = library.record | {"inputs": {"designs": hash_designs(index, quarter)}}
    curves = library.curve_stress[kept]
    rest: Library = replace(
        library, index=index, quarter=quarter, curve_stress=curves, record=record
    )
    save_library(folder / "known.npz", rest)
    lines = ["target," + ",".join(f"{strain:.4f}" for strain in CURVE_STRAIN)]
    for row in held[:count]:
        stress = ",".join(f"{value:.6g}" for value in library.curve_stress[row])
        lines.append(f"{HELD_OUT}{library.index[row]:06d},{stress}")
    (folder / "held_out.csv").write_text("\n".join(lines) + "\n")
    return folder / "held_out.csv", folder / "known.npz"


def search(goals: Path, library: Path | None, name: str, seed: int, args) -> str:
    """Search once; return a row of the table."""
    settings = {"seed": seed, "search": {"budget": args.budget, "tolerance": 0.0}}
    config = load_config(json.dumps(settings))
    found = GoalSearch(config, Sources(library, None), [goals], name)
    folder = args.folder / f"seed-{seed}" / file_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (args.folder / "finite_elements.log").open("a") as log,
        finite_elements(config.model_dump_json(), args.processes, log) as fem,
    ):
        own, start = time.process_time(), time.monotonic()
        history = run(found, folder, fem)
        own, wall = time.process_time() - own, time.monotonic() - start
    return row(name, seed, found, history, own, wall)


def row(name: str, seed: int, found: GoalSearch, history: History, own: float, wall: float) -> str:
    """Best match, best design after some simulations, and CPU seconds, in one line."""
    match = found.goal.error(found.library.curve_stress).min()
    best = [history.score[:count].min() for count in looks(len(history.score))]
    errors = "".join(f"{100 * error:8.2f}" for error in (match, *best))
    count = len(history.score)
    return (
        f"{name[:24]:24} {seed:4d}{errors}   {own / count:5.2f} s own, {wall / count:5.2f} s wall"
    )


def looks(budget: int) -> list[int]:
    """Return the numbers of simulations that are looked at."""
    return [*(count for count in LOOKS if count < budget), budget]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the searches")
    parser.add_argument("--held-out", type=int, default=12, help="held-out targets; default 12")
    parser.add_argument("--budget", type=int, default=200, help="simulations; default 200")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    held_out, known = without_held_out(args.folder, args.held_out)
    print(f"{'error, %':24} seed   match{''.join(f'{count:8d}' for count in looks(args.budget))}")
    for goals, library in ((PAPER, None), (held_out, known)):
        for goal in read_goals([goals]):
            for seed in args.seeds:
                print(search(goals, library, goal.name, seed, args), flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"finite elements: {used.ru_utime + used.ru_stime:.0f} CPU s")


if __name__ == "__main__":
    main()
