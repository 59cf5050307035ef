"""Designs with what is predicted of them, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.layout import CURVE_STRAIN, QUARTER


class Start(NamedTuple):
    """A design to go on from."""

    quarter: NDArray  # (48, 48)
    curve_stress: NDArray  # (51,) MPa, simulated or predicted


class Pool(NamedTuple):
    """Designs that have not been simulated, with what is predicted of them."""

    quarter: NDArray  # (n, 48, 48) uint8
    source: NDArray  # (n,) what made them
    curve_stress: NDArray  # (n, 51) MPa, mean of the prediction
    expected_error: NDArray  # (n,) root mean square over the curves of the prediction
    merit: NDArray  # (n,) error of the mean curve with a part of the scatter; less is better

    def __add__(self, other: Pool) -> Pool:  # type: ignore[override]
        """Return both as one."""
        return Pool(*map(np.concatenate, zip(self, other, strict=True)))

    def start(self, row: int) -> Start:
        """Return one of the designs to go on from."""
        return Start(self.quarter[row], self.curve_stress[row])


EMPTY = Pool(
    np.zeros((0, QUARTER, QUARTER), np.uint8),
    np.zeros(0, str),
    np.zeros((0, len(CURVE_STRAIN))),
    np.zeros(0),
    np.zeros(0),
)

# Judges designs (n, 48, 48); the text says what made them, all or each.
Judging = Callable[[NDArray, str | NDArray], Pool]


def differing(one: NDArray, other: NDArray) -> NDArray:
    """In how many pixels designs (n, 48, 48) and (m, 48, 48) differ, (n, m).

    A design and its shift by half a period, which mirrors the quarter, are one.
    """
    a, counts = one.reshape(-1, QUARTER**2).astype(np.float32), []
    for flip in (other, other[:, :, ::-1]):
        b = flip.reshape(-1, QUARTER**2).astype(np.float32)
        counts.append(a.sum(axis=1)[:, None] + b.sum(axis=1) - 2 * a @ b.T)
    return np.minimum(*counts)


def apart(
    quarter: NDArray,
    order: Sequence[int],
    count: int,
    pixels: int,
    allowed: Callable[[int], bool] = lambda k: True,
    chosen: Sequence[int] = (),
) -> list[int]:
    """Choose designs that differ from each other.

    Parameters
    ----------
    quarter
        (n, 48, 48).
    order
        Rows, the best one first.
    count
        At most so many.
    pixels
        By which each differs from all others, and from those ``chosen`` before.
    allowed
        Whether a row may be chosen, looked at last.
    """
    found: list[int] = []
    for k in order:
        if len(found) == count:
            break
        others = differing(quarter[[k]], quarter[[*chosen, *found]])
        if np.min(others, initial=pixels) >= pixels and allowed(k):
            found.append(k)
    return found
