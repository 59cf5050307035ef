"""The best designs of a search, simulated again with everything that is wanted of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import synthetic
from crumple import designs, provenance, sensitivity
from crumple.atomic import scratch
from crumple.cli import main
from crumple.config import Config
from crumple.designs import read_design
from crumple.fem.compression import compress
from crumple.goals import Measures, largest_plastic_strain, read_goals
from crumple.layout import FRAME_STRAIN
from crumple.search import result, winner
from crumple.search.history import read_history
from crumple.sensitivity import variants
from crumple.simulation import mesh_design

COARSE = Config(mesh={"element_size": 0.02})
QUARTERS = [designs.sample(0, index, Config().designs).quarter for index in (3, 2)]
GOAL = """
cell_size: 8 mm
response: [{plateau: {stress: 20 MPa, from: 2 %, to: 10 %}}]
"""


@pytest.fixture(scope="module")
def simulations():
    found = []
    for quarter in QUARTERS:
        mesh = mesh_design(COARSE, designs.mirror(quarter), "mine")
        found.append(compress(mesh.nodes, mesh.cells, COARSE))
    return found


@pytest.fixture(scope="module")
def search(simulations, tmp_path_factory):
    """A search of two designs, and the arguments that both commands share."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "mine.yaml").write_text(GOAL)
    goal = read_goals([folder / "mine.yaml"])[0]
    curves = [one["curve_stress"] for one in simulations]
    rounds = synthetic.write_rounds(folder, goal, QUARTERS, curves, COARSE, each=1)
    return folder, ["--targets", str(folder / "mine.yaml"), "--rounds", *map(str, rounds)]


def variants_of_the_tests():
    """Three of nine; what they are is tested elsewhere."""
    finer = COARSE.model_copy(
        update={"mesh": COARSE.mesh.model_copy(update={"element_size": 0.016})}
    )
    return [variants(COARSE)[0], sensitivity.Variant("finer mesh", finer), variants(COARSE)[2]]


@pytest.fixture(scope="module", autouse=True)
def fewer_variants():
    some = variants_of_the_tests()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "variants", lambda config: some)
        yield


def run(search, out, *more, config=COARSE):
    _, shared = search
    return main(["winner", "--config", config.model_dump_json(), "--out", str(out), *more, *shared])


@pytest.fixture(scope="module")
def finished(search):
    out = search[0] / "result"
    assert run(search, out, "--tiles", "2x2") == 0
    return out


def test_the_designs_are_those_of_the_search(finished, simulations, search):
    goal = read_goals([search[0] / "mine.yaml"])[0]
    errors = [float(goal.error(one["curve_stress"])) for one in simulations]
    order = np.argsort(errors)
    found = result.read_fields(finished)
    limit = max(3 * min(errors), 0.05)
    assert [int(one["index"]) for one in found] == [k for k in order if errors[k] <= limit]
    for number, one in enumerate(found):
        index = int(one["index"])
        part = finished / (result.runner_up(number) if number else "winner")
        assert np.array_equal(read_design(part / "design.png"), designs.mirror(QUARTERS[index]))
        assert one["curve_stress"] == pytest.approx(simulations[index]["curve_stress"], rel=1e-9)


def test_a_finer_mesh_decides_between_designs_that_are_as_good(search, tmp_path, monkeypatch):
    folder, shared = search
    goal = read_goals([folder / "mine.yaml"])[0]
    history = read_history([Path(path) for path in shared[3:]])
    path = tmp_path / "finer_mesh.csv"
    chosen = winner._winner(COARSE, history, [1, 0], goal, path, 1)
    errors = []
    for quarter in (QUARTERS[1], QUARTERS[0]):
        mesh = mesh_design(variants_of_the_tests()[1].config, designs.mirror(quarter), "mine")
        errors.append(goal.error(compress(mesh.nodes, mesh.cells, COARSE)["curve_stress"]))
    table = pd.read_csv(path)
    assert table["design"].tolist() == [1, 0]
    assert table["error"].to_numpy() == pytest.approx(history.error[[1, 0]])
    assert table["error_finer_mesh"].to_numpy() == pytest.approx(np.array(errors), rel=1e-9)
    assert chosen == [1, 0][int(np.argmin(errors))]

    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr(winner, "simulate_finer", never)
    for errors, best in (([0.2, 0.1], 0), ([0.1, 0.2], 1), ([np.nan, 0.1], 0), ([np.nan] * 2, 1)):
        table.assign(error_finer_mesh=errors).to_csv(path, index=False)  # what was done is kept
        assert winner._winner(COARSE, history, [1, 0], goal, path, 1) == best
    assert winner._winner(COARSE, history, [1], goal, tmp_path / "none.csv", 1) == 1


def test_fields_are_those_of_the_simulation(finished, simulations):
    found = result.read_fields(finished)[0]
    simulated = simulations[int(found["index"])]
    assert found["displacement"] == pytest.approx(simulated["u"], abs=1e-6)
    measures = Measures(*found["measures"])
    assert measures.plastic_strain == pytest.approx(largest_plastic_strain(simulated))
    assert measures.solid_fraction == pytest.approx(QUARTERS[int(found["index"])].mean())
    points = simulated["cauchy"][..., 1]
    stress = found["vertical_stress"]
    assert stress.min() >= points.min() - 1e-3 and stress.max() <= points.max() + 1e-3
    top = found["nodes"][:, 1] > 1 - 1e-9
    assert found["displacement"][-1, top, 1] == pytest.approx(-FRAME_STRAIN[-1])
    assert (found["plastic_strain"][-1] >= -1e-6).all()


def test_files_for_those_who_go_on(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    expected = {f"exports/design.{kind}" for kind in ("svg", "dxf", "stl", "inp")}
    expected |= {"winner/curve.csv", "winner/deformation.pvd", "winner/simulation.npz"}
    expected |= {"sensitivity/sensitivity.csv", "sensitivity/curves.csv", "SHA256SUMS"}
    assert expected <= names
    assert 'width="16mm"' in (finished / "exports/design.svg").read_text()  # two of 8 mm
    record = result.read_winner_record(finished)
    assert record.settings["export"] == {"cell_size": 8, "thickness": 8, "tiles": [2, 2]}
    assert record.settings["mesh"] == provenance.stages_of(COARSE, ["mesh"])["mesh"]


def test_an_interrupted_run_goes_on(search, tmp_path, monkeypatch, finished):
    out = tmp_path / "result"

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(winner, "write_outcomes", stop)
        assert run(search, out, "--tiles", "2x2") == 1
    assert not out.exists() and (scratch(out) / "winner/fields.npz").exists()
    monkeypatch.setattr(winner, "simulate_design", stop)  # isn't needed again
    monkeypatch.setattr(winner, "write_formats", stop)
    assert run(search, out, "--tiles", "2x2") == 0
    for name in ("winner/fields.npz", "exports/design.svg", "sensitivity/sensitivity.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_several_processes_find_the_same(search, tmp_path, finished):
    assert run(search, tmp_path / "result", "--tiles", "2x2", "--processes", "2") == 0
    for name in ("winner/fields.npz", "runner_up_1/fields.npz", "exports/design.svg"):
        found, expected = tmp_path / "result" / name, finished / name
        assert found.exists() == expected.exists()
        assert not expected.exists() or found.read_bytes() == expected.read_bytes()
    table = pd.read_csv(tmp_path / "result/sensitivity/sensitivity.csv")
    assert len(table) == 9  # other processes see all variants


def test_another_physics_is_refused(search, tmp_path, capsys):
    assert run(search, tmp_path / "result", config=Config()) == 1
    said = capsys.readouterr().err
    assert "results.npz was made with other settings" in said and "element_size" in said


def test_the_page_of_a_real_search(finished, search):
    pytest.importorskip("jinja2")
    folder, shared = search
    page = folder / "index.html"
    assert main(["design-page", "--winner", str(finished), "--out", str(page), *shared]) == 0
    text = page.read_text()
    assert text.count("<canvas") == 2 * len(result.read_fields(finished))
    assert "Simulated again" not in text and "result/exports/design.stl" in text
