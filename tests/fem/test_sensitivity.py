"""The sensitivity table: one thing changed at a time, and what it does to a real design."""

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from crumple import designs, outline, sensitivity, widths
from crumple.cli import main
from crumple.config import Config
from crumple.fem import newton
from crumple.goals import Goal
from crumple.layout import CELL, CURVE_STRAIN
from crumple.metrics import nrmse
from crumple.sensitivity import Outcome, Variant, simulate_variants, table, variants

QUARTER = designs.sample(0, 3, Config().designs).quarter
COARSE = Config(mesh={"element_size": 0.03})


def changed(one, other, path=""):
    """Settings in which two configurations differ."""
    found = []
    for key, value in one.items():
        if isinstance(value, dict):
            found += changed(value, other[key], f"{path}{key}.")
        elif value != other[key]:
            found.append(path + key)
    return found


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(contact={"friction": 0.3}, mesh={"element_size": 0.008}),
        Config(loading={"platens": "lubricated", "imperfection": 0.004}),
    ],
)
def test_each_variant_changes_one_thing(config):
    nominal, *others = variants(config)
    assert nominal == Variant("nominal", config) and len({v.name for v in others}) == len(others)
    for variant in others:
        again = Config.model_validate(variant.config.model_dump())  # within the allowed ranges
        found = changed(again.model_dump(), config.model_dump())
        assert len(found) + (variant.offset != 0) == 1
    assert sorted(v.offset for v in others if v.offset) == [-0.25, 0.25]
    assert all(v.config.mesh.element_size <= config.mesh.element_size for v in others)


@pytest.mark.parametrize("index", range(4))
def test_an_offset_adds_its_width_along_the_whole_outline(index):
    cell = designs.mirror(designs.sample(0, index, Config().designs).quarter)
    plain = outline.from_image(cell)
    sides = shapely.box(0, 0, 1, 1).boundary
    free = plain.boundary.difference(sides.buffer(1e-9)).length
    for offset in (0.25 / CELL, -0.25 / CELL):
        grown = outline.from_image(cell, offset)
        assert grown.area - plain.area == pytest.approx(offset * free, rel=0.03)
        for side in ([(0, 0), (0, 1)], [(1, 0), (1, 1)]):
            length = grown.intersection(shapely.LineString(side)).length
            left = grown.intersection(shapely.LineString([(0, 0), (0, 1)])).length
            assert length == pytest.approx(left, abs=1e-6)
        distance = shapely.hausdorff_distance(grown.boundary, plain.boundary)
        assert abs(offset) * 0.9 < distance < 3 * abs(offset)


@pytest.fixture(scope="module")
def outcomes():
    return list(simulate_variants(designs.mirror(QUARTER), variants(COARSE), "mine"))


def test_what_changes_a_real_design(outcomes):
    """Directions that are known, on a design that comes into contact at 17 % strain."""
    assert [outcome.status for outcome in outcomes] == ["ok"] * 9
    stress = {outcome.variant.name: outcome.stress for outcome in outcomes}
    nominal = stress["nominal"]
    before = CURVE_STRAIN < 0.1
    for friction in ("friction 0.3", "friction 0.5"):  # counts after contact only
        assert stress[friction][before] == pytest.approx(nominal[before], rel=1e-3)
        assert np.abs(stress[friction] - nominal).max() > 0.01
    slope = {name: curve[1] for name, curve in stress.items()}
    assert slope["outline +0.25 px"] > 1.02 * slope["nominal"]
    assert slope["outline -0.25 px"] < 0.98 * slope["nominal"]
    assert slope["finer mesh, h = 0.01"] < slope["nominal"]  # coarse meshes are stiff
    assert (stress["lubricated platens"] <= nominal + 1e-6).all()  # a constraint is gone
    assert stress["imperfection x 0.5"].max() > nominal.max() > stress["imperfection x 2"].max()


def test_the_table_compares_with_nominal_and_goals(outcomes):
    target = 20 * np.tanh(CURVE_STRAIN / 0.02)
    goal = Goal(name="mine", response=[{"curve": {"strain": [0, 0.1, 0.2], "stress": [0, 20, 20]}}])
    rows = table(outcomes, [goal])
    assert rows["variant"].tolist() == [outcome.variant.name for outcome in outcomes]
    assert rows["nrmse_nominal"][0] == 0 and (rows["nrmse_nominal"][1:] > 0).all()
    curves = np.array([outcome.stress for outcome in outcomes])
    assert rows["nrmse_nominal"].to_numpy() == pytest.approx(nrmse(curves, curves[0]))
    assert rows["error_mine"].to_numpy() == pytest.approx(goal.error(curves))
    assert rows["stress_20"].to_numpy() == pytest.approx(curves[:, -1])
    flat = Outcome(Variant("flat", COARSE), target, 0.5, "ok")
    assert table([flat], [])["energy"][0] == pytest.approx(
        20 * 0.02 * np.log(np.cosh(10)), rel=1e-3
    )


def test_a_variant_that_fails_says_why():
    thin = np.zeros((48, 48), np.uint8)
    thin[:, 30:40] = 1
    thin[10, :] = 1  # one pixel, less than two such offsets
    cell = designs.mirror(thin)
    assert widths.narrowest(cell).strut == pytest.approx(1, abs=0.05)
    (lost,) = simulate_variants(cell, [Variant("shrunk", COARSE, -0.6)], "mine")
    assert lost.status == "a strut of 1 px is lost" and np.isnan(lost.stress).all()
    (kept,) = simulate_variants(cell, [Variant("grown", COARSE, +0.25)], "mine")
    assert kept.status == "ok"
    rows = table([kept, lost], [Goal(response=[{"plateau": {}}])])
    assert np.isnan(rows["nrmse_nominal"][1]) and rows["error_goal"][1] == np.inf


@pytest.fixture
def picture(tmp_path):
    Image.fromarray((255 * (1 - QUARTER)).astype(np.uint8)).save(tmp_path / "mine.png")
    return tmp_path / "mine.png"


COMMAND = ["sensitivity", "--config", '{"mesh": {"element_size": 0.03}}']


def test_the_command_writes_table_and_picture(picture, tmp_path, capsys, monkeypatch):
    some = [v for v in variants(COARSE) if not v.name.startswith(("finer", "imperf", "lubr"))]
    monkeypatch.setattr(sensitivity, "variants", lambda config: some)
    (tmp_path / "goal.yaml").write_text(
        "response: [{plateau: {stress: 23 MPa, from: 8 %}}]\nlimits: {strut: {at_least: 4 px}}"
    )
    out = tmp_path / "out"
    arguments = [str(picture), "--out", str(out), "--targets", str(tmp_path / "goal.yaml")]
    for _ in range(2):  # the second time its own folder is replaced
        assert main([*COMMAND, *arguments]) == 0
        said = capsys.readouterr().out
        assert "nominal            0.0% from nominal,   4.8% from goal\n" in said
        assert "goal: the narrowest strut is 1.92 px, at least 4 px is wanted" in said
    rows = pd.read_csv(out / "sensitivity.csv")
    assert rows["variant"].tolist() == [variant.name for variant in some]
    assert (rows["error_goal"] > 0).all() and (rows["status"] == "ok").all()
    curves = pd.read_csv(out / "curves.csv")
    assert curves.shape == (51, 1 + len(some)) and curves["strain (1)"].iloc[-1] == 0.2
    with Image.open(out / "sensitivity.png") as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.ptp(colours, axis=1) > 60).mean() > 0.01


def test_a_design_that_fails_as_it_is_is_one_sentence(picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 1)
    out = tmp_path / "out"
    assert main([*COMMAND, str(picture), "--out", str(out)]) == 1
    sentence = capsys.readouterr().err
    assert "mine.png as it is cannot be simulated: not converged" in sentence
    assert not out.exists()
