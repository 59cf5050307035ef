"""The data set: zarr shards of simulated designs, and the manifest that makes one set of them.

A shard is one zarr v3 group, written once, as a whole and under a temporary name. One chunk of
``frames`` is one design. Void pixels are 0, u is in cell sides, stress in MPa, and pixel (i, j) is
the material point x = (j + 1/2)/96, y = 1 - (i + 1/2)/96 of the undeformed cell. A design that
failed keeps its row: ``status`` says why, its curve is NaN and its frames are 0. The attributes say
what made it (``made_by``) and hold a ``checksum`` of the arrays: zarr reads a chunk that is missing
as zeros.

``dataset.json`` lists the shards with their checksums, the valid designs and the others with their
reasons, the split, and the constants that scale the channels, from the training designs only.
Whoever reads a shard through it (:meth:`Dataset.shard`) gets what was indexed, or an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from crumple import __version__
from crumple.atomic import atomic_path, claim, save_text
from crumple.config import Config
from crumple.designs import GENERATED, PER_DESIGN
from crumple.errors import UserError
from crumple.layout import (
    CELL,
    CHANNELS,
    CURVE_STRAIN,
    EULERIAN_CHANNELS,
    FRAME_STRAIN,
    SCALED,
    UNITS,
    pixel_height,
)
from crumple.progress import progress
from crumple.provenance import (
    Record,
    hash_arrays,
    hash_designs,
    hash_folder,
    is_published,
    made_by,
    require_inputs,
    require_settings,
    stages_of,
)
from crumple.readers import Array, Schema, open_store, read_json
from crumple.seeds import in_validation

FORMAT, VERSION = "crumple-dataset", 2
SHARD_FORMAT, SHARD_VERSION = "crumple-shard", 2
DATA_STAGES = ("sample", "mesh", "simulate")  # whose settings a data set must share
TRAINING_ARRAYS = ("channel_statistics", "curve_stress", "frame_stress")
ENERGY_GATE = 0.01  # kinetic and artificial energies over the internal energy, as published
THREADS = 4  # that compare checksums
PACKAGES = ("fenics-dolfinx", "ipctk", "gmsh", "numba", "numpy", "scipy", "zarr")


PIXELS = ("row", "column")
DIMENSIONS = {  # names of the axes, by which xarray knows them; all others are per design
    "frames": ("design", "frame", "channel", *PIXELS),
    "eulerian": ("design", "frame", "eulerian_channel", *PIXELS),
    "solid": ("design", *PIXELS),
    "quarter": ("design", "quarter_row", "quarter_column"),
    "channel_statistics": ("design", "scaled_channel", "frame", "statistic"),
    "curve_strain": ("point",),
    "curve_stress": ("design", "point"),
    "frame_strain": ("frame",),
    "frame_stress": ("design", "frame"),
    "virial_stress": ("design", "frame"),
}
FRAMES, POINTS = len(FRAME_STRAIN), len(CURVE_STRAIN)


class ShardAttributes(BaseModel):
    """Attributes of a shard; there may be more."""

    made_by: Record
    checksum: str
    arrays: list[str]
    versions: dict[str, str]
    channels: list[str]
    eulerian_channels: list[str] = []
    split: Literal["training", "validation"] | None = None  # of imported data, which come split


SHARD = Schema(
    "make this shard again with `crumple rasterise`",
    PER_DESIGN
    | {
        "status": Array("U", ("n",)),
        "solid": Array("iub", ("n", CELL, CELL)),
        "frames": Array("f", ("n", FRAMES, len(CHANNELS), CELL, CELL)),
        "frame_strain": Array("f", (FRAMES,)),
        "frame_stress": Array("f", ("n", FRAMES)),
        "virial_stress": Array("f", ("n", FRAMES)),
        "curve_strain": Array("f", (POINTS,)),
        "curve_stress": Array("f", ("n", POINTS)),
        "channel_statistics": Array("f", ("n", len(SCALED), FRAMES, 4)),
        "energy_gate": Array("b", ("n",)),
    },
    optional=GENERATED
    | {"eulerian": Array("f", ("n", FRAMES, len(EULERIAN_CHANNELS), CELL, CELL))},
    others=Array("f", ("n",)),  # figures of the simulations
    format=SHARD_FORMAT,
    version=SHARD_VERSION,
    attributes=ShardAttributes,
)


def write_shard(
    out: str | Path, arrays: Mapping[str, NDArray], attributes: Mapping[str, Any]
) -> None:
    """Write one shard, whole or not at all.

    Parameters
    ----------
    out
        Folder ``*.zarr``; what it held before is replaced.
    arrays
        By name, as in ``SHARD``. ``frames`` and ``eulerian`` (n, F, C, 96, 96) and ``solid``
        (n, 96, 96) get one chunk per design, every other array one chunk.
    attributes
        ``made_by`` (:mod:`crumple.provenance`) and anything else that JSON can hold, added to
        format, units, versions and checksum.
    """
    compressor = zarr.codecs.ZstdCodec(level=1)
    with atomic_path(out) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        for name, values in arrays.items():
            one_design = (1, *values.shape[1:])
            layout = (
                {"chunks": one_design, "shards": values.shape}  # all chunks in one file
                if name in ("frames", "eulerian", "solid")
                else {"chunks": values.shape}
            )
            dtype = str if values.dtype.kind in "UT" else values.dtype
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=dtype,
                compressors=[compressor],
                dimension_names=DIMENSIONS.get(name, ("design",)),
                **layout,
            )
            array[...] = values.astype(object) if dtype is str else values
        group.attrs.update(
            {
                "format": SHARD_FORMAT,
                "version": SHARD_VERSION,
                "arrays": sorted(arrays),
                "channels": list(CHANNELS),
                "units": UNITS,
                "versions": versions(),
                **attributes,
                "checksum": hash_arrays(temporary),
            }
        )


def open_shard(path: str | Path) -> zarr.Group:
    """Open a shard for reading, without a look at the content of its arrays.

    Raises
    ------
    UserError
        When there is no shard of this program at ``path``.
    """
    return open_store(path, SHARD)


def open_intact(path: str | Path, schema: Schema) -> zarr.Group:
    """Open a store that keeps its ``checksum`` (:func:`crumple.provenance.hash_arrays`).

    Raises
    ------
    UserError
        When there is no such store, or its arrays have changed since it was written.
    """
    group = open_store(path, schema)
    if hash_arrays(path) != group.attrs["checksum"]:
        raise UserError(f"{path} has changed since it was written; {schema.advice}")
    return group


def versions() -> dict[str, str]:
    """Return the versions of Python, crumple and the installed packages that results depend on."""
    found = {"python": platform.python_version(), "crumple": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def channel_statistics(frames: NDArray, solid: NDArray, frame_strain: NDArray) -> NDArray:
    """Summarise the solid pixels of one design for the channels that a network learns.

    Parameters
    ----------
    frames
        (F, 4, 96, 96) as stored.
    solid
        (96, 96) bool.
    frame_strain
        (F).

    Returns
    -------
    numpy.ndarray
        (3, F, 4): minimum, maximum, mean and mean square of u1, w2 = u2 + strain * y and s22.
    """
    values = np.asarray(frames, np.float64)[:, :3, solid]
    values[:, 1] += np.asarray(frame_strain)[:, None] * pixel_height()[solid]
    parts = values.min(-1), values.max(-1), values.mean(-1), (values**2).mean(-1)
    return np.stack(parts, axis=-1).swapaxes(0, 1)


# --- manifest ---------------------------------------------------------------------------------


class ShardEntry(BaseModel):
    """One shard of a data set."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    indices: list[Annotated[int, Field(ge=0)]]


class Failure(BaseModel):
    """A design without a result."""

    index: int
    reason: str


Place = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]  # shard and row
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Split(BaseModel):
    """Places of the designs of both parts; the order of the held-out ones is random."""

    train: list[Place] = Field(min_length=1)
    validation: list[Place]


class Manifest(BaseModel):
    """Content of ``dataset.json``; what contradicts itself is refused."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["crumple-dataset"]
    version: Literal[2]
    made_by: Record
    units: dict[str, str]
    channels: list[str]
    frame_strain: list[Finite]
    curve_strain: list[Finite]
    shards: list[ShardEntry]
    valid: list[int]
    failures: list[Failure]
    energy_gate_exceeded: list[int]
    split: Split
    normalisation: dict[str, dict[str, list[Finite]]]
    config_hash: str
    versions: dict[str, list[str]]

    @model_validator(mode="after")
    def _has_the_layout_of_this_program(self) -> Manifest:
        for name, wanted in {
            "units": UNITS,
            "channels": list(CHANNELS),
            "frame_strain": FRAME_STRAIN.tolist(),
            "curve_strain": CURVE_STRAIN.tolist(),
        }.items():
            if getattr(self, name) != wanted:
                raise ValueError(f"{name} isn't that of this program")
        return self

    @model_validator(mode="after")
    def _names_every_design_once(self) -> Manifest:
        designs = [index for shard in self.shards for index in shard.indices]
        sizes = [len(shard.indices) for shard in self.shards]
        places = [*self.split.train, *self.split.validation]
        if any(shard >= len(sizes) or row >= sizes[shard] for shard, row in places):
            raise ValueError("the split names a row that no shard has")
        valid = sorted(self.shards[shard].indices[row] for shard, row in places)
        for what, found, wanted in (
            ("a design stands in two rows", len(set(designs)), len(designs)),
            ("a design stands twice in the split", len(set(places)), len(places)),
            ("the split isn't made of the valid designs", valid, sorted(self.valid)),
            (
                "valid and failed designs aren't those of the shards",
                sorted([*self.valid, *(failure.index for failure in self.failures)]),
                sorted(designs),
            ),
            ("energy_gate_exceeded", set(self.energy_gate_exceeded) <= set(self.valid), True),
        ):
            if found != wanted:
                raise ValueError(what)
        return self


def build_manifest(shards: Sequence[Path], config: Config, folder: Path) -> dict[str, Any]:
    """Read shards one after the other and describe the set that they make.

    Parameters
    ----------
    shards
        Folders written by :func:`write_shard`.
    config
        Settings of the run; ``seed`` and ``dataset`` decide the split, the shards must have been
        made with the others.
    folder
        Where the manifest goes; paths of shards are relative to it.

    Raises
    ------
    UserError
        When a shard cannot be read, has changed since it was written, was made with other settings
        or from other designs, a design occurs twice, or no design is left for training.
    """
    entries, valid, failures, ungated, train, held_out = [], [], [], [], [], []
    seen: dict[int, Path] = {}
    found_versions: dict[str, set[str]] = {}
    scales = ScaleSums()
    wanted: Mapping[str, Any] | None = None
    with closing(checked_shards(shards)) as checked:
        steps = progress(checked, len(shards), "index", unit="shard")
        for number, (path, group, sha256) in enumerate(steps):
            record: Any = group.attrs["made_by"]
            if wanted is None:
                wanted = {} if is_published(record) else stages_of(config, DATA_STAGES)
            require_settings(record, wanted, path)
            wanted = record["settings"]  # fields too must be the same in all shards
            index, status = group["index"][:], group["status"][:]
            require_inputs(record, path, designs=hash_designs(index, group["quarter"][:]))
            for design in index.tolist():
                if design in seen:
                    raise UserError(f"design {design} is both in {seen[design]} and in {path}")
                seen[design] = path
            for package, version in group.attrs["versions"].items():
                found_versions.setdefault(package, set()).add(version)
            gate, split = group["energy_gate"][:], group.attrs.get("split")
            training_rows = []
            for row, (design, reason) in enumerate(zip(index.tolist(), status, strict=True)):
                if reason != "ok":
                    failures.append({"index": design, "reason": str(reason)})
                    continue
                valid.append(design)
                if not gate[row]:
                    ungated.append(design)
                validation, order = in_validation(
                    config.seed, design, config.dataset.validation_fraction
                )
                if (split == "validation") if split else validation:
                    held_out.append((order, [number, row]))
                else:
                    training_rows.append(row)
            train += [[number, row] for row in training_rows]
            scales.add({name: group[name][:][training_rows] for name in TRAINING_ARRAYS})
            entries.append(
                {"path": _relative(path, folder), "sha256": sha256, "indices": index.tolist()}
            )
    if not train:
        raise UserError(
            f"no design is left for training: {len(valid)} of {len(seen)} are valid; see the "
            "reasons in the shards, or lower dataset.validation_fraction"
        )
    record = made_by("index", config, {"settings": wanted, "inputs": {}})
    if is_published(record):
        index = record["settings"]["index"]
        record["settings"]["index"] = {name: index[name] for name in ("seed", "dataset")}
    settings = json.dumps(record["settings"], sort_keys=True)
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_by": record,
        "units": UNITS,
        "channels": list(CHANNELS),
        "frame_strain": FRAME_STRAIN.tolist(),
        "curve_strain": CURVE_STRAIN.tolist(),
        "shards": entries,
        "valid": valid,
        "failures": failures,
        "energy_gate_exceeded": ungated,
        "split": {"train": train, "validation": [place for _, place in sorted(held_out)]},
        "normalisation": scales.constants(),
        "config_hash": hashlib.sha256(settings.encode()).hexdigest(),
        "versions": {package: sorted(found) for package, found in sorted(found_versions.items())},
    }


def shards_of(folder: Path, config: Config) -> list[Path]:
    """Return the shards that the data set of a run has in a folder."""
    count = math.ceil(config.designs.count / config.designs.shard_size)
    return [folder / f"{number:04d}.zarr" for number in range(count)]


def checked_shards(paths: Sequence[Path]) -> Generator[tuple[Path, zarr.Group, str], None, None]:
    """Yield shards with their checksums; threads compare these ahead.

    Raises
    ------
    UserError
        When one cannot be read, or has changed since it was written.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        for path, (group, sha256) in zip(paths, pool.map(_checked_shard, paths), strict=True):
            yield path, group, sha256
    finally:
        pool.shutdown(cancel_futures=True)


def _checked_shard(path: Path) -> tuple[zarr.Group, str]:
    """Open a shard whose arrays are as they were written, and return its checksum too."""
    group = open_intact(path, SHARD)
    for name, wanted in (("frame_strain", FRAME_STRAIN), ("curve_strain", CURVE_STRAIN)):
        if not np.array_equal(group[name][:], wanted):
            raise UserError(f"{path}: {name} isn't that of this program; {SHARD.advice}")
    return group, hash_folder(path)


def write_manifest(shards: Sequence[Path], config: Config, out: Path) -> None:
    """Build and write ``dataset.json``; see :func:`build_manifest`."""
    out = claim(out, "index")
    manifest = build_manifest(shards, config, out.parent)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items()]
    save_text(out, "{\n" + ",\n".join(lines) + "\n}\n")


class ScaleSums:
    """Minimum, maximum, mean and standard deviation per frame, every design alike.

    Designs are added shard by shard, and what is kept doesn't grow with their number.
    """

    def __init__(self) -> None:
        self._count = 0
        self._totals: dict[str, tuple[NDArray, ...]] = {}  # lows, highs, sums and sums of squares

    def add(self, training: Mapping[str, NDArray]) -> None:
        """Add the training designs of a shard.

        Parameters
        ----------
        training
            ``channel_statistics``, ``curve_stress`` and ``frame_stress`` of them.
        """
        if not len(training["frame_stress"]):
            return
        self._count += len(training["frame_stress"])
        low, high, mean, square = np.moveaxis(training["channel_statistics"], -1, 0)
        for k, name in enumerate(SCALED):
            self._add(name, low[:, k], high[:, k], mean[:, k], square[:, k])
        for name in ("curve_stress", "frame_stress"):
            values = training[name].astype(np.float64)
            self._add(name, values, values, values, values**2)

    def _add(self, name: str, low: NDArray, high: NDArray, mean: NDArray, square: NDArray) -> None:
        totals = low.min(axis=0), high.max(axis=0), mean.sum(axis=0), square.sum(axis=0)
        if name in self._totals:
            rules = np.minimum, np.maximum, np.add, np.add
            pairs = zip(rules, self._totals[name], totals, strict=True)
            totals = tuple(rule(known, new) for rule, known, new in pairs)
        self._totals[name] = totals

    def constants(self) -> dict[str, dict[str, list[float]]]:
        """Return ``min``, ``max``, ``mean`` and ``std`` by channel and kind of stress."""
        return {name: self._constants(*totals) for name, totals in self._totals.items()}

    def _constants(
        self, low: NDArray, high: NDArray, total: NDArray, square: NDArray
    ) -> dict[str, list[float]]:
        mean = total / self._count
        deviation = np.sqrt(np.maximum(square / self._count - mean**2, 0))
        return {
            "min": low.tolist(),
            "max": high.tolist(),
            "mean": mean.tolist(),
            "std": deviation.tolist(),
        }


def _relative(path: Path, folder: Path) -> str:
    path = Path(path).resolve()
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read ``dataset.json``.

    Raises
    ------
    UserError
        When the file is missing, isn't a manifest of this version, or contradicts itself.
    """
    return read_json(path, Manifest, "make it with `crumple index`").model_dump()


class Dataset:
    """Designs of a data set by their places (shard, row); shards are opened when needed.

    A shard that is opened has the content that was indexed: its checksum is compared first.

    Attributes
    ----------
    manifest
        Content of ``dataset.json``.
    split
        ``train`` and ``validation``: (k, 2) places, in the order of the manifest.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(path)
        self.folder = Path(path).resolve().parent
        self.split = {
            name: np.array(places, np.int64).reshape(-1, 2)
            for name, places in self.manifest["split"].items()
        }
        self._groups: dict[int, zarr.Group] = {}

    def shard_path(self, number: int) -> Path:
        """Return the folder of a shard."""
        return self.folder / self.manifest["shards"][number]["path"]

    def shard(self, number: int) -> zarr.Group:
        """Return a shard, opened for reading.

        Raises
        ------
        UserError
            When the shard is gone or has changed since the data set was indexed.
        """
        if number not in self._groups:
            path = self.shard_path(number)
            if not path.is_dir():
                raise UserError(f"the shard {path} is missing: make it again")
            if hash_folder(path) != self.manifest["shards"][number]["sha256"]:
                raise UserError(
                    f"{path} has changed since the data set was indexed: make this shard again, "
                    "then run `crumple index`"
                )
            self._groups[number] = open_shard(path)
        return self._groups[number]

    def check_settings(self, config: Config) -> None:
        """Raise unless the data were made with these settings; another seed is allowed.

        Imported data (:mod:`crumple.published`) were made with none of them.

        Raises
        ------
        UserError
            One sentence that says what differs.
        """
        if is_published(self.manifest["made_by"]):
            return
        wanted = stages_of(config, DATA_STAGES)
        del wanted["sample"]["seed"]
        require_settings(self.manifest["made_by"], wanted, self.path)

    def read(self, name: str, places: Iterable[Sequence[int]]) -> NDArray:
        """Return one array, such as ``frames``, stacked over places (shard, row)."""
        return np.stack([self.shard(int(shard))[name][int(row)] for shard, row in places])


# --- symmetries of the mechanics ---------------------------------------------------------------
# The cell is periodic in x and loaded alike from above and below, so that mirror images and the
# half-period shift of a solution are solutions of the transformed design, with the same curve.
# Frames are (..., F, C, 96, 96), C = 4 or the first 3 of CHANNELS; masks are (..., 96, 96).


def mirror_x(frames: NDArray) -> NDArray:
    """H, x -> 1 - x: horizontal displacement changes its sign."""
    flipped = frames[..., ::-1].copy()
    flipped[..., 0, :, :] *= -1
    return flipped


def mirror_y(frames: NDArray, solid: NDArray, frame_strain: NDArray) -> NDArray:
    """V, y -> 1 - y: seen from the moving platen, u2 becomes -strain - u2 in the solid.

    Parameters
    ----------
    frames, solid
        The design before the reflection.
    frame_strain
        (F) nominal strains.
    """
    flipped = frames[..., ::-1, :].copy()
    strain = np.asarray(frame_strain, frames.dtype)[:, None, None]
    u2 = -strain - flipped[..., 1, :, :]
    flipped[..., 1, :, :] = np.where(np.asarray(solid, bool)[..., None, ::-1, :], u2, 0)
    return flipped


def shift_x(frames: NDArray) -> NDArray:
    """S, x -> x + 1/2: everything moves by half a period."""
    return np.roll(frames, CELL // 2, axis=-1)
