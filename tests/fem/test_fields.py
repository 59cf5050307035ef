"""Pixel fields against dolfinx point evaluation, equilibrium, and solutions of mirrored cells."""

import json

import dolfinx
import numpy as np
import pytest
from dolfinx import geometry

import hyperelastic
import synthetic
from crumple import dataset, designs, fields, meshing
from crumple.atomic import save_npz
from crumple.config import Config
from crumple.errors import UserError
from crumple.fem.compat import create_quadrilateral_mesh, displacement_space
from crumple.fem.elements import shape_functions
from crumple.layout import CELL, CURVE_STRAIN, FRAME_STRAIN
from crumple.provenance import hash_designs, made_by
from crumple.simulation import simulate_shard

STRAINS = [0.002, 0.02, 0.04]


@pytest.fixture(scope="module")
def cell():
    return hyperelastic.unsymmetric_cell()


@pytest.fixture(scope="module")
def solution(cell):
    return hyperelastic.compress(*cell, STRAINS)


@pytest.fixture(scope="module")
def pixels(cell):
    return fields.pixel_map(*cell, design_of(*cell))


@pytest.fixture(scope="module")
def meshed_design():
    settings = Config()
    design = designs.mirror(designs.sample(0, 12, settings.designs).quarter)
    with meshing.gmsh_session():
        mesh, _ = meshing.mesh_cell(design, settings.mesh.element_size)
    return design, hyperelastic.compress(mesh.nodes, mesh.cells, [1e-3])


def design_of(nodes, cells):
    """The pixels that are mostly solid."""
    n = CELL
    inside = fields.locate(nodes, cells, 5 * n).cell >= 0
    return inside.reshape(n, 5, n, 5).mean(axis=(1, 3)) > 0.5


def image(pixels, values):
    """Images (F, 96, 96) of Gauss-point values (F, M, 4)."""
    images = np.zeros((len(values), 96, 96))
    images[:, pixels.solid] = (pixels.stress @ values.reshape(len(values), -1).T).T
    return images


def test_located_points_are_where_they_should_be(cell):
    nodes, cells = cell
    location = fields.locate(nodes, cells, 96)
    i, j = np.nonzero(location.cell >= 0)
    weights = shape_functions(location.xi[i, j])
    found = np.einsum("kn,knd->kd", weights, nodes[cells[location.cell[i, j]]])
    centres = np.stack([(j + 0.5) / 96, 1 - (i + 0.5) / 96], axis=-1)
    np.testing.assert_allclose(found, centres, atol=1e-12)


def test_displacement_is_that_of_dolfinx_point_evaluation(cell, solution, pixels):
    nodes, cells = cell
    mesh = create_quadrilateral_mesh(nodes, cells)
    space = displacement_space(mesh)
    u = dolfinx.fem.Function(space)
    x = space.tabulate_dof_coordinates()[:, :2]
    order = hyperelastic.cKDTree(nodes).query(x)[1]
    u.x.array[:] = solution["u"][-1][order].ravel()

    i, j = np.nonzero(pixels.solid)
    centres = np.stack([(j + 0.5) / 96, 1 - (i + 0.5) / 96, 0 * i], axis=-1)
    if hasattr(geometry, "bb_tree"):
        near = geometry.compute_collisions_points(geometry.bb_tree(mesh, 2), centres)
    else:  # dolfinx 0.5
        near = geometry.compute_collisions(geometry.BoundingBoxTree(mesh, 2), centres)
    colliding = geometry.compute_colliding_cells(mesh, near, centres)
    held = np.array([len(colliding.links(k)) > 0 for k in range(len(centres))])
    holders = [colliding.links(k)[0] for k in np.flatnonzero(held)]
    reference = u.eval(centres[held], holders)

    frames = fields.lagrangian_frames(solution, pixels)
    sampled = frames[-1, :2][:, pixels.solid].T
    assert held.mean() > 0.98
    np.testing.assert_allclose(sampled[held], reference, atol=1e-8)
    upside_down = frames[-1, :2, ::-1][:, pixels.solid].T
    assert np.abs(upside_down[held] - reference).max() > 0.01


def test_pixels_outside_the_outline_take_the_nearest_value(cell, solution):
    nodes, cells = cell
    grown = design_of(nodes, cells).copy()
    grown[:, 1:] |= grown[:, :-1]
    pixels = fields.pixel_map(nodes, cells, grown)
    u = fields.lagrangian_frames(solution, pixels)[-1, :2]
    inside = design_of(nodes, cells)
    added = grown & ~inside
    step = np.abs(u[:, :, 1:] - u[:, :, :-1])[:, added[:, 1:]]
    assert added.any() and step.max() < 0.003


def test_stress_is_distributed_without_loss(cell, pixels):
    nodes, cells = cell
    x, y = np.moveaxis(nodes[cells], -1, 0)
    area = 0.5 * np.sum(x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1))
    assert pixels.stress.sum() / 96**2 == pytest.approx(area, rel=1e-3)


def test_pixels_are_in_equilibrium_with_the_platens(solution, pixels):
    reaction = solution["frame_stress"]
    virial = fields.virial_stress(solution, pixels)
    np.testing.assert_allclose(virial, reaction, rtol=2e-3)

    shortened = virial * (1 - np.array(STRAINS))  # the height left out
    assert abs(shortened[-1] / reaction[-1] - 1) > 0.03
    cauchy = -image(pixels, solution["cauchy"][..., 1]).mean(axis=(1, 2)) / (1 - np.array(STRAINS))
    assert abs(cauchy[-1] / reaction[-1] - 1) > 0.005  # the change of volume left out


def test_every_row_of_pixels_carries_the_load(meshed_design):
    """Thin walls and a smooth outline that cuts through pixels, as in the data set."""
    design, solution = meshed_design
    pixels = fields.pixel_map(solution["nodes"], solution["cells"], design)
    reaction, stress = solution["frame_stress"][0], fields.nominal_stress(solution)
    assert fields.virial_stress(solution, pixels)[0] == pytest.approx(reaction, rel=2e-3)

    def row_error(image):
        return np.sqrt(np.mean((-image.mean(axis=1) / reaction - 1) ** 2))

    distributed = row_error(image(pixels, stress)[0])
    assert distributed < 0.02
    # Negative control: sampling at pixel centres, as images of finite elements usually are made.
    location = fields.locate(solution["nodes"], solution["cells"], 96)
    gauss = fields.QUADRANT[tuple((location.xi > 0).astype(int).transpose(2, 0, 1))]
    assert row_error(stress[0][location.cell, gauss] * pixels.solid) > 2 * distributed


def mirrored_x(nodes, cells):
    return nodes * (-1, 1) + (1, 0), cells[:, ::-1].copy()


def mirrored_y(nodes, cells):
    return nodes * (1, -1) + (0, 1), cells[:, ::-1].copy()


SYMMETRIES = {
    "H": (mirrored_x, lambda frames, solid: dataset.mirror_x(frames), lambda m: m[:, ::-1]),
    "V": (
        mirrored_y,
        lambda frames, solid: dataset.mirror_y(frames, solid, np.array(STRAINS)),
        lambda m: m[::-1],
    ),
    "S": (
        hyperelastic.shifted_cell,
        lambda frames, solid: dataset.shift_x(frames),
        lambda m: np.roll(m, 48, axis=1),
    ),
}


@pytest.mark.parametrize("name", SYMMETRIES)
def test_transformed_cell_has_the_transformed_fields(cell, solution, pixels, name):
    change, transform, transform_mask = SYMMETRIES[name]
    other = hyperelastic.compress(*change(*cell), STRAINS)
    solid = transform_mask(pixels.solid)
    found = fields.lagrangian_frames(other, fields.pixel_map(other["nodes"], other["cells"], solid))
    frames = fields.lagrangian_frames(solution, pixels)
    expected = transform(frames, pixels.solid)

    np.testing.assert_allclose(other["frame_stress"], solution["frame_stress"], rtol=1e-9)
    scale = np.abs(frames).max(axis=(0, 2, 3))
    centred = fields.locate(other["nodes"], other["cells"], 96).cell >= 0
    error = np.abs(found - expected)[..., centred & solid].max(axis=(0, 2)) / scale
    assert error[:2].max() < 1e-6
    off_edge = np.median(np.abs(found - expected)[:, 2:][..., solid]) / scale[2]
    assert off_edge < 1e-6  # a few pixels differ where a sub-sample lies on an element's edge
    assert np.abs(found - frames).max() > 0.1 * scale.max()  # the cell is not symmetric


def test_reflecting_u2_without_the_moving_platen_is_wrong(cell, solution, pixels):
    other = hyperelastic.compress(*mirrored_y(*cell), STRAINS[-1:])
    frames = fields.lagrangian_frames(solution, pixels)
    found = fields.lagrangian_frames(
        other, fields.pixel_map(other["nodes"], other["cells"], pixels.solid[::-1])
    )
    naive = -frames[-1, 1, ::-1]
    assert np.linalg.norm(found[-1, 1] - naive) > 0.5 * np.linalg.norm(found[-1, 1])


def test_eulerian_frame_wraps_the_period_and_keeps_the_area(cell, solution):
    nodes, cells = cell
    values = solution["cauchy"][-1][..., 1:2]
    plain = fields.eulerian_frame(nodes, cells, 0 * nodes, values)
    shifted = fields.eulerian_frame(nodes, cells, 0 * nodes + (0.25, 0), values)
    np.testing.assert_allclose(
        shifted, np.roll(plain, 24, axis=-1), atol=2e-3 * np.abs(plain).max()
    )

    u = solution["u"][-1]
    solid, s22 = fields.eulerian_frame(nodes, cells, u, values)
    x, y = np.moveaxis((nodes + u)[cells], -1, 0)
    area = 0.5 * np.sum(x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1))
    assert solid.mean() == pytest.approx(area, rel=2e-3)
    assert not solid[:3].any()  # the platen has moved by 0.04
    cut = -(solid * s22).mean(axis=1)[10:90]  # true stress on horizontal cuts
    assert cut.mean() == pytest.approx(solution["frame_stress"][-1], rel=0.01)


EULERIAN = Config(fields={"eulerian": True})


def simulation_file(folder, number, quarter, solution=None, config=EULERIAN):
    """Write a simulation whose 11 states are multiples of a solution; without one a failure."""
    record = made_by("simulate", config, made_by("mesh", config))
    result = {
        "made_by": json.dumps(record | {"inputs": {"designs": hash_designs([number], [quarter])}}),
        "status": "mesh: not meshable",
        "nodes": np.empty((0, 2)),
        "cells": np.empty((0, 4), np.int32),
    }
    if solution is not None:
        factor = FRAME_STRAIN / FRAME_STRAIN[-1]
        energies = np.ones((51, 3)) * np.linspace(0, 1, 51)[:, None] * (1, 1, 0.015)
        result |= {
            name: factor.reshape(-1, *[1] * (solution[name].ndim - 1)) * solution[name][-1]
            for name in ("u", "cauchy", "frame_stress")
        } | {
            "status": "ok",
            "nodes": solution["nodes"],
            "cells": solution["cells"],
            "frame_strain": FRAME_STRAIN,
            "equivalent_plastic_strain": np.zeros((11, len(solution["cells"]), 4)),
            "curve_strain": CURVE_STRAIN,
            "curve_stress": np.linspace(0, 10, 51),
            "energies": np.column_stack([energies, np.zeros((51, 2))]),
            "energy_names": ["elastic", "plastic", "kinetic", "barrier", "opening"],
            "newton_iterations": 100 + number,
        }
    save_npz(folder / f"{number:06d}.npz", **result)


@pytest.fixture
def simulated(tmp_path, solution):
    quarter = design_of(solution["nodes"], solution["cells"])[:48, :48].astype(np.uint8)
    simulation_file(tmp_path, 5, quarter, solution)
    simulation_file(tmp_path, 6, quarter)
    synthetic.write_designs(tmp_path / "designs.npz", [5, 6], [quarter] * 2, EULERIAN)
    return tmp_path


def test_rasterise_keeps_failures_and_flags_energies(simulated):
    out = simulated / "0000.zarr"
    fields.rasterise(EULERIAN, simulated / "designs.npz", simulated, out)
    shard = dataset.open_shard(out)
    assert list(shard["status"][:]) == ["ok", "mesh: not meshable"]
    assert shard["newton_iterations"][0] == 105 and np.isnan(shard["newton_iterations"][1])
    assert shard["kinetic_ratio"][0] == pytest.approx(0.0075)
    assert list(shard["energy_gate"][:]) == [True, False]
    assert np.isnan(shard["curve_stress"][1]).all() and not shard["frames"][1].any()
    assert shard["frames"].dtype == np.float16 and shard["frames"].chunks == (1, 11, 4, 96, 96)
    assert not shard["frames"][0][..., shard["solid"][0] == 0].any()
    assert shard["eulerian"].shape == (2, 11, 3, 96, 96)


def refusal(simulated):
    with pytest.raises(UserError) as caught:
        fields.rasterise(Config(), simulated / "designs.npz", simulated, simulated / "s.zarr")
    assert not list(simulated.glob("*.zarr"))
    return str(caught.value)


def test_rasterise_names_a_missing_simulation(simulated):
    (simulated / "000006.npz").unlink()
    assert "000006.npz: No such file" in refusal(simulated)


def test_simulations_of_other_designs_are_not_rasterised(simulated):
    """Two files swapped: formerly each design got the other one's fields."""
    (simulated / "000005.npz").rename(simulated / "5")
    (simulated / "000006.npz").rename(simulated / "000005.npz")
    (simulated / "5").rename(simulated / "000006.npz")
    assert "000005.npz doesn't belong to the designs given here" in refusal(simulated)


def test_simulations_with_different_settings_do_not_make_one_shard(simulated):
    quarter = np.load(simulated / "designs.npz")["quarter"][1]
    simulation_file(simulated, 6, quarter, config=Config(contact={"friction": 0.1}))
    sentence = refusal(simulated)
    assert "000006.npz was made with other settings (contact.friction 0.1 instead of" in sentence


def test_a_simulation_without_its_result_is_not_rasterised(simulated):
    arrays = dict(np.load(simulated / "000005.npz"))
    for changed, reason in (
        ({"u": None}, "lacks u"),
        ({"cauchy": np.full_like(arrays["cauchy"], np.nan)}, "cauchy"),
        ({"u": arrays["u"][:, :-1]}, "u is 11 x"),
        ({"energy_names": np.array(list("abcde"))}, "energies"),
    ):
        kept = {k: v for k, v in (arrays | changed).items() if v is not None}
        save_npz(simulated / "000005.npz", **kept)
        sentence = refusal(simulated)
        assert reason in sentence and sentence.endswith("make it again with `crumple simulate`")


def test_the_chain_carries_what_made_it(tmp_path):
    """The real stages, from the design to the manifest: settings and designs arrive."""
    config = Config(
        designs={"count": 1}, mesh={"element_size": 0.03}, dataset={"validation_fraction": 0}
    )
    names = ("0000.npz", "meshes", "simulations", "0000.zarr", "dataset.json")
    sampled, meshed, simulations, shard, manifest = (tmp_path / name for name in names)
    designs.sample_shard(config, 0, sampled)
    meshing.mesh_shard(config, sampled, meshed)
    simulate_shard(config, meshed, simulations)
    fields.rasterise(config, sampled, simulations, shard)
    dataset.write_manifest([shard], config, manifest)
    record = dataset.read_manifest(manifest)["made_by"]
    assert record["settings"]["mesh"] == {"mesh": {"element_size": 0.03}}
    assert record["settings"]["simulate"]["contact"]["friction"] == 0.4
    other = config.model_copy(update={"contact": Config(contact={"friction": 0.1}).contact})
    with pytest.raises(UserError, match="contact.friction 0.4 instead of 0.1"):
        dataset.write_manifest([shard], other, manifest)
    designs.sample_shard(config.model_copy(update={"seed": 1}), 0, sampled)
    with pytest.raises(UserError, match="doesn't belong to the designs"):
        fields.rasterise(config, sampled, simulations, shard)
