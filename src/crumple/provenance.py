"""What made an artefact: the settings of every stage behind it, and hashes of what they read.

Every artefact carries a record: files of designs, meshes and simulations as an array ``made_by``
(JSON), zarr stores as an attribute of that name, ``dataset.json`` as a key, folders as
``made_by.json``::

    {"stage": "rasterise",
     "settings": {"sample": {"seed": 0, "designs": {...}}, "mesh": {...}, "simulate": {...}, ...},
     "inputs": {"designs": "<sha256>"}}

A stage hands on the settings and inputs of the artefacts that it reads, adds its own, and refuses
artefacts that do not belong together or were made with other settings than its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from crumple.config import Config, stage_settings
from crumple.errors import UserError
from crumple.readers import parse_json, read_json, refusing, validation_reason

RECORD = "made_by.json"
MODEL_FILES = ("model.safetensors", "config.json", "normalisation.json")  # what samples depend on
PHYSICS = ("mesh", "simulate")  # the stages that the curve of a design depends on
PUBLISHED = "import-published"  # the stage that has taken over the physics of the published data
SIZES = ("count", "shard_size")  # of designs: how many there are doesn't change one of them


class Record(BaseModel):
    """The record of an artefact; that of a folder may say more, for those who continue in it."""

    stage: str
    settings: dict[str, dict[str, Any]]
    inputs: dict[str, str]


def made_by(
    stage: str, config: Config, *sources: Mapping[str, Any], **inputs: str
) -> dict[str, Any]:
    """Return the record of an artefact.

    Parameters
    ----------
    stage
        A key of :data:`crumple.config.STAGE_SECTIONS`.
    config
        Settings of the run; those of the stage are recorded.
    sources
        Records of the artefacts that the stage has read.
    inputs
        Hashes, by what they are of.
    """
    settings: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for source in sources:
        settings |= source["settings"]
        hashes |= source["inputs"]
    settings |= stages_of(config, [stage])
    return {"stage": stage, "settings": settings, "inputs": hashes | inputs}


def stages_of(config: Config, stages: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the settings that are recorded for stages, by stage and section."""
    settings = {stage: stage_settings(config, stage) for stage in stages}
    for sections in settings.values():
        if "designs" in sections:
            sections["designs"] = {k: v for k, v in sections["designs"].items() if k not in SIZES}
    return settings


def read_record(
    value: Any, where: str | Path, advice: str, model: type[Record] = Record
) -> dict[str, Any]:
    """Return a record from what an artefact holds: JSON text, or the value itself.

    Raises
    ------
    UserError
        When it isn't a record, or not of the ``model`` that says what more stands in it.
    """
    try:
        value = parse_json(str(value)) if isinstance(value, str | np.ndarray) else value
        return model.model_validate(value, strict=True).model_dump()
    except ValidationError as error:
        reason = validation_reason(error)
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{where} doesn't say what made it ({reason}); {advice}")


def folder_record(folder: str | Path, advice: str) -> dict[str, Any]:
    """Return the record of a folder; see :func:`read_record`."""
    return read_json(Path(folder) / RECORD, Record, advice).model_dump()


# --- hashes --------------------------------------------------------------------------------------


def hash_designs(index: NDArray | Sequence[int], quarter: NDArray | Sequence[NDArray]) -> str:
    """Return the hash of designs: of their numbers (n) and their quarters (n, 48, 48)."""
    total = hashlib.sha256(np.ascontiguousarray(index, "<i8").tobytes())
    total.update(np.ascontiguousarray(quarter, np.uint8).tobytes())
    return total.hexdigest()


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[str | Path]) -> str:
    """Return the hash over the names and the content of files."""
    total = hashlib.sha256()
    for path in sorted(map(Path, paths)):
        total.update(path.name.encode())
        total.update(bytes.fromhex(hash_file(path)))
    return total.hexdigest()


def hash_folder(folder: str | Path, pattern: str = "**/*") -> str:
    """Return a SHA-256 over the names and the content of all files of a folder.

    Hidden files are left out: Snakemake marks the folders that it makes with one.
    """
    folder = Path(folder)
    total = hashlib.sha256()
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.glob(pattern)
        if path.is_file() and not path.name.startswith(".")
    }
    for name in sorted(files):
        total.update(name.encode())
        total.update(bytes.fromhex(hash_file(files[name])))
    return total.hexdigest()


def hash_model(folder: str | Path) -> str:
    """Return the hash of a trained model: of the files that its samples depend on."""
    return fingerprint(Path(folder) / name for name in MODEL_FILES)


def hash_arrays(store: str | Path) -> str:
    """Return the hash of the arrays of a zarr store, without its attributes, which keep it."""
    return hash_folder(store, "*/**/*")


# --- a page ---------------------------------------------------------------------------------------

UNSEALED = "0" * 64
SEAL = re.compile(rb'<meta name="crumple-sha256" content="([0-9a-f]{64})">')
MADE_BY = re.compile(rb'<meta name="crumple-made-by" content="([^"]*)">')


def seal_page(page: str, record: Mapping[str, Any]) -> str:
    """Return an HTML page with its record, and a checksum of the page, in its head.

    The checksum is that of the UTF-8 text in which the checksum itself is 64 zeros.
    """
    made_by = escape(json.dumps(record, sort_keys=True))
    head = (
        f'<meta name="crumple-made-by" content="{made_by}">'
        f'<meta name="crumple-sha256" content="{UNSEALED}"></head>'
    )
    page = page.replace("</head>", head, 1)
    seal = hashlib.sha256(page.encode()).hexdigest()
    return page.replace(f'content="{UNSEALED}"', f'content="{seal}"', 1)


def page_record(path: str | Path, advice: str) -> dict[str, Any]:
    """Return the record of a page of :func:`seal_page` that is as it was written.

    Raises
    ------
    UserError
        When the file cannot be read, says nothing of what made it, or has changed.
    """
    path = Path(path)
    with refusing(path, advice):
        page = path.read_bytes()
        found = SEAL.search(page), MADE_BY.search(page)
        if not all(found):
            raise ValueError("it has no checksum or doesn't say what made it")
        seal, made_by = (match[1].decode() for match in found if match)
        unsealed = page.replace(f'content="{seal}"'.encode(), f'content="{UNSEALED}"'.encode(), 1)
        if hashlib.sha256(unsealed).hexdigest() != seal:
            raise ValueError("it has changed since it was written")
    return read_record(unescape(made_by), path, advice)


# --- comparisons ---------------------------------------------------------------------------------


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], ignored: Collection[str] = ()
) -> str:
    """Return in words how records, or settings, differ; empty when they don't.

    Parameters
    ----------
    found, wanted
        Values of JSON; the words say what is found instead of what is wanted.
    ignored
        Names of values that may differ, as ``settings.train.training.steps``.
    """
    ours, theirs = dict(_leaves(found)), dict(_leaves(wanted))
    names = [name for name in ours | theirs if ours.get(name, ...) != theirs.get(name, ...)]
    names = [name for name in names if name not in ignored]
    parts = []
    for name in names[:3]:
        one, other = (_short(values.get(name, ...)) for values in (ours, theirs))
        if name.startswith("inputs.") or name == "files":
            parts.append(f"other {name.removeprefix('inputs.')}")
        else:
            parts.append(f"{_STAGE.sub('', name)} {one} instead of {other}")
    if len(names) > 3:
        parts.append(f"{len(names) - 3} more")
    return ", ".join(parts)


def require_inputs(record: Mapping[str, Any], where: str | Path, **inputs: str) -> None:
    """Raise unless an artefact was made from what is given.

    Parameters
    ----------
    record
        Of the artefact.
    where
        What the sentence calls the artefact.
    inputs
        Hashes of what is given, by the names in the record.

    Raises
    ------
    UserError
        One sentence that says what doesn't belong to what.
    """
    for name, given in inputs.items():
        if record["inputs"].get(name) != given:
            raise UserError(
                f"{where} doesn't belong to the {name} given here: make it again from these, or "
                "give those that it was made from"
            )


def require_settings(
    record: Mapping[str, Any],
    wanted: Mapping[str, Mapping[str, Any]],
    where: str | Path,
    advice: str = "make it again with these",
) -> None:
    """Raise unless an artefact was made with these settings.

    Parameters
    ----------
    record
        Of the artefact.
    wanted
        By stage and section, from :func:`stages_of` or another record.
    where
        What the sentence calls the artefact.
    advice
        What else can be done than to use its settings.

    Raises
    ------
    UserError
        One sentence that says what differs.
    """
    found = {
        stage: {name: record["settings"].get(stage, {}).get(name) for name in sections}
        for stage, sections in wanted.items()
    }
    changed = differences({"settings": found}, {"settings": wanted})
    if changed:
        raise UserError(
            f"{where} was made with other settings ({changed}): {advice}, or use the settings that "
            "it was made with"
        )


def is_published(record: Mapping[str, Any]) -> bool:
    """Return whether something rests on the published simulations, not on those of this program."""
    return PUBLISHED in record["settings"]


_STAGE = re.compile(r"settings\.(\w+\.(?=.*\.|seed$))?")  # what stands before section and setting


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _short(value: Any) -> str:
    if value is ...:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + " ..."
