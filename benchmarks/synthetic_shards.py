"""Shards of made-up designs, written as `crumple rasterise` writes them, for benchmarks/scale.py.

python benchmarks/synthetic_shards.py FOLDER --count 829 --full 48

The first ones are of real size: noise in the solid pixels of all fields, which compresses a little
less than simulated fields. The others may have fewer designs; every array per design is full and
the fields are 0, so that 64 designs take half a megabyte. Shards that are there already are kept.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crumple.config import Config, load_config
from crumple.dataset import channel_statistics, shards_of, write_shard
from crumple.designs import mirror
from crumple.layout import CELL, CHANNELS, CURVE_STRAIN, FRAME_STRAIN, QUARTER
from crumple.provenance import hash_designs, made_by

PRESET = Path(__file__).parents[1] / "workflow/presets/paper.yaml"
STAGES = ("sample", "mesh", "simulate", "rasterise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the shards")
    parser.add_argument("--count", type=int, required=True, help="number of shards")
    parser.add_argument("--full", type=int, default=4, help="how many are of real size; default 4")
    parser.add_argument("--small", type=int, default=64, help="designs of the others; default 64")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    args = parser.parse_args()
    config = load_config(PRESET)
    paths = shards_of(args.folder, config)[: args.count]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    sizes = [config.designs.shard_size if number < args.full else args.small for number in missing]
    with ProcessPoolExecutor(args.processes) as pool:
        jobs = [
            pool.submit(make, paths[number], config, number, number < args.full, size)
            for number, size in zip(missing, sizes, strict=True)
        ]
        for job in jobs:
            job.result()


def make(path: Path, config: Config, number: int, full: bool, size: int) -> None:
    """Make one shard."""
    arrays = made_up(number, config, full, size)
    write_shard(path, arrays, {"made_by": record(config, arrays)})


def record(config: Config, arrays: dict[str, NDArray]) -> dict[str, Any]:
    """Return the record of a shard that went through all stages."""
    found: dict[str, Any] = {"settings": {}, "inputs": {}}
    for stage in STAGES:
        found = made_by(stage, config, found)
    return found | {"inputs": {"designs": hash_designs(arrays["index"], arrays["quarter"])}}


def made_up(number: int, config: Config, full: bool, most: int) -> dict[str, NDArray]:
    """Return the arrays of one shard; see :data:`crumple.dataset.SHARD`."""
    random = np.random.default_rng(number)
    first = config.designs.shard_size * number
    index = np.arange(first, min(first + most, config.designs.count))
    count, steps = len(index), len(FRAME_STRAIN)
    quarter = random.integers(0, 2, (count, QUARTER, QUARTER), np.uint8)
    solid = np.array([mirror(design) for design in quarter])
    frames = np.zeros((count, steps, len(CHANNELS), CELL, CELL), np.float16)
    statistics = random.random((count, 3, steps, 4))
    for row in range(count if full else 0):
        frames[row] = random.standard_normal(frames[row].shape, np.float32) * solid[row]
        statistics[row] = channel_statistics(frames[row], solid[row] > 0, FRAME_STRAIN)
    frame_stress = random.random((count, steps), np.float32)
    return {
        "frames": frames,
        "solid": solid,
        "quarter": quarter,
        "index": index,
        "seed": np.full(count, config.seed),
        "threshold": random.random(count),
        "tries": np.full(count, 36),
        "solid_fraction": quarter.mean(axis=(1, 2)),
        "status": np.full(count, "ok"),
        "curve_strain": CURVE_STRAIN,
        "curve_stress": random.random((count, len(CURVE_STRAIN)), np.float32),
        "frame_strain": FRAME_STRAIN,
        "frame_stress": frame_stress,
        "virial_stress": frame_stress,
        "channel_statistics": statistics,
        "energy_gate": np.full(count, True),
        "cpu_seconds": np.full(count, 1.5, np.float32),
    }


if __name__ == "__main__":
    main()
