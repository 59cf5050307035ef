"""What a search has simulated so far: one file of results per round, and all of them together.

The folder of the search for one goal holds, for every round (``000``, ``001``, ...)::

    rounds/000/designs/proposals.npz   what is proposed, and what is expected of it
    rounds/000/designs/0000.npz        the same, in shards, in the format of the random designs
    rounds/000/shards/0000.zarr        their simulations, in the format of the data set
    rounds/000/results.npz             what :mod:`crumple.search.collecting` takes from both
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.layout import CURVE_STRAIN, QUARTER
from crumple.readers import Array, Schema, read_npz

PROPOSED = "proposals.npz"
AGAIN = "remove its round and all later ones, and run `crumple design` again"
PROPOSALS = Schema(
    AGAIN,
    {
        "made_by": Array("U"),
        "index": Array("iu", ("n",), low=0),
        "quarter": Array("iu", ("n", QUARTER, QUARTER), low=0, high=1),
        "source": Array("U", ("n",)),
        "predicted_error": Array("f", ("n",)),
    },
)
RESULTS = Schema(
    AGAIN,
    {
        **PROPOSALS.arrays,
        "curve_stress": Array("f", ("n", len(CURVE_STRAIN))),
        "status": Array("U", ("n",)),
        "violation": Array("U", ("n",)),
        "error": Array("f", ("n",)),
    },
)


class History(NamedTuple):
    """Designs that a search has had simulated, in the order of their numbers.

    Attributes
    ----------
    index
        (n) number of the design: how many were proposed before it.
    quarter
        (n, 48, 48) uint8.
    curve_stress
        (n, 51) MPa, NaN where the simulation failed.
    status
        (n) ``ok`` or why there is no curve.
    violation
        (n) which limit of the goal the design exceeds, if it does.
    error
        (n) :meth:`crumple.goals.Goal.error` of the curve; infinite without a curve.
    source
        (n) how the design was proposed: ``library``, ``aim``, ``flip``, or a move of
        :mod:`crumple.refinement.moves`.
    predicted_error
        (n) what was expected before the simulation; NaN where nothing was.
    round
        (n) in which it was proposed, from 0.
    """

    index: NDArray  # type: ignore[assignment]
    quarter: NDArray
    curve_stress: NDArray
    status: NDArray
    violation: NDArray
    error: NDArray
    source: NDArray
    predicted_error: NDArray
    round: NDArray

    @property
    def score(self) -> NDArray:
        """(n) error of designs that keep to the limits, infinite of others."""
        return np.where(self.violation == "", self.error, np.inf)


def read_history(paths: Sequence[Path]) -> History:
    """Read the results of rounds, in their order; none gives an empty history.

    Raises
    ------
    UserError
        When a file is missing or damaged.
    """
    parts = [EMPTY]
    for number, path in enumerate(paths):
        part = read_npz(path, RESULTS)
        parts.append(part | {"round": np.full(len(part["index"]), number)})
    return History(**{name: np.concatenate([p[name] for p in parts]) for name in History._fields})


EMPTY: dict[str, NDArray] = {
    **{name: np.zeros(0, np.int64) for name in ("index", "round")},
    "quarter": np.zeros((0, QUARTER, QUARTER), np.uint8),
    "curve_stress": np.zeros((0, len(CURVE_STRAIN))),
    **{name: np.zeros(0, str) for name in ("status", "violation", "source")},
    **{name: np.zeros(0) for name in ("error", "predicted_error")},
}
