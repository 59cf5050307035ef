"""The designs that models have learnt from, as the page shows them: of a data set or a library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.dataset import Dataset
from crumple.designs import mirror
from crumple.layout import CURVE_STRAIN
from crumple.library import read_library
from crumple.provenance import hash_file


class Member(NamedTuple):
    """A design with its curve."""

    index: int  # type: ignore[assignment]
    solid: NDArray  # (96, 96)
    strain: NDArray  # (51,)
    stress: NDArray  # (51,) MPa


class DesignCollection(NamedTuple):
    """Simulated designs.

    Attributes
    ----------
    kind
        ``data set`` or ``library``.
    inputs
        Hashes by which the records of what was made from it name it.
    valid
        How many have a result.
    failures
        Number and reason of the others; a library knows of none.
    cpu_seconds
        (m) of the simulations, as far as they are known.
    members
        Some of the designs, from all over, weakest first.
    solid
        Returns the pixels (96, 96) of the design with a number, None where there is no such one.
    facts
        What results depend on: name and value.
    """

    kind: str
    inputs: dict[str, str]
    valid: int
    failures: list[dict[str, Any]]
    cpu_seconds: NDArray
    members: list[Member]
    solid: Callable[[int], NDArray | None]
    facts: list[tuple[str, str]]


def read_collection(path: Path, count: int) -> DesignCollection:
    """Read a data set (``dataset.json``) or a library (``.npz``).

    Parameters
    ----------
    path
        The file.
    count
        How many members are wanted, fewer where there are fewer.

    Raises
    ------
    UserError
        When it cannot be read.
    """
    return _library(path, count) if path.suffix == ".npz" else _dataset(path, count)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return ``count`` items at even distances, all of them where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _dataset(path: Path, count: int) -> DesignCollection:
    dataset = Dataset(path)
    manifest = dataset.manifest
    places = {
        index: (number, row)
        for number, shard in enumerate(manifest["shards"])
        for row, index in enumerate(shard["indices"])
    }

    def solid(index: int) -> NDArray | None:
        return dataset.read("solid", [places[index]])[0] if index in places else None

    return DesignCollection(
        "data set",
        {"dataset": hash_file(path)},
        len(manifest["valid"]),
        manifest["failures"],
        _cpu_seconds(dataset),
        _members(dataset, count),
        solid,
        [("configuration", manifest["config_hash"]), ("versions", _listed(manifest["versions"]))],
    )


def _cpu_seconds(dataset: Dataset) -> NDArray:
    shards = [dataset.shard(number) for number in range(len(dataset.manifest["shards"]))]
    timed = [shard["cpu_seconds"][:] for shard in shards if "cpu_seconds" in shard]
    seconds = np.concatenate([np.zeros(0), *timed])  # imported shards have none
    return seconds[np.isfinite(seconds) & (seconds > 0)]


def _members(dataset: Dataset, count: int) -> list[Member]:
    places = np.concatenate([dataset.split["train"], dataset.split["validation"]])
    places = places[np.lexsort(places.T[::-1])]
    members = []
    for number, row in spread(places.tolist(), count):
        shard = dataset.shard(number)
        members.append(
            Member(
                int(shard["index"][row]),
                shard["solid"][row],
                shard["curve_strain"][:],
                shard["curve_stress"][row],
            )
        )
    return _by_strength(members)


def _library(path: Path, count: int) -> DesignCollection:
    library = read_library(path)
    rows = {index: row for row, index in enumerate(library.index.tolist())}

    def solid(index: int) -> NDArray | None:
        return mirror(library.quarter[rows[index]]) if index in rows else None

    members = [
        Member(index, mirror(library.quarter[row]), CURVE_STRAIN, library.curve_stress[row])
        for index, row in spread(list(rows.items()), count)
    ]
    designs = library.record["inputs"]["designs"]
    return DesignCollection(
        "library",
        {"designs": designs},
        len(library),
        [],
        np.zeros(0),
        _by_strength(members),
        solid,
        [("designs", designs[:16]), ("versions", _listed(library.record["versions"]))],
    )


def _by_strength(members: Sequence[Member]) -> list[Member]:
    return sorted(members, key=lambda member: float(member.stress[-1]))


def _listed(versions: dict[str, list[str]]) -> str:
    return "; ".join(f"{name} {', '.join(found)}" for name, found in versions.items())
