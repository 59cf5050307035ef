"""Processes that run the finite elements for a search, in the environment that has them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from crumple.errors import UserError

Order = tuple[Path, Path]  # designs, and the shard that they become


class FiniteElements:
    """Processes of ``crumple serve-shards``, each with one order at a time.

    Parameters
    ----------
    workers
        Running processes.
    """

    def __init__(self, workers: Sequence[subprocess.Popen[str]]) -> None:
        self.idle: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        self.count = len(workers)
        for worker in workers:
            self.idle.put(worker)

    def make(self, orders: Sequence[Order]) -> None:
        """Make the shards of all orders.

        Raises
        ------
        UserError
            When a shard cannot be made, or a process has died.
        """
        with ThreadPoolExecutor(self.count) as pool:
            list(pool.map(self._one, orders))

    def _one(self, order: Order) -> None:
        worker = self.idle.get()
        try:
            answer = _ask(worker, order)
        finally:
            self.idle.put(worker)
        if answer is not None:
            raise UserError(answer)


def _ask(worker: subprocess.Popen[str], order: Order) -> str | None:
    """Give a process an order; return what it says is wrong, if anything."""
    assert worker.stdin and worker.stdout
    try:
        worker.stdin.write(json.dumps([str(path) for path in order]) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if answer:
        return json.loads(answer)
    code = worker.wait()
    reason = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return (
        f"a process of the finite elements has ended ({reason}): what was finished so far is kept, "
        "run the same command again to continue"
    )


@contextmanager
def finite_elements(settings: str, processes: int, log: IO[str]) -> Iterator[FiniteElements]:
    """Start processes; they end with the block.

    Parameters
    ----------
    settings
        JSON of the configuration.
    processes
        How many.
    log
        Where their messages go.
    """
    command = [interpreter(), "-m", "crumple", "serve-shards", "--config", settings]
    workers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for the search, which lets them finish a design
        )
        for _ in range(processes)
    ]
    try:
        yield FiniteElements(workers)
    finally:
        for worker in workers:
            worker.kill()  # what they have finished is on the disk
            worker.wait()


def run_finite_elements(command: str, arguments: Sequence[str | Path], log: IO[str]) -> None:
    """Run a command of crumple where the finite elements are.

    Raises
    ------
    UserError
        When it fails; its messages are in the log.
    """
    words = [interpreter(), "-m", "crumple", command, *map(str, arguments)]
    done = subprocess.run(words, stdout=log, stderr=log, env=environment())
    if done.returncode:
        raise UserError(f"`crumple {command}` has failed: see the end of {log.name}")


def environment() -> dict[str, str]:
    """Return the environment of a process that runs the finite elements on one core."""
    source = str(Path(__file__).parents[2])
    return os.environ | {name: "1" for name in THREADS} | {"PYTHONPATH": source}


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def interpreter() -> str:
    """Return the Python that has the finite elements.

    It is ``$FEM_PYTHON``, as in the workflow; or that of ``.venv-fe`` beside the sources; or this
    one where dolfinx is installed beside torch.

    Raises
    ------
    UserError
        When there is none.
    """
    beside = Path(__file__).parents[3] / ".venv-fe" / "bin" / "python"
    if "FEM_PYTHON" in os.environ:
        return os.environ["FEM_PYTHON"]
    if beside.exists():
        return str(beside)
    if find_spec("dolfinx") is not None:
        return sys.executable
    raise UserError(
        "the finite elements are not installed here: run `bash setup.sh`, or name the Python that "
        "has them in the variable FEM_PYTHON"
    )
