"""The published data set as shards (``crumple import-published``).

A shard holds 64 samples of one part, those of ``training`` first; a sample whose files are missing
or damaged keeps its row, with the reason as its status. The record says that the physics is the
published one, so that nothing takes these for simulations of this program.
"""

from __future__ import annotations

import csv
import hashlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from crumple.atomic import claim
from crumple.dataset import channel_statistics, open_shard, write_shard
from crumple.errors import UserError
from crumple.layout import CELL, CHANNELS, CURVE_STRAIN, FRAME_STRAIN, QUARTER
from crumple.metrics import predicted_curve, volume_change
from crumple.processes import in_processes
from crumple.progress import progress
from crumple.provenance import PUBLISHED, hash_designs
from crumple.published.files import (
    CURVES,
    FRAMES,
    GIFS,
    PARTS,
    RANGE_COLUMNS,
    RANGES,
    TOPOLOGY,
    channel_range,
    from_grey,
    gif,
    read_gif,
)
from crumple.readers import refusing
from crumple.topology import mirror_average

SHARD_SIZE = 64
LARGEST = 6e4  # cell sides or MPa; pixels are stored as float16
ADVICE = "unpack the published data set again"


class Part(NamedTuple):
    """``training`` or ``validation`` as its tables describe it."""

    folder: Path
    ranges: list[list[str]]  # per sample, the cells of a line
    curves: list[list[str]]


class ImportJob(NamedTuple):
    """One shard to write."""

    out: Path
    part: Part
    first: int  # sample of the part
    offset: int  # number of the first sample of the part among the designs of the data set


class Sample(NamedTuple):
    """What the files of one sample say."""

    solid: NDArray[np.uint8]  # (96, 96)
    frames: NDArray[np.float16]  # (11, 4, 96, 96)
    curve: NDArray[np.float64]  # (51) MPa


def import_published(folder: Path, out: Path, processes: int | None) -> None:
    """Read the published data set and print how many samples are readable.

    Shards that are there and were made from the same files are kept, so that the command may be
    repeated after an interruption, or after damaged files were replaced.

    Parameters
    ----------
    folder
        Holds ``training``, ``validation`` or both; see :mod:`crumple.published`.
    out
        Folder for ``0000.zarr`` and so on, as :func:`crumple.dataset.write_manifest` takes them.
    processes
        See :func:`crumple.processes.in_processes`.

    Raises
    ------
    UserError
        When there is no such data set, a table isn't one, or a shard of something else stands in
        the way.
    """
    parts = [read_part(folder / name) for name in PARTS if (folder / name).is_dir()]
    if not parts:
        raise UserError(
            f"{folder} holds neither {' nor '.join(PARTS)}: name the folder of the published data "
            "set in which these are, such as data/lagrangian"
        )
    jobs: list[ImportJob] = []
    offset = 0
    for part in parts:
        for first in range(0, len(part.ranges), SHARD_SIZE):
            place = claim(out / f"{len(jobs):04d}.zarr", PUBLISHED, folder=True)
            jobs.append(ImportJob(place, part, first, offset))
        offset += len(part.ranges)
    out.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    done = in_processes(import_shard, jobs, processes)
    for found in progress(done, len(jobs), "import", unit="shard"):
        reasons += found
    for reason in sorted(reasons)[:20]:
        print(f"not imported: {reason}")
    print(f"{offset - len(reasons)} of {offset} samples are in {len(jobs)} shards of {out}")


def read_part(folder: Path) -> Part:
    """Read the two tables of ``training`` or ``validation``; their cells are looked at later."""
    ranges, curves = (_lines(folder / name) for name in (RANGES, CURVES))
    if len(ranges) != len(curves):
        raise UserError(
            f"{folder}: {RANGES} has {len(ranges)} lines and {CURVES} {len(curves)}; they must "
            f"have one per sample; {ADVICE}"
        )
    for name, lines, columns in (
        (RANGES, ranges, RANGE_COLUMNS),
        (CURVES, curves, len(CURVE_STRAIN)),
    ):
        if not any(len(line) == columns for line in lines):
            raise UserError(
                f"{folder / name} has lines of {len(lines[0])} values, not of {columns}: name the "
                "published data set in the Lagrangian frame"
            )
    highest = max(
        (
            int(path.stem)
            for path in (folder / "gifs" / TOPOLOGY).glob("*.gif")
            if path.stem.isdigit()
        ),
        default=-1,
    )
    if highest >= len(ranges):
        raise UserError(
            f"{folder} holds a sample {highest}, but its tables have {len(ranges)} lines; {ADVICE}"
        )
    return Part(folder, ranges, curves)


def _lines(path: Path) -> list[list[str]]:
    with refusing(path, ADVICE):
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        if not lines:
            raise ValueError("it is empty")
        return lines


def import_shard(job: ImportJob) -> list[str]:
    """Write one shard, unless it is there already; return the reasons of what isn't readable."""
    numbers = range(job.first, min(job.first + SHARD_SIZE, len(job.part.ranges)))
    contents = [_contents(job.part, number) for number in numbers]
    total = hashlib.sha256()
    for files in contents:
        for name, content in files.items():
            total.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    hashed = total.hexdigest()
    found = _finished(job.out, hashed)
    if found is not None:
        return found
    index = job.offset + np.arange(numbers.start, numbers.stop)
    arrays = _empty(index)
    for row, (number, files) in enumerate(zip(numbers, contents, strict=True)):
        try:
            _fill(arrays, row, read_sample(job.part, number, files))
        except Unreadable as reason:
            arrays["status"][row] = str(reason)
    arrays["status"] = arrays["status"].astype(str)
    inputs = {"files": hashed, "designs": hash_designs(index, arrays["quarter"])}
    settings = {PUBLISHED: {"physics": "published"}}
    record = {"stage": PUBLISHED, "settings": settings, "inputs": inputs}
    write_shard(job.out, arrays, {"made_by": record, "split": job.part.folder.name})
    return _failures(arrays["status"])


def _finished(path: Path, hashed: str) -> list[str] | None:
    """Return the failures of a shard that was made from the same files, if it is there."""
    if not path.exists():
        return None
    try:
        shard = open_shard(path)
    except UserError:
        return None
    inputs: Any = shard.attrs["made_by"]
    return _failures(shard["status"][:]) if inputs["inputs"].get("files") == hashed else None


def _failures(status: NDArray) -> list[str]:
    return [str(reason) for reason in status if reason != "ok"]


def _contents(part: Part, number: int) -> dict[str, bytes]:
    """Return the files of a sample by their names, without those that are missing."""
    files = {
        RANGES: ",".join(part.ranges[number]).encode(),
        CURVES: ",".join(part.curves[number]).encode(),
    }
    for folder in (TOPOLOGY, *GIFS.values()):
        path = gif(part.folder, folder, number)
        if path.is_file():
            files[folder] = path.read_bytes()
    return files


def _empty(index: NDArray) -> dict[str, NDArray]:
    """Return the arrays of a shard in which nothing was readable."""
    count, nothing = len(index), partial(np.full, fill_value=np.nan, dtype=np.float32)
    return {
        "index": index,
        "quarter": np.zeros((count, QUARTER, QUARTER), np.uint8),
        "seed": np.full(count, -1),
        "threshold": np.full(count, np.nan),
        "solid_fraction": np.zeros(count),
        "tries": np.zeros(count, np.int64),
        "status": np.full(count, "ok", object),
        "solid": np.zeros((count, CELL, CELL), np.uint8),
        "frames": np.zeros((count, FRAMES, len(CHANNELS), CELL, CELL), np.float16),
        "frame_strain": FRAME_STRAIN,
        "frame_stress": nothing((count, FRAMES)),
        "virial_stress": nothing((count, FRAMES)),
        "curve_strain": CURVE_STRAIN,
        "curve_stress": nothing((count, len(CURVE_STRAIN))),
        "channel_statistics": np.zeros((count, 3, FRAMES, 4)),
        "energy_gate": np.zeros(count, bool),
    }


def _fill(arrays: dict[str, NDArray], row: int, sample: Sample) -> None:
    """Put one sample into its row, with what follows from it."""
    solid = sample.solid > 0
    quarter = mirror_average(sample.solid) >= 0.5
    fields = sample.frames.astype(np.float64)
    J = volume_change(fields[:, :2], solid)
    arrays["quarter"][row] = quarter
    arrays["solid_fraction"][row] = quarter.mean()
    arrays["solid"][row] = sample.solid
    arrays["frames"][row] = sample.frames
    arrays["curve_stress"][row] = sample.curve
    arrays["frame_stress"][row] = np.interp(FRAME_STRAIN, CURVE_STRAIN, sample.curve)
    arrays["virial_stress"][row] = predicted_curve(fields[:, 2], FRAME_STRAIN, J)
    arrays["channel_statistics"][row] = channel_statistics(sample.frames, solid, FRAME_STRAIN)
    arrays["energy_gate"][row] = True  # the authors kept no others (paper 4.2)


# --- one sample ----------------------------------------------------------------------------------


class Unreadable(Exception):
    """A sample that cannot be read; the message is its status."""


def read_sample(part: Part, number: int, files: dict[str, bytes]) -> Sample:
    """Read one sample.

    Parameters
    ----------
    part, number
        Which sample.
    files
        Contents of its files, of which some may be missing.
    """
    ranges = _numbers(part, RANGES, number, part.ranges[number], RANGE_COLUMNS)
    curve = _numbers(part, CURVES, number, part.curves[number], len(CURVE_STRAIN))
    topology = _grey(part, TOPOLOGY, number, files)
    if (topology != topology[0]).any():
        raise Unreadable(_where(part, TOPOLOGY, number) + "the solid isn't the same in all frames")
    solid = topology[0] > 0
    if not solid.any():
        raise Unreadable(_where(part, TOPOLOGY, number) + "there is no solid")
    frames = np.zeros((FRAMES, len(CHANNELS), CELL, CELL), np.float16)
    for channel, folder in GIFS.items():
        low, high = channel_range(ranges, channel)
        if low > high:
            raise Unreadable(_line(part, RANGES, number) + f"the range of {folder} is empty")
        values = from_grey(_grey(part, folder, number, files), low, high)
        frames[:, CHANNELS.index(channel)] = np.where(solid, values, 0)
    return Sample(solid.astype(np.uint8), frames, curve)


def _numbers(part: Part, table: str, number: int, line: list[str], columns: int) -> NDArray:
    """Return the numbers of a line of a table."""
    where = _line(part, table, number)
    if len(line) != columns:
        raise Unreadable(where + f"it has {len(line)} values, not {columns}")
    try:
        values = np.array([float(cell) for cell in line])
    except ValueError as error:
        raise Unreadable(where + str(error)) from error
    if not (np.abs(values) <= LARGEST).all():
        raise Unreadable(where + "a value isn't a number of this size")
    return values


def _grey(part: Part, folder: str, number: int, files: dict[str, bytes]) -> NDArray[np.uint8]:
    """Return the grey values of a GIF of the sample."""
    where = _where(part, folder, number)
    if folder not in files:
        raise Unreadable(where + "it is missing")
    try:
        return read_gif(files[folder], still=folder == TOPOLOGY)
    except Exception as error:  # the parser of a damaged file raises whatever it stumbles over
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, UnidentifiedImageError):
            reason = "it isn't a GIF"
        raise Unreadable(where + (reason or type(error).__name__)) from error


def _where(part: Part, folder: str, number: int) -> str:
    return f"damaged file: {part.folder.name}/gifs/{folder}/{number}.gif: "


def _line(part: Part, table: str, number: int) -> str:
    return f"damaged file: {part.folder.name}/{table}, line {number + 1}: "
