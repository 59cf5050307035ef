"""How good the generated designs are: error measures, baselines, tables.

Every figure about a design rests on its own finite-element simulation, made by the rules that made
the training data; the model's prediction is judged against it.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crumple.atomic import atomic_path, claim, save_record, save_sums, save_text
from crumple.candidates import Verified, join, open_candidates
from crumple.dataset import Dataset, open_shard, read_manifest
from crumple.errors import UserError
from crumple.layout import CHANNELS
from crumple.metrics import field_error, nrmse
from crumple.provenance import (
    PHYSICS,
    hash_file,
    hash_folder,
    require_inputs,
    require_settings,
)

HELD_OUT = "heldout_"  # prefix of the names of targets that are responses of the validation split
VERIFIED = "verified/"  # before names of files and shards whose hashes an evaluation records
S22 = CHANNELS.index("s22")  # in generated frames too


def expected_best_of(errors: np.ndarray, k: int) -> float:
    """Return the expected smallest of ``k`` errors drawn at random without replacement.

    Exact, by the order statistics of a finite population: the i-th smallest of n values is the
    smallest of the draw with probability C(n - i, k - 1) / C(n, k).

    Parameters
    ----------
    errors
        ``(n,)`` the population.
    k
        Size of the draw; at most ``n`` are drawn.
    """
    ordered = np.sort(np.asarray(errors, np.float64))
    n = len(ordered)
    k = min(k, n)
    probability, expected = k / n, 0.0
    for i, error in enumerate(ordered[: n - k + 1], start=1):
        expected += probability * error
        probability *= (n - i - k + 1) / (n - i) if i < n else 0.0
    return expected


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
    rows = [["target", *(f"{strain:g}" for strain in manifest["frame_strain"])]]
    for shard, row in members[:count]:
        index, stress = by_row[shard, row]
        rows.append([f"{HELD_OUT}{index:06d}", *(f"{value:.5g}" for value in stress)])
    save_text(out, _csv_text(rows))


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
    errors, best = [], [(np.inf, -1, None)] * len(targets)
    for part in curves(manifest_path, "train"):
        part_errors = nrmse(part.stress[:, None], targets)
        errors.append(part_errors)
        for number, row in enumerate(part_errors.argmin(axis=0)):
            if part_errors[row, number] < best[number][0]:
                best[number] = (part_errors[row, number], int(part.index[row]), part.stress[row])
    if not errors:
        raise UserError(f"{manifest_path} has no training designs to compare with")
    _, index, stress = zip(*best, strict=True)
    return Baseline(np.concatenate(errors), np.array(index), np.array(stress))


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
        Folder for ``candidates.csv``, ``targets.csv`` (the tables) and ``evaluation.json`` (the
        same, with curves and the summary). Errors are fractions; ``readouts_agree`` is the part
        of the pixels that both read-outs of :mod:`crumple.topology` find alike, empty where the
        fields show no design.

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
    physics = {stage: settings[stage] for stage in PHYSICS}
    for path in shards:
        require_settings(open_shard(path).attrs["made_by"], physics, path)
    names = list(store.attrs["target_names"])
    target = store["target"][:]
    target_stress = store["target_stress"][:].astype(float)
    targets = np.array([target_stress[target == number][0] for number in range(len(names))])
    candidates = _generated_rows(store, names)
    for verified in join(store, designs, shards):
        row = verified.candidate
        candidates[row] |= _verified_columns(
            verified,
            target_stress[row],
            candidates[row]["predicted_stress"],
            store["frames"][row, :, S22].astype(np.float32),
        )
    baseline = training_baseline(manifest_path, targets)
    rows = [
        _target_row(number, name, targets, baseline, [c for c in candidates if c["target"] == name])
        for number, name in enumerate(names)
    ]
    groups = {"all": rows} | {
        group: [row for row in rows if row["group"] == group] for group in ("given", "held out")
    }
    result = {
        "frame_strain": list(store.attrs["frame_strain"]),
        "training_designs": len(baseline.errors),
        "summary": {group: summarise(members) for group, members in groups.items() if members},
        "targets": rows,
        "candidates": candidates,
    }
    with atomic_path(out) as folder:
        folder.mkdir()
        inputs = record["inputs"] | {
            "candidates": store.attrs["checksum"],
            **{VERIFIED + path.name: hash_file(path) for path in designs},
            **{VERIFIED + path.name: hash_folder(path) for path in shards},
        }
        save_record(folder, {**record, "stage": "evaluate", "inputs": inputs})
        save_text(folder / "targets.csv", _table(rows))
        save_text(folder / "candidates.csv", _table(_with_steps(candidates, result)))
        save_text(folder / "evaluation.json", json.dumps(_plain(result), indent=1, allow_nan=False))
        save_sums(folder)


def _with_steps(rows: Sequence[dict[str, Any]], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the field error of every strain step a column of its own."""
    names = [f"field_error_{strain:g}" for strain in result["frame_strain"]]
    return [
        row | dict(zip(names, map(float, row.get("field_errors", ())), strict=False))
        for row in rows
    ]


def _generated_rows(store: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is known of every candidate before it is simulated."""
    columns = ("target", "rank", "seed", "predicted_stress", "target_stress")
    values = {name: store[name][:] for name in columns}
    status = [str(text) for text in store["status"][:]]
    by_fields = store["quarter_fields"][:]
    agreement = np.mean(store["quarter"][:] == by_fields, axis=(1, 2))
    agreement[~by_fields.any(axis=(1, 2))] = np.nan
    predicted = nrmse(values["predicted_stress"].astype(float), values["target_stress"])
    return [
        {
            "candidate": number,
            "target": names[values["target"][number]],
            "rank": int(values["rank"][number]),
            "seed": int(values["seed"][number]),
            "design": status[number],
            "readouts_agree": float(agreement[number]),
            "nrmse_predicted_target": float(predicted[number]),
            "predicted_stress": values["predicted_stress"][number].astype(float),
        }
        for number in range(len(status))
    ]


def _verified_columns(
    verified: Verified, target: np.ndarray, predicted: np.ndarray, predicted_s22: np.ndarray
) -> dict[str, Any]:
    """Return the columns that the simulation of a candidate adds."""
    if verified.status != "ok":
        return {"index": verified.index, "verified": verified.status}
    stress = verified.shard["frame_stress"][verified.row].astype(float)
    s22 = verified.shard["frames"][verified.row, :, S22].astype(np.float32)
    errors = field_error(predicted_s22, s22)
    return {
        "index": verified.index,
        "verified": "ok",
        "nrmse_fe_target": float(nrmse(stress, target)),
        "nrmse_predicted_fe": float(nrmse(predicted, stress)),
        "field_error_mean": float(errors.mean()),
        "field_errors": errors,
        "fe_stress": stress,
    }


def _target_row(
    number: int,
    name: str,
    targets: np.ndarray,
    baseline: Baseline,
    candidates: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the row of one target: baselines, failures, and the errors of its candidates."""
    chosen = sorted((c for c in candidates if "verified" in c), key=lambda c: c["index"])
    done = [c for c in chosen if c["verified"] == "ok"]
    fe = [c["nrmse_fe_target"] for c in done]
    errors = baseline.errors[:, number]
    return {
        "target": name,
        "group": "held out" if name.startswith(HELD_OUT) else "given",
        "candidates": len(candidates),
        "acceptable": sum(c["design"] == "ok" for c in candidates),
        "readouts_agree": _mean([c["readouts_agree"] for c in candidates]),
        "verified": len(chosen),
        "failures": dict(Counter(_kind(c["verified"]) for c in chosen if c["verified"] != "ok")),
        "best_match": float(errors.min()),
        "best_match_index": int(baseline.index[number]),
        "random_mean": float(errors.mean()),
        "random_best_of_k": expected_best_of(errors, max(len(chosen), 1)),
        "predicted_first": chosen[0]["nrmse_predicted_target"] if chosen else None,
        "fe_first": chosen[0].get("nrmse_fe_target") if chosen else None,
        "fe_mean": _mean(fe),
        "fe_median": _median(fe),
        "fe_best": min(fe, default=None),
        "predicted_fe_mean": _mean([c["nrmse_predicted_fe"] for c in done]),
        "field_error_mean": _mean([c["field_error_mean"] for c in done]),
        "target_stress": targets[number],
        "best_match_stress": baseline.stress[number],
    }


SUMMARISED = (
    "readouts_agree",
    "best_match",
    "random_mean",
    "random_best_of_k",
    "predicted_first",
    "fe_first",
    "fe_mean",
    "fe_median",
    "fe_best",
    "predicted_fe_mean",
    "field_error_mean",
)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the rows of targets: failures, and mean and median of every error over targets.

    A target without a single simulated candidate has no finite-element errors; it is counted in
    ``targets_without_result`` and as not better than its best match.
    """
    failures = sum((Counter(row["failures"]) for row in rows), Counter())
    better = [row["fe_best"] is not None and row["fe_best"] < row["best_match"] for row in rows]
    summary = {
        "targets": len(rows),
        "candidates": sum(row["candidates"] for row in rows),
        "acceptable": sum(row["acceptable"] for row in rows),
        "verified": sum(row["verified"] for row in rows),
        "failures": dict(failures),
        "targets_without_result": sum(row["fe_best"] is None for row in rows),
        "better_than_best_match": float(np.mean(better)),
    }
    for name in SUMMARISED:
        values = [row[name] for row in rows]
        summary[name] = {"mean": _mean(values), "median": _median(values)}
    return summary


def _kind(status: str) -> str:
    """Return the kind of a failure, which stands before the colon of its reason."""
    return status.partition(":")[0]


def _finite(values: Sequence[float | None]) -> list[float]:
    """Drop what is missing: a model may predict no curve or no fields."""
    return [value for value in values if value is not None and np.isfinite(value)]


def _mean(values: Sequence[float | None]) -> float | None:
    found = _finite(values)
    return float(np.mean(found)) if found else None


def _median(values: Sequence[float | None]) -> float | None:
    found = _finite(values)
    return float(np.median(found)) if found else None


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV: the union of their scalar columns; curves are left to the JSON file."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [n for n in names if not any(isinstance(row.get(n), np.ndarray) for row in rows)]
    return _csv_text([names, *([_cell(row.get(name)) for name in names] for row in rows)])


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return "; ".join(f"{count} {kind}" for kind, count in value.items())
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return value


def _csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Return a value as JSON types, floats to six digits; what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
