"""Which designs of a search are shown: the best, and others of another shape."""

import numpy as np
import pytest

import synthetic
from crumple import designs
from crumple.config import Config
from crumple.errors import UserError
from crumple.goals import Goal
from crumple.layout import CURVE_STRAIN
from crumple.search import choice, result
from crumple.search.history import read_history

QUARTERS = [designs.sample(0, index, Config().designs).quarter for index in range(4)]
CURVE = synthetic.curve(0.5, 0.2, CURVE_STRAIN)
GOAL = Goal(
    name="mine", response=[{"curve": {"strain": CURVE_STRAIN.tolist(), "stress": CURVE.tolist()}}]
)


def changed(quarter, pixels):
    """The same design with some pixels of the upper left corner inverted."""
    found = quarter.copy()
    found.reshape(-1)[:pixels] ^= 1
    return found


def history(folder, quarters, factors, **columns):
    curves = [CURVE * factor for factor in factors]
    return read_history(synthetic.write_rounds(folder, GOAL, quarters, curves, **columns))


def test_the_same_tiling_is_the_same_shape():
    quarter = QUARTERS[0]
    for flip in (quarter, quarter[::-1], quarter[:, ::-1], quarter[::-1, ::-1]):
        assert choice.difference(quarter, flip) == 0
    cell = designs.mirror(quarter)  # why a flipped quarter is the same tiling
    assert np.array_equal(designs.mirror(quarter[:, ::-1]), np.roll(cell, 48, axis=1))
    assert np.array_equal(designs.mirror(quarter[::-1]), np.roll(cell, 48, axis=0))
    assert choice.difference(quarter, quarter.T) > 0.1
    assert choice.difference(quarter, changed(quarter, 230)) == pytest.approx(230 / 48**2)


def test_runners_up_differ_in_shape(tmp_path):
    """In the order of errors; small changes and flips of designs before them are left out."""
    first, second, third, far = QUARTERS
    quarters = [second, changed(first, 100), first, first[::-1], third, far]
    found = history(tmp_path, quarters, [1.02, 1.015, 1.01, 1.012, 0.96, 1.3])
    assert choice.choose(found, 2) == [2, 0, 4]
    assert choice.choose(found, 2, runners_up=1) == [2, 0]
    assert choice.choose(found, 3) == [3, 0, 4]


def test_a_far_winner_has_far_runners_up(tmp_path):
    found = history(tmp_path, QUARTERS, [1.1, 1.29, 1.31, np.nan])
    assert choice.choose(found, 0) == [0, 1]


def test_limits_come_before_errors(tmp_path):
    violation = np.array(["too thin", "", "too thin", ""])
    found = history(tmp_path / "some", QUARTERS, [1.0, 1.03, 1.01, 1.04], violation=violation)
    assert choice.contenders(found, 0.05) == [1, 3] and choice.choose(found, 1) == [1, 3]
    violation = np.full(4, "too thin")
    found = history(tmp_path / "all", QUARTERS, [1.02, 1.0, 1.3, 1.3], violation=violation)
    assert choice.contenders(found, 0.05) == [1, 0] and choice.choose(found, 1) == [1, 0]


def test_designs_are_as_good_as_the_best_that_meet_the_goal_or_are_alike(tmp_path):
    found = history(tmp_path, [*QUARTERS, *QUARTERS], [1.03, 1.012, 1.04, 1.01] + [1.03] * 4)
    assert choice.contenders(found, 0.005) == [3, 1]  # 1.2 times as far, the next three times
    assert choice.contenders(found, 0.011) == [3]
    assert choice.contenders(found, 0.035) == [3, 1, 0, 4, 5, 6]  # at most six


def test_without_any_curve_nothing_is_chosen(tmp_path):
    found = history(tmp_path, QUARTERS, [np.nan] * 4)
    with pytest.raises(UserError, match="none of the 4 designs of the search could be simulated"):
        choice.contenders(found, 0.01)


def test_one_of_several_goals_is_named(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("target,0.1,0.2\nsoft,1,2\nhard,10,20\n")
    assert choice.one_goal([path], "hard").name == "hard"
    with pytest.raises(UserError, match="several goals; name one with --goal: soft, hard"):
        choice.one_goal([path], None)
    with pytest.raises(UserError, match="no goal medium; name one with --goal: soft, hard"):
        choice.one_goal([path], "medium")
    hashes = {choice.goal_hash(choice.one_goal([path], name)) for name in ("soft", "hard")}
    assert len(hashes) == 2


def test_values_at_points_are_averaged_in_the_nodes():
    """Two elements side by side: a node has the mean of the nearest points."""
    cells = np.array([[0, 1, 4, 3], [1, 2, 5, 4]])
    values = np.array([[[1.0, 2, 3, 4], [10, 20, 30, 40]]])
    found = result.nodal_means(cells, values, 7)
    assert found.tolist() == [[1, 6, 20, 4, 21.5, 30, 0]]
