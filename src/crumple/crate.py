"""A run as a research object (RO-Crate 1.1, Process Run Crate 0.5): ``crumple crate RUN``.

The folder of the run becomes the crate: ``ro-crate-metadata.json`` in it lists the results with
their checksums, and for every stage what it was made from, with which settings, by which versions
of which software. All of it is read from the records of the results; nothing is copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import zarr
from rocrate.model import ContextEntity, Person
from rocrate.rocrate import ROCrate

from crumple import __version__
from crumple.atomic import claim, save_text
from crumple.check import CRATE, examine
from crumple.croissant import write_croissant
from crumple.dataset import read_manifest
from crumple.errors import UserError
from crumple.provenance import PUBLISHED, folder_record, hash_file

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
SHA256 = {"sha256": "http://schema.org/sha256"}  # a term that RO-Crate 1.1 doesn't have
HOMES = {  # of what isn't on PyPI
    "python": "https://www.python.org/",
    "fenics-dolfinx": "https://fenicsproject.org/",
}
FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".csv": "text/csv",
    ".html": "text/html",
    ".npz": "application/zip",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
}


class Step(NamedTuple):
    """A command of the workflow and what it has made."""

    command: str
    stages: tuple[str, ...]  # whose settings count
    sources: tuple[str, ...]
    result: str
    what: str


STEPS = (
    Step("sample", ("sample",), (), "data/designs/", "random designs, a file per shard"),
    Step("mesh", ("mesh",), ("data/designs/",), "data/meshes/", "meshes of the designs"),
    Step(
        "simulate, rasterise",
        ("simulate", "rasterise", PUBLISHED),
        ("data/designs/", "data/meshes/"),
        "data/shards/",
        "zarr stores with the fields and curves of the simulated designs, 96x96 pixels",
    ),
    Step("index", ("index",), ("data/shards/",), "data/dataset.json", "shards, split and scaling"),
    Step("library", (), ("data/dataset.json",), "data/library.npz", "designs and their curves"),
    Step("train", ("train",), ("data/dataset.json",), "model/", "diffusion model"),
    Step(
        "train-designer",
        ("train-designer",),
        ("data/library.npz",),
        "designer/",
        "diffusion model of designs",
    ),
    Step(
        "train-response",
        ("train-response",),
        ("data/library.npz",),
        "response/",
        "forward model, which ranks candidates",
    ),
    Step("targets", (), ("data/dataset.json",), "held_out.csv", "held-out responses as targets"),
    Step(
        "generate",
        ("generate",),
        ("model/", "designer/", "response/", "held_out.csv"),
        "generated.zarr/",
        "candidates for the target curves, with predicted fields and curves",
    ),
    Step(
        "extract",
        ("extract",),
        ("generated.zarr/",),
        "verified/designs/",
        "designs of the candidates that were simulated",
    ),
    Step("mesh", ("mesh",), ("verified/designs/",), "verified/meshes/", "meshes of these designs"),
    Step(
        "simulate, rasterise",
        ("simulate", "rasterise"),
        ("verified/designs/", "verified/meshes/"),
        "verified/shards/",
        "zarr stores with fields and curves of the candidates",
    ),
    Step(
        "evaluate",
        (),
        ("data/dataset.json", "generated.zarr/", "verified/designs/", "verified/shards/"),
        "evaluation/",
        "targets, predictions and simulations compared: tables",
    ),
    Step("report", (), ("model/", "evaluation/"), "report.html", "the report, one page"),
)


def write_crate(run: Path, authors: Sequence[str], licence: str) -> None:
    """Describe a run as RO-Crate and its data set in Croissant, and print what was written.

    Parameters
    ----------
    run
        Folder ``results/NAME``, finished or not.
    authors
        Names of people.
    licence
        Address of the licence of the results.

    Raises
    ------
    UserError
        When ``crumple check`` finds a problem in the run, or there are no results.
    """
    out = claim(run / CRATE, "crate")
    findings = examine(run)
    problems = [line for line in findings.problems if CRATE not in line]
    if problems or not findings.intact:
        what = f"{len(problems)} problems" if problems else "no results"
        raise UserError(f"{run} has {what}, so it is not described: see `crumple check {run}`")
    now = datetime.now(UTC).replace(microsecond=0)
    written = [out]
    if (run / "data/dataset.json").exists():
        title = f"Data set of the run {run.resolve().name}"
        written += write_croissant(run / "data/dataset.json", title, authors, licence, now)
    crate = build_crate(run, authors, licence, now)
    save_text(out, json.dumps(crate.metadata.generate(), indent=1, sort_keys=True) + "\n")
    for path in written:
        print(path)


def build_crate(run: Path, authors: Sequence[str], licence: str, published: datetime) -> ROCrate:
    """Return the description of a run; see :func:`write_crate`."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(SHA256)
    crate.name = f"Run {run.resolve().name} of crumple"
    crate.description = (
        "Designs of cellular metamaterials for given stress-strain curves: data set, diffusion "
        "model, candidates, and their simulations, as far as the run has come."
    )
    crate.datePublished = published
    root = crate.root_dataset
    root["license"] = _context(crate, licence, "CreativeWork", name=licence, url=licence)
    root["conformsTo"] = _context(
        crate, PROFILE, "CreativeWork", name="Process Run Crate", version="0.5"
    )
    people = [crate.add(Person(crate, f"#{quote(n)}", {"name": n})) for n in authors]
    if people:
        root["author"] = _one_or_all(people)
    software = _software(crate, run)
    entities = {path: _result(crate, run, path, what) for path, what in _results(run)}
    settings = _settings(run)
    for step in STEPS:
        if step.result in entities:
            sources = [entities[path] for path in step.sources if path in entities]
            sources += [
                _context(
                    crate,
                    f"#{stage}-{section}",
                    "PropertyValue",
                    name=f"{stage}: {section}",
                    value=json.dumps(value),
                )
                for stage in step.stages
                for section, value in settings.get(stage, {}).items()
            ]
            action = crate.add_action(
                software,
                identifier=f"#{step.result.strip('/').replace('/', '-')}",
                object=_one_or_all(sources),
                result=entities[step.result],
                properties={
                    "name": f"crumple {step.command}",
                    "description": step.what,
                    "endTime": _changed(run / step.result),
                },
            )
            if people:
                action["agent"] = people[0]
            root.append_to("mentions", action)
    return crate


def _results(run: Path) -> Iterator[tuple[str, str]]:
    """Yield the results that are there, folders with a slash, and what they are."""
    for step in STEPS:
        if (run / step.result).exists():
            yield step.result, step.what
    if (run / "data/croissant.json").exists():
        yield "data/croissant.json", "the data set in Croissant"
        yield "data/designs.csv", "the curves of all valid designs"


def _result(crate: ROCrate, run: Path, path: str, what: str) -> Any:
    """Add a result: a file with its checksum, or a folder with such files."""
    if not path.endswith("/"):
        return _file(crate, run, path, what)
    folder = crate.add_dataset(None, path, properties={"name": path, "description": what})
    if path in ("model/", "designer/", "response/", "evaluation/"):
        files = sorted(p for p in (run / path).iterdir() if p.is_file() and p.name[0] != ".")
        for file in files:
            name = path + file.name
            folder.append_to("hasPart", _file(crate, run, name, f"{file.name} of {path}"))
    return folder


def _file(crate: ROCrate, run: Path, path: str, what: str) -> Any:
    properties = {
        "name": path,
        "description": what,
        "sha256": hash_file(run / path),
        "contentSize": str((run / path).stat().st_size),
        "encodingFormat": FORMATS.get(Path(path).suffix, "text/plain"),
    }
    return crate.add_file(None, path, properties=properties)


def _software(crate: ROCrate, run: Path) -> Any:
    """Add the program and the versions of the packages that the data were made with."""
    software = _context(
        crate,
        "#crumple",
        "SoftwareApplication",
        name="crumple",
        softwareVersion=__version__,
        license="https://spdx.org/licenses/MIT",
    )
    manifest = run / "data/dataset.json"
    versions = read_manifest(manifest)["versions"] if manifest.exists() else {}
    for package, found in versions.items():
        if package != "crumple":
            address = HOMES.get(package, f"https://pypi.org/project/{package}/")
            entity = _context(
                crate,
                address,
                "SoftwareApplication",
                name=package,
                softwareVersion=", ".join(found),
                url=address,
            )
            software.append_to("softwareRequirements", entity)
    return software


def _settings(run: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of all stages, which the records of a whole run agree on."""
    records: list[Mapping[str, Any]] = []
    manifest = run / "data/dataset.json"
    if manifest.exists():
        records.append(read_manifest(manifest)["made_by"])
    for folder in ("designer", "response", "model", "generated.zarr", "evaluation"):
        if (run / folder).is_dir():
            records.append(folder_record(run / folder, "run `crumple check`"))
    for store in sorted((run / "verified/shards").glob("*.zarr"))[:1]:
        records.append(zarr.open_group(store, mode="r").attrs["made_by"])
    settings: dict[str, dict[str, Any]] = {}
    for record in records:
        settings |= record["settings"]
    return settings


def _context(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> Any:
    """Add something that isn't a file, once."""
    found = crate.dereference(identifier)
    return found or crate.add(
        ContextEntity(crate, identifier, properties={"@type": kind, **properties})
    )


def _one_or_all(entities: Sequence[Any]) -> Any:
    return entities[0] if len(entities) == 1 else list(entities)


def _changed(path: Path) -> str:
    """Return when something was changed last."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).isoformat()
