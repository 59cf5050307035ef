"""What the report is made of: the artefacts of a run, read and found to belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from pydantic import BaseModel, Field

from crumple.candidates import Verified, join, open_candidates
from crumple.dataset import Dataset
from crumple.errors import UserError
from crumple.provenance import folder_record, hash_file, require_inputs
from crumple.readers import read_json, read_json_lines
from crumple.results import ADVICE, RESULT, Results, read_results

TRAIN_AGAIN = "train this model again with `crumple train`"


class LogLine(BaseModel):
    """What the report shows of a line of ``stats.jsonl``."""

    step: int = Field(ge=0)
    loss: float | None = None
    validation_loss: float | None = None
    samples_per_s: float | None = None


class ModelDescription(BaseModel):
    """What the report shows of a model's ``config.json``."""

    format: Literal["crumple-model"]
    training: dict[str, Any]


class Run(NamedTuple):
    """Everything that a report shows."""

    name: str
    dataset: Dataset
    results: Results
    record: dict[str, Any]  # of the evaluation
    store: zarr.Group  # candidates
    simulations: dict[int, Verified]  # by candidate
    log: list[LogLine]
    training: dict[str, Any]  # settings


class Member(NamedTuple):
    """A design of the data set."""

    index: int  # type: ignore[assignment]
    solid: np.ndarray  # (96, 96)
    strain: np.ndarray  # (51,)
    stress: np.ndarray  # (51,) MPa


def read_run(
    dataset_path: Path,
    model: Path,
    generated: Path,
    evaluation: Path,
    design_files: Sequence[Path],
    shards: Sequence[Path],
) -> Run:
    """Read the artefacts of a run; parameters as in :func:`crumple.report.write_report`.

    Raises
    ------
    UserError
        When something cannot be read, has been damaged, or belongs to another run.
    """
    dataset = Dataset(dataset_path)
    results = read_results(evaluation)
    log = model / "stats.jsonl"
    store = open_candidates(generated)
    require_inputs(store.attrs["made_by"], generated, dataset=hash_file(dataset_path))
    record = folder_record(evaluation, ADVICE)
    require_inputs(record, evaluation, candidates=store.attrs["checksum"])
    simulations = {one.candidate: one for one in join(store, design_files, shards)}
    chosen = {row.candidate for row in results.candidates if row.verified is not None}
    if chosen != set(simulations) or len(results.candidates) != store["target"].shape[0]:
        raise UserError(
            f"cannot read {evaluation / RESULT}: its candidates are not those of {generated}; "
            f"{ADVICE}"
        )
    return Run(
        dataset.folder.parent.name,
        dataset,
        results,
        record,
        store,
        simulations,
        read_json_lines(log, LogLine, TRAIN_AGAIN) if log.exists() else [],
        read_json(model / "config.json", ModelDescription, TRAIN_AGAIN).training,
    )


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return ``count`` items at even distances, all of them where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, count).round().astype(int)]


def spread_samples(dataset: Dataset, count: int) -> list[Member]:
    """Read designs and curves from all over the data set, weakest design first."""
    places = np.concatenate([dataset.split["train"], dataset.split["validation"]])
    places = places[np.lexsort(places.T[::-1])]
    samples = []
    for number, row in spread(places.tolist(), count):
        shard = dataset.shard(number)
        samples.append(
            Member(
                int(shard["index"][row]),
                shard["solid"][row],
                shard["curve_strain"][:],
                shard["curve_stress"][row],
            )
        )
    return sorted(samples, key=lambda sample: float(sample.stress[-1]))
