"""Samples per second of the training data once they are cached: at least 2,000 per CPU second.

python benchmarks/loader.py results/demo/data/dataset.json

benchmarks/scale.py runs it with less memory than the samples take.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from crumple.config import Model
from crumple.dataset import Dataset
from crumple.diffusion.data import Samples, build_cache, load_samples

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="dataset.json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of loading; default 5")
    parser.add_argument("--cache", type=Path, help="where the samples go; default: a temporary one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = Dataset(args.dataset)
    with tempfile.TemporaryDirectory(dir=args.cache) as folder:
        cache = Path(folder) / "cache"
        start, start_cpu = time.perf_counter(), time.process_time()
        build_cache(dataset, Model(), cache)
        first, first_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        samples, _ = load_samples(cache, len(dataset.split["train"]), torch.device("cpu"))
        designs = sum(len(places) for places in dataset.split.values())
        print(
            f"{designs} designs, {(cache / 'samples.npy').stat().st_size / 1e9:.2f} GB of samples"
        )
        print(
            f"first epoch: {designs / first:.0f} designs/s read from the shards,"
            f" {designs / first_cpu:.0f} per CPU second"
        )
        load(samples, args.seconds)
    print(
        f"largest resident memory: {memory('VmHWM'):.0f} MB, of which not of a file now:"
        f" {memory('RssAnon'):.0f} MB"
    )


def load(samples: Samples, seconds: float) -> None:
    """Put random batches together, and print how many samples that were."""
    random = np.random.default_rng(0)
    out = torch.empty(BATCH, *samples.physical.shape[1:])
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    done, start, start_cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        rows = random.integers(len(samples), size=BATCH)
        samples.batch(rows, random.integers(4, size=BATCH), out)
        done += BATCH
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
    print(f"later: {done / wall:.0f} samples/s, {done / cpu:.0f} samples per CPU second")
    print(f"       {faults / done:.1f} waits for the disk per sample")


def memory(name: str) -> float:
    """Return a figure of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1000


if __name__ == "__main__":
    main()
