"""`crumple verify` on a case with a known answer: the solver's own, in the reference's form."""

import json

import numpy as np
import pytest

from cells import grid
from crumple import verification
from crumple.cli import main
from crumple.config import Config
from crumple.fem.compression import Simulation


def hole():
    """A cell with a square hole, one of its quadrilaterals given as two triangles."""
    nodes, cells = grid(24, 24)
    centre = nodes[cells].mean(axis=1)
    cells = cells[np.abs(centre - 0.5).max(axis=1) > 0.25]
    used, cells = np.unique(cells, return_inverse=True)
    nodes, cells = nodes[used], cells.reshape(-1, 4)
    a, b, c, d = cells[40]
    cells = np.vstack([np.delete(cells, 40, axis=0), [[a, b, c, c], [a, c, d, d]]])
    return {"nodes": nodes, "cells": cells, "boundary": "bonded"}


def solve(case, increments, frames):
    """The solver's own reactions at the increments, and its displacements at some of them."""
    config = verification.case_config(case | {"strain": increments}, Config())
    assert config.loading.platens == "bonded"
    assert config.material.damping == case["damping"]
    simulation = Simulation(case["nodes"], case["cells"], config)
    stress, shapes = [], []
    for target in increments:
        for part in np.linspace(simulation.strain, target, verification.INCREMENTS + 1)[1:]:
            simulation.advance(part)
        stress.append(simulation.stress)
        if target in frames:
            shapes.append(simulation.displacement() + [0.013, 0.0])
    return np.array(stress), np.array(shapes)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """As Abaqus reports it: 0.4 % of strain per increment, the first one halved, HHT reactions."""
    known = hole() | {"damping": 0.002, "reaction": "hht"}
    increments = np.append(0.002, np.arange(1, 26) * 0.004)
    frames = increments[[5, 25]]
    stress, u = solve(known, increments, frames)
    stress = verification.hht_reaction(np.append(0.0, stress))
    path = tmp_path_factory.mktemp("case") / "hole.npz"
    np.savez(
        path,
        **known,
        strain=np.append(0.0, increments[1:]),  # without the half increment
        stress_mpa=np.delete(stress, 1),
        frame_strain=frames,
        u=u,
    )
    return path


@pytest.fixture(scope="module")
def quasi_static(tmp_path_factory):
    """As a quasi-static code reports it: no damping, reactions at the end, strains of its own."""
    known = hole() | {"damping": 0.0}
    strain = np.array([0.0007, 0.0031, 0.0069, 0.0101, 0.0138, 0.0171, 0.0203])
    stress, u = solve(known, strain, strain[[3, 6]])
    path = tmp_path_factory.mktemp("quasi_static") / "hole.npz"
    np.savez(path, **known, strain=strain, stress_mpa=stress, frame_strain=strain[[3, 6]], u=u)
    return path


def change(path, out, **changes):
    """A copy of a case with some arrays replaced, or left out where they are None."""
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(out, **{name: values for name, values in arrays.items() if values is not None})
    return out


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


def test_any_strains_and_reactions_at_the_end_of_the_increment(quasi_static, tmp_path):
    result = run(quasi_static, "--same-mesh", out=tmp_path / "out.json")
    assert result["reaction"] == "end" and result["nrmse"] < 1e-6 and result["nrmse_10"] < 1e-6
    assert len(result["u_error"]) == 2 and max(result["u_error"]) < 1e-6
    # control: read as if Abaqus' implicit dynamics had written it
    other = run(quasi_static, "--same-mesh", "--reaction", "hht", out=tmp_path / "hht.json")
    assert other["reaction"] == "hht" and other["nrmse"] > 0.02


def test_the_file_says_how_the_reaction_was_reported(case, tmp_path):
    """``--reaction`` is for files without the entry."""
    silent = change(case, tmp_path / "silent.npz", reaction=None)
    given = run(case, "--same-mesh", "--reaction", "end", out=tmp_path / "1.json")
    asked = run(silent, "--same-mesh", "--reaction", "hht", out=tmp_path / "2.json")
    default = run(silent, "--same-mesh", out=tmp_path / "3.json")
    assert given["nrmse"] < 1e-6 and asked["nrmse"] < 1e-6
    assert default["reaction"] == "end" and default["nrmse"] > 0.01


def test_reaction_is_weighted_as_by_hht():
    weighted = verification.hht_reaction(np.array([0.0, 1.0, 1.0, 3.0]))
    assert weighted == pytest.approx([0.0, 0.58579, 1.0, 0.58579 * 3 + 0.41421])


def test_increments_stop_at_every_strain_that_is_reported():
    found = verification.reference_increments(np.array([0.0, 0.004, 0.008, 0.008000001]), "hht")
    assert found == pytest.approx([0.002, 0.004, 0.008])
    found = verification.reference_increments(np.array([0.0, 0.01, 0.011]), "end")
    assert found == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.011])


BAD = {
    "nodes": (None, "lacks the array nodes"),
    "stress_mpa": (np.zeros(26), "stress is zero everywhere"),
    "strain": (np.linspace(0.1, 0, 26), "strain must increase"),
    "cells": (np.array([[0, 1, 2, 10**6]]), "nodes that aren't there"),
    "u": (None, "u and frame_strain belong together"),
    "reaction": ("start", "'end' or 'hht', not 'start'"),
    "boundary": ("glued", "'bonded', 'lubricated' or 'tied'"),
    "damping": (np.array(np.nan), "damping must be at least 0"),
    "friction": (1e5, "contact.friction"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_case_is_one_sentence(case, tmp_path, capsys, name):
    value, message = BAD[name]
    path = change(case, tmp_path / "bad.npz", **{name: value})
    assert main(["verify", str(path), "--same-mesh"]) == 1
    sentence = capsys.readouterr().err
    assert message in sentence and "bad.npz" in sentence and sentence.count("\n") == 1


def test_damaged_meshes_are_one_sentence(case, tmp_path, capsys):
    """Cells without area, turned inside out, or with a node twice; nodes of no cell."""
    with np.load(case) as file:
        nodes, cells = file["nodes"], file["cells"]
    flat, folded, twice = nodes.copy(), nodes.copy(), cells.copy()
    flat[cells[0]] = flat[cells[0][0]]
    folded[cells[60][0]] = nodes[cells[60][2]] + 0.02
    twice[3, 1] = twice[3, 0]
    for changes, message in (
        ({"nodes": flat}, "inside out or has no area"),
        ({"nodes": folded}, "inside out or has no area"),
        ({"cells": twice}, "names a node twice"),
        ({"cells": cells[:-30]}, "belongs to no cell"),
    ):
        path = change(case, tmp_path / "bad.npz", **changes)
        for options in ([], ["--same-mesh"]):
            assert main(["verify", str(path), *options]) == 1
            sentence = capsys.readouterr().err
            assert message in sentence and "bad.npz" in sentence and sentence.count("\n") == 1
