"""Files for people: what ParaView reads, the CSV and the picture."""

import csv
from xml.etree import ElementTree

import numpy as np
import pytest
import pyvista
from PIL import Image, ImageSequence

import hyperelastic
from crumple.fem import output, rendering


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

    mesh = pyvista.read(tmp_path / states[-1][1])
    np.testing.assert_array_equal(mesh.cells_dict[pyvista.CellType.QUAD], simulation["cells"])
    np.testing.assert_allclose(mesh.points[:, :2], simulation["nodes"])
    np.testing.assert_allclose(mesh.point_data["displacement"][:, :2], simulation["u"][-1])
    stress = mesh.cell_data["stress"]
    s11, s22, s12, s33 = simulation["cauchy"][-1].mean(axis=1).T
    np.testing.assert_allclose(stress[:, [0, 4, 1, 3, 8]], np.stack([s11, s22, s12, s12, s33], 1))
    names = {"stress", "von_mises_stress", "equivalent_plastic_strain"}
    assert set(mesh.cell_data.keys()) == names

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


NO_OPENGL = {"VTK_DEFAULT_OPENGL_WINDOW": "vtkXOpenGLRenderWindow", "DISPLAY": ":99"}  # no server


def test_picture_and_movie_show_the_deformation(simulation, tmp_path):
    output.write_results(simulation, tmp_path)
    picture = np.asarray(Image.open(tmp_path / rendering.PICTURE).convert("RGB")).astype(int)
    grey = np.ptp(picture, axis=2) < 30
    assert 0.1 < (~grey).mean() < 0.9  # the coloured solid on a white ground
    with Image.open(tmp_path / rendering.MOVIE) as movie:
        frames = [np.asarray(f.convert("RGB")).astype(int) for f in ImageSequence.Iterator(movie)]
    assert len(frames) == len(simulation["frame_strain"])
    changed = np.abs(frames[1] - frames[0]).max(axis=2) > 30
    assert 0.001 < changed.mean() < 0.7
    # control: a picture without the solid has no colour
    for path in tmp_path.glob("deformation_*.vtu"):
        pyvista.read(path).extract_cells([0]).save(path)
    rendering.render(tmp_path)  # not in this process: VTK may abort beside MPI and PETSc
    blank = np.asarray(Image.open(tmp_path / rendering.PICTURE).convert("RGB")).astype(int)
    assert (np.ptp(blank, axis=2) >= 30).mean() < 0.1


def test_without_opengl_all_but_the_pictures_is_there(simulation, tmp_path, monkeypatch):
    for name, value in NO_OPENGL.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(rendering.CannotDraw, match="cannot be drawn here: no OpenGL"):
        output.write_results(simulation, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"curve.csv", "overview.png", "deformation.pvd", "deformation_01.vtu"} <= names
    assert not {rendering.PICTURE, rendering.MOVIE} & names
