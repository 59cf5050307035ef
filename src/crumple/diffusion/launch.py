"""Run a command in several processes of one machine, as ``accelerate launch`` does for clusters."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from crumple.errors import UserError

GRACE = 30.0  # seconds that the other processes get to end by themselves when one has failed


def run(processes: int | None, work: Callable[[], None]) -> None:
    """Do ``work`` here, or in ``processes`` copies of this command that find each other.

    Parameters
    ----------
    processes
        Number of processes; by default one per GPU, and one on a machine without.
    work
        What each process does. Under a launcher (``accelerate launch``, ``torchrun``), which has
        set ``WORLD_SIZE`` already, it is called directly.
    """
    count = processes or max(1, torch.cuda.device_count())
    if "WORLD_SIZE" not in os.environ and count > 1:
        raise SystemExit(_launch(count))
    try:
        work()
    except UserError:
        if int(os.environ.get("RANK", 0)) > 0:  # the first process says it for all
            raise SystemExit(1) from None
        raise


def _launch(count: int) -> int:
    """Start the copies, pass signals on to them, and return their exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // count)
    common = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    command = [sys.executable, "-m", "crumple", *sys.argv[1:]]
    children = [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]

    def forward(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, forward)
    deadline = None
    while any(child.poll() is None for child in children):
        time.sleep(0.1)
        if deadline is None and any(child.poll() not in (None, 0) for child in children):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
    return int(any(child.returncode for child in children))
