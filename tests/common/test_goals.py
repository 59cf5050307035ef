"""Goals: every word of the vocabulary, its error against a formula, mistakes in one sentence."""

import json
import math
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial import ConvexHull

import synthetic
from cells import grid
from crumple import designs, goal_check, widths, wishes
from crumple.cli import main
from crumple.config import Config
from crumple.errors import UserError
from crumple.goals import Goal, Measures, measure, read_goals
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.metrics import nrmse

MORE = int(os.environ.get("CRUMPLE_EXAMPLES", "1"))
PAPER = Path(__file__).parents[2] / "workflow/targets/paper.csv"
X = CURVE_STRAIN
CURVES = np.stack([60 * np.tanh(X / 0.02), 200 * X, 20 * np.sin(15 * X), 10 + 0 * X])


def tries(count):
    return settings(
        max_examples=count * MORE,
        derandomize=MORE == 1,
        database=None,
        deadline=timedelta(seconds=20),
        suppress_health_check=list(HealthCheck),
    )


def goal_of(*response, **more) -> Goal:
    return Goal.model_validate({"response": list(response), **more})


def part(start, end):
    return (X >= start - 1e-9) & (X <= end + 1e-9)


def write(folder: Path, text: str, name: str = "goal.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> Goal:
    return read_goals([write(folder, text)])[0]


# --- errors --------------------------------------------------------------------------------------


def test_a_curve_has_the_nrmse():
    stress = 300 * X * np.exp(-5 * X)
    goal = goal_of({"curve": {"strain": X.tolist(), "stress": stress.tolist()}})
    assert goal.error(CURVES) == pytest.approx(nrmse(CURVES, stress))
    assert goal.error(stress) == pytest.approx(0)
    assert goal.error(CURVES[:, None]).shape == (4, 1)


def test_a_curve_has_straight_lines_and_points_do_not():
    corners = {"strain [%]": [0, 4, 16, 20], "stress [kPa]": [0, 15000, 15000, 40000]}
    drawn = np.interp(X, [0, 0.04, 0.16, 0.2], [0, 15, 15, 40])
    lines, points = goal_of({"curve": corners}), goal_of({"points": corners})
    assert lines.error(CURVES) == pytest.approx(nrmse(CURVES, drawn))
    other = np.where(part(0.05, 0.15), 99.0, drawn)  # between the points
    assert points.error(other) == pytest.approx(0) and lines.error(other) > 1
    at = [np.interp([0, 0.04, 0.16, 0.2], X, curve) for curve in CURVES]
    assert points.error(CURVES) == pytest.approx(nrmse(np.array(at), np.array([0, 15, 15, 40])))


def test_a_band_measures_the_distance_outside():
    goal = goal_of({"band": {"lower": "10 MPa", "upper": 30, "from": "4 %", "to": 0.12}})
    inside = np.where(part(0.04, 0.12), 10 + 200 * (X - 0.04), 500)
    assert goal.error(inside) == 0
    count = part(0.04, 0.12).sum()
    too_high = np.where(X == 0.08, 36.0, inside)
    assert goal.error(too_high) == pytest.approx(6 / (20 * math.sqrt(count)))
    too_low = np.where(X == 0.08, 7.0, inside)
    assert goal.error(too_low) == pytest.approx(3 / (20 * math.sqrt(count)))


def test_a_band_between_curves_and_with_one_side():
    low = {"strain": [0.02, 0.1], "stress": [5, 5]}
    high = {"strain": [0.06, 0.2], "stress": [10, 24]}
    goal = goal_of({"band": {"lower": low, "upper": high}})
    bounds = goal.response[0].wish().bounds()
    assert bounds.strain == pytest.approx(X[part(0.02, 0.2)])
    assert np.isinf(bounds.high[bounds.strain < 0.0599]).all()
    assert np.isinf(bounds.low[bounds.strain > 0.1001]).all()
    assert goal.error(np.full(51, 5.0)) == 0 and goal.error(np.full(51, 4.0)) > 0
    only = goal_of({"band": {"upper": "12 MPa"}})
    assert only.error(0 * X) == 0
    assert only.error(0 * X + 15) == pytest.approx(3 / 12)


def test_a_plateau_with_and_without_a_level():
    level = goal_of({"plateau": {"stress": "15 MPa", "from": "3 %", "to": "15 %"}})
    chosen = CURVES[:, part(0.03, 0.15)]
    assert level.error(CURVES) == pytest.approx(nrmse(chosen, np.full(chosen.shape[1], 15.0)))
    flat = goal_of({"plateau": {"from": "3 %", "to": "15 %"}})
    assert flat.error(CURVES) == pytest.approx(
        chosen.std(axis=1) / np.abs(chosen.mean(axis=1)), abs=1e-12
    )
    assert flat.error(CURVES[3]) == 0 and level.error(CURVES[3]) == pytest.approx(1 / 3)


def test_softening():
    goal = goal_of({"softening": {"from": "4 %", "to": "16 %", "ratio": 0.5}})
    falls = np.interp(X, [0, 0.04, 0.16, 0.2], [0, 20, 10, 40])
    assert goal.error(falls) == pytest.approx(0)
    assert goal.error(2 * falls) == pytest.approx(0)
    assert goal.error(np.where(X == 0.1, 30.0, falls)) > 0  # rises on the way
    falls_less = np.interp(X, [0.04, 0.16], [20, 14])
    line = 4 * np.linspace(0, 1, part(0.04, 0.16).sum())
    expected = np.linalg.norm(line) / np.linalg.norm(falls_less[part(0.04, 0.16)])
    assert goal.error(falls_less) == pytest.approx(expected)


def test_stiffening():
    goal = goal_of({"stiffening": {"from": "10 %", "ratio": 2}})
    bends = 10 + 4000 * np.maximum(X - 0.1, 0) ** 2
    assert goal.error(bends) == pytest.approx(0)
    assert goal.error(10 + 200 * np.maximum(X - 0.1, 0)) == pytest.approx(0)  # straight will do
    assert goal.error(10 + 20 * np.maximum(X - 0.1, 0)) > 0.1  # too little
    concave = 10 + 40 * np.sqrt(np.maximum(X - 0.1, 0))
    assert goal.error(concave) > goal.error(bends + np.sin(300 * X)) > 0
    assert goal.error(CURVES[3]) > 0.1  # a flat curve does not stiffen


@pytest.mark.parametrize("seed", range(5))
def test_the_convex_minorant_is_that_of_the_convex_hull(seed):
    values = np.random.default_rng(seed).normal(size=21)
    hull = ConvexHull(np.column_stack([np.arange(21), values]))
    lower = hull.equations[hull.equations[:, 1] < 0]  # a x + b y + c = 0
    heights = -(lower[:, :1] * np.arange(21) + lower[:, 2:]) / lower[:, 1:2]
    assert wishes.convex_minorant(values) == pytest.approx(heights.max(axis=0))


def test_energy():
    linear = 100 * X  # 100 e^2 / 2
    exact = {"up_to": "15 %", "at_least": "1125 kJ/m3", "at_most": "1.125 MJ/m^3"}
    assert goal_of({"energy": exact}).error(linear) == pytest.approx(0, abs=1e-9)
    more = goal_of({"energy": {"up_to": "20 %", "at_least": "4 MJ/m3"}})
    assert more.error(linear) == pytest.approx((4 - 2) / 4)
    assert more.error(2 * linear) == pytest.approx(0, abs=1e-9) and more.error(9 * linear) == 0
    less = goal_of({"energy": {"at_most": 1.0}})
    assert less.error(linear) == pytest.approx(1) and less.error(linear / 3) == 0
    between = goal_of({"energy": {"up_to": 0.0501, "at_most": 0.1}})  # not a strain of the grid
    assert between.error(linear) == pytest.approx(100 * 0.0501**2 / 2 / 0.1 - 1, rel=1e-3)


def test_wishes_are_weighed():
    first, second = {"plateau": {"stress": 10}}, {"energy": {"at_least": 4}}
    a, b = goal_of(first).error(CURVES), goal_of(second).error(CURVES)
    both = goal_of(first | {"weight": 3}, second)
    assert both.error(CURVES) == pytest.approx(np.sqrt((3 * a**2 + b**2) / 4))


def test_curves_that_end_early_have_no_error_where_it_counts():
    ended = np.where(X > 0.1, np.nan, CURVES[0])
    assert goal_of({"plateau": {"to": "12 %"}}).error(ended) == np.inf
    assert np.isfinite(goal_of({"plateau": {"to": "10 %"}}).error(ended))
    assert goal_of({"energy": {"at_least": 1}}).error(ended) == np.inf
    table = {"strain": [0.05, 0.1], "stress": [1, 2]}
    assert np.isfinite(goal_of({"points": table}).error(ended))


@tries(200)
@given(
    scale=st.floats(0.1, 10),
    kind=st.sampled_from(["plateau", "softening", "stiffening"]),
    row=st.integers(0, 3),
)
def test_shapes_do_not_depend_on_the_level(scale, kind, row):
    goal = goal_of({kind: {"from": "2 %"}})
    assert goal.error(scale * CURVES[row]) == pytest.approx(goal.error(CURVES[row]), abs=1e-9)


# --- representative curves -----------------------------------------------------------------------


def test_the_representative_is_what_is_named():
    target = goal_of({"curve": {"strain": [0.04, 0.12], "stress": [8, 24]}})
    stress, known = target.representative()
    assert known.tolist() == part(0.04, 0.12).tolist()
    assert stress[known] == pytest.approx(200 * X[known]) and (stress[~known] == 0).all()
    band = goal_of({"band": {"lower": 10, "upper": 20, "to": "10 %"}}, {"plateau": {"stress": 40}})
    stress, known = band.representative()
    assert (
        known.all() and (stress[part(0, 0.1)] == 15).all() and (stress[~part(0, 0.1)] == 40).all()
    )
    shape = goal_of({"softening": {}}, {"energy": {"at_least": 1}}, {"band": {"upper": 10}})
    assert not shape.representative()[1].any()


def test_the_targets_of_the_paper_are_goals():
    goals = read_goals([PAPER])
    assert [goal.name for goal in goals] == [
        "a_stiff_hardening",
        "b_stiffening_at_10",
        "c_compliant_then_stiff",
        "d_softening",
    ]
    table = np.loadtxt(PAPER, delimiter=",", skiprows=2, usecols=range(1, 12))
    for goal, row in zip(goals, table, strict=True):
        at_frames = np.array([np.interp(FRAME_STRAIN, X, curve) for curve in CURVES])
        assert goal.error(CURVES) == pytest.approx(nrmse(at_frames, row))  # as the paper has it
        stress, known = goal.representative(FRAME_STRAIN)
        assert known.all() and stress == pytest.approx(row)
        assert goal.representative()[1].sum() == 10


def test_a_measured_curve_counts_at_the_strains_of_the_grid(tmp_path):
    fine = np.linspace(0, 0.6, 3001)
    text = "strain [%],stress\n" + "\n".join(f"{100 * s},{200 * s}" for s in fine)
    (goal,) = read_goals([write(tmp_path, text, "lab.csv")])
    assert goal.name == "lab" and "51 strains from 0 % to 20 %" in goal.words()[0]
    assert goal.error(CURVES[1]) == pytest.approx(0, abs=1e-6)


# --- limits --------------------------------------------------------------------------------------

LIMITS = {
    "solid_fraction": {"at_least": 0.3, "at_most": 0.5},
    "strut": {"at_least": "0.5 mm"},
    "gap": {"at_least": "3 px"},
    "plastic_strain": {"at_most": 0.25},
}


def test_violations_are_sentences():
    goal = goal_of({"plateau": {}}, limits=LIMITS, cell_size="12 mm")  # 0.5 mm are 4 px
    assert goal.violations(Measures(0.4, 4.1, 3.0, 0.2)) == []
    assert goal.violations(Measures(0.4, 4.1, 3.0)) == []  # not simulated yet
    found = goal.violations(Measures(0.6, 3.6, 2.5, 0.3))
    assert found == [
        "the solid fraction is 0.600, 0.3 to 0.5 is wanted",
        "the narrowest strut is 0.45 mm, at least 0.5 mm is wanted",
        "the narrowest gap is 2.50 px, at least 3 px is wanted",
        "the equivalent plastic strain is 0.300, at most 0.25 is wanted",
    ]
    found = goal.violations(Measures(0.2, 5, 5, math.nan))
    assert len(found) == 2 and "is unknown (compressed in part), at most 0.25" in found[1]
    assert goal_of({"plateau": {}}).violations(Measures(0.99, 0.1, 0.1, 9)) == []


def test_a_design_is_measured():
    cell = designs.mirror(designs.sample(0, 0, Config().designs).quarter)
    nodes, cells = grid(30, 30)  # 900 squares, 4.5 of which may be above
    plastic = np.zeros((11, 900, 4))
    plastic[-1] = (np.arange(900) / 1000)[:, None] + (-0.1, 0, 0, 0.1)
    simulation = {"nodes": nodes, "cells": cells, "equivalent_plastic_strain": plastic}
    found = measure(cell, simulation)
    assert found == (cell.mean(), *widths.narrowest(cell), pytest.approx(0.895))
    assert measure(cell).plastic_strain is None
    plastic[-1, 3] = np.nan
    assert np.isnan(measure(cell, simulation).plastic_strain)


# --- reading -------------------------------------------------------------------------------------

EXAMPLE = """
cell_size: 10 mm
response:
  - plateau: {stress: 15 MPa, from: 3 %, to: 15 %}
    weight: 2
  - stiffening: {from: 15 %}
  - curve:
      strain [%]: [0, 20]
      stress [MPa]: [0, 30]
limits:
  strut: {at_least: 0.4 mm}
"""


def test_a_file_is_read_and_said_in_words(tmp_path):
    goal = read(tmp_path, EXAMPLE)
    assert goal.name == "goal" and goal.cell_size == 10
    assert goal.words() == [
        "a plateau at 15 MPa from 3 % to 15 % (weight 2)",
        "stiffening from 15 % to 20 %, to 1.5 times the stress or more",
        "the curve at 51 strains from 0 % to 20 %, up to 30 MPa",
        "no strut narrower than 0.4 mm (3.84 px)",
    ]
    again = Goal.model_validate(json.loads(goal.model_dump_json(by_alias=True, exclude_unset=True)))
    assert again.error(CURVES) == pytest.approx(goal.error(CURVES))


def test_files_stand_beside_the_goal(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "target,0.1,0.2\none,1,2\ntwo,3,4\n", "curves.csv")
    text = "response:\n  - points: {file: sub/curves.csv, target: two}\n"
    assert read(tmp_path, text).representative(np.array([0.1, 0.2]))[0].tolist() == [3, 4]
    with pytest.raises(UserError, match="holds the targets one, two; name one of them"):
        read(tmp_path, "response:\n  - points: sub/curves.csv\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should be a valid dictionary"),
        ("response: []", "at least 1 item"),
        ("response: [{}]", "is one of curve, points, band"),
        ("response: [{weight: 2}]", "is one of curve, points, band"),
        ("response: [{plateau: {}, energy: {at_least: 1}}]", "is one of curve, points, band"),
        ("response: [{plateu: {}}]", "'response.0.plateu' is unknown"),
        ("response: [{plateau: {strain: 3 %}}]", "'response.0.plateau.strain' is unknown"),
        ("response: [{plateau: {from: 3}}]", "3 is not from 0 to 0.2.*: write a strain as 3 %"),
        ("response: [{plateau: {from: 3 MPa}}]", "'3 MPa' is not a quantity that fits: .*strain"),
        ("response: [{plateau: {from: 3 %, to: 3.5 %}}]", "strain apart"),
        ("response: [{plateau: {stress: 15 psi}}]", "'15 psi' is not a quantity.*stress as 15 MPa"),
        ("response: [{plateau: {stress: -1}}]", "-1 is not from"),
        ("response: [{plateau: {stress: .nan}}]", "nan is not from"),
        ("response: [{energy: {}}]", "at_least or at_most is needed"),
        ("response: [{energy: {at_least: 2, at_most: 1}}]", "at_least 2 is more than at_most 1"),
        ("response: [{energy: {at_least: 2 MJ}}]", "energy per volume as 2 MJ/m3"),
        ("response: [{stiffening: {ratio: 1}}]", "greater than 1"),
        ("response: [{softening: {ratio: 1}}]", "less than 1"),
        ("response: [{band: {}}]", "a band needs lower or upper"),
        ("response: [{band: {lower: 3, upper: 2}}]", "lower is above upper at a strain of 0.0%"),
        ("response: [{curve: 7}]", "7 is not a curve"),
        ("response: [{curve: nowhere.csv}]", "cannot read the target file .*nowhere.csv"),
        ("response: [{curve: {x: 1}}]", "'x' is not one of file, target, 'strain"),
        ("response: [{curve: {strain: [0, 1]}}]", "needs lists 'strain"),
        ("response: [{curve: {strain: [0, 0.1], stress: [1]}}]", "of the same length"),
        ("response: [{curve: {strain: [0, 10], stress: [1, 2]}}]", "strain is a fraction"),
        ("response: [{curve: {strain: [0, a], stress: [1, 2]}}]", "'a' in 'strain' is not a num"),
        ("response: [{curve: {strain: [0, 0.1], stress: [0, 0]}}]", "no stress other than 0"),
        ("response: [{points: {strain: [0.5], stress: [1]}}]", "no stress at strains from 0 to 20"),
        ("response: [{curve: {strain: [0.1234], stress: [1]}}]", "no stress at strains from 0 to"),
        ("response: [{plateau: {}}]\nlimits: {strut: {at_least: 1 mm}}", "say how large a cell is"),
        ("response: [{plateau: {}}]\nlimits: {strut: {at_least: 1}}", "a length as 0.8 mm or 3 px"),
        ("response: [{plateau: {}}]\nlimits: {gap: {at_least: 30 px}}", "at most 20 can be asked"),
        ("response: [{plateau: {}}]\nlimits: {solid_fraction: {}}", "at_least or at_most"),
        ("response: [{plateau: {}}]\nlimits: {mass: {}}", "'limits.mass' is unknown"),
        ("response: [{plateau: {}}]\ncell_size: 3 px", "write a size as 10 mm"),
        ("response: [{plateau: {}}]\nname: ''", "is not a name"),
        ("response: [{plateau: {}}]\nresponse: []", "stands there twice"),
        ("response: [{plateau: &a {}}, {plateau: *a}]", "aliases"),
        ("response: [{plateau", "line 1"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    sentence = str(caught.value)
    assert "goal.yaml" in sentence or "nowhere.csv" in sentence
    assert "\n" not in sentence


def test_a_csv_that_is_no_goal_is_one_sentence(tmp_path):
    for text, message in (
        ("strain,stress\n0.1,0\n0.2,0\n", "no stress other than 0"),
        ("strain,stress\n0.1,1\n0.3,2\n", "at 1 strains between 0 and 20%; at least 2"),
    ):
        with pytest.raises(UserError, match=message):
            read_goals([write(tmp_path, text, "mine.csv")])
    with pytest.raises(UserError, match="two goals are called d_softening"):
        read_goals([PAPER, write(tmp_path, "target,0.1,0.2\nd_softening,1,2", "twice.csv")])


NUMBERS = st.one_of(
    st.floats(), st.integers(-10, 300), st.sampled_from(["3 %", "15 MPa", "1e999", "2 MJ/m3", "-"])
)
LISTS = st.lists(st.one_of(st.floats(0, 0.3), st.integers(0, 20), NUMBERS), max_size=6)
LEVELS = st.one_of(
    NUMBERS,
    st.text(max_size=6),
    st.dictionaries(
        st.sampled_from(["strain", "strain [%]", "stress", "stress [kPa]", "file", "target"]),
        st.one_of(LISTS, NUMBERS, st.text(max_size=5)),
        max_size=3,
    ),
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["from", "to", "stress", "ratio", "up_to", "at_least", "at_most", "lower", "upper", "start"]
    ),
    LEVELS,
    max_size=4,
)
ENTRIES = st.dictionaries(
    st.sampled_from(
        ["curve", "points", "band", "plateau", "softening", "stiffening", "energy", "weight"]
    ),
    st.one_of(FIELDS, LEVELS, st.none(), st.booleans()),
    max_size=2,
)
GOALS = st.fixed_dictionaries(
    {"response": st.lists(ENTRIES, max_size=2)},
    optional={
        "name": st.one_of(st.text(max_size=5), NUMBERS),
        "cell_size": NUMBERS,
        "limits": st.dictionaries(
            st.sampled_from(["solid_fraction", "strut", "gap", "plastic_strain", "mass"]),
            st.one_of(FIELDS, NUMBERS),
            max_size=3,
        ),
    },
)


def answers_or_one_sentence(path) -> bool:
    """Read a goal; whatever was read has a finite error and says what it is."""
    try:
        goals = read_goals([path])
    except UserError as error:
        sentence = str(error)
        assert sentence and "\n" not in sentence and len(sentence) < 1000
        return False
    for goal in goals:
        errors = goal.error(CURVES)
        assert errors.shape == (4,) and (errors >= 0).all() and np.isfinite(errors).all()
        assert goal.words() and all(goal.words())
        stress, known = goal.representative()
        assert np.isfinite(stress).all() and known.shape == X.shape
        assert isinstance(goal.violations(Measures(0.5, 2, 2, 0.1)), list)
    return True


@tries(1500)
@given(content=GOALS)
def test_no_content_gives_a_traceback(tmp_path, content):
    path = tmp_path / "goal.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    answers_or_one_sentence(path)


ENDS = st.lists(st.integers(0, 200).map(lambda n: n / 1000), min_size=2, max_size=2, unique=True)
STRESSES = st.integers(1, 1000)


@tries(300)
@given(ends=ENDS, levels=st.lists(STRESSES, min_size=2, max_size=2), data=st.data())
def test_most_of_what_is_sensible_is_read(tmp_path, ends, levels, data):
    """The control of the test before: goals that can be read are read, nearly all of them."""
    start, end = sorted(ends)
    kind = data.draw(
        st.sampled_from(
            [
                {"plateau": {"from": start, "to": end, "stress": levels[0]}},
                {"band": {"lower": min(levels), "upper": max(levels), "from": start, "to": end}},
                {"points": {"strain": [start, end], "stress": levels}},
                {"softening": {"from": start, "to": end}},
            ]
        )
    )
    path = tmp_path / "goal.yaml"
    path.write_text(yaml.safe_dump({"response": [kind]}), encoding="utf-8")
    assert answers_or_one_sentence(path) or end - start < 0.012


@tries(500)
@given(start=st.integers(0, len(EXAMPLE)), size=st.integers(0, 40), new=st.binary(max_size=8))
def test_no_damaged_file_gives_a_traceback(tmp_path, start, size, new):
    text = EXAMPLE.encode()
    path = tmp_path / "goal.yaml"
    path.write_bytes(text[:start] + new + text[start + size :])
    answers_or_one_sentence(path)


# --- what a library covers, and the command ------------------------------------------------------


def library(count=60):
    level = np.random.default_rng(0).uniform(10, 40, count)
    return level[:, None] * np.tanh(X / 0.02)


def test_a_goal_outside_the_library_is_said_and_one_inside_is_not():
    curves = library()
    inside = goal_of({"plateau": {"stress": 25, "from": "10 %"}})
    assert goal_check.outside(inside, curves) == ""
    above = goal_of({"plateau": {"stress": 80, "from": "10 %", "to": "12 %"}}, name="high")
    sentence = goal_check.outside(above, curves)
    assert sentence.startswith("high is outside what the 60 designs of the library cover")
    assert "more stress than any of them at 6 strains from 10 % to 12 %" in sentence
    soft = goal_of({"softening": {"from": "5 %"}})
    assert "the nearest is" in goal_check.outside(soft, curves)
    broken = np.where(np.arange(60)[:, None] < 2, np.nan, curves)
    assert goal_check.outside(inside, broken) == ""
    assert goal_check.outside(above, curves[:1]) == ""  # nothing to compare with


def test_the_command_says_what_was_understood(tmp_path, capsys):
    path, picture = write(tmp_path, EXAMPLE), tmp_path / "goal.png"
    assert main(["check-goal", str(path), str(PAPER), "--picture", str(picture)]) == 0
    captured = capsys.readouterr()
    assert "goal\n  a plateau at 15 MPa from 3 % to 15 % (weight 2)\n" in captured.out
    assert "d_softening\n  11 points from 0.2 % to 20 %, up to 19.7 MPa\n" in captured.out
    colours = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert (np.ptp(colours.astype(int), axis=1) > 60).mean() > 0.001  # curves in colour
    assert captured.err == ""


def test_the_command_warns_and_does_not_refuse(tmp_path, capsys):
    config = Config.model_validate({"designs": {"count": 6, "shard_size": 3}})
    manifest = synthetic.write_dataset(tmp_path, 6, 3, config)
    soft = write(tmp_path, "response: [{plateau: {stress: 500 MPa}}]", "stiff.yaml")
    assert main(["check-goal", str(soft), "--dataset", str(manifest)]) == 0
    captured = capsys.readouterr()
    assert "nearest of 5 designs: " in captured.out  # one has failed
    assert "crumple: warning: stiff is outside what the 5 designs" in captured.err


def test_the_command_does_not_replace_a_file_of_the_user(tmp_path, capsys):
    mine = write(tmp_path, "mine", "thesis.txt")
    assert main(["check-goal", str(PAPER), "--picture", str(mine)]) == 1
    assert "thesis.txt is there already" in capsys.readouterr().err
    assert mine.read_text() == "mine"
