"""Moves of designs: what they return, what they change, and that they depend on the seed alone."""

import numpy as np
import pytest

from crumple.config import Designs
from crumple.designs import accept
from crumple.diffusion.quarters import signed_distance
from crumple.library import read_library
from crumple.refinement import moves

LIBRARY = read_library()
PARENTS = [moves.level_set(quarter) for quarter in LIBRARY.quarter[:6]]


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_a_smooth_field_is_that_of_a_mirrored_cell(generator):
    """Its slope vanishes at the edges: the mean step there is far less than inside."""
    fields = np.stack([moves.smooth_field(generator, 3.0) for _ in range(50)])
    step = np.abs(np.diff(fields, axis=-1)).mean(axis=(0, 1))
    assert step[[0, -1]].max() < 0.3 * step[20:28].mean()
    assert fields.std() == pytest.approx(1, abs=0.1)


def test_a_larger_exponent_is_smoother(generator):
    rough, smooth = (moves.smooth_field(generator, exponent) for exponent in (1.0, 3.5))
    assert np.abs(np.diff(smooth)).mean() < 0.3 * np.abs(np.diff(rough)).mean()


def test_a_level_set_is_the_design():
    for quarter, distance in zip(LIBRARY.quarter[:6], PARENTS, strict=True):
        assert np.array_equal(distance > 0, quarter.astype(bool))
        assert np.abs(distance).min() >= moves.LEAST


def test_a_level_set_knows_an_inclined_edge_better_than_pixels_do():
    """The distance to the line y = 20 + 0.3 x is known."""
    y, x = np.mgrid[:48, :48]
    exact = ((y - 20 - 0.3 * x) / np.hypot(1, 0.3))[8:-8, 8:-8]
    quarter = (y > 20 + 0.3 * x).astype(np.uint8)
    near = np.abs(exact) < 1.5
    fine, coarse = (
        np.abs(distance[8:-8, 8:-8] - exact)[near].mean()
        for distance in (moves.level_set(quarter), signed_distance(quarter))
    )
    assert fine < 0.12 and fine < 0.6 * coarse


def test_a_small_move_changes_a_few_pixels():
    """With distances to the edges of pixels, none would."""
    quarter, distance = LIBRARY.quarter[0], PARENTS[0]
    changed = [np.count_nonzero((distance + move > 0) != quarter) for move in (0.1, 0.3)]
    edge = np.count_nonzero(np.abs(distance) < 1)
    assert 0 < changed[0] < changed[1] < edge / 2
    assert np.array_equal(signed_distance(quarter) + 0.3 > 0, quarter.astype(bool))


def test_children_are_acceptable_and_new(generator):
    made, names = moves.children(PARENTS, 200, generator, Designs())
    assert len(made) > 190
    assert all(np.array_equal(accept(quarter, Designs()), quarter) for quarter in made)
    assert set(names) == {move.__name__ for move in moves.MOVES}
    known = {quarter.tobytes() for quarter in LIBRARY.quarter[:6]}
    assert np.mean([quarter.tobytes() in known for quarter in made]) < 0.5


def test_the_same_generator_makes_the_same_children():
    one, other, another = (
        moves.children(PARENTS, 20, np.random.default_rng(seed), Designs())[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, another)


def test_a_dent_changes_one_place(generator):
    reach = 4 * moves.DENT[1]
    for _ in range(20):
        changed = np.argwhere(np.abs(moves.dent(PARENTS, generator) - PARENTS[0]) > 1e-3)
        assert 0 < np.ptp(changed, axis=0).max() <= 2 * reach


def test_blends_lie_between_and_grafts_take_both(generator):
    low, high = np.minimum(*PARENTS[:2]), np.maximum(*PARENTS[:2])
    for move in (moves.blend, moves.graft):
        for _ in range(20):
            made = move(PARENTS[:2], generator)
            assert (low - 1e-6 <= made).all() and (made <= high + 1e-6).all()
    graft = np.mean(
        [
            np.isclose(moves.graft(PARENTS[:2], generator), PARENTS[1], atol=0.1).mean()
            for _ in range(20)
        ]
    )
    same = np.isclose(PARENTS[0], PARENTS[1], atol=0.1).mean()
    assert graft > same + 0.1


def test_what_falls_apart_is_cut_to_its_largest_part():
    distance = PARENTS[0].copy()
    alone = np.argwhere(distance < -5)[0]
    distance[tuple(alone)] = 1
    assert np.array_equal(moves.decode(distance, Designs()), LIBRARY.quarter[0])


def test_control_no_solid_is_no_design():
    assert moves.decode(np.full((48, 48), -1.0), Designs()) is None
