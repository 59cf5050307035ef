"""The library: designs with their simulated curves in one small file, a first one in the package.

It holds the quarter and the 51-point curve of random designs and what made them, and no fields:
140 bytes per design, read in milliseconds. So the best matches of a target are found without a data
set, a search has designs to start from, and a small network has pairs to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from crumple.atomic import claim, save_npz
from crumple.errors import UserError
from crumple.layout import CURVE_STRAIN, QUARTER
from crumple.progress import progress
from crumple.provenance import (
    PHYSICS,
    Record,
    hash_designs,
    read_record,
    require_inputs,
    require_settings,
)
from crumple.readers import Array, Schema, read_npz
from crumple.seeds import in_validation

if TYPE_CHECKING:
    import zarr

POINTS = len(CURVE_STRAIN)
LIBRARY = Schema(
    "make it again with `crumple library`",
    {
        "made_by": Array("U"),
        "index": Array("iu", ("n",), low=0),
        "quarter_bits": Array("u", ("n", QUARTER * QUARTER // 8), low=0, high=255),
        "curve_shape": Array("f", ("n", POINTS), low=-1, high=1),
        "curve_peak": Array("f", ("n",), low=0, high=1e9),
    },
)
STAGES = ("sample", *PHYSICS)  # whose settings all designs of a library share
SAME = 1e-3  # NRMSE of curves of one design that count as equal: twice what rounding may change


class LibraryRecord(Record):
    """What made a library: settings of its designs, and versions of the packages."""

    versions: dict[str, list[str]]

    @model_validator(mode="after")
    def _names_seed_and_physics(self) -> LibraryRecord:
        if (
            not {*STAGES} <= {*self.settings}
            or type(self.settings["sample"].get("seed")) is not int
        ):
            raise ValueError("it lacks the seed or the settings of the designs")
        return self


@dataclass(frozen=True)
class Library:
    """Random designs and their responses.

    Attributes
    ----------
    index
        (n) rising numbers of the designs in the run; with the seed and the settings they give the
        random field of each again (:func:`crumple.designs.sample`).
    quarter
        (n, 48, 48) uint8, upper left quarters, 1 solid, row 0 at the top.
    curve_stress
        (n, 51) effective stress at ``CURVE_STRAIN``, MPa, positive in compression.
    record
        What made them, as :class:`LibraryRecord`.
    """

    index: NDArray
    quarter: NDArray
    curve_stress: NDArray
    record: dict[str, Any]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def seed(self) -> int:
        """Global seed of the designs."""
        return int(self.record["settings"]["sample"]["seed"])

    def held_out(self, fraction: float) -> NDArray:
        """Return the rows that a data set of these designs holds out, in the order of its split.

        Parameters
        ----------
        fraction
            ``dataset.validation_fraction``.
        """
        draws = [in_validation(self.seed, int(number), fraction) for number in self.index]
        rows = [row for row, (held, _) in enumerate(draws) if held]
        return np.array(sorted(rows, key=lambda row: draws[row][1]), int)

    def solid_fraction(self) -> NDArray:
        """Return the part of each cell that is solid, (n)."""
        return self.quarter.mean(axis=(1, 2))


def packaged(name: str) -> Path:
    """Return what comes with the package: ``library.npz``, or a model's folder.

    Parameters
    ----------
    name
        Of it in ``crumple/data``; the folders are ``designer`` and ``response``.
    """
    return Path(str(resources.files("crumple"))) / "data" / name


# --- the file ------------------------------------------------------------------------------------


def read_library(path: str | Path | None = None) -> Library:
    """Read a library.

    Parameters
    ----------
    path
        File of :func:`write_library`; without one, the library of the package.

    Raises
    ------
    UserError
        When the file is missing, damaged, or isn't a library.
    """
    path = path or packaged("library.npz")
    found = read_npz(path, LIBRARY)
    record = read_record(found["made_by"], path, LIBRARY.advice, LibraryRecord)
    index = found["index"].astype(np.int64)
    bits = found["quarter_bits"].astype(np.uint8)
    quarter = np.unpackbits(bits, axis=1).reshape(-1, QUARTER, QUARTER)
    if not len(index) or np.any(np.diff(index) <= 0):
        raise UserError(f"cannot read {path}: its designs aren't in order; {LIBRARY.advice}")
    require_inputs(record, path, designs=hash_designs(index, quarter))
    curves = found["curve_shape"].astype(np.float32) * found["curve_peak"][:, None]
    return Library(index, quarter, curves.astype(np.float32), record)


def save_library(out: Path, library: Library) -> None:
    """Write a library.

    A curve is stored as its largest magnitude and what remains as float16, so that soft and stiff
    ones keep the same 11 bits.
    """
    peak = np.abs(library.curve_stress).max(axis=1).astype(np.float32)
    shape = library.curve_stress / np.where(peak > 0, peak, 1)[:, None]
    save_npz(
        out,
        made_by=json.dumps(library.record, sort_keys=True),
        index=library.index.astype(np.int32),
        quarter_bits=np.packbits(library.quarter.reshape(len(library), -1), axis=1),
        curve_shape=shape.astype(np.float16),
        curve_peak=peak,
    )


# --- made from data sets -------------------------------------------------------------------------


def write_library(sources: Sequence[Path], extend: Path | None, out: Path) -> Library:
    """Make a library of the valid designs of data sets, or extend one.

    Parameters
    ----------
    sources
        ``dataset.json`` files, and shards (``*.zarr``).
    extend
        Library whose designs are taken over as they are.
    out
        Where the library goes.

    Raises
    ------
    UserError
        When something cannot be read or has changed since it was written, was made with other
        settings, holds generated designs, or has another result for a design.
    """
    out = claim(out, "library")
    base = read_library(extend) if extend is not None else None
    library = collect(_open(sources), base)
    save_library(out, library)
    return library


def collect(shards: Iterable[tuple[Path, zarr.Group]], base: Library | None) -> Library:
    """Put the valid designs of shards into one library, ordered by their numbers.

    Parameters
    ----------
    shards
        Paths and groups of shards that are as they were written.
    base
        Library that is extended.
    """
    found: dict[int, tuple[NDArray, NDArray]] = {}
    settings: dict[str, Any] = {}
    versions: dict[str, set[str]] = {}
    if base is not None:
        results = zip(base.quarter, base.curve_stress, strict=True)
        found = dict(zip(base.index.tolist(), results, strict=True))
        settings = base.record["settings"]
        versions = {package: set(names) for package, names in base.record["versions"].items()}
    for path, shard in shards:
        settings = _checked_settings(path, shard, settings)
        for package, version in shard.attrs["versions"].items():
            versions.setdefault(package, set()).add(version)
        for design, quarter, curve in _valid(path, shard):
            known = found.setdefault(design, (quarter, curve))
            if not _equal(known, (quarter, curve)):
                raise UserError(
                    f"design {design} of {path} isn't the one that the library has already: leave "
                    "this shard out, or make the library from the start"
                )
    if not found:
        raise UserError("no design with a result is left for the library: name other shards")
    index = np.array(sorted(found), np.int64)
    quarter = np.array([found[design][0] for design in index.tolist()], np.uint8)
    record = {
        "stage": "library",
        "settings": settings,
        "inputs": {"designs": hash_designs(index, quarter)},
        "versions": {package: sorted(names) for package, names in sorted(versions.items())},
    }
    curves = np.array([found[design][1] for design in index.tolist()], np.float32)
    return Library(index, quarter, curves, record)


def _open(sources: Sequence[Path]) -> Iterator[tuple[Path, zarr.Group]]:
    """Yield every shard of data sets, and every shard that is named itself."""
    from crumple.dataset import Dataset, checked_shards  # zarr takes half a second

    datasets = [Dataset(path) for path in sources if path.suffix != ".zarr"]
    shards = [path for path in sources if path.suffix == ".zarr"]
    total = len(shards) + sum(len(dataset.manifest["shards"]) for dataset in datasets)

    def each() -> Iterator[tuple[Path, zarr.Group]]:
        for dataset in datasets:
            for number in range(len(dataset.manifest["shards"])):
                yield dataset.shard_path(number), dataset.shard(number)
        with closing(checked_shards(shards)) as checked:
            yield from ((path, group) for path, group, _ in checked)

    yield from progress(each(), total, "library", unit="shard")


def _checked_settings(
    path: Path, shard: zarr.Group, wanted: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the settings of a shard of random designs, if they are the wanted ones."""
    record = shard.attrs["made_by"]
    missing = [stage for stage in STAGES if stage not in record["settings"]]
    if missing or "target" in shard:
        raise UserError(
            f"{path} doesn't hold random designs of `crumple sample`: a library is made of those"
        )
    if wanted:
        require_settings(record, wanted, path)
    return {stage: record["settings"][stage] for stage in STAGES}


def _valid(path: Path, shard: zarr.Group) -> Iterator[tuple[int, NDArray, NDArray]]:
    """Yield number, quarter and curve of each design with a result."""
    index, quarter, curve = (shard[name][:] for name in ("index", "quarter", "curve_stress"))
    require_inputs(shard.attrs["made_by"], path, designs=hash_designs(index, quarter))
    valid = shard["status"][:] == "ok"
    if not np.isfinite(curve[valid]).all():
        raise UserError(f"{path}: a design that is ok has no curve; make this shard again")
    yield from zip(index[valid].tolist(), quarter[valid], curve[valid], strict=True)


def _equal(one: tuple[NDArray, NDArray], other: tuple[NDArray, NDArray]) -> bool:
    """Return whether two results of a design are the same but for rounding."""
    largest = np.linalg.norm(one[1])
    difference = np.linalg.norm(one[1].astype(np.float64) - other[1])
    return np.array_equal(one[0], other[0]) and bool(difference <= SAME * largest)
