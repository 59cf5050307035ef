"""Files for people: what ParaView reads, the CSV and the picture."""

import csv
from xml.etree import ElementTree

import meshio
import numpy as np
import pytest

import hyperelastic
from crumple.fem import output


@pytest.fixture(scope="module")
def simulation():
    result = hyperelastic.compress(*hyperelastic.unsymmetric_cell(20), [0.01, 0.02])
    strain = np.linspace(0, 0.02, 5)
    return result | {"curve_strain": strain, "curve_stress": 700 * strain}


def test_states_are_read_back(simulation, tmp_path):
    output.write_results(simulation, tmp_path)
    series = ElementTree.parse(tmp_path / "deformation.pvd").getroot()
    states = [(float(s.get("timestep")), s.get("file")) for s in series.iter("DataSet")]
    assert [strain for strain, _ in states] == [1.0, 2.0]  # per cent

    mesh = meshio.read(tmp_path / states[-1][1])
    np.testing.assert_array_equal(mesh.cells_dict["quad"], simulation["cells"])
    np.testing.assert_allclose(mesh.points[:, :2], simulation["nodes"])
    np.testing.assert_allclose(mesh.point_data["displacement"][:, :2], simulation["u"][-1])
    stress = mesh.cell_data["stress"][0]
    s11, s22, s12, s33 = simulation["cauchy"][-1].mean(axis=1).T
    np.testing.assert_allclose(stress[:, [0, 4, 1, 3, 8]], np.stack([s11, s22, s12, s12, s33], 1))
    assert set(mesh.cell_data) == {"stress", "von_mises_stress", "equivalent_plastic_strain"}

    with (tmp_path / "curve.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["strain (1)", "effective stress (MPa)"]
    np.testing.assert_allclose(np.array(rows, float)[:, 1], simulation["curve_stress"])
    assert (tmp_path / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_failed_simulation_shows_what_it_reached(simulation, tmp_path):
    failed = dict(simulation)
    failed["status"] = "not converged at a strain of 0.0150"
    failed["frame_stress"] = np.array([simulation["frame_stress"][0], np.nan])
    failed["curve_stress"] = np.array([0, 3.5, 7, np.nan, np.nan])
    output.write_results(failed, tmp_path / "out")
    assert [p.name for p in sorted((tmp_path / "out").glob("*.vtu"))] == ["deformation_00.vtu"]
    assert len((tmp_path / "out/curve.csv").read_text().splitlines()) == 4
