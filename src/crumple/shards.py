"""Designs to a shard in one process: mesh, simulate and rasterise, one after the other.

The workflow runs these as three rules. Where designs come a few at a time, as in a search, starting
three programs takes longer than the simulations; so this does all in one, and a server goes on with
the next file of designs when it has finished one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from crumple.atomic import atomic_path, save_record
from crumple.config import Config
from crumple.designs import DESIGNS
from crumple.errors import UserError
from crumple.fields import rasterise
from crumple.meshing import mesh_shard
from crumple.provenance import made_by, read_record
from crumple.readers import read_npz
from crumple.simulation import simulate_shard


def make_shard(config: Config, designs: Path, out: Path) -> None:
    """Simulate a file of designs.

    What an interrupted run has finished is kept beside ``out`` and not done again.

    Parameters
    ----------
    config
        ``mesh``, ``material``, ``contact``, ``loading`` and ``fields`` count here.
    designs
        File of :func:`crumple.designs.sample_shard`, or of a search. One without designs gives a
        folder that holds its record alone.
    out
        Shard (:mod:`crumple.dataset`).

    Raises
    ------
    UserError
        When the file cannot be read, or ``out`` cannot be written.
    """
    known = read_npz(designs, DESIGNS)
    if not len(known["index"]):
        record = made_by(
            "rasterise", config, read_record(known["made_by"], designs, "make it again")
        )
        with atomic_path(out) as folder:
            folder.mkdir()
            save_record(folder, record)
        return
    work = out.with_name(f"{out.stem}.work")
    mesh_shard(config, designs, work / "meshes")
    simulate_shard(config, work / "meshes", work / "simulations")
    rasterise(config, designs, work / "simulations", out)
    shutil.rmtree(work)


def serve(config: Config, orders: TextIO = sys.stdin) -> None:
    """Make shards until there are no more orders.

    Parameters
    ----------
    config
        See :func:`make_shard`.
    orders
        Lines of JSON ``[designs, out]``. Each is answered by a line on standard output: ``null``,
        or the sentence that says why there is no shard.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to standard output as they please
    for line in orders:
        designs, out = map(Path, json.loads(line))
        answer = None
        try:
            make_shard(config, designs, out)
        except UserError as error:
            answer = str(error)
        except OSError as error:
            answer = f"{error.strerror or error}: {error.filename or out}"
        print(json.dumps(answer), file=answers, flush=True)
