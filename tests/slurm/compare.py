"""What a run has done, and whether it is the same as another one; used by faults.sh.

    python tests/slurm/compare.py note RUN NOTES
    python tests/slurm/compare.py check REFERENCE RUN NOTES
    python tests/slurm/compare.py close REFERENCE RUN FILE...

``note`` writes down the finished work of a run that a fault has hit: the time that every simulated
design took, which no second simulation repeats to the last bit, and the step of the checkpoint.
``check`` compares the run, when it is complete, with an undisturbed one, array by array without
timings, and with the notes. ``close`` compares files of two runs up to rounding. What differs is
said, and the exit status is 1.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from safetensors.numpy import load_file

TIMINGS = ("cpu_seconds", "wall_seconds")
DIFFER = {*TIMINGS, "checksum", "sha256", "checkpoint_minutes"}  # by timings, or set by a fault
OTHER = {"logs", "benchmarks", "tensorboard", "stats.jsonl", "SHA256SUMS"}  # not compared


def main(command: str, *names: str) -> int:
    """Run one of the commands."""
    if command == "note":
        run, notes = map(Path, names)
        finished = {"designs": timings(run), "step": step(run / "model.partial/checkpoint.pt")}
        notes.write_text(json.dumps(finished))
        return 0
    reference, run, *others = map(Path, names)
    if command == "check":
        notes = json.loads(others[0].read_text())
        problems = [*differences(reference, run), *repeated(run, notes)]
    else:
        problems = [*far(reference, run, others)]
    print("\n".join(problems), end="\n" * bool(problems))
    return int(bool(problems))


# --- finished work -------------------------------------------------------------------------------


def timings(run: Path) -> dict[str, float]:
    """Return the seconds of every finished simulation, by shard and design."""
    found = {}
    for path in (run / "data/simulations").glob("[0-9]*/[0-9]*.npz"):
        with np.load(path) as file:
            found[f"{path.parent.stem} {int(path.stem)}"] = float(file["wall_seconds"])
    for path in (run / "data/shards").glob("[0-9]*.zarr"):
        shard = zarr.open_group(path, mode="r")
        rows = zip(shard["index"][:], shard["wall_seconds"][:], strict=True)
        found |= {f"{path.stem} {index}": float(seconds) for index, seconds in rows}
    return found


def step(checkpoint: Path) -> int:
    """Return the last step of a checkpoint; 0: there is none."""
    return int(read(checkpoint)["progress"]["step"]) if checkpoint.exists() else 0


def repeated(run: Path, notes: dict[str, Any]) -> Iterator[str]:
    """Say what was done again although it was finished."""
    now = timings(run)
    again = [name for name, t in notes["designs"].items() if np.float32(t) != np.float32(now[name])]
    print(f"{len(notes['designs'])} designs and {notes['step']} steps were finished, ", end="")
    print(f"{len(again)} designs were simulated again")
    if again:
        yield f"simulated again: {again}"
    if notes["step"]:
        steps = [json.loads(line)["step"] for line in (run / "model/stats.jsonl").open()]
        shown = re.findall(r"train: (\d+)/(\d+)", (run / "logs/train.log").read_text())
        first = steps[-1] - int(shown[-1][1])
        if first < notes["step"]:
            yield f"training went on from step {first}, its checkpoint was of {notes['step']}"


# --- equality ------------------------------------------------------------------------------------


def differences(reference: Path, run: Path) -> Iterator[str]:
    """Say in which files two runs differ."""
    expected, found = files(reference), files(run)
    yield from (f"{name} is missing" for name in sorted(expected - found))
    yield from (f"{name} is left over" for name in sorted(found - expected))
    for name in sorted(expected & found):
        if not equal(read(reference / name), read(run / name)):
            yield f"{name} differs"


def files(run: Path) -> set[str]:
    """Return the files of a run; a zarr store counts as one."""
    found = set()
    for path in run.rglob("*"):
        name = path.relative_to(run)
        store = [k for k, part in enumerate(name.parts) if part.endswith(".zarr")]
        inside = name.parts[: store[0] + 1] if store else name.parts
        if (store or path.is_file()) and not OTHER & set(name.parts):
            found.add("/".join(inside))
    return found


def read(path: Path) -> Any:
    """Return the content of a file as mappings, lists and arrays."""
    if path.suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        attributes = group.attrs.asdict()
        names = attributes.get("arrays") or group.array_keys()
        return {"attributes": attributes} | {name: group[name][:] for name in names}
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    if path.suffix == ".pt":
        import torch  # only here, for it takes seconds

        return torch.load(path, weights_only=True)
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return path.read_bytes()


def equal(one: Any, other: Any) -> bool:
    """Return whether two contents are the same, bit for bit, but for what timings change."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            name in DIFFER or equal(one[name], other[name]) for name in one
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if hasattr(one, "shape"):  # an array, or a tensor of torch
        one, other = np.asarray(one), np.asarray(other)
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    return bool(one == other)


def far(reference: Path, run: Path, names: Iterable[Path]) -> Iterator[str]:
    """Say which files are further apart than rounding, which Adam makes larger."""
    for name in names:
        one, other = (list(arrays(read(folder / name))) for folder in (reference, run))
        pairs = list(zip(one, other, strict=True))
        largest = max(np.nanmax(np.abs(a - b), initial=0) for a, b in pairs)
        print(f"{name}: {len(pairs)} arrays, largest difference {largest:.1e}")
        if not all(np.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs):
            yield f"{name} differs"


def arrays(content: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of a content whose values aren't whole numbers."""
    if isinstance(content, dict):
        for name in sorted(content, key=str):
            if name not in TIMINGS:
                yield from arrays(content[name])
    elif hasattr(content, "shape") and np.asarray(content).dtype.kind == "f":
        yield np.asarray(content)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
