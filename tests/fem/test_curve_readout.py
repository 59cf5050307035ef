"""The curve that is read from the stress pixels against the platen reaction of the simulation."""

import numpy as np
import pytest

from crumple import designs, metrics
from crumple.config import Config
from crumple.fem.compression import compress
from crumple.fields import lagrangian_frames, pixel_map
from crumple.meshing import gmsh_session, mesh_cell

CONFIG = Config.model_validate({"mesh": {"element_size": 0.02}})


@pytest.fixture(scope="module", params=[0, 1])
def simulated(request):
    cell = designs.mirror(designs.sample(0, request.param, CONFIG.designs).quarter)
    with gmsh_session():
        mesh, _ = mesh_cell(cell, CONFIG.mesh.element_size)
    result = compress(mesh.nodes, mesh.cells, CONFIG)
    assert result["status"] == "ok"
    return result, lagrangian_frames(result, pixel_map(mesh.nodes, mesh.cells, cell))[:, 2]


def test_predicted_curve_of_simulated_fields_is_the_simulated_curve(simulated):
    """Within 2 %: 1.4 % on average over 15 designs, the change of volume that the pixels lack."""
    result, s22 = simulated
    curve = metrics.predicted_curve(s22, result["frame_strain"])
    assert metrics.nrmse(curve, result["frame_stress"]) < 0.02


def test_without_the_deformed_height_it_is_not(simulated):
    """The negative control: the mean over the undeformed height misses by the strain."""
    result, s22 = simulated
    wrong = -s22.astype(np.float64).mean(axis=(-2, -1))
    assert metrics.nrmse(wrong, result["frame_stress"]) > 0.08
