#!/usr/bin/env -S python3 -SE
"""Slurm's commands for benchmarks/scale.py: jobs end when their time is over, and nothing runs.

What this does is said by the name by which it is called. `sbatch` notes when the job would end,
`squeue` makes the outputs of jobs that have ended and lists all jobs. There are always enough
cores. All is kept in the folder that $PRETEND_SLURM names, as lines.
"""

import os
import re
import sys
import time
from pathlib import Path

STATE = Path(os.environ["PRETEND_SLURM"])
DESIGNS = 64  # per shard
SECONDS = {  # per design, measured: docs/scale.md
    "sample": 0.02,
    "mesh": 0.1,
    "simulate": 1.3,
    "rasterise": 0.08,
}
OUTPUTS = {  # and the tables of benchmarks, without which a job isn't complete
    "sample": ("data/designs/{shard}.npz", "benchmarks/sample/{shard}.tsv"),
    "mesh": ("data/meshes/{shard}/content", "benchmarks/mesh/data/{shard}.tsv"),
    "simulate": ("data/simulations/{shard}/content", "benchmarks/simulate/data/{shard}.tsv"),
    "rasterise": ("data/shards/{shard}.zarr/content", "benchmarks/rasterise/data/{shard}.tsv"),
    "index": ("data/dataset.json", "benchmarks/index.tsv"),
}
TARGET = re.compile(r"'(\w+):(?:set=data,)?(?:shard=(\d+))?'")


def note(name, *values):
    """Add a line to a file; lines of processes that write at once don't mix."""
    with (STATE / name).open("a") as file:
        file.write(" ".join(map(str, values)) + "\n")


def lines(name):
    """Return the words of all lines of a file."""
    path = STATE / name
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def sbatch(arguments):
    """Note a job and print its number."""
    command = next(word for word in arguments if word.startswith("--wrap="))
    targets = TARGET.findall(re.search(r"--target-jobs (.*?) --", command)[1])
    cores = int(re.search(r"--cpus-per-task=(\d+)", " ".join(arguments))[1])
    seconds = sum(DESIGNS * SECONDS.get(rule, 0) for rule, _ in targets) / cores
    number, now = time.time_ns() // 1000, time.time()
    names = (f"{rule}:{shard}" for rule, shard in targets)
    note("submitted", number, now, now + seconds, cores, *names)
    print(number)


def squeue(arguments):
    """List all jobs, after the outputs of those that have ended since the last time."""
    known, now = {number for number, *_ in lines("ended")}, time.time()
    for number, _, end, _, *targets in lines("submitted"):
        if float(end) > now:
            print(f"{number}|RUNNING")
            continue
        if number not in known:
            for target in targets:
                make_outputs(*target.split(":"))
            note("ended", number, now)
        print(f"{number}|COMPLETED")


def sacct(arguments):
    """List all jobs, where the executor takes this after a slow answer; of accounts nothing."""
    if "--name" in arguments:
        squeue(arguments)


def make_outputs(rule, shard):
    """Make the files that stand for the outputs of a job."""
    for name in OUTPUTS[rule]:
        path = Path("results/paper", name.format(shard=shard))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def scontrol(arguments):
    """Print what the executor asks for: how long jobs that have ended are listed."""
    print("MinJobAge = 300 sec")


if __name__ == "__main__":
    called = globals().get(Path(sys.argv[0]).name, lambda arguments: None)
    called(sys.argv[1:])
    note("seconds", time.process_time())
