"""The symmetries of the cell hold for the solver, whose imperfection picks one branch."""

from functools import partial

import numpy as np
import pytest

from cells import grid
from crumple import dataset
from crumple.config import parse_config
from crumple.designs import mirror, sample
from crumple.fem import cell as fem_cell
from crumple.fem import compression
from crumple.fem.compression import compress
from crumple.fem.elements import Moduli
from crumple.fem.linear_solver import Mumps
from crumple.fields import lagrangian_frames, pixel_map
from crumple.layout import FRAME_STRAIN
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
    image, mesh, result = cell
    assert result["status"] == "ok"
    opening = result["energies"][:, list(result["energy_names"]).index("opening")]
    assert opening.max() > 0
    # control: without the energy that holds them open they do
    monkeypatch.setattr(compression, "Moduli", partial(Moduli, open=0.0))
    collapsed = compress(*mesh, CONFIG)
    assert collapsed["status"].startswith("not converged")
    assert np.isnan(collapsed["curve_stress"][-1])


def test_both_linear_solvers_give_the_same_curve(cell, monkeypatch):
    _, mesh, result = cell
    monkeypatch.setattr("crumple.fem.newton.linear_solver", Mumps)
    other = compress(*mesh, CONFIG)
    assert relative(other["curve_stress"], result["curve_stress"]) < 1e-6
    assert other["newton_iterations"] == result["newton_iterations"]


# --- the presets' imperfection and damping: one deformation per design ----------------------------

PIXELS = 32


def slender_columns():
    """An image that is mirror-symmetric about x = 1/2, with slender columns that buckle."""
    image = np.ones((PIXELS, PIXELS), bool)
    image[4:28, 8:15] = False
    image[6:26, 1:6] = False
    image[:, PIXELS // 2 :] = image[:, : PIXELS // 2][:, ::-1]
    return image


def simulate(image, config):
    """Compress an image whose pixels are the elements, so that its half-period shift is exact."""
    nodes, cells = grid(PIXELS, PIXELS)
    cells = cells[image[::-1].ravel()]
    used, cells = np.unique(cells, return_inverse=True)
    return compress(nodes[used], cells.reshape(-1, 4), config)


def frames_on(image, result):
    large = np.kron(image, np.ones((3, 3), bool))
    return frames_of(result, large)


def period_one(points, amplitude):
    """An imperfection as :func:`crumple.fem.cell.imperfection`, of period 1 in x."""
    x, y = points.T
    sway = np.sin(np.pi * y) * np.cos(2 * np.pi * x + 1.0)
    return amplitude * np.column_stack([sway, np.zeros_like(sway)])


def test_the_half_period_shift_is_exact_with_the_presets_imperfection(monkeypatch):
    config, image = parse_config({}), slender_columns()
    shifted = np.roll(image, PIXELS // 2, axis=1)
    assert (shifted != image).any()
    one, other = simulate(image, config), simulate(shifted, config)
    assert one["status"] == other["status"] == "ok"
    assert relative(other["curve_stress"], one["curve_stress"]) < 1e-4
    frames = frames_on(image, one)
    moved = dataset.shift_x(frames)
    for channel in range(3):
        assert relative(frames_on(shifted, other)[:, channel], moved[:, channel]) < 1e-4
    # one branch: the design is its own mirror image, its deformation is not
    mirrored = dataset.mirror_x(frames)
    assert relative(mirrored[-1, 0], frames[-1, 0]) > 0.5
    # control: an imperfection of period 1 breaks the symmetry
    monkeypatch.setattr(fem_cell, "imperfection", period_one)
    moved = dataset.shift_x(frames_on(image, simulate(image, config)))
    found = frames_on(shifted, simulate(shifted, config))
    assert relative(found[:, 0], moved[:, 0]) > 0.02
