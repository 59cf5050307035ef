"""Samples per second of the training data once they are cached: at least 2,000 on two cores.

python benchmarks/loader.py results/demo/data/dataset.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from crumple.config import Model
from crumple.dataset import Dataset
from crumple.diffusion.data import build_cache, load_samples

BATCH = 32
SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="dataset.json")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = Dataset(args.dataset)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        start = time.perf_counter()
        build_cache(dataset, Model(), cache)
        first = time.perf_counter() - start
        samples, _ = load_samples(cache, len(dataset.split["train"]), torch.device("cpu"))
        random = np.random.default_rng(0)
        out = torch.empty(BATCH, *samples.physical.shape[1:])
        done, start, start_cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < SECONDS:
            rows = random.integers(len(samples), size=BATCH)
            samples.batch(rows, random.integers(8, size=BATCH), out)
            done += BATCH
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    designs = sum(len(places) for places in dataset.split.values())
    print(f"first epoch: {designs / first:.0f} designs/s read from the shards")
    print(f"later: {done / wall:.0f} samples/s, {done / cpu:.0f} samples per CPU second")


if __name__ == "__main__":
    main()
