"""Run a command in several processes of one machine, or in those that ``srun`` has started.

What goes wrong in one of them ends all, with one sentence: the first process speaks for those that
fail with it, the launcher for those that cannot speak any more.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch.distributed import DistError

from crumple.errors import UserError

SILENCE = 5.0  # seconds after which another process says what the first one hasn't said
PAUSE = 1.0  # seconds that the others get to end by themselves when the first one has failed
GRACE = 30.0  # the same when another one has failed, for the first may have a checkpoint to write
FIRST_PORT, PORTS = 15000, 10000  # where the processes of a job of Slurm meet


def run(processes: int | None, work: Callable[[], None]) -> None:
    """Do ``work`` here, or in ``processes`` copies of this command that find each other.

    Parameters
    ----------
    processes
        Number of processes; by default one per GPU, and one on a machine without.
    work
        What each process does. Under a launcher (``srun`` with several tasks, ``accelerate
        launch``, ``torchrun``), which has started the processes already, it is called directly.

    Raises
    ------
    UserError
        What ``work`` raises; also when the other processes are gone, or one was killed.
    """
    gpus = torch.cuda.device_count()
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(slurm_world(os.environ, gpus))
    count = processes or max(1, gpus)
    if "WORLD_SIZE" not in os.environ and count > 1:
        raise SystemExit(_launch(count))
    first = int(os.environ.get("RANK", 0)) == 0
    try:
        work()
    except UserError:
        if not first:
            time.sleep(SILENCE)  # ends here where the first process fails too
        raise
    except KeyboardInterrupt:
        if not first:
            raise SystemExit(1) from None
        raise
    except RuntimeError as error:
        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        if not first:
            time.sleep(SILENCE)
        raise UserError(
            "the connection to the other processes was lost, because one of them has ended: what "
            "was finished so far is kept, run the same command again to continue"
        ) from error


def slurm_world(environment: Mapping[str, str], gpus: int) -> dict[str, str]:
    """Return the variables of ``torchrun`` for a process that ``srun`` has started beside others.

    Parameters
    ----------
    environment
        Of this process, with what ``srun`` sets. The processes meet at ``MASTER_ADDR``, or else at
        the node that ``srun`` was called on, which in a batch job is that of the first process.
    gpus
        Number of GPUs that this process sees; only its own where Slurm binds them to tasks.

    Returns
    -------
    dict
        Empty for a process that ``srun`` hasn't started, or alone.
    """
    count = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if count == 1:
        return {}
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    return {
        "MASTER_ADDR": environment.get("MASTER_ADDR") or environment["SLURM_LAUNCH_NODE_IPADDR"],
        "MASTER_PORT": str(FIRST_PORT + (job + step) % PORTS),
        "WORLD_SIZE": str(count),
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": str(int(environment["SLURM_LOCALID"]) % max(1, gpus)),
    }


def _launch(count: int) -> int:
    """Start the copies, pass signals on to them, and return their exit status.

    Raises
    ------
    UserError
        When one was killed.
    """
    children = _start(count)

    def forward(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, forward)
    deadline = math.inf
    while True:
        codes = [child.poll() for child in children]
        killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
        if killed or time.monotonic() > deadline:
            break
        if None not in codes:
            return int(any(codes))
        if any(codes):
            deadline = min(deadline, time.monotonic() + (PAUSE if codes[0] else GRACE))
        time.sleep(0.05)
    for child in children:
        child.kill()
        child.wait()
    if killed:
        name = signal.Signals(-children[killed[0]].returncode).name
        why = " (as the system does when memory runs out)" if name == "SIGKILL" else ""
        raise UserError(
            f"process {killed[0]} of {count} was ended by {name}{why}, so the others were stopped: "
            "what was finished so far is kept, run the same command again to continue"
        )
    return 1


def _start(count: int) -> list[subprocess.Popen[bytes]]:
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
    return [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
