"""The data set: zarr shards of simulated designs, and the manifest that makes one set of them.

A shard is one zarr v3 group, written once, as a whole and under a temporary name. One chunk of
``frames`` is one design. Void pixels are 0, u is in cell sides, stress in MPa, and pixel (i, j) is
the material point x = (j + 1/2)/96, y = 1 - (i + 1/2)/96 of the undeformed cell. A design that
failed keeps its row: ``status`` says why, its curve is NaN and its frames are 0.

``dataset.json`` lists the shards with their checksums, the valid designs and the others with their
reasons, the split, and the constants that scale the channels, from the training designs only.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crumple import __version__
from crumple.atomic import atomic_path, save_text
from crumple.config import Config
from crumple.errors import UserError
from crumple.layout import CELL, CHANNELS, SCALED, UNITS, pixel_height
from crumple.progress import progress
from crumple.seeds import in_validation

FORMAT, VERSION = "crumple-dataset", 1
SHARD_FORMAT = "crumple-shard"
TRAINING_ARRAYS = ("channel_statistics", "curve_stress", "frame_stress")
ENERGY_GATE = 0.01  # kinetic and artificial energies over the internal energy, as published
PACKAGES = ("fenics-dolfinx", "ipctk", "gmsh", "numba", "numpy", "scipy", "zarr")


def write_shard(out: str | Path, arrays: Mapping[str, NDArray], attributes: Mapping[str, Any]):
    """Write one shard, whole or not at all.

    Parameters
    ----------
    out
        Folder ``*.zarr``; what it held before is replaced.
    arrays
        By name. ``frames`` and ``eulerian`` (n, F, C, 96, 96) and ``solid`` (n, 96, 96) get one
        chunk per design, every other array one chunk.
    attributes
        Anything that JSON can hold, added to format, units and versions.
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
                name, shape=values.shape, dtype=dtype, compressors=[compressor], **layout
            )
            array[...] = values.astype(object) if dtype is str else values
        group.attrs.update(
            {
                "format": SHARD_FORMAT,
                "version": VERSION,
                "arrays": sorted(arrays),
                "channels": list(CHANNELS),
                "units": UNITS,
                "versions": versions(),
                **attributes,
            }
        )


def open_shard(path: str | Path) -> zarr.Group:
    """Open a shard for reading.

    Raises
    ------
    UserError
        When there is no shard of this program at ``path``.
    """
    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a readable shard: make it again") from error
    if group.attrs.get("format") != SHARD_FORMAT or group.attrs.get("version") != VERSION:
        raise UserError(f"{path} is not a crumple shard of version {VERSION}: make it again")
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


def build_manifest(shards: Sequence[Path], config: Config, folder: Path) -> dict[str, Any]:
    """Read shards one after the other and describe the set that they make.

    Parameters
    ----------
    shards
        Folders written by :func:`write_shard`.
    config
        Settings of the run; ``seed`` and ``dataset`` decide the split.
    folder
        Where the manifest goes; paths of shards are relative to it.

    Raises
    ------
    UserError
        When a shard cannot be read, a design occurs twice, strains differ between shards, or no
        design is left for training.
    """
    entries, valid, failures, ungated, train, held_out = [], [], [], [], [], []
    seen: dict[int, Path] = {}
    found_versions: dict[str, set[str]] = {}
    strains: dict[str, list[float]] = {}
    training: dict[str, list[NDArray]] = {name: [] for name in TRAINING_ARRAYS}
    for number, path in enumerate(progress(shards, len(shards), "index", unit="shard")):
        group = open_shard(path)
        index, status = group["index"][:], group["status"][:]
        for name in ("frame_strain", "curve_strain"):
            values = group[name][:].tolist()
            if strains.setdefault(name, values) != values:
                raise UserError(f"{path}: {name} differs from that of {shards[0]}; make both anew")
        for design in index.tolist():
            if design in seen:
                raise UserError(f"design {design} is both in {seen[design]} and in {path}")
            seen[design] = path
        for package, version in group.attrs["versions"].items():
            found_versions.setdefault(package, set()).add(version)
        gate = group["energy_gate"][:]
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
            if validation:
                held_out.append((order, [number, row]))
            else:
                training_rows.append(row)
        train += [[number, row] for row in training_rows]
        for name, parts in training.items():
            parts.append(group[name][:][training_rows])
        entries.append(
            {
                "path": _relative(path, folder),
                "sha256": checksum(path),
                "indices": index.tolist(),
            }
        )
    if not train:
        raise UserError(
            f"no design is left for training: {len(valid)} of {len(seen)} are valid; see the "
            "reasons in the shards, or lower dataset.validation_fraction"
        )
    constants = {name: np.concatenate(parts) for name, parts in training.items()}
    settings = config.model_dump(
        mode="json",
        include={"seed", "designs", "mesh", "material", "contact", "loading", "dataset"},
    )
    return {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        "channels": list(CHANNELS),
        **strains,
        "shards": entries,
        "valid": valid,
        "failures": failures,
        "energy_gate_exceeded": ungated,
        "split": {"train": train, "validation": [place for _, place in sorted(held_out)]},
        "normalisation": normalisation(constants),
        "config": settings,
        "config_hash": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "versions": {package: sorted(found) for package, found in sorted(found_versions.items())},
    }


def write_manifest(shards: Sequence[Path], config: Config, out: Path) -> None:
    """Build and write ``dataset.json``; see :func:`build_manifest`."""
    manifest = build_manifest(shards, config, out.resolve().parent)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items()]
    save_text(out, "{\n" + ",\n".join(lines) + "\n}\n")


def normalisation(training: Mapping[str, NDArray]) -> dict[str, dict[str, list[float]]]:
    """Return minimum, maximum, mean and standard deviation per frame, every design alike.

    Parameters
    ----------
    training
        ``channel_statistics``, ``curve_stress`` and ``frame_stress`` of the training designs.
    """
    low, high, mean, square = np.moveaxis(training["channel_statistics"], -1, 0)
    scales = {
        name: _summary(low[:, k], high[:, k], mean[:, k], square[:, k])
        for k, name in enumerate(SCALED)
    }
    for name in ("curve_stress", "frame_stress"):
        values = training[name].astype(np.float64)
        scales[name] = _summary(values, values, values, values**2)
    return scales


def _summary(low: NDArray, high: NDArray, mean: NDArray, square: NDArray) -> dict[str, list]:
    average = mean.mean(axis=0)
    deviation = np.sqrt(np.maximum(square.mean(axis=0) - average**2, 0))
    return {
        "min": low.min(axis=0).tolist(),
        "max": high.max(axis=0).tolist(),
        "mean": average.tolist(),
        "std": deviation.tolist(),
    }


def _relative(path: Path, folder: Path) -> str:
    path = Path(path).resolve()
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


def checksum(shard: str | Path) -> str:
    """Return a SHA-256 over the names and the content of all files of a shard.

    Hidden files are left out: Snakemake marks the folders that it makes with one.
    """
    total = hashlib.sha256()
    files = (p for p in Path(shard).rglob("*") if p.is_file() and not p.name.startswith("."))
    for path in sorted(files):
        total.update(path.relative_to(shard).as_posix().encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read ``dataset.json``.

    Raises
    ------
    UserError
        When the file is missing, isn't JSON, or isn't a manifest of this version.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the data set {path}: {reason}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not a data set: make one with `crumple index`")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path} has version {manifest.get('version')}, this program reads {VERSION}"
        )
    return manifest


class Dataset:
    """Designs of a data set by their places (shard, row); shards are opened when needed.

    Attributes
    ----------
    manifest
        Content of ``dataset.json``.
    split
        ``train`` and ``validation``: (k, 2) places, in the order of the manifest.
    """

    def __init__(self, path: str | Path) -> None:
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
        """Return a shard, opened for reading."""
        if number not in self._groups:
            self._groups[number] = open_shard(self.shard_path(number))
        return self._groups[number]

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
