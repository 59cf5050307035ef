"""How good the generated designs are: each against its target, and all against the training set.

Every figure about a design rests on its own finite-element simulation, made by the rules that made
the training data; the model's prediction is judged against it. What the figures are called and
what they mean is in :mod:`crumple.results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import zarr

from crumple.atomic import atomic_path, claim, save_record, save_sums, save_text
from crumple.candidates import Verified, join, open_candidates
from crumple.config import Config, DatasetSplit
from crumple.dataset import Dataset, open_shard
from crumple.errors import UserError
from crumple.layout import FRAME_STRAIN, GENERATED_CHANNELS
from crumple.library import read_library
from crumple.metrics import field_error, frame_stress, nrmse
from crumple.provenance import (
    PHYSICS,
    hash_file,
    hash_folder,
    require_inputs,
    require_settings,
)
from crumple.results import (
    FAILED,
    HELD_OUT,
    CandidateRow,
    Results,
    summarise,
    target_row,
    write_results,
)

VERIFIED = "verified/"  # before names of files and shards whose hashes an evaluation records
S22 = GENERATED_CHANNELS.index("s22")  # in the frames of shards too, which begin with the same


class Curves(NamedTuple):
    """Effective stress of designs at the strains of the frames."""

    index: np.ndarray  # type: ignore[assignment]  # (n,) global design index
    stress: np.ndarray  # (n, frames) MPa

    def take(self, rows: Sequence[int] | np.ndarray) -> Curves:
        """Return some of the rows."""
        return Curves(self.index[rows], self.stress[rows])


class Known(NamedTuple):
    """The designs that models have learnt from, and those that were held out."""

    path: Path
    training: Curves
    held_out: Curves  # in random order
    record: dict[str, Any]

    def require(self, record: dict[str, Any], where: Path) -> None:
        """Raise unless something was made from these designs."""
        if self.path.suffix == ".npz":
            require_inputs(record, where, designs=self.record["inputs"]["designs"])
        else:
            require_inputs(record, where, dataset=hash_file(self.path))


def read_known(path: Path, fraction: float) -> Known:
    """Read the curves of a data set or of a library.

    Parameters
    ----------
    path
        ``dataset.json``, or the file of a library (``.npz``).
    fraction
        ``dataset.validation_fraction``, by which a library is split; a data set has been.
    """
    if path.suffix == ".npz":
        library = read_library(path)
        every = Curves(library.index, frame_stress(library.curve_stress))
        held = library.held_out(fraction)
        rest = np.setdiff1d(np.arange(len(library)), held)
        return Known(path, every.take(rest), every.take(held), library.record)
    dataset = Dataset(path)
    training, held_out = (_curves(dataset, dataset.split[name]) for name in ("train", "validation"))
    return Known(path, training, held_out, dataset.manifest["made_by"])


def _curves(dataset: Dataset, places: np.ndarray) -> Curves:
    """Read the curves at places (shard, row) of a data set, a shard at a time."""
    index = np.zeros(len(places), int)
    stress = np.zeros((len(places), len(FRAME_STRAIN)))
    for number in np.unique(places[:, 0]):
        shard, at = dataset.shard(int(number)), places[:, 0] == number
        index[at] = shard["index"][:][places[at, 1]]
        stress[at] = shard["frame_stress"][:][places[at, 1]]
    return Curves(index, stress)


def write_held_out_targets(path: Path, settings: Config, out: Path) -> None:
    """Write responses of held-out designs as target curves.

    Parameters
    ----------
    path
        ``dataset.json``, or a library.
    settings
        ``evaluation.held_out`` says how many: the first ones of the validation split, whose order
        is random; ``dataset.validation_fraction`` splits a library.
    out
        CSV with a row per target: its name (``heldout_`` and the design's index) and the effective
        stress in MPa at the strains of the header.
    """
    out = claim(out, "targets")
    held_out = read_known(path, settings.dataset.validation_fraction).held_out
    count = settings.evaluation.held_out
    if len(held_out.index) < count:
        raise UserError(
            f"{path} holds out {len(held_out.index)} designs, but evaluation.held_out asks for "
            f"{count}: raise dataset.validation_fraction or lower evaluation.held_out"
        )
    names = [f"{HELD_OUT}{index:06d}" for index in held_out.index[:count]]
    table = pd.DataFrame(
        held_out.stress[:count],
        index=pd.Index(names, name="target"),
        columns=[f"{strain:g}" for strain in FRAME_STRAIN],
    )
    save_text(out, table.to_csv(float_format="%.5g", lineterminator="\n"))


class Baseline(NamedTuple):
    """What the training set offers for each target, without any learning."""

    errors: np.ndarray  # (designs, targets) NRMSE of every training design
    index: np.ndarray  # type: ignore[assignment]  # (targets,) global index of the best match
    stress: np.ndarray  # (targets, frames) its curve, MPa


def training_baseline(known: Known, targets: np.ndarray) -> Baseline:
    """Compare targets ``(targets, frames)``, MPa, with every curve of the training set."""
    training = known.training
    if not len(training.index):
        raise UserError(f"{known.path} has no training designs to compare with")
    errors = nrmse(training.stress[:, None], targets)
    best = errors.argmin(axis=0)
    return Baseline(errors, training.index[best], training.stress[best])


def evaluate(
    generated: Path, known_path: Path, designs: Sequence[Path], shards: Sequence[Path], out: Path
) -> None:
    """Compare candidates, their simulations and the training set with the targets.

    Parameters
    ----------
    generated
        Candidates, as ``crumple generate`` writes them.
    known_path
        ``dataset.json`` of the training data, or the library that the models were trained on.
    designs, shards
        Extracted designs and the shards simulated from them, in the same order.
    out
        Folder for the files of :func:`crumple.results.write_results`.

    Raises
    ------
    UserError
        When something cannot be read or has been damaged, or parts of different runs are given:
        candidates of a model of another data set, other designs, simulations by other rules.
    """
    out = claim(out, "evaluate", folder=True)
    store = open_candidates(generated)
    record = store.attrs["made_by"]
    known = read_known(known_path, _fraction(record))
    known.require(record, generated)
    settings = known.record["settings"]
    physics = {stage: settings[stage] for stage in PHYSICS if stage in settings}
    for path in shards:
        require_settings(open_shard(path).attrs["made_by"], physics, path)
    results = _results(store, list(join(store, designs, shards)), known)
    with atomic_path(out) as folder:
        folder.mkdir()
        inputs = record["inputs"] | {
            "candidates": store.attrs["checksum"],
            **{VERIFIED + path.name: hash_file(path) for path in designs},
            **{VERIFIED + path.name: hash_folder(path) for path in shards},
        }
        save_record(folder, {**record, "stage": "evaluate", "inputs": inputs})
        write_results(folder, results)
        save_sums(folder)


def _fraction(record: dict[str, Any]) -> float:
    """Return the part of a library that the models of candidates have not seen."""
    settings = record["settings"].get("train-response", {}).get("dataset", {})
    return float(settings.get("validation_fraction", DatasetSplit().validation_fraction))


def _results(store: zarr.Group, verified: Sequence[Verified], known: Known) -> Results:
    """Compare everything with everything."""
    names = list(store.attrs["target_names"])
    goals = store["target_stress"][:].astype(float)
    columns = _generated_columns(store, names)
    for one in verified:
        number = one.candidate
        predicted = columns[number]["predicted_stress"], store["frames"][number, :, S22]
        columns[number] |= _verified_columns(one, goals[number], *predicted)
    candidates = [CandidateRow(**values) for values in columns]
    first = np.unique(store["target"][:], return_index=True)[1]  # row of a target
    baseline = training_baseline(known, goals[first])
    targets = [
        target_row(
            name,
            [row for row in candidates if row.target == name],
            goals[first[number]],
            baseline.errors[:, number],
            (int(baseline.index[number]), baseline.stress[number]),
        )
        for number, name in enumerate(names)
    ]
    groups = {"all": targets}
    for row in targets:
        groups.setdefault(row.group, []).append(row)
    return Results(
        frame_strain=list(store.attrs["frame_strain"]),
        training_designs=len(baseline.errors),
        summary={group: summarise(rows, candidates) for group, rows in groups.items()},
        targets=targets,
        candidates=candidates,
    )


def _generated_columns(store: zarr.Group, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is known of every candidate before it is simulated."""
    target, rank, seed = (store[name][:] for name in ("target", "rank", "seed"))
    predicted = store["predicted_stress"][:].astype(float)
    error = nrmse(predicted, store["target_stress"][:])
    spread = np.full_like(predicted, np.nan)
    if "predicted_spread" in store:
        spread = store["predicted_spread"][:]
    by_fields = store["quarter_fields"][:]
    agreement = np.mean(store["quarter"][:] == by_fields, axis=(1, 2))
    agreement[~by_fields.any(axis=(1, 2))] = np.nan
    return [
        {
            "candidate": number,
            "target": names[target[number]],
            "rank": int(rank[number]),
            "seed": int(seed[number]),
            "design": str(status),
            "readouts_agree": agreement[number],
            "nrmse_predicted_target": error[number],
            "predicted_stress": predicted[number],
            "predicted_spread": spread[number] if np.isfinite(spread[number]).any() else None,
        }
        for number, status in enumerate(store["status"][:])
    ]


def _verified_columns(
    verified: Verified, target: np.ndarray, predicted: np.ndarray, predicted_s22: np.ndarray
) -> dict[str, Any]:
    """Return what the simulation of a candidate adds."""
    columns = {"index": verified.index, "verified": verified.status, "counted_error": FAILED}
    if verified.status != "ok":
        return columns
    stress = verified.shard["frame_stress"][verified.row].astype(float)
    s22 = verified.shard["frames"][verified.row, :, S22].astype(np.float32)
    errors = field_error(predicted_s22.astype(np.float32), s22)
    predicted_fields = np.isfinite(errors).any()  # of some strain steps at least
    error = float(nrmse(stress, target))
    return columns | {
        "nrmse_fe_target": error,
        "counted_error": error,
        "nrmse_predicted_fe": float(nrmse(predicted, stress)),
        "field_error_mean": np.nanmean(errors) if predicted_fields else None,
        "field_errors": errors if predicted_fields else None,
        "fe_stress": stress,
    }
