"""The symmetries that augment the data set hold for the contact solver itself."""

import numpy as np
import pytest

from crumple import dataset
from crumple.config import parse_config
from crumple.designs import mirror, sample
from crumple.fem.compression import FRAME_STRAIN, compress
from crumple.fem.linear_solver import Mumps
from crumple.fields import lagrangian_frames, pixel_map
from crumple.meshing import gmsh_session, mesh_cell

# rate-independent and without the imperfection, so that the symmetries are exact
CONFIG = parse_config({"loading": {"imperfection": 0.0}, "material": {"damping": 0.0}})
MOVES = {
    "mirror_x": (lambda p: np.column_stack([1 - p[:, 0], p[:, 1]]), lambda image: image[:, ::-1]),
    "mirror_y": (lambda p: np.column_stack([p[:, 0], 1 - p[:, 1]]), lambda image: image[::-1]),
}


@pytest.fixture(scope="module")
def cell():
    """A design without mirror symmetry in x (rolled), its mesh and its simulation."""
    image = np.roll(mirror(sample(0, 5, CONFIG.designs).quarter), 20, axis=1)
    with gmsh_session():
        mesh, _ = mesh_cell(image, 0.03)
    return image, mesh, compress(*mesh, CONFIG)


def frames_of(result, image):
    return lagrangian_frames(result, pixel_map(result["nodes"], result["cells"], image))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("name", MOVES)
def test_a_reflected_design_gives_reflected_fields(cell, name):
    image, mesh, result = cell
    assert result["status"] == "ok"
    move, flip = MOVES[name]
    reflected = compress(move(mesh.nodes), mesh.cells[:, ::-1], CONFIG)
    assert relative(reflected["curve_stress"], result["curve_stress"]) < 2e-3
    frames = frames_of(result, image)
    if name == "mirror_x":
        expected = dataset.mirror_x(frames)
    else:
        expected = dataset.mirror_y(frames, image, FRAME_STRAIN)
    found = frames_of(reflected, flip(image))
    for channel in range(3):
        assert relative(found[:, channel], expected[:, channel]) < 0.03
    # control: without the sign or the shift of the displacement it is wrong
    naive = np.ascontiguousarray(frames[..., ::-1] if name == "mirror_x" else frames[..., ::-1, :])
    channel = 0 if name == "mirror_x" else 1
    assert relative(found[:, channel], naive[:, channel]) > 0.5


def test_rate_independent_material_does_not_collapse(cell, monkeypatch):
    """Without damping, single points of shear bands would collapse were they not held open."""
    assert cell[2]["status"] == "ok"
    opening = cell[2]["energies"][:, list(cell[2]["energy_names"]).index("opening")]
    assert opening.max() > 0


def test_both_linear_solvers_give_the_same_curve(cell, monkeypatch):
    _, mesh, result = cell
    monkeypatch.setattr("crumple.fem.newton.linear_solver", Mumps)
    other = compress(*mesh, CONFIG)
    assert relative(other["curve_stress"], result["curve_stress"]) < 1e-6
    assert other["newton_iterations"] == result["newton_iterations"]
