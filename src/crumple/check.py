"""Whether the results of a run are whole and belong together (``crumple check``).

Nothing is known but the folder of the run. Every file is compared with the checksum that was
written with it or with what was made from it, and every artefact with the record of what made it
(:mod:`crumple.provenance`)::

    designs -> meshes -> shards -> dataset.json -> model
            -> library.npz -> designer, response -> generated.zarr (which the model is for too)
            -> verified designs -> meshes -> shards -> evaluation -> report.html
            -> a search's proposals -> shards -> results, round by round -> winner -> its page

A run with the models of the package begins at ``generated.zarr``; a folder of `crumple design`
holds searches alone. What isn't there yet is no problem, unless something was made from it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from crumple.atomic import SUMS
from crumple.candidates import STORE, open_candidates
from crumple.config import parse_config
from crumple.dataset import SHARD, build_manifest, open_intact, open_shard, read_manifest
from crumple.designs import DESIGNS
from crumple.errors import UserError
from crumple.evaluation import VERIFIED
from crumple.library import LIBRARY, MODELS, collect, packaged, read_library
from crumple.progress import progress
from crumple.provenance import (
    RECORD,
    Record,
    fingerprint,
    folder_record,
    hash_designs,
    hash_file,
    hash_folder,
    hash_model,
    page_record,
    read_record,
    require_inputs,
    require_settings,
)
from crumple.readers import read_json, read_npz, refusing
from crumple.results import HELD_OUT
from crumple.search.checking import SHOW, check_round, check_shown
from crumple.targets import read_targets

INDEX = "make it again with `crumple index`"
TRAIN = "train this model again with `crumple train`"
LIBRARY_MODELS = {  # folders of the models that are trained on a library
    "designer": ("design model", "train it again with `crumple train-designer`"),
    "response": ("forward model", "train it again with `crumple train-response`"),
}
EVALUATE = "run `crumple evaluate` again"
REPORT = "run `crumple report` again"
CRATE = "ro-crate-metadata.json"
DESCRIBE = "run `crumple crate` again"
SUM = re.compile(r"([0-9a-f]{64})  (.+)")


class WorkRecord(Record):
    """Record of a folder with a file per design; ``files`` is the hash of what they are made of."""

    files: str


class CrateEntity(BaseModel):
    """What is compared of the files that a crate lists."""

    id: str = Field(alias="@id")
    sha256: str | None = None


class Crate(BaseModel):
    """Content of ``ro-crate-metadata.json`` (:mod:`crumple.crate`)."""

    graph: list[CrateEntity] = Field(alias="@graph")


class GeneratedRecord(Record):
    """Record in the folder of the candidates, with names, stresses and known steps of targets."""

    targets: tuple[list[str], list[list[float]], list[list[bool]]]


@dataclass
class Findings:
    """What a check has found.

    Attributes
    ----------
    problems
        Sentences: which file, what is wrong with it, what to do.
    notes
        What is no problem and still worth knowing.
    intact
        Artefacts without a problem, counted by kind.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    intact: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def artefact(self, kind: str) -> Iterator[None]:
        """Count what is looked at in the block as intact, or keep the sentence that it raises."""
        try:
            yield
        except UserError as error:
            self.problems.append(str(error))
        else:
            self.intact[kind] += 1


def check(run: Path) -> None:
    """Print one line per problem of a run, or that there is none and what was looked at.

    Parameters
    ----------
    run
        Folder ``results/NAME`` of a run, or one of `crumple design`, finished or not.

    Raises
    ------
    UserError
        When there is a problem, or nothing to check.
    """
    findings = examine(run)
    for line in (*findings.problems, *(f"note: {note}" for note in findings.notes)):
        print(line)
    if findings.problems:
        count = len(findings.problems)
        raise UserError(f"{run} has {count} problem{'s' * (count > 1)}, listed above")
    if not findings.intact:
        raise UserError(
            f"there are no results in {run}: name the folder of a run, results/NAME, or of a search"
        )
    counts = ", ".join(f"{count} {kind}" for kind, count in findings.intact.items())
    print(f"{run}: ok ({counts})")


def examine(run: Path) -> Findings:
    """Look at every artefact of a run; see :func:`check`."""
    findings = Findings()
    dataset, model = run / "data/dataset.json", run / "model"
    store, evaluation = run / "generated.zarr", run / "evaluation"
    made = _data_set(run / "data", dataset, findings)
    _library_and_models(run, dataset, made, findings)
    if model.is_dir():
        with findings.artefact("model"):
            made = _model(model, dataset, made, findings)
    checksum = None
    if store.is_dir():
        with findings.artefact("set of candidates"):
            made, checksum = _generated(store, model, dataset, run / "held_out.csv", made, findings)
    _parts(run / "verified", made, findings, candidates=checksum)
    if evaluation.is_dir():
        with findings.artefact("evaluation"):
            if not store.is_dir():
                raise UserError(f"{store}, which {evaluation} compares, is missing: make it again")
            _evaluation(evaluation, run / "verified", dataset, checksum, findings)
    if (run / "report.html").exists():
        with findings.artefact("report"):
            path = run / "report.html"
            record = page_record(path, REPORT)
            files = _data(record, dataset) | {"evaluation": evaluation / "evaluation.json"}
            require_inputs(record, path, **_inputs(path, **files))
    for search in sorted({path.parent for path in run.glob("**/rounds")}):
        _search(search, findings)
    if (run / CRATE).exists():
        with findings.artefact("description of the run"):
            _crate(run, read_json(run / CRATE, Crate, DESCRIBE))
    unfinished = sorted(path.relative_to(run).as_posix() for path in run.rglob("*.partial"))
    if unfinished:
        findings.notes.append(f"unfinished: {', '.join(unfinished)}")
    return findings


def require_sums(folder: Path, advice: str, findings: Findings) -> None:
    """Raise unless the files of a folder are those of its ``SHA256SUMS``; note where it has none.

    Files that were added later are left alone.
    """
    sums = folder / SUMS
    if not sums.exists():
        findings.notes.append(f"{folder} has no {SUMS}, so that its files could not be compared")
        return
    with refusing(sums, advice):
        entries = [SUM.fullmatch(line) for line in sums.read_text(encoding="utf-8").splitlines()]
        names = {entry[2]: entry[1] for entry in entries if entry}
        outside = (PurePosixPath(name) for name in names)
        if len(names) < len(entries) or any(p.is_absolute() or ".." in p.parts for p in outside):
            raise ValueError("it is not a list of checksums")
    for name, wanted in names.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; {advice}")
        if hash_file(path) != wanted:
            raise UserError(f"{path} has changed since it was written; {advice}")


# --- data set ------------------------------------------------------------------------------------


def _data_set(data: Path, path: Path, findings: Findings) -> Mapping[str, Any]:
    """Check the data set and what it was made of; return its record, empty where there is none."""
    before = len(findings.problems)
    if not path.exists():
        _parts(data, {}, findings)
        return {}
    try:
        manifest = read_manifest(path)
    except UserError as error:
        findings.problems.append(str(error))
        _parts(data, {}, findings)
        return {}
    made = manifest["made_by"]
    listed = {data.resolve() / entry["path"]: entry["sha256"] for entry in manifest["shards"]}
    changed, wrong = ["shards"], ""
    try:
        config = parse_config(made["settings"].get("index", {}), f"the settings in {path}")
        again = build_manifest(list(listed), config, data.resolve())
        changed = [n for n, value in again.items() if json.dumps(value) != json.dumps(manifest[n])]
    except UserError as reason:
        wrong = str(reason)
    _parts(data, made, findings, listed, compare="shards" in changed)
    if len(findings.problems) == before:
        if changed:
            wrong = wrong or f"{path}: {changed[0]} isn't that of its shards; {INDEX}"
            findings.problems.append(wrong)
        else:
            findings.intact["data set"] += 1
    return made


def _parts(
    part: Path,
    made: Mapping[str, Any],
    findings: Findings,
    listed: Mapping[Path, str] | None = None,
    candidates: str | None = None,
    compare: bool = True,
) -> None:
    """Check designs, meshes and shards of the data set or of the verified candidates.

    Parameters
    ----------
    part
        Their folder.
    made
        Record with settings that they must share; those that it lacks, of the first that has them.
    findings
        Gets what is found.
    listed
        Checksums by the shards that a data set is made of; by default what is there.
    candidates
        Checksum of the candidates that the designs must come from.
    compare
        Whether the checksums of the shards are yet to be compared.
    """
    hashes: dict[str, str] = {}
    for path in sorted(part.glob("designs/*.npz")):
        with findings.artefact(f"files of designs in {part.name}"):
            known = read_npz(path, DESIGNS)
            record = read_record(known["made_by"], path, DESIGNS.advice)
            hashes[path.stem] = hash_designs(known["index"], known["quarter"])
            inputs = _given(designs=hashes[path.stem], candidates=candidates)
            require_inputs(record, path, **inputs)
            _require_same(record, made, path)
            made = _with(made, record)
    for kind, sources in (("meshes", "designs/{}.npz"), ("simulations", "meshes/{}/*.npz")):
        for folder in sorted(part.glob(f"{kind}/*")):
            if folder.is_dir() and folder.suffix != ".partial":
                with findings.artefact(f"folders of {kind} in {part.name}"):
                    files = sorted(part.glob(sources.format(folder.name)))
                    _work(folder, files, made, findings)
    found = sorted(part.resolve().glob("shards/*.zarr"))
    paths = found if listed is None else list(listed)
    for path in progress(paths, len(paths), f"check {part.name}", unit="shard"):
        with findings.artefact(f"shards in {part.name}"):
            if not path.is_dir():
                raise UserError(f"the shard {path} is missing: {SHARD.advice}")
            record = _shard(path, made, hashes)
            if compare:
                _compare(path, listed)
            made = _with(made, record)
    extra = [path for path in found if path not in paths]
    findings.notes += [f"{path} isn't part of the data set" for path in extra]


def _work(
    folder: Path, sources: Sequence[Path], made: Mapping[str, Any], findings: Findings
) -> None:
    """Check a folder of meshes or simulations and that it was made from these files."""
    stage = "mesh" if folder.parent.name == "meshes" else "simulate"
    advice = f"make it again with `crumple {stage}`"
    record = read_json(folder / RECORD, WorkRecord, advice).model_dump()
    require_sums(folder, advice, findings)
    _require_same(record, made, folder)
    if record["files"] != fingerprint(sources):
        raise UserError(
            f"what {folder} was made from is missing or has changed since; {advice}, or make that "
            "again"
        )


def _compare(path: Path, listed: Mapping[Path, str] | None) -> None:
    """Raise unless the arrays of a shard, and all of it if it is listed, are as written."""
    open_intact(path, SHARD)
    if listed is not None and hash_folder(path) != listed[path]:
        raise UserError(
            f"{path} has changed since the data set was indexed: make this shard again, then run "
            "`crumple index`"
        )


def _shard(path: Path, made: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """Compare the record of a shard with data set and designs, and return it."""
    group = open_shard(path)
    record: dict[str, Any] = group.attrs["made_by"]
    _require_same(record, made, path)
    hashed = hash_designs(group["index"][:], group["quarter"][:])
    require_inputs(record, path, designs=hashed)
    if hashes and hashes.get(path.stem) != hashed:
        raise UserError(
            f"{path} isn't the result of the designs {path.stem}.npz, or these are missing: "
            f"{SHARD.advice}"
        )
    return record


# --- what was made from it -----------------------------------------------------------------------


def _library_and_models(
    run: Path, dataset: Path, made: Mapping[str, Any], findings: Findings
) -> None:
    """Check the library of the data set and the models that were trained on it."""
    library, designs = run / "data/library.npz", None
    if library.exists():
        with findings.artefact("library"):
            # what is wrong with the shards has been said, and is no fault of the library
            intact = dataset if findings.intact["data set"] else None
            designs = _library(library, intact, made)
    for name, (kind, advice) in LIBRARY_MODELS.items():
        folder = run / name
        if folder.is_dir():
            with findings.artefact(kind):
                record = folder_record(folder, advice)
                require_sums(folder, advice, findings)
                if library.exists():
                    _require_same(record, made, folder)
                    require_inputs(record, folder, **_given(designs=designs))
                elif record["inputs"] != read_library().record["inputs"]:
                    raise _missing(library, folder)


def _library(path: Path, dataset: Path | None, made: Mapping[str, Any]) -> str:
    """Check a library, with the results of the data set where there is one; return its hash."""
    library = read_library(path)
    _require_same(library.record, made, path)
    if dataset is not None:
        shards = [dataset.parent / entry["path"] for entry in read_manifest(dataset)["shards"]]
        if len(collect(((shard, open_shard(shard)) for shard in shards), library)) > len(library):
            raise UserError(f"{path} lacks designs of {dataset}: {LIBRARY.advice}")
    return str(library.record["inputs"]["designs"])


def _model(
    folder: Path, dataset: Path, made: Mapping[str, Any], findings: Findings
) -> Mapping[str, Any]:
    """Check the model, and return its record."""
    record = folder_record(folder, TRAIN)
    require_sums(folder, TRAIN, findings)
    _require_same(record, made, folder)
    require_inputs(record, folder, **_inputs(folder, dataset=dataset))
    return record


def _generated(
    path: Path,
    model: Path,
    dataset: Path,
    held_out: Path,
    made: Mapping[str, Any],
    findings: Findings,
) -> tuple[Mapping[str, Any], str]:
    """Check the candidates, and return their record and checksum."""
    store = open_candidates(path)
    require_sums(path, STORE.advice, findings)
    folder = read_json(path / RECORD, GeneratedRecord, STORE.advice)
    record = store.attrs["made_by"]
    if record != folder.model_dump(exclude={"targets"}):
        raise UserError(f"{path} and its {RECORD} say different things; {STORE.advice}")
    _require_same(record, made, path)
    require_inputs(record, path, **_inputs(path, **_data(record, dataset)))
    if "model" in record["inputs"]:
        with refusing(model, TRAIN):
            require_inputs(record, path, model=hash_model(model))
    if "dataset" not in record["inputs"]:
        _packaged(record, path, findings)
    for name in LIBRARY_MODELS if "dataset" in record["inputs"] else ():
        own, weights = model.with_name(name), f"{name}.safetensors"
        used, of_package = record["inputs"].get(name), hash_file(packaged(name) / weights)
        if used is not None and (own.is_dir() or used != of_package):
            require_inputs(record, path, **_inputs(path, **{name: own / weights}))
    names, stress, known = folder.targets
    if held_out.exists():
        goals = dict(zip(names, zip(stress, known, strict=True), strict=True))
        given = read_targets([held_out], np.array(store.attrs["frame_strain"]))
        curves = zip(given.stress.tolist(), given.known.tolist(), strict=True)
        for name, curve in zip(given.names, curves, strict=True):
            if goals.get(name) != curve:
                raise UserError(
                    f"{path} wasn't generated for the target {name} of {held_out}: "
                    "run `crumple targets` and `crumple generate` again"
                )
    elif any(name.startswith(HELD_OUT) for name in names):
        raise UserError(f"{held_out}, from which {path} was made, is missing: make it again")
    return record, store.attrs["checksum"]


def _evaluation(
    folder: Path, verified: Path, dataset: Path, checksum: str | None, findings: Findings
) -> None:
    """Check the evaluation and that the simulations that it rests on are there."""
    record = folder_record(folder, EVALUATE)
    require_sums(folder, EVALUATE, findings)
    inputs = _inputs(folder, **_data(record, dataset)) | _given(candidates=checksum)
    require_inputs(record, folder, **inputs)
    for name, wanted in record["inputs"].items():
        if name.startswith(VERIFIED):
            name = name.removeprefix(VERIFIED)
            is_shard = name.endswith(".zarr")
            path = verified / ("shards" if is_shard else "designs") / name
            if not path.exists():
                raise _missing(path, folder)
            if (hash_folder if is_shard else hash_file)(path) != wanted:
                raise UserError(f"{folder} wasn't made from {path} as it is now; {EVALUATE}")


def _search(folder: Path, findings: Findings) -> None:
    """Check the rounds of a search, its winner and its page."""
    results: list[Path] = []
    for place in sorted(path for path in folder.glob("rounds/*") if path.is_dir()):
        with findings.artefact("rounds of searches"):
            check_round(place, results)
        results.append(place / "results.npz")
    if (folder / "result").is_dir():
        with findings.artefact("winners of searches"):
            require_sums(folder / "result", SHOW, findings)
            check_shown(folder, results)


def _data(record: Mapping[str, Any], dataset: Path) -> dict[str, Path]:
    """Return the data set behind a result by its name; none behind one of the package's models."""
    return {"dataset": dataset} if "dataset" in record["inputs"] else {}


def _packaged(record: Mapping[str, Any], path: Path, findings: Findings) -> None:
    """Note where candidates come from other models than those that the package has now."""
    for name in MODELS:
        if record["inputs"].get(name) != hash_file(packaged(name) / f"{name}.safetensors"):
            findings.notes.append(f"{path} comes from another {name} than that of the package now")


def _crate(run: Path, crate: Crate) -> None:
    """Compare the files of a run with the checksums in its description."""
    for entity in crate.graph:
        if entity.sha256 is not None:
            path = run / PurePosixPath(entity.id)
            if not path.resolve().is_relative_to(run.resolve()) or not path.is_file():
                raise UserError(f"{run / CRATE} lists {path}, which is missing; {DESCRIBE}")
            if hash_file(path) != entity.sha256:
                raise UserError(f"{path} isn't as {run / CRATE} describes it; {DESCRIBE}")


def _require_same(record: Mapping[str, Any], made: Mapping[str, Any], where: Path) -> None:
    """Raise unless two records have the same settings of the stages that both know of."""
    settings = made.get("settings", {})
    shared = {stage: settings[stage] for stage in record["settings"] if stage in settings}
    require_settings(record, shared, where)


def _with(made: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``made`` with the settings of further stages."""
    return {"settings": record["settings"] | made.get("settings", {})}


def _inputs(made_from: Path, **files: Path) -> dict[str, str]:
    """Return the hashes of the files that something was made from; they must be there."""
    for path in files.values():
        if not path.is_file():
            raise _missing(path, made_from)
    return {name: hash_file(path) for name, path in files.items()}


def _missing(path: Path, made_from: Path) -> UserError:
    return UserError(f"{path}, from which {made_from} was made, is missing: make it again")


def _given(**hashes: str | None) -> dict[str, str]:
    return {name: value for name, value in hashes.items() if value is not None}
