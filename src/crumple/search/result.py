"""What is kept of the best designs of a search: the folder that `crumple winner` writes.

::

    made_by.json             settings, versions, hashes (:class:`WinnerRecord`)
    finer_mesh.csv           errors of the designs of which one has become the winner
    winner/design.png        the design; `crumple simulate-one` and others take it
    winner/fields.npz        what its page shows (:data:`FIELDS`)
    winner/curve.csv ...     what `crumple simulate-one` writes
    sensitivity/             what `crumple sensitivity` writes; a finer mesh is part of it
    exports/design.svg ...   what `crumple export` writes
    runner_up_1/             a design of another shape: design.png and fields.npz
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crumple.goals import Measures
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN, QUARTER
from crumple.provenance import RECORD, Record
from crumple.readers import Array, Schema, read_json, read_npz

ADVICE = "make it again with `crumple winner`"
WINNER, SENSITIVITY, EXPORTS = "winner", "sensitivity", "exports"
FINER_MESH, FINER_ERROR = "finer_mesh.csv", "error_finer_mesh"
TABLE, CURVES = "sensitivity.csv", "curves.csv"
DESIGN, FIELDS_FILE = "design.png", "fields.npz"
FRAMES = len(FRAME_STRAIN)
LARGEST = 6e4  # cell sides or MPa
NODAL = Array("f", (FRAMES, "nodes"), low=-LARGEST, high=LARGEST)
FIELDS = Schema(
    ADVICE,
    {
        "index": Array("iu", low=0),  # number in the search
        "quarter": Array("iu", (QUARTER, QUARTER), low=0, high=1),
        "curve_stress": Array("f", (len(CURVE_STRAIN),), low=-LARGEST, high=LARGEST),
        "measures": Array("f", (len(Measures._fields),)),
        "nodes": Array("f", ("nodes", 2), low=-LARGEST, high=LARGEST),
        "cells": Array("iu", ("cells", 4), low=0),
        "displacement": Array("f", (FRAMES, "nodes", 2), low=-LARGEST, high=LARGEST),
        "vertical_stress": NODAL,
        "plastic_strain": NODAL,
    },
)


class WinnerRecord(Record):
    """What made the folder, with the versions of the packages."""

    versions: dict[str, str]


def runner_up(number: int) -> str:
    """Return the name of the folder of a runner-up; they count from 1."""
    return f"runner_up_{number}"


def nodal_means(cells: NDArray, values: NDArray, count: int) -> NDArray:
    """Average values at Gauss points in the nodes, each from the nearest point of every element.

    Parameters
    ----------
    cells
        (M, 4) quadrilaterals, counter-clockwise.
    values
        (F, M, 4) at the Gauss points, which are in the order of the corners.
    count
        Number of nodes, N.

    Returns
    -------
    ndarray
        (F, N).
    """
    corner = np.asarray(cells).ravel()
    shares = np.bincount(corner, minlength=count)
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    sums = np.array([np.bincount(corner, frame, count) for frame in flat])
    return sums / np.maximum(shares, 1)


def read_fields(folder: Path) -> list[dict[str, NDArray]]:
    """Read the designs of a folder of `crumple winner`, the winner first.

    Raises
    ------
    UserError
        When a file is missing or damaged.
    """
    found = [read_npz(folder / WINNER / FIELDS_FILE, FIELDS)]
    while (path := folder / runner_up(len(found)) / FIELDS_FILE).exists():
        found.append(read_npz(path, FIELDS))
    return found


def read_winner_record(folder: Path) -> WinnerRecord:
    """Read what made a folder of `crumple winner`.

    Raises
    ------
    UserError
        When it says nothing of that.
    """
    return read_json(folder / RECORD, WinnerRecord, ADVICE)
