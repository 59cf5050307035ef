"""Progress of long loops: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def progress(iterable: Iterable[T], total: int, desc: str, unit: str = "design") -> Iterator[T]:
    """Yield from ``iterable`` and report to stderr how far it is.

    Parameters
    ----------
    iterable
        The work; an item counts as done when the next one is asked for.
    total
        Number of items.
    desc, unit
        What is counted, as in ``simulate 0003: 12/64 designs, 3.1 s/design, ETA 160 s``.
    """
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=desc, unit=unit)
        return
    start = last_line = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - last_line >= SECONDS_BETWEEN_LINES:
            print(progress_line(desc, unit, done, total, now - start), file=sys.stderr, flush=True)
            last_line = now


def progress_line(desc: str, unit: str, done: int, total: int, seconds: float) -> str:
    """Return one line of a log: counts, rate and the time that is left."""
    rate = seconds / done
    eta = rate * (total - done)
    return f"{desc}: {done}/{total} {unit}s, {rate:.3g} s/{unit}, ETA {eta:.0f} s"
