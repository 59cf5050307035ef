"""Drawn designs are improved under the forward model."""

import numpy as np
import pytest

from crumple.config import Config
from crumple.designs import accept
from crumple.diffusion.response import load_response
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.library import packaged, read_library
from crumple.metrics import frame_stress
from crumple.refinement import refining

LIBRARY = read_library()
MODEL = load_response(packaged("response"))
STARTS = LIBRARY.quarter[1000:1024]


def settings(refinements: int, candidates: int = 4) -> Config:
    return Config(generation={"refinements": refinements, "candidates": candidates})


@pytest.fixture(scope="module")
def refined():
    goal = frame_stress(LIBRARY.curve_stress[LIBRARY.held_out(0.1)[:1]])[0]
    return goal, *(
        refining.refine(STARTS, goal, MODEL, settings(rounds), np.random.default_rng(0))
        for rounds in (0, 1)
    )


def test_the_expected_error_falls(refined):
    goal, chosen, better = refined
    judge = refining.Predicted(MODEL, goal)
    before, after = judge(chosen, "").expected_error, judge(better, "").expected_error
    assert before.min() == judge(STARTS, "").expected_error.min()
    assert (np.sort(after) < 0.8 * np.sort(before)).all()


def test_refined_designs_are_acceptable_and_differ(refined):
    _, _, better = refined
    assert len(better) == 4
    for number, image in enumerate(better):
        assert np.array_equal(accept(image, Config().designs), image)
        others = np.delete(better, number, axis=0)
        assert np.count_nonzero(others != image, axis=(1, 2)).min() >= refining.DIFFERENT


def test_disagreement_of_the_networks_counts():
    goal = frame_stress(LIBRARY.curve_stress[:1])[0]
    pool = refining.Predicted(MODEL, goal)(STARTS, "model")
    predicted = MODEL.predict(STARTS)
    error = np.linalg.norm(frame_stress(predicted.stress) - goal, axis=1) / np.linalg.norm(goal)
    assert (pool.merit > error).all()


def test_a_target_that_is_known_in_part():
    goal = np.where(np.arange(11) % 2, np.nan, 100 * FRAME_STRAIN)
    goal[-3:] = np.nan
    aim = refining.aim_at(goal)
    assert not aim.known[CURVE_STRAIN[1:] > FRAME_STRAIN[-4]].any()
    np.testing.assert_allclose(aim.stress[aim.known], 100 * CURVE_STRAIN[1:][aim.known])
    full = refining.aim_at(100 * FRAME_STRAIN)
    assert full.known[CURVE_STRAIN[1:] >= FRAME_STRAIN[0]].all()
