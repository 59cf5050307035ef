"""``crumple design``: a search on one machine, from goals to designs that meet them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from crumple.atomic import locked
from crumple.config import Config
from crumple.errors import UserError
from crumple.goals import file_name, read_goals
from crumple.provenance import differences, folder_record
from crumple.search.collecting import collect
from crumple.search.history import PROPOSED, History, read_history
from crumple.search.page import write_design_page
from crumple.search.rounds import GoalSearch, Sources
from crumple.search.workers import FiniteElements, finite_elements, run_finite_elements

LOG = "finite_elements.log"


def design(
    config: Config, goals: Sequence[Path], sources: Sources, out: Path, processes: int
) -> None:
    """Search for designs that meet goals, one goal after the other.

    What was simulated is kept, and the same command continues where it was stopped, also with a
    larger budget or a smaller tolerance. The result does not depend on the number of processes.

    Parameters
    ----------
    config
        See :class:`crumple.search.rounds.GoalSearch`.
    goals
        CSV and YAML files.
    sources
        Library and forward model.
    out
        Folder with one folder per goal (:mod:`crumple.search.history`).
    processes
        That simulate at the same time.

    Raises
    ------
    UserError
        When a goal cannot be read, ``out`` holds a search of another kind, or the finite elements
        cannot be run.
    """
    if processes < 1:
        raise UserError(f"--processes {processes} is not possible: at least 1 has to simulate")
    names = [goal.name for goal in read_goals(goals)]
    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / LOG).open("a") as log,
        finite_elements(config.model_dump_json(), processes, log) as fem,
    ):
        for name in names:
            search = GoalSearch(config, sources, goals, name)
            folder = out / file_name(name)
            folder.mkdir(exist_ok=True)
            with locked(folder / "rounds"):
                history = run(search, folder, fem)
            print(outcome(search, history, folder))
            if np.isfinite(history.error).any():
                show(search, folder, goals, sources, processes, log)


def show(
    search: GoalSearch,
    folder: Path,
    goals: Sequence[Path],
    sources: Sources,
    processes: int,
    log: IO[str],
) -> None:
    """Simulate the best designs again, with all that is wanted of them, and write the page."""
    rounds = sorted(folder.glob("rounds/*/results.npz"))
    result, name = folder / "result", search.goal.name
    tolerance, page = search.config.search.tolerance, folder / "index.html"
    files: list[str | Path] = [
        "--rounds",
        *rounds,
        "--targets",
        *goals,
        "--goal",
        name,
        "--out",
        result,
        "--tolerance",
        str(tolerance),
        "--processes",
        str(processes),
    ]
    run_finite_elements("winner", ["--config", search.config.model_dump_json(), *files], log)
    write_design_page(rounds, goals, name, result, sources.library, tolerance, page)


def run(search: GoalSearch, folder: Path, fem: FiniteElements) -> History:
    """Make rounds until the goal is met or the budget is spent; return what was simulated."""
    results: list[Path] = []
    start = time.monotonic()
    while True:
        place = folder / "rounds" / f"{len(results):03d}"
        new = place / "results.npz"
        history = read_history(results)
        if not new.exists() and not search.wanted(history):
            return history
        designs = place / "designs"
        require_own(search, designs, results)
        if not new.exists():
            if not designs.exists():
                search.propose(results, designs)
            files = sorted(designs.glob("[0-9]*.npz"))
            shards = [place / "shards" / f"{file.stem}.zarr" for file in files]
            orders = [order for order in zip(files, shards, strict=True) if not order[1].exists()]
            fem.make(orders)
            collect(search.goal, designs / PROPOSED, shards, new)
        results.append(new)
        found = read_history(results)
        if len(found.index) == len(history.index):
            raise UserError(
                f"{search.goal.name}: no design was found that keeps to its limits: loosen them, "
                f"and remove {folder}"
            )
        print(progress_line(search, found, time.monotonic() - start), file=sys.stderr)


def require_own(search: GoalSearch, designs: Path, results: Sequence[Path]) -> None:
    """Raise where a round was proposed with other settings, goals or models."""
    if not designs.exists():
        return
    found = folder_record(designs, f"remove {designs.parent} and all later rounds")
    changed = differences(found, search.record(results))
    if changed:
        raise UserError(
            f"{designs.parent.parent.parent} is a search with other settings or for another goal "
            f"({changed}): name another place with --out, or remove it"
        )


def progress_line(search: GoalSearch, history: History, seconds: float) -> str:
    """Return how far a search is, in one line."""
    best = int(np.argmin(history.score))
    return (
        f"{search.goal.name}: {len(history.index)}/{search.config.search.budget} simulations, best "
        f"{100 * history.score[best]:.2f} % ({history.source[best]}), {seconds:.0f} s"
    )


def outcome(search: GoalSearch, history: History, folder: Path) -> str:
    """Return what a search has found, in one line."""
    best, tolerance = history.score.min(), search.config.search.tolerance
    if not np.isfinite(best):
        return f"{search.goal.name}: no design keeps to the limits and could be simulated: {folder}"
    met = "met" if best <= tolerance else "not met"
    return (
        f"{search.goal.name}: {met} within {100 * tolerance:.3g} %, best {100 * best:.2f} % after "
        f"{len(history.index)} simulations: {folder}"
    )
