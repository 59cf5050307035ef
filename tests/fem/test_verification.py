"""`crumple verify` on a case with a known answer: the solver's own, in the reference's form."""

import json

import numpy as np
import pytest

from cells import grid
from crumple import verification
from crumple.cli import main
from crumple.config import Config
from crumple.fem.compression import Simulation


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A cell with a square hole between bonded platens, with one quadrilateral as two triangles."""
    nodes, cells = grid(24, 24)
    centre = nodes[cells].mean(axis=1)
    cells = cells[np.abs(centre - 0.5).max(axis=1) > 0.25]
    used, cells = np.unique(cells, return_inverse=True)
    nodes, cells = nodes[used], cells.reshape(-1, 4)
    a, b, c, d = cells[40]
    cells = np.vstack([np.delete(cells, 40, axis=0), [[a, b, c, c], [a, c, d, d]]])
    known = {"nodes": nodes, "cells": cells, "boundary": "bonded", "damping": 0.002}
    config = verification.case_config(known, Config())
    assert config.loading.platens == "bonded" and config.material.damping == 0.002
    simulation = Simulation(nodes, cells, config)
    strain, stress, frames = [0.0], [0.0], {}
    for target in verification.reference_increments(np.array([0.1])):
        for part in np.linspace(simulation.strain, target, verification.INCREMENTS + 1)[1:]:
            simulation.advance(part)
        strain.append(target)
        stress.append(simulation.stress)
        if round(target, 3) in (0.02, 0.1):
            frames[round(target, 3)] = simulation.displacement() + [0.013, 0.0]
    stress = verification.time_weighted(np.array(stress))
    path = tmp_path_factory.mktemp("case") / "hole.npz"
    np.savez(
        path,
        **known,
        strain=np.delete(strain, 1),  # without the half increment
        stress_mpa=np.delete(stress, 1),
        frame_strain=list(frames),
        u=list(frames.values()),
    )
    return path


def run(path, *options, out):
    assert main(["verify", str(path), "--json", str(out), *options]) == 0
    return json.loads(out.read_text())["cases"][0]


def test_the_same_mesh_reproduces_the_case(case, tmp_path):
    result = run(case, "--same-mesh", out=tmp_path / "out.json")
    assert result["nrmse"] < 1e-6 and result["nrmse_10"] < 1e-6
    assert len(result["u_error"]) == 2 and max(result["u_error"]) < 1e-6
    assert result["newton_iterations"] > 25 and result["unknowns"] > 500 and result["cpu_s"] > 0


def test_a_new_mesh_is_close_and_another_material_is_not(case, tmp_path):
    fine = '{"mesh": {"element_size": 0.03}}'
    result = run(case, "--config", fine, out=tmp_path / "fine.json")
    assert 1e-5 < result["nrmse"] < 0.04
    assert max(result["u_error"]) < 0.05
    softer = '{"mesh": {"element_size": 0.03}, "material": {"youngs_modulus": 1800}}'
    assert run(case, "--config", softer, out=tmp_path / "soft.json")["nrmse"] > 0.04


def test_reaction_is_weighted_as_by_hht():
    weighted = verification.time_weighted(np.array([0.0, 1.0, 1.0, 3.0]))
    assert weighted == pytest.approx([0.0, 0.58579, 1.0, 0.58579 * 3 + 0.41421])


@pytest.mark.parametrize("missing", ["nodes", "stress_mpa"])
def test_an_incomplete_case_is_one_sentence(case, tmp_path, capsys, missing):
    with np.load(case) as file:
        arrays = {name: file[name] for name in file if name != missing}
    np.savez(tmp_path / "bad.npz", **arrays)
    assert main(["verify", str(tmp_path / "bad.npz")]) == 1
    assert f"lacks {missing}" in capsys.readouterr().err
