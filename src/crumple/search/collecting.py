"""The end of a round: what its simulations say of the designs that were proposed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crumple.atomic import claim, save_npz
from crumple.dataset import SHARD, open_intact
from crumple.errors import UserError
from crumple.goals import Goal
from crumple.layout import CURVE_STRAIN
from crumple.provenance import hash_designs, read_record, require_inputs
from crumple.readers import read_npz
from crumple.search.history import PROPOSALS
from crumple.search.proposing import violation


def collect(goal: Goal, proposals: Path, shards: Sequence[Path], out: Path) -> None:
    """Write the results of a round (:data:`crumple.search.history.RESULTS`).

    Parameters
    ----------
    goal
        What is searched for.
    proposals
        File of :func:`crumple.search.proposing.write_proposals`.
    shards
        Of the round, in order; more than hold designs may be named.
    out
        The ``.npz`` to write.

    Raises
    ------
    UserError
        When something cannot be read, has changed, or is of other designs.
    """
    out = claim(out, "collect")
    known = read_npz(proposals, PROPOSALS)
    record = read_record(known.pop("made_by"), proposals, PROPOSALS.advice)
    settings = record["settings"]
    count = len(known["index"])
    curves = np.full((count, len(CURVE_STRAIN)), np.nan)
    status: list[str] = []
    plastic_strain: list[float] = []
    for path in shards:
        if len(status) == count:
            break
        shard: Any = open_intact(path, SHARD)
        rows = slice(len(status), len(status) + shard["index"].shape[0])
        expected = hash_designs(known["index"][rows], known["quarter"][rows])
        require_inputs(shard.attrs["made_by"], path, designs=expected)
        settings = shard.attrs["made_by"]["settings"]
        curves[rows] = shard["curve_stress"][:]
        status += map(str, shard["status"][:])
        plastic_strain += shard["plastic_strain"][:].tolist() if "plastic_strain" in shard else []
    if len(status) != count:
        raise UserError(f"{len(status)} of the {count} designs of {proposals} were simulated")
    plastic_strain = plastic_strain or [np.nan] * count
    exceeded = [
        violation(goal, quarter, strain if reason == "ok" else None)
        for quarter, reason, strain in zip(known["quarter"], status, plastic_strain, strict=True)
    ]
    save_npz(
        out,
        made_by=json.dumps(record | {"stage": "collect", "settings": settings}),
        **known,
        curve_stress=curves,
        status=np.array(status, str),
        violation=np.array(exceeded, str),
        error=goal.error(curves),
    )
