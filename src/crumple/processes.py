"""Work through many items in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from crumple.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int | None
) -> Iterator[Result]:
    """Yield what ``work`` returns, in any order; a stop waits for the items that were begun.

    Parameters
    ----------
    work
        Function of a module; it and its items travel to other processes.
    items
        What it is called with.
    processes
        How many processes; by default one per core that this one may use.

    Raises
    ------
    UserError
        That of ``work``, or when a process was killed.
    """
    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes} is not possible: name at least 1")
    count = min(processes or len(os.sched_getaffinity(0)), max(len(items), 1))
    if count == 1:
        yield from map(work, items)
        return
    # A fork would copy the locks of zarr's threads as they happen to be.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_begin)
    try:
        for done in as_completed([pool.submit(work, item) for item in items]):
            yield done.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, perhaps for want of memory: run the same command again to "
            "continue, with fewer --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the first process, and end with it whatever ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only the others begin here
    parent.join()
    os._exit(1)
