"""An independent quasi-static code, CalculiX, on a block with a hole; skipped without it."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from cells import grid
from crumple.cli import main
from crumple.config import Config

FINAL_STRAIN, INCREMENTS = 0.06, 20


def block():
    """A block with a rectangular hole, away from the sides of the cell."""
    nodes, cells = grid(20, 40, width=0.5, origin=(0.25, 0.0))
    x, y = np.abs(nodes[cells].mean(axis=1) - 0.5).T
    used, cells = np.unique(cells[(x > 0.125) | (y > 0.15)], return_inverse=True)
    return nodes[used], cells.reshape(-1, 4)


def calculix_input(nodes, cells):
    """Plane strain, finite deformation, the presets' material, platens that hold."""
    material = Config().material
    node_lines = [f"{i + 1}, {x:.9g}, {y:.9g}, 0" for i, (x, y) in enumerate(nodes)]
    element_lines = [f"{i + 1}, {', '.join(map(str, cell + 1))}" for i, cell in enumerate(cells)]
    lines = ["*NODE, NSET=ALL", *node_lines, "*ELEMENT, TYPE=CPE4, ELSET=ALL", *element_lines]
    for name, height in (("BOTTOM", 0), ("TOP", 1)):
        lines += [f"*NSET, NSET={name}"]
        lines += [f"{i + 1}," for i in np.flatnonzero(nodes[:, 1] == height)]
    lines += ["*MATERIAL, NAME=M", "*ELASTIC"]
    lines += [f"{material.youngs_modulus}, {material.poisson_ratio}", "*PLASTIC"]
    lines += [f"{stress}, {strain}" for stress, strain in material.hardening]
    lines += ["*SOLID SECTION, ELSET=ALL, MATERIAL=M", "1.", "*BOUNDARY", "BOTTOM, 1, 2"]
    lines += ["*STEP, NLGEOM, INC=1000", "*STATIC, DIRECT", f"{1 / INCREMENTS}, 1."]
    lines += ["*BOUNDARY", "TOP, 1, 1, 0", f"TOP, 2, 2, {-FINAL_STRAIN}"]
    lines += ["*NODE PRINT, NSET=TOP, TOTALS=ONLY", "RF", "*END STEP", ""]
    return "\n".join(lines)


@pytest.mark.skipif(shutil.which("ccx") is None, reason="CalculiX (ccx) is not installed")
def test_calculix_reports_reactions_at_the_end_of_an_increment(tmp_path):
    nodes, cells = block()
    (tmp_path / "block.inp").write_text(calculix_input(nodes, cells))
    subprocess.run(["ccx", "block"], cwd=tmp_path, check=True, capture_output=True)
    lines = (tmp_path / "block.dat").read_text().splitlines()
    heads = [i for i, line in enumerate(lines) if "total force" in line]
    assert len(heads) == INCREMENTS
    case = {
        "nodes": nodes,
        "cells": cells,
        "boundary": "bonded",
        "damping": 0.0,
        "strain": FINAL_STRAIN * np.array([float(lines[i].split()[-1]) for i in heads]),
        "stress_mpa": -np.array([float(lines[i + 2].split()[1]) for i in heads]),
    }
    np.savez(tmp_path / "block.npz", **case)
    errors = {}
    for reaction in ("end", "hht"):
        out = tmp_path / f"{reaction}.json"
        command = ["verify", str(tmp_path / "block.npz"), "--same-mesh", "--json", str(out)]
        assert main([*command, "--reaction", reaction]) == 0
        errors[reaction] = json.loads(out.read_text())["cases"][0]["nrmse"]
    assert errors["end"] < 0.025  # CalculiX' elements are stiffer than those with mean dilatation
    assert errors["hht"] > 0.04  # control
