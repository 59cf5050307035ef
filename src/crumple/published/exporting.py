"""A data set in the published layout (``crumple export-published``).

What 256 grey values lose is measured on the way: fields are compared with what a reader of the
files gets back.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.atomic import resumable_folder, save_npz, save_text
from crumple.dataset import Dataset
from crumple.layout import CHANNELS, FRAME_STRAIN, UNITS
from crumple.metrics import nrmse, predicted_curve, volume_change
from crumple.processes import in_processes
from crumple.progress import progress
from crumple.provenance import hash_file
from crumple.published.files import (
    CURVES,
    ENERGY,
    FRAMES,
    GIFS,
    PARTS,
    RANGES,
    TOPOLOGY,
    channel_range,
    field_ranges,
    from_grey,
    gif,
    to_grey,
    write_gif,
)
from crumple.readers import Array, Schema, read_npz

EXPORT = "export-published"
LOSSES = "grey_values.json"
DONE = Schema(
    "run `crumple export-published` again",
    {
        "number": Array("iu", ("samples",)),
        "index": Array("iu", ("samples",)),
        "ranges": Array("f", ("samples", 8)),
        "curve": Array("f", ("samples", 51)),
        "error": Array("f", ("samples", len(CHANNELS), FRAMES)),
        "size": Array("f", ("samples", len(CHANNELS), FRAMES)),
        "largest": Array("f", ("samples", len(CHANNELS))),
        "curve_error": Array("f", ("samples",)),
    },
)


class ExportJob(NamedTuple):
    """What one process writes at a time: the samples of a part that are in one shard."""

    manifest: Path
    folder: Path
    part: str
    shard: int
    rows: list[int]
    numbers: list[int]  # of the samples in the part


class Loss(NamedTuple):
    """What the grey values of one sample lose."""

    error: NDArray  # (4, 11) mean square over the solid pixels
    size: NDArray  # (4, 11) mean square of what is there
    largest: NDArray  # (4) largest error
    curve: float  # NRMSE between the curves that the fields stand for


def export_published(manifest: Path, out: Path, processes: int | None) -> None:
    """Write the valid designs of a data set in the published layout and print what that loses.

    Parameters
    ----------
    manifest
        ``dataset.json``.
    out
        Folder that gets ``training`` and ``validation``, ``designs.csv`` (which design is which
        sample) and ``grey_values.json`` (the losses). Work that was interrupted is continued.
    processes
        See :func:`crumple.processes.in_processes`.

    Raises
    ------
    UserError
        When the data set cannot be read, or something else stands at ``out``.
    """
    dataset = Dataset(manifest)
    made_by = dataset.manifest["made_by"]
    inputs = made_by["inputs"] | {"dataset": hash_file(manifest)}
    record = {"stage": EXPORT, "settings": made_by["settings"], "inputs": inputs}
    with resumable_folder(out, record) as folder:
        jobs = _jobs(dataset, folder)
        left = [job for job in jobs if not _done(job).exists()]
        done = in_processes(export_shard, left, processes)
        for _ in progress(done, len(left), "export", unit="shard"):
            pass
        found = {part: _joined([job for job in jobs if job.part == part]) for part in PARTS}
        for part, columns in found.items():
            if len(columns["number"]):
                _write_tables(folder / part, columns)
        save_text(folder / "designs.csv", _designs(found))
        losses = summarise(list(found.values()))
        save_text(folder / LOSSES, json.dumps(losses, indent=1) + "\n")
        shutil.rmtree(folder / "parts")
    counts = ", ".join(f"{len(columns['number'])} {part}" for part, columns in found.items())
    print(f"{counts} samples are in {out}\n\n{describe(losses)}")


def _jobs(dataset: Dataset, folder: Path) -> list[ExportJob]:
    """Share the designs out, those of a part that are in one shard together."""
    jobs = []
    for part, split in zip(PARTS, ("train", "validation"), strict=True):
        places = dataset.split[split]
        places = places[np.lexsort(places.T[::-1])]
        for shard in np.unique(places[:, 0]):
            numbers = np.flatnonzero(places[:, 0] == shard)
            rows = places[numbers, 1].tolist()
            jobs.append(ExportJob(dataset.path, folder, part, int(shard), rows, numbers.tolist()))
        if len(places):
            for name in (TOPOLOGY, *GIFS.values(), ENERGY):
                gif(folder / part, name, 0).parent.mkdir(parents=True, exist_ok=True)
    return jobs


def _done(job: ExportJob) -> Path:
    return job.folder / "parts" / f"{job.part}-{job.shard:06d}.npz"


def export_shard(job: ExportJob) -> None:
    """Write the samples of one shard, and last what the tables say of them."""
    shard = Dataset(job.manifest).shard(job.shard)
    columns: dict[str, list[Any]] = {name: [] for name in DONE.arrays}
    for row, number in zip(job.rows, job.numbers, strict=True):
        frames = np.asarray(shard["frames"][row], np.float64)
        solid = np.asarray(shard["solid"][row]) > 0
        ranges = field_ranges(frames)
        images = {
            TOPOLOGY: np.repeat(np.where(solid, 255, 0)[None], FRAMES, axis=0).astype(np.uint8),
            ENERGY: np.zeros((FRAMES, *solid.shape), np.uint8),
        }
        for channel, name in GIFS.items():
            values = frames[:, CHANNELS.index(channel)]
            images[name] = to_grey(values, *channel_range(ranges, channel))
        for name, grey in images.items():
            _save(job.folder, gif(job.folder / job.part, name, number), write_gif(grey))
        loss = grey_loss(frames, solid, ranges)
        for column, value in {
            "number": number,
            "index": int(shard["index"][row]),
            "ranges": ranges,
            "curve": shard["curve_stress"][row],
            "error": loss.error,
            "size": loss.size,
            "largest": loss.largest,
            "curve_error": loss.curve,
        }.items():
            columns[column].append(value)
    save_npz(_done(job), **{name: np.array(values) for name, values in columns.items()})


def _save(folder: Path, path: Path, content: bytes) -> None:
    """Write a file whole; a thousand of them in one folder are too many to look for leftovers."""
    temporary = folder / f".{path.parent.name}-{path.name}"
    temporary.write_bytes(content)
    os.replace(temporary, path)


def grey_loss(frames: NDArray, solid: NDArray, ranges: NDArray) -> Loss:
    """Compare the frames (11, 4, 96, 96) of a sample with what its GIFs say of them."""
    read = np.zeros_like(frames)
    for k, channel in enumerate(CHANNELS):
        low, high = channel_range(ranges, channel)
        read[:, k] = np.where(solid, from_grey(to_grey(frames[:, k], low, high), low, high), 0)
    error = (read - frames)[:, :, solid]
    stored, restored = (
        predicted_curve(f[:, 2], FRAME_STRAIN, volume_change(f[:, :2], solid))
        for f in (frames, read)
    )
    return Loss(
        (error**2).mean(axis=-1).T,
        (frames[:, :, solid] ** 2).mean(axis=-1).T,
        np.abs(error).max(axis=(0, 2)),
        float(nrmse(restored, stored)),
    )


def _joined(jobs: Sequence[ExportJob]) -> dict[str, NDArray]:
    """Return the columns of all samples of a part in the order of their numbers."""
    found = [read_npz(_done(job), DONE) for job in jobs]
    if not found:
        return {name: np.zeros((0,)) for name in DONE.arrays}
    columns = {name: np.concatenate([part[name] for part in found]) for name in DONE.arrays}
    order = np.argsort(columns["number"])
    return {name: values[order] for name, values in columns.items()}


def _write_tables(part: Path, columns: Mapping[str, NDArray]) -> None:
    for name, values in ((RANGES, columns["ranges"]), (CURVES, columns["curve"])):
        rows = values.astype(np.float64).tolist()
        save_text(part / name, _csv([[repr(value) for value in row] for row in rows]))


def _designs(found: Mapping[str, Mapping[str, NDArray]]) -> str:
    """Return the table that says which design of the data set a sample is."""
    rows = [
        [part, str(int(number)), str(int(index))]
        for part, columns in found.items()
        for number, index in zip(columns["number"], columns["index"], strict=True)
    ]
    return _csv([["part", "sample", "design"], *rows])


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


# --- what is lost --------------------------------------------------------------------------------


def summarise(parts: Sequence[Mapping[str, NDArray]]) -> dict[str, Any]:
    """Return the losses of all samples.

    ``rms_error`` and ``largest_error`` in units of the channel; ``relative_error`` and, per frame,
    ``relative_error_by_frame``: root mean square error over root mean square of the solid pixels
    of all samples; ``curve_nrmse``: median and largest change of the curve that the fields stand
    for.
    """
    parts = [part for part in parts if len(part["number"])]
    error, size, largest, curve = (
        np.concatenate([part[name] for part in parts])
        for name in ("error", "size", "largest", "curve_error")
    )
    by_frame = np.sqrt(error.mean(axis=0) / np.maximum(size.mean(axis=0), 1e-30))
    return {
        "samples": len(error),
        "frame_strain": FRAME_STRAIN.tolist(),
        "channels": {
            channel: {
                "unit": UNITS[channel],
                "rms_error": float(np.sqrt(error[:, k].mean())),
                "largest_error": float(largest[:, k].max()),
                "relative_error": float(
                    np.sqrt(error[:, k].mean() / max(size[:, k].mean(), 1e-30))
                ),
                "relative_error_by_frame": by_frame[k].tolist(),
            }
            for k, channel in enumerate(CHANNELS)
        },
        "curve_nrmse": {"median": float(np.median(curve)), "largest": float(curve.max())},
    }


def describe(losses: Mapping[str, Any]) -> str:
    """Return the losses as a table for people."""
    first, last = losses["frame_strain"][0], losses["frame_strain"][-1]
    lines = [
        "What 256 grey values lose, over the solid pixels:",
        f"{'':6} {'rms error':>12} {'largest':>12}   relative: {'all':>8} "
        f"{f'at {first:.1%}':>9} {f'at {last:.0%}':>9}",
    ]
    for name, loss in losses["channels"].items():
        by_frame = loss["relative_error_by_frame"]
        lines.append(
            f"{name:6} {loss['rms_error']:12.3g} {loss['largest_error']:12.3g} {'':12} "
            f"{loss['relative_error']:8.2%} {by_frame[0]:9.2%} {by_frame[-1]:9.2%} {loss['unit']}"
        )
    curve = losses["curve_nrmse"]
    lines.append(
        f"curve of the fields: {curve['median']:.3%} (median), {curve['largest']:.3%} (largest)"
    )
    return "\n".join(lines)
