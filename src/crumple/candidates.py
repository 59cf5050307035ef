"""Generated candidates: their store, the choice of those to simulate, and their simulations.

A store has a row per candidate, those of a target together. ``extract`` writes the chosen designs
in the format of the random designs, so that the same stages mesh and simulate them, and ``join``
finds the simulation of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel

from crumple.atomic import claim, save_npz
from crumple.config import Config
from crumple.dataset import SHARD, open_intact
from crumple.designs import DESIGNS
from crumple.errors import UserError
from crumple.layout import CELL, FRAME_STRAIN, GENERATED_CHANNELS, QUARTER, UNITS
from crumple.metrics import expected_nrmse
from crumple.provenance import (
    Record,
    hash_arrays,
    hash_designs,
    made_by,
    read_record,
    require_inputs,
)
from crumple.readers import Array, Schema, read_npz
from crumple.topology import MASK_LEVEL

STEPS = len(FRAME_STRAIN)


class Attributes(BaseModel):
    """What a store of candidates says of itself; other attributes are for the reader's eye."""

    made_by: Record
    checksum: str
    target_names: list[str]
    frame_strain: list[float]
    seconds: float | None = None


STORE = Schema(
    advice="run `crumple generate` again",
    format="crumple-generated",
    version=2,
    attributes=Attributes,
    arrays={
        "target": Array("iu", ("candidates",)),
        "rank": Array("iu", ("candidates",)),
        "seed": Array("iu", ("candidates",)),
        "status": Array("U", ("candidates",)),
        "quarter": Array("u", ("candidates", QUARTER, QUARTER)),
        "quarter_fields": Array("u", ("candidates", QUARTER, QUARTER)),
        "mask": Array("f", ("candidates", CELL, CELL)),
        "frames": Array("f", ("candidates", STEPS, len(GENERATED_CHANNELS), CELL, CELL)),
        "target_stress": Array("f", ("candidates", STEPS)),
        "predicted_stress": Array("f", ("candidates", STEPS)),
        "predicted_nrmse": Array("f", ("candidates",)),
    },
    optional={"predicted_spread": Array("f", ("candidates", STEPS))},
)
DIMENSIONS = {  # by the size of what follows the first one, the candidates
    (QUARTER, QUARTER): ("row", "column"),
    (CELL, CELL): ("row", "column"),
    (STEPS,): ("strain",),
    (STEPS, len(GENERATED_CHANNELS), CELL, CELL): ("strain", "channel", "row", "column"),
    (): (),
}
EXTRACTED = Schema(  # what `extract` writes, of which a file of random designs has only a part
    "run `crumple extract` again", {**DESIGNS.arrays, **DESIGNS.optional}
)


def write_candidates(
    folder: Path, columns: Mapping[str, NDArray], attributes: Mapping[str, Any]
) -> None:
    """Write the store of candidates.

    Parameters
    ----------
    folder
        Of the store; may exist.
    columns
        The arrays of ``STORE`` by name, a row per candidate, but for ``rank``. What isn't
        predicted is NaN: ``frames`` of a model of curves, ``predicted_stress`` of a model of
        designs. ``predicted_spread`` may be left out: MPa, the standard deviation of
        ``predicted_stress`` over an ensemble of predictions.
    attributes
        Those of :class:`Attributes` but for ``checksum``, and anything else that JSON can hold.
    """
    arrays = dict(columns)
    error, goal = arrays["predicted_nrmse"], arrays["target_stress"]
    if "predicted_spread" in arrays:
        error = expected_nrmse(error, arrays["predicted_spread"], goal)
    arrays["rank"] = rank_within(arrays["target"], error)
    store = zarr.open_group(folder, mode="a", zarr_format=3)
    for name, values in arrays.items():
        text = values.dtype.kind in "UT"
        array = store.create_array(
            name,
            shape=values.shape,
            dtype=str if text else values.dtype,
            chunks=(1, *values.shape[1:]) if values.ndim > 2 else values.shape,
            dimension_names=("candidate", *DIMENSIONS[values.shape[1:]]),
            overwrite=True,
        )
        array[...] = values.astype(object) if text else values
    store.attrs.update(
        {
            "format": STORE.format,
            "version": STORE.version,
            "units": UNITS,
            "channels": list(GENERATED_CHANNELS),
            **attributes,
            "checksum": hash_arrays(folder),
        }
    )


def rank_within(target: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the rank of each candidate within its target: 0 has the smallest expected error.

    Parameters
    ----------
    target
        ``(n,)`` target number.
    error
        ``(n,)`` expected error; NaN ranks last.
    """
    rank = np.empty(len(target), np.int32)
    for number in np.unique(target):
        rows = np.flatnonzero(target == number)
        rank[rows[np.argsort(error[rows], kind="stable")]] = np.arange(len(rows))
    return rank


def open_candidates(path: Path) -> zarr.Group:
    """Open the candidates that ``crumple generate`` wrote, for reading.

    Raises
    ------
    UserError
        When there is no such store, its arrays aren't those of ``STORE``, or have changed.
    """
    store = open_intact(path, STORE)
    numbers, names = store["target"][:], store.attrs["target_names"]
    if len(numbers) == 0 or not np.array_equal(np.unique(numbers), np.arange(len(names))):
        raise UserError(
            f"cannot read {path}: its candidates are not those of its {len(names)} targets; "
            f"{STORE.advice}"
        )
    return store


def select(target: np.ndarray, rank: np.ndarray, status: np.ndarray, verify: int) -> np.ndarray:
    """Choose the candidates to simulate, by what is known before any simulation.

    Within a target the acceptable designs come first, each group by its predicted error; a target
    with fewer than ``verify`` acceptable designs keeps its best others, so that they are counted
    as failures with their reason.

    Parameters
    ----------
    target, rank, status
        ``(n,)`` target number, rank of the predicted error within the target, read-out status.
    verify
        Candidates per target.

    Returns
    -------
    ndarray
        ``(targets, verify)`` rows of the candidates, targets ascending.
    """
    order = np.lexsort((rank, status != "ok", target))
    _, first, count = np.unique(target[order], return_index=True, return_counts=True)
    if count.min() < verify:
        raise UserError(
            f"{count.min()} candidates per target were generated, but {verify} are to be verified: "
            "lower evaluation.verify or generate more"
        )
    return order[first[:, None] + np.arange(verify)]


def extract(generated: Path, settings: Config, shard: int, out: Path) -> None:
    """Write one shard of the designs to verify, in the format of the random designs.

    The index of a design is ``target * verify + place``. Beyond the arrays of a random shard the
    file says where a design comes from: ``target``, ``candidate`` (row in ``generated``), ``rank``
    and ``status`` of the read-out.

    Parameters
    ----------
    generated
        Candidates, as ``crumple generate`` writes them.
    settings
        Of the run; ``evaluation.verify`` and ``designs.shard_size`` count here.
    shard
        Number of the shard; shards follow the index.
    out
        The ``.npz`` to write.
    """
    out = claim(out, "extract")
    store = open_candidates(generated)
    target, rank = store["target"][:], store["rank"][:]
    status = np.array([str(reason) for reason in store["status"][:]])
    chosen = select(target, rank, status, settings.evaluation.verify).ravel()
    start = shard * settings.designs.shard_size
    index = np.arange(start, min(start + settings.designs.shard_size, len(chosen)))
    if len(index) == 0:
        raise UserError(
            f"{generated} gives {len(chosen)} designs to verify, so there is no shard {shard}"
        )
    rows = chosen[index]
    quarter = store["quarter"][:][rows]
    hashes = {"candidates": store.attrs["checksum"], "designs": hash_designs(index, quarter)}
    save_npz(
        out,
        made_by=json.dumps(made_by("extract", settings, store.attrs["made_by"], **hashes)),
        index=index.astype(np.int64),
        quarter=quarter,
        seed=store["seed"][:][rows],
        threshold=np.full(len(rows), MASK_LEVEL),
        solid_fraction=quarter.mean(axis=(1, 2)),
        tries=np.ones(len(rows), np.int64),
        target=target[rows],
        candidate=rows,
        rank=rank[rows],
        status=status[rows],
    )


class Verified(NamedTuple):
    """A candidate whose design was to be simulated, and where its simulation is."""

    candidate: int  # row in the store of candidates
    index: int  # type: ignore[assignment]  # number of the design among the chosen ones
    status: str  # ok, or the kind of failure and the reason
    shard: zarr.Group
    row: int  # in the shard


def join(store: zarr.Group, designs: Sequence[Path], shards: Sequence[Path]) -> Iterator[Verified]:
    """Find the simulation of each candidate that was chosen.

    Parameters
    ----------
    store
        From :func:`open_candidates`.
    designs, shards
        Files of :func:`extract` and the shards simulated from them, in the same order.

    Raises
    ------
    UserError
        When the designs are not those of the candidates, or the shards not made from the designs.
    """
    if len(designs) != len(shards):
        raise UserError(
            f"there are {len(designs)} files of designs and {len(shards)} shards made from them: "
            "name as many of both, in the same order"
        )
    for design_path, shard_path in zip(designs, shards, strict=True):
        design, shard = read_npz(design_path, EXTRACTED), open_intact(shard_path, SHARD)
        record = read_record(design["made_by"], design_path, EXTRACTED.advice)
        require_inputs(record, design_path, candidates=store.attrs["checksum"])
        hashed = hash_designs(design["index"], design["quarter"])
        require_inputs(record, design_path, designs=hashed)
        require_inputs(shard.attrs["made_by"], shard_path, designs=hashed)
        candidate = design["candidate"]
        simulated = shard["status"][:]
        for row, acceptable in enumerate(design["status"]):
            status = f"not acceptable: {acceptable}" if acceptable != "ok" else str(simulated[row])
            yield Verified(int(candidate[row]), int(design["index"][row]), status, shard, row)
