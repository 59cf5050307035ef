"""What a data set holds, in words and as a contact sheet (``crumple inspect``)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.atomic import claim
from crumple.dataset import ENERGY_GATE, Dataset
from crumple.errors import UserError
from crumple.layout import SCALED, UNITS
from crumple.progress import progress

TILES = 24
HIDDEN = ("index", "seed", "threshold", "tries", "solid_fraction")  # not a figure of a simulation


class Overview(NamedTuple):
    """Small facts about every design of a data set."""

    solid_fraction: NDArray  # (n,) all designs
    tries: NDArray  # (n,) random fields drawn until one was accepted
    places: NDArray  # (valid, 2) shard and row
    curves: NDArray  # (valid, 51) MPa
    imbalance: NDArray  # (valid,) largest |virial stress / reaction - 1| from 2 % strain on
    figures: dict[str, NDArray]  # (valid,) each: iterations, energy ratios, seconds ...
    damaged: list[str]  # shards whose checksum doesn't fit


def inspect(path: Path, sheet: Path | None) -> None:
    """Print the facts about a data set and draw its contact sheet.

    Parameters
    ----------
    path
        ``dataset.json``.
    sheet
        PNG file to draw, or None.

    Raises
    ------
    UserError
        When a shard has changed since the data set was indexed.
    """
    sheet = claim(sheet, "inspect") if sheet else None
    dataset = Dataset(path)
    facts = overview(dataset)
    print(describe(dataset, facts))
    if sheet is not None:
        draw_sheet(dataset, facts, sheet)
    if facts.damaged:
        raise UserError(
            f"{len(facts.damaged)} of {len(dataset.manifest['shards'])} shards differ from their "
            f"checksums, the first is {facts.damaged[0]}: make them again, or run `crumple index`"
        )


def overview(dataset: Dataset) -> Overview:
    """Read the small arrays of all shards, one shard at a time, and compare the checksums."""
    columns: dict[str, list[NDArray]] = {}
    places, curves, imbalance, damaged = [], [], [], []
    entries = dataset.manifest["shards"]
    for number, entry in enumerate(progress(entries, len(entries), "inspect", unit="shard")):
        try:
            shard = dataset.shard(number)
        except UserError:
            damaged.append(entry["path"])
            continue
        valid = np.flatnonzero(shard["status"][:] == "ok")
        places.append(np.stack([np.full(len(valid), number), valid], axis=-1))
        curves.append(shard["curve_stress"][:][valid])
        ratio = shard["virial_stress"][:][valid] / shard["frame_stress"][:][valid]
        imbalance.append(np.abs(ratio[:, 1:] - 1).max(axis=1))
        for name in shard.attrs["arrays"]:
            array = shard[name]
            if array.shape == (len(entry["indices"]),) and array.dtype.kind in "iuf":
                columns.setdefault(name, []).append(array[:])
    if not places:
        raise UserError(f"all shards of {dataset.folder} have changed since they were indexed")
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Overview(
        joined["solid_fraction"],
        joined["tries"],
        np.concatenate(places),
        np.concatenate(curves).astype(np.float64),
        np.concatenate(imbalance),
        {name: values for name, values in sorted(joined.items()) if name not in HIDDEN},
        damaged,
    )


def describe(dataset: Dataset, facts: Overview) -> str:
    """Return the printed part of ``crumple inspect``."""
    manifest = dataset.manifest
    shards, failures = len(manifest["shards"]), manifest["failures"]
    total = len(manifest["valid"]) + len(failures)
    ungated = len(manifest["energy_gate_exceeded"])
    split = {name: len(places) for name, places in dataset.split.items()}
    lines = [
        f"designs          {total} in {shards} shards, {len(manifest['valid'])} valid "
        f"({len(manifest['valid']) / total:.2%}), {len(failures)} failed",
        *(f"                 {count} x {reason}" for reason, count in _reasons(failures)),
        f"split            {split['train']} train, {split['validation']} validation",
        f"checksums        {shards - len(facts.damaged)} of {shards} shards match",
        f"energy gate      {len(manifest['valid']) - ungated} of {len(manifest['valid'])} valid "
        f"designs keep kinetic and artificial energies under {ENERGY_GATE:.0%}",
        f"fields           carry the platen reaction to {np.median(facts.imbalance):.2%} (median), "
        f"{facts.imbalance.max(initial=0):.2%} (worst)",
        f"acceptance       {_acceptance(facts.tries)}",
        "",
        "solid fraction   " + _spread(facts.solid_fraction),
        *_bars(facts.solid_fraction),
        "peak stress      " + _spread(facts.curves.max(axis=1)) + " MPa",
        "",
        "ranges over the training designs",
    ]
    for name in SCALED:
        scale = manifest["normalisation"][name]
        lines.append(
            f"  {name:<26} {min(scale['min']):10.4g} ... {max(scale['max']):.4g} {UNITS[name]}"
        )
    lines += ["", "per simulation"]
    lines += [f"  {name:<26} {_spread(values)}" for name, values in facts.figures.items()]
    return "\n".join(lines)


def draw_sheet(dataset: Dataset, facts: Overview, out: Path) -> None:
    """Draw the contact sheet, designs spread evenly from soft to stiff."""
    from crumple.plotting import choose_spread, contact_sheet

    manifest = dataset.manifest
    tiles = []
    for k in choose_spread(facts.curves.mean(axis=1), TILES):
        place = facts.places[k]
        tiles.append(
            {
                "index": int(dataset.read("index", [place])[0]),
                "solid": dataset.read("solid", [place])[0],
                "frames": dataset.read("frames", [place])[0],
                "curve": facts.curves[k],
            }
        )
    valid, failed = len(manifest["valid"]), len(manifest["failures"])
    contact_sheet(
        out,
        f"{valid + failed} designs under compression",
        f"{valid} valid, {failed} failed. {len(tiles)} of them, soft to stiff: "
        "design, state at 20 % strain, curve on the 5-95 % band of all.",
        np.array(manifest["curve_strain"]),
        facts.curves,
        facts.solid_fraction,
        tiles,
    )


def _acceptance(tries: NDArray) -> str:
    drawn = tries.sum()  # 0: imported designs don't say
    return f"{len(tries) / drawn:.1%} of the random fields" if drawn else "unknown"


def _reasons(failures: list[dict]) -> list[tuple[str, int]]:
    """Count failures by reason, whatever the numbers in it."""
    return Counter(re.sub(r"\d+(\.\d+)?", "#", f["reason"]) for f in failures).most_common()


def _spread(values: NDArray) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "-"
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{low:.4g} ... {middle:.4g} ... {high:.4g} (mean {values.mean():.4g})"


def _bars(values: NDArray, bins: int = 10, width: int = 40) -> list[str]:
    """Return a histogram as lines of text."""
    counts, edges = np.histogram(values, bins)
    return [
        f"  {low:6.3f} - {high:5.3f}  {'#' * round(width * count / max(counts.max(), 1)):<{width}} "
        f"{count}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
