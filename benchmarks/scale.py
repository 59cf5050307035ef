"""The size of the paper's data set, 53,007 designs in 829 shards, without simulating it.

    .venv/bin/python benchmarks/scale.py FOLDER [dag] [index] [loader] [master] [cost]

dag      how long Snakemake needs to find out what to do, and how much memory
index    `crumple index` over 100 and over 829 shards (benchmarks/synthetic_shards.py)
loader   training samples from a file that is larger than the memory (benchmarks/loader.py; as root)
master   Snakemake with its Slurm executor and a pretended cluster of 1,000 cores
         (benchmarks/pretend_slurm.py)
cost     CPU seconds of each stage per design and per start, from shards of two sizes

Seconds and memory are those of the processes that are measured. What is in the folder is kept, and
used again: the shards take 1.7 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRESET = "workflow/presets/paper.yaml"
DESIGNS, SHARDS, FULL, SHARD_SIZE = 53007, 829, 48, 64
SMALL = 4  # designs in the shards that aren't of real size
CORES = 1000
LOADED, LIMIT = 10, 300  # shards that the loader reads, 0.4 GB of samples, and its memory, MB
PRETENDED = "sbatch squeue scontrol scancel sinfo sacct sacctmgr sshare".split()
RULES = ("sample", "mesh", "simulate", "rasterise")


class Use(NamedTuple):
    """What a command and its children have taken; the memory is that of the largest process."""

    wall: float  # s
    cpu: float  # s
    memory: float  # MB
    output: str

    def __str__(self) -> str:
        return f"{self.wall:6.1f} s, {self.cpu:6.1f} CPU s, {self.memory:5.0f} MB"


def measure(command: Sequence[object], folder: Path, **environment: object) -> Use:
    """Run a command to its end; this process must stay small, for its memory counts as theirs."""
    given = os.environ | {name: str(value) for name, value in environment.items()}
    log, start = folder / "output.txt", time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, env=given, stdout=out, stderr=out
        )
        _, status, used = os.wait4(process.pid, 0)
    output = log.read_text()
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output[-3000:]}")
    cpu = used.ru_utime + used.ru_stime
    return Use(time.monotonic() - start, cpu, used.ru_maxrss / 1000, output)


def against(name: str, value: float, bar: float, unit: str, least: bool = False) -> None:
    """Print a figure and its ratio to what it may be at most, or at least."""
    ratio = value / bar if least else bar / value
    word = "at least" if least else "at most"
    verdict = f"met {ratio:.1f} times" if ratio >= 1 else f"missed, {ratio:.0%} of it"
    print(f"  {name}: {value:,.1f} {unit} ({word} {bar:,.3g}: {verdict})")


def copy_of_workflow(folder: Path) -> Path:
    """Return a folder with the workflow and no results."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    shutil.copytree(ROOT / "slurm", folder / "slurm")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("src", "envs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def snakemake(*arguments: str) -> list[object]:
    """Return a command of Snakemake for the preset."""
    return [sys.executable, "-m", "snakemake", "--configfile", PRESET, *arguments]


def dag(folder: Path) -> None:
    """Dry run of everything from nothing."""
    used = measure(snakemake("-n"), copy_of_workflow(folder / "dag"))
    print(f"dry run, nothing there: {used}, {jobs_in(used.output)} jobs")
    against("time on a core of its own", used.cpu, 15, "s")
    against("memory", used.memory, 300, "MB")


def jobs_in(output: str) -> int:
    """Return the number of jobs that a dry run has found."""
    totals = [line.split()[1] for line in output.splitlines() if line.startswith("total ")]
    return int(totals[0]) if totals else 0


def settings(**designs: int) -> str:
    """Return settings of so few designs that none may be left to hold out."""
    return json.dumps({"designs": designs, "evaluation": {"held_out": 0}})


def make_shards(folder: Path) -> Path:
    """Make the shards that aren't there."""
    script, shards = ROOT / "benchmarks/synthetic_shards.py", folder / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    used = measure(
        [sys.executable, script, shards, "--count", SHARDS, "--full", FULL, "--small", SMALL],
        folder,
    )
    print(f"{SHARDS} shards, {FULL} of them of real size: {used}")
    return shards


def index_shards(folder: Path, shards: Path, count: int) -> tuple[Path, Use]:
    """Index the first shards; return the data set."""
    size = settings(count=min(SHARD_SIZE * count, DESIGNS))
    out = folder / f"dataset-{count}.json"
    config = ["--config", ROOT / PRESET, "--config", size]
    command = [sys.executable, "-m", "crumple", "index", *config, "--shards", shards, "--out", out]
    return out, measure(command, folder)


def index(folder: Path) -> None:
    """`crumple index` over some and over all shards."""
    shards = make_shards(folder)
    _, some = index_shards(folder, shards, 100)
    _, used = index_shards(folder, shards, SHARDS)
    print(f"index of 100 shards: {some}")
    print(f"index of {SHARDS} shards: {used}")
    against("time on a core of its own", used.cpu, 60, "s")
    print(f"  memory: {used.memory / some.memory:.2f} times that of 100 shards")


def loader(folder: Path) -> None:
    """Training samples from a file that is larger than the memory."""
    dataset, _ = index_shards(folder, make_shards(folder), LOADED)
    script = ROOT / "benchmarks/loader.py"
    with memory_limit(LIMIT) as group:
        join = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', group / "cgroup.procs"]
        load = [sys.executable, script, dataset, "--cache", folder, "--seconds", 20]
        used = measure([*join, *load], folder)
    print(f"training samples with {LIMIT} MB of memory: {used}")
    print("  " + used.output.strip().replace("\n", "\n  "))


@contextmanager
def memory_limit(megabytes: int) -> Iterator[Path]:
    """Yield a control group of Linux that has this much memory, mapped files included."""
    old = Path("/sys/fs/cgroup/memory")
    root, limit = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
    group = root / f"crumple-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(megabytes * 10**6))
        yield group
    finally:
        group.rmdir()


def master(folder: Path) -> None:
    """Snakemake with 1,000 pretended cores: one, eight and a quarter of a shard as one job."""
    grouped = pretended_run(folder / "grouped")
    pretended_run(folder / "eights", "--group-components", "shard=8", "--jobs", str(CORES // 8))
    alone = [f"{rule}={rule}" for rule in RULES]
    pretended_run(folder / "ungrouped", "--groups", *alone, designs=100 * SHARD_SIZE)
    used = measure(snakemake("-n"), grouped)
    print(f"dry run, the data set is there: {used}, {jobs_in(used.output)} jobs")


def pretended_run(folder: Path, *arguments: str, designs: int = DESIGNS) -> Path:
    """Make a data set on the pretended cluster; return the folder of the run."""
    copy_of_workflow(folder)
    state, commands = folder / "slurm_state", folder / "bin"
    state.mkdir()
    commands.mkdir()
    for name in PRETENDED:
        (commands / name).symlink_to(ROOT / "benchmarks/pretend_slurm.py")
    count = f"designs={{count: {designs}}}"
    options = ["--profile", "slurm", "--jobs", str(CORES), "--config", count, *arguments]
    command = snakemake(*options, "--", "results/paper/data/dataset.json")
    path = f"{commands}:{os.environ['PATH']}"
    used = measure(command, folder, PATH=path, PRETEND_SLURM=state)
    report(folder, state, used)
    return folder


def report(folder: Path, state: Path, used: Use) -> None:
    """Print how well the cores were used, and how many shards the master works through."""
    *jobs, index = [line.split() for line in (state / "submitted").read_text().splitlines()]
    began = [float(job[1]) for job in jobs]
    seconds = sum((float(job[2]) - float(job[1])) * int(job[3]) for job in jobs)
    theirs = sum(map(float, (state / "seconds").read_text().split()))
    makespan = float(index[1]) - began[0]
    shards = sorted((folder / "results/paper/data/shards").glob("*.zarr/.snakemake_timestamp"))
    per_job = len(shards) / len(jobs)
    print(
        f"pretended cluster, {folder.name}: {used}, of which {theirs:.1f} CPU s of Slurm's commands"
    )
    print(f"  {len(shards)} shards of {seconds / len(shards):.0f} core s in {len(jobs)} jobs")
    print(
        f"  all done after {makespan:.0f} s; master: {used.cpu / len(shards):.2f} CPU s per shard"
    )
    needed = CORES * len(shards) / seconds
    submitted = per_job * fastest(began)
    ended = fastest([path.stat().st_mtime for path in shards])
    against("submitted", submitted, needed, "shards/s", least=True)
    against("ended", ended, needed, "shards/s", least=True)


def fastest(times: Sequence[float], window: int = 40) -> float:
    """Return the largest rate over some events in a row."""
    times = sorted(times)
    return max(window / (end - start) for start, end in zip(times, times[window:], strict=False))


def cost(folder: Path) -> None:
    """CPU seconds of the stages that make a shard: what a start takes, and what a design takes."""
    few, many = 1, 9
    used = {count: shard_of(folder / "cost" / str(count), count) for count in (few, many)}
    for name in RULES:
        design = (used[many][name] - used[few][name]) / (many - few)
        start = used[few][name] - few * design
        print(f"{name}: {design:.3f} CPU s per design, {start:.1f} CPU s per start")


def shard_of(folder: Path, count: int) -> dict[str, float]:
    """Make one shard of some designs; return the CPU seconds of its stages."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    size = settings(count=count, shard_size=count)
    stages: dict[str, list[object]] = {
        "sample": ["--shard", 0, "--out", "designs.npz"],
        "mesh": ["--designs", "designs.npz", "--out", "meshes"],
        "simulate": ["--meshes", "meshes", "--out", "simulations"],
        "rasterise": "--designs designs.npz --simulations simulations --out 0000.zarr".split(),
    }
    python = [ROOT / ".venv-fe/bin/python", "-m", "crumple"]
    config = ["--config", ROOT / PRESET, "--config", size]
    return {
        name: measure([*python, name, *config, *arguments], folder).cpu
        for name, arguments in stages.items()
    }


STAGES = {"dag": dag, "index": index, "loader": loader, "master": master, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for shards and runs")
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; default all")
    args = parser.parse_args()
    for name in args.stages or STAGES:
        STAGES[name](args.folder.resolve())


if __name__ == "__main__":
    main()
