"""The best designs of a search once more, with everything that is wanted of them.

Needs the finite elements. All pieces are written into one folder (:mod:`crumple.search.result`);
one that an interrupted run has finished is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from crumple.atomic import atomic_path, resumable_folder, save_npz
from crumple.config import Config
from crumple.dataset import versions
from crumple.designs import mirror, read_design
from crumple.errors import UserError
from crumple.exports import write_formats
from crumple.exports.regions import Tiles, tile
from crumple.fem.compression import compress
from crumple.goals import Goal, measure
from crumple.processes import in_processes
from crumple.progress import progress
from crumple.provenance import PHYSICS, fingerprint, read_record, require_settings, stages_of
from crumple.readers import read_npz
from crumple.search.choice import choose, contenders, goal_hash, one_goal
from crumple.search.history import RESULTS, History, read_history
from crumple.search.result import (
    DESIGN,
    EXPORTS,
    FIELDS_FILE,
    FINER_ERROR,
    FINER_MESH,
    SENSITIVITY,
    WINNER,
    nodal_means,
    runner_up,
)
from crumple.sensitivity import simulate_all, simulate_finer, write_outcomes
from crumple.simulation import mesh_design, simulate_design

CELL_SIZE = 10.0  # mm, where neither the user nor the goal says how large a cell is
DRAWINGS = ("svg", "dxf", "stl", "inp")  # the states for ParaView are beside the winner


class Piece(NamedTuple):
    """A part of the result, done when its file is there; it may be made in another process."""

    done: Path
    make: Callable[[], None]


def _make(piece: Piece) -> None:
    piece.make()


def write_winner(
    config: Config,
    rounds: Sequence[Path],
    targets: Sequence[Path],
    goal_name: str | None,
    out: Path,
    tolerance: float,
    cell_size: float | None = None,
    thickness: float | None = None,
    tiles: Tiles = Tiles(1, 1),  # noqa: B008
    processes: int = 1,
) -> None:
    """Simulate the best designs of a search again, and write what people want of them.

    The winner is the one with the least error on a finer mesh among those that are as good as the
    best one (:func:`crumple.search.choice.contenders`).

    Parameters
    ----------
    config
        Settings; ``mesh``, ``material``, ``contact`` and ``loading`` count, and must be those of
        the search.
    rounds
        Results of the rounds, in their order (:func:`crumple.search.history.read_history`).
    targets, goal_name
        What was searched for, as for :func:`crumple.search.choice.one_goal`.
    out
        Folder; see :mod:`crumple.search.result`.
    tolerance
        Error at which the goal counts as met.
    cell_size, thickness
        Of the exports, mm. By default the cell of the goal, or of 10 mm, and as thick as long.
    tiles
        Cells side by side and on top of each other, of drawings and solids.
    processes
        That simulate at the same time; the result does not depend on it.

    Raises
    ------
    UserError
        When something cannot be read, was made with other settings, or nothing was found.
    """
    goal = one_goal(targets, goal_name)
    settings = stages_of(config, PHYSICS)
    _require_physics(rounds, settings)
    history = read_history(rounds)
    places = contenders(history, tolerance)
    size = cell_size or goal.cell_size or CELL_SIZE
    made = {"cell_size": size, "thickness": thickness or size, "tiles": list(tiles)}
    record = {
        "stage": "winner",
        "settings": settings | {"export": made, "choice": {"tolerance": tolerance}},
        "inputs": {"rounds": fingerprint(rounds), "goal": goal_hash(goal)},
        "versions": versions(),
    }
    with resumable_folder(out, record) as folder:
        winner = _winner(config, history, places, goal, folder / FINER_MESH, processes)
        chosen = choose(history, winner)
        pieces = [
            piece
            for piece in _pieces(config, history, chosen, goal, folder, made)
            if not piece.done.exists()
        ]
        work = in_processes(_make, pieces, processes)
        for _ in progress(work, len(pieces), f"winner of {goal.name}", "piece"):
            pass
    print(f"{goal.name}: {_summary(history, chosen)}; written to {out}")


def _require_physics(rounds: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Raise unless the designs of all rounds were simulated with these settings."""
    for path in rounds:
        results = read_npz(path, RESULTS)
        if len(results["index"]):
            record = read_record(results["made_by"], path, RESULTS.advice)
            require_settings(record, settings, path)


def _winner(
    config: Config,
    history: History,
    places: Sequence[int],
    goal: Goal,
    path: Path,
    processes: int,
) -> int:
    """Return the place of the design with the least error on a finer mesh; write all of them.

    The best design of the search wins where it is alone, or none can be simulated.
    """
    if len(places) == 1:
        return places[0]
    if not path.exists():
        simulate = partial(_simulate_finer, config, history.index, history.quarter)
        work = in_processes(simulate, places, processes)
        stress = dict(progress(work, len(places), f"finer mesh, {goal.name}"))
        columns = {
            "design": history.index[list(places)],
            "error": history.error[list(places)],
            FINER_ERROR: goal.error(np.array([stress[place] for place in places])),
        }
        with atomic_path(path) as temporary:
            pd.DataFrame(columns).to_csv(temporary, index=False, lineterminator="\n")
    error = pd.read_csv(path)[FINER_ERROR].fillna(np.inf)
    return places[int(np.argmin(error))]


def _simulate_finer(
    config: Config, index: NDArray, quarter: NDArray, place: int
) -> tuple[int, NDArray]:
    """Return a place in the history, and the curve of its design on a finer mesh."""
    outcome = simulate_finer(config, mirror(quarter[place]), Path(f"design {index[place]}"))
    return place, outcome.stress


def _pieces(
    config: Config,
    history: History,
    chosen: Sequence[int],
    goal: Goal,
    folder: Path,
    made: Mapping[str, Any],
) -> list[Piece]:
    """Draw the designs; list what else is written, in the order in which people will ask for it."""
    names = [WINNER, *(runner_up(number) for number in range(1, len(chosen)))]
    fields = []
    for name, place in zip(names, chosen, strict=True):
        place_folder, quarter = folder / name, history.quarter[place]
        place_folder.mkdir(exist_ok=True)
        with atomic_path(place_folder / DESIGN) as temporary:
            Image.fromarray(255 * (1 - mirror(quarter))).save(temporary)
        simulate = simulate_design if name == WINNER else _simulate
        make = partial(_fields, config, history.index[place], quarter, place_folder, simulate)
        fields.append(Piece(place_folder / FIELDS_FILE, make))
    cell, design = mirror(history.quarter[chosen[0]]), folder / WINNER / DESIGN
    export = partial(_export, config, cell, made, design, folder / EXPORTS)
    vary = partial(_vary, config, cell, goal, design, folder / SENSITIVITY)
    others = [Piece(folder / EXPORTS, export), Piece(folder / SENSITIVITY, vary)]
    return [fields[0], *others, *fields[1:]]


def _fields(config: Config, index: int, quarter: NDArray, folder: Path, simulate: Callable) -> None:
    """Simulate a design again, and keep its fields."""
    result = simulate(config, folder / DESIGN, folder)
    fields = page_fields(mirror(quarter), result)
    save_npz(folder / FIELDS_FILE, index=index, quarter=quarter, **fields)


def _simulate(config: Config, design: Path, folder: Path) -> Mapping[str, NDArray]:
    """Mesh and compress a runner-up, whose states nobody opens in ParaView."""
    mesh = mesh_design(config, read_design(design), design)
    result = compress(mesh.nodes, mesh.cells, config)
    if result["status"] != "ok":
        raise UserError(f"{design} was compressed in part: {result['status']}")
    return result


def page_fields(cell: NDArray, result: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return what the page shows of a simulation, by the names of ``FIELDS``.

    Parameters
    ----------
    cell
        (96, 96), 1 solid, row 0 = top.
    result
        Arrays of :func:`crumple.fem.compression.compress`.
    """
    nodes, cells = np.asarray(result["nodes"]), np.asarray(result["cells"])
    means = partial(nodal_means, cells, count=len(nodes))
    return {
        "curve_stress": np.asarray(result["curve_stress"], np.float64),
        "measures": np.array(measure(cell, result), np.float64),
        "nodes": nodes,
        "cells": cells,
        "displacement": np.asarray(result["u"], np.float32),
        "vertical_stress": means(values=result["cauchy"][..., 1]).astype(np.float32),
        "plastic_strain": means(values=result["equivalent_plastic_strain"]).astype(np.float32),
    }


def _export(
    config: Config, cell: NDArray, made: Mapping[str, Any], design: Path, out: Path
) -> None:
    region = tile(cell, Tiles(*made["tiles"]), made["cell_size"])
    with atomic_path(out) as folder:
        folder.mkdir()
        write_formats(config, cell, region, made["thickness"], DRAWINGS, design, folder)


def _vary(config: Config, cell: NDArray, goal: Goal, design: Path, out: Path) -> None:
    outcomes = simulate_all(config, cell, design)
    with atomic_path(out) as folder:
        write_outcomes(folder, outcomes, [goal])


def _summary(history: History, chosen: Sequence[int]) -> str:
    best = chosen[0]
    words = f"design {history.index[best]} of {len(history.index)}, error {history.error[best]:.2%}"
    if history.violation[best]:
        words += f" ({history.violation[best]})"
    return f"{words}, and {len(chosen) - 1} of another shape"
