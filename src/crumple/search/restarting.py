"""When a search is stuck, and what it begins anew from.

A search that follows its best designs may be in a family of designs that cannot meet the goal, and
which family that is differs from seed to seed. So when the best design has hardly come nearer for
a while, every second round belongs to a fresh start, which knows nothing near the best designs of
the starts before it (sequential niching: Beasley, Bull and Martin, Evol. Comput. 1 (2), 101, 1993).
When a fresh start is stuck as well, another one begins. The rounds between go on from all that is
known, fresh starts included. The correction of the forward model is learned from everything, so
that a fresh start begins wiser than the search did.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GAIN = 0.05  # by which the error shrinks where a search isn't stuck
PATIENCE = 100  # simulations that it gets for that
PATIENCE_AFRESH = 30  # simulations of its own that a fresh start gets
ROUNDS = 3  # that both get at least: large rounds learn less per simulation


class FreshStart(NamedTuple):
    """What the round of a fresh start begins with; rows are those of the history."""

    own: NDArray  # rows that were simulated for this start
    left: NDArray  # rows of the best designs of the starts before, which it keeps away from


def fresh_start(score: NDArray, rounds: NDArray, number: int) -> FreshStart | None:
    """Say whether a round belongs to a fresh start.

    Parameters
    ----------
    score
        (n,) errors of all that was simulated, in its order; infinite where a limit is exceeded.
    rounds
        (n,) in which that was, ascending from 0.
    number
        Of the round that is asked about, which comes after these.
    """
    first: int | None = None
    own: list[int] = []
    left: list[int] = []
    for done in range(number):
        if first is None:
            so_far = rounds <= done
            if stuck(score[so_far], rounds[so_far], PATIENCE):
                first = done + 1
                left.append(int(np.argmin(score[so_far])))
        elif belongs(done, first):
            own += np.flatnonzero(rounds == done).tolist()
            if stuck(score[own], rounds[own], PATIENCE_AFRESH):
                left.append(own[int(np.argmin(score[own]))])
                own = []
    if first is None or not belongs(number, first):
        return None
    return FreshStart(np.array(own, int), np.array(left, int))


def belongs(number: int, first: int) -> bool:
    """Whether a round, from the first one of fresh starts on, belongs to them."""
    return (number - first) % 2 == 0


def stuck(score: NDArray, rounds: NDArray, patience: int) -> bool:
    """Whether the last rounds, of at least so many designs, have hardly brought the error down."""
    for first in np.unique(rounds)[::-1][ROUNDS - 1 :]:
        late = rounds >= first
        if late.sum() >= patience:
            early = score[~late]
            return bool(len(early) and score.min() > (1 - GAIN) * early.min())
    return False
