"""What the report is made of: the artefacts of a run, read and found to belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zarr
from pydantic import BaseModel, ConfigDict, Field

from crumple.candidates import Verified, join, open_candidates
from crumple.errors import UserError
from crumple.provenance import folder_record, require_inputs
from crumple.readers import read_json, read_json_lines
from crumple.report.collection import DesignCollection, read_collection
from crumple.results import ADVICE, RESULT, Results, read_results

MEMBERS = 300  # designs whose curves are drawn
KINDS = {  # of models: what each is, its command, and where it says how it was trained
    "designer": ("Design model, from a curve to designs", "train-designer", "designer.json"),
    "response": ("Forward model, from a design to its curve", "train-response", "response.json"),
    "model": ("Space-time model, of the fields", "train", "config.json"),
}


class LogLine(BaseModel):
    """What the report shows of a line of ``stats.jsonl``."""

    step: int = Field(ge=0)
    loss: float | None = None
    validation_loss: float | None = None
    samples_per_s: float | None = None


class TrainingNote(BaseModel):
    """How a model came about; counts and settings stand beside what is named here."""

    model_config = ConfigDict(extra="allow")

    precision: list[tuple[int, str]] = []  # steps, and what was used from there on


class ModelDescription(BaseModel):
    """What the report shows of what a model says of itself."""

    format: Literal["crumple-model", "crumple-designer", "crumple-response"]
    training: TrainingNote
    held_out: dict[str, float] = {}


class Learner(NamedTuple):
    """A model that candidates come from, and how it was trained."""

    title: str
    log: list[LogLine]  # empty where it isn't kept
    training: TrainingNote
    held_out: dict[str, float]  # errors on designs that it has not seen, where it says so


class Run(NamedTuple):
    """Everything that a report shows."""

    name: str
    designs: DesignCollection  # that the models have learnt from
    results: Results
    record: dict[str, Any]  # of the evaluation
    store: zarr.Group  # candidates
    simulations: dict[int, Verified]  # by candidate
    learners: list[Learner]


def read_run(
    known: Path,
    models: Mapping[str, Path | None],
    generated: Path,
    evaluation: Path,
    design_files: Sequence[Path],
    shards: Sequence[Path],
) -> Run:
    """Read the artefacts of a run; see :func:`crumple.report.write_report`.

    Parameters
    ----------
    known, generated, evaluation, design_files, shards
        As there.
    models
        Folders by the names in ``KINDS``.

    Raises
    ------
    UserError
        When something cannot be read, has been damaged, or belongs to another run.
    """
    results = read_results(evaluation)
    store = open_candidates(generated)
    designs = read_collection(known, MEMBERS)
    require_inputs(store.attrs["made_by"], generated, **designs.inputs)
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
        generated.absolute().parent.name,
        designs,
        results,
        record,
        store,
        simulations,
        [read_learner(name, folder) for name in KINDS if (folder := models[name])],
    )


def read_learner(name: str, folder: Path) -> Learner:
    """Read what a model says of its training; ``name`` as in ``KINDS``."""
    title, command, description = KINDS[name]
    advice = f"train this model again with `crumple {command}`"
    about = read_json(folder / description, ModelDescription, advice)
    log = folder / "stats.jsonl"
    lines = read_json_lines(log, LogLine, advice) if log.exists() else []
    return Learner(title, lines, about.training, about.held_out)
