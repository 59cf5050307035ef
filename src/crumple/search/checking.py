"""Whether the folder of a search is whole, and every part of it was made from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crumple.dataset import SHARD, open_intact
from crumple.designs import DESIGNS
from crumple.errors import UserError
from crumple.provenance import (
    fingerprint,
    hash_designs,
    page_record,
    read_record,
    require_inputs,
)
from crumple.readers import read_npz
from crumple.search.history import PROPOSALS, PROPOSED, RESULTS
from crumple.search.result import read_winner_record

SHOW = "run `crumple design` again, or `crumple winner` and `crumple design-page`"


def check_round(place: Path, earlier: Sequence[Path]) -> None:
    """Check the proposals, simulations and results of one round (:mod:`crumple.search.history`).

    Parameters
    ----------
    place
        Folder of the round; what isn't there yet is no problem, unless something was made from it.
    earlier
        Results of all rounds before.

    Raises
    ------
    UserError
        When something is missing, damaged, or made from something else.
    """
    path = place / "designs" / PROPOSED
    proposed = read_npz(path, PROPOSALS)
    record = read_record(proposed.pop("made_by"), path, PROPOSALS.advice)
    require_inputs(record, path, results=fingerprint(earlier) if earlier else "none")
    files = sorted(path.parent.glob("[0-9]*.npz"))
    given = [read_npz(file, DESIGNS) for file in files]
    for name in ("index", "quarter"):
        if not np.array_equal(np.concatenate([part[name] for part in given]), proposed[name]):
            raise UserError(
                f"the designs beside {path} aren't those that it proposes: {RESULTS.advice}"
            )
    shards = {}
    for file, part in zip(files, given, strict=True):
        shard = place / "shards" / f"{file.stem}.zarr"
        if shard.exists() and len(part["index"]):
            shards[file.stem] = group = open_intact(shard, SHARD)
            hashed = hash_designs(part["index"], part["quarter"])
            require_inputs(group.attrs["made_by"], shard, designs=hashed)
    if (place / "results.npz").exists():
        _check_results(place / "results.npz", proposed, list(shards.values()))


def _check_results(path: Path, proposed: dict[str, Any], shards: Sequence[Any]) -> None:
    """Raise unless results are those of the proposals and of their simulations."""
    results = read_npz(path, RESULTS)
    simulated = {
        name: np.concatenate([shard[name][:] for shard in shards]) if shards else results[name][:0]
        for name in ("curve_stress", "status")
    }
    for source, arrays in (("proposals", proposed), ("simulations", simulated)):
        for name, values in arrays.items():
            found = np.asarray(values)
            same = np.array_equal(found, results[name], equal_nan=found.dtype.kind == "f")
            if not same:
                raise UserError(
                    f"{path}: {name} isn't that of the {source} of its round: {RESULTS.advice}"
                )


def check_shown(folder: Path, rounds: Sequence[Path]) -> None:
    """Check that what shows the result of a search is that of its rounds.

    Parameters
    ----------
    folder
        Of the search for one goal.
    rounds
        Its results.

    Raises
    ------
    UserError
        When the winner or the page is of other results.
    """
    found = {}
    if (folder / "result").is_dir():
        found[folder / "result"] = read_winner_record(folder / "result").model_dump()
    if (folder / "index.html").exists():
        found[folder / "index.html"] = page_record(folder / "index.html", SHOW)
    for path, record in found.items():
        require_inputs(record, path, rounds=fingerprint(rounds))
