"""How good the generated designs are: each against its target, and all against the training set.

Every figure about a design rests on its own finite-element simulation, made by the rules that made
the training data; the model's prediction is judged against it. What the figures are called and
what they mean is in :mod:`crumple.results`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import zarr

from crumple.atomic import atomic_path, claim, save_record, save_sums, save_text
from crumple.candidates import Verified, join, open_candidates
from crumple.dataset import Dataset, open_shard, read_manifest
from crumple.errors import UserError
from crumple.layout import GENERATED_CHANNELS
from crumple.metrics import field_error, nrmse
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
    """Effective stress of designs of one shard of a data set."""

    index: np.ndarray  # type: ignore[assignment]  # (n,) global design index
    shard: int
    row: np.ndarray  # (n,) row within the shard
    stress: np.ndarray  # (n, frames) MPa


def curves(manifest_path: Path, split: str) -> Iterator[Curves]:
    """Read the curves of one part of a data set, a shard at a time.

    Parameters
    ----------
    manifest_path
        ``dataset.json``.
    split
        ``train`` or ``validation``.
    """
    dataset = Dataset(manifest_path)
    members = dataset.split[split]
    for number in np.unique(members[:, 0]):
        row = members[members[:, 0] == number, 1]
        shard = dataset.shard(int(number))
        stress = shard["frame_stress"][:][row].astype(float)
        yield Curves(shard["index"][:][row], int(number), row, stress)


def write_held_out_targets(manifest_path: Path, count: int, out: Path) -> None:
    """Write responses of the validation split as target curves.

    Parameters
    ----------
    manifest_path
        ``dataset.json``.
    count
        Number of responses; the first ones of the split, whose order is random.
    out
        CSV with a row per target: its name (``heldout_`` and the design's index) and the effective
        stress in MPa at the strains of the header.
    """
    out = claim(out, "targets")
    manifest = read_manifest(manifest_path)
    members = manifest["split"]["validation"]
    if len(members) < count:
        raise UserError(
            f"{manifest_path} holds out {len(members)} designs, but evaluation.held_out asks for "
            f"{count}: raise dataset.validation_fraction or lower evaluation.held_out"
        )
    by_row = {
        (part.shard, int(row)): (int(index), stress)
        for part in curves(manifest_path, "validation")
        for index, row, stress in zip(part.index, part.row, part.stress, strict=True)
    }
    chosen = [by_row[shard, row] for shard, row in members[:count]]
    table = pd.DataFrame(
        [stress for _, stress in chosen],
        index=pd.Index([f"{HELD_OUT}{index:06d}" for index, _ in chosen], name="target"),
        columns=[f"{strain:g}" for strain in manifest["frame_strain"]],
    )
    save_text(out, table.to_csv(float_format="%.5g", lineterminator="\n"))


class Baseline(NamedTuple):
    """What the training set offers for each target, without any learning."""

    errors: np.ndarray  # (designs, targets) NRMSE of every training design
    index: np.ndarray  # type: ignore[assignment]  # (targets,) global index of the best match
    stress: np.ndarray  # (targets, frames) its curve, MPa


def training_baseline(manifest_path: Path, targets: np.ndarray) -> Baseline:
    """Compare targets with every curve of the training set.

    Parameters
    ----------
    manifest_path
        ``dataset.json``.
    targets
        ``(targets, frames)`` effective stress, MPa.
    """
    parts = list(curves(manifest_path, "train"))
    if not parts:
        raise UserError(f"{manifest_path} has no training designs to compare with")
    index = np.concatenate([part.index for part in parts])
    stress = np.concatenate([part.stress for part in parts])
    errors = np.concatenate([nrmse(part.stress[:, None], targets) for part in parts])
    best = errors.argmin(axis=0)
    return Baseline(errors, index[best], stress[best])


def evaluate(
    generated: Path, manifest_path: Path, designs: Sequence[Path], shards: Sequence[Path], out: Path
) -> None:
    """Compare candidates, their simulations and the training set with the targets.

    Parameters
    ----------
    generated
        Candidates, as ``crumple generate`` writes them.
    manifest_path
        ``dataset.json`` of the training data.
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
    settings = read_manifest(manifest_path)["made_by"]["settings"]
    require_inputs(record, generated, dataset=hash_file(manifest_path))
    physics = {stage: settings[stage] for stage in PHYSICS if stage in settings}
    for path in shards:
        require_settings(open_shard(path).attrs["made_by"], physics, path)
    results = _results(store, list(join(store, designs, shards)), manifest_path)
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


def _results(store: zarr.Group, verified: Sequence[Verified], manifest_path: Path) -> Results:
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
    baseline = training_baseline(manifest_path, goals[first])
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
