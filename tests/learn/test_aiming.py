"""Designs aimed at a curve: the gradient, the steps, and that they help on the real model."""

import numpy as np
import pytest
import torch
from scipy import fft

from crumple.config import Designs
from crumple.diffusion.quarters import SCALE, encode_quarters
from crumple.diffusion.response import SOFT, load_response
from crumple.layout import CURVE_STRAIN, QUARTER
from crumple.library import packaged, read_library
from crumple.metrics import nrmse
from crumple.refinement import aiming, flipping
from crumple.refinement.aiming import Aim
from crumple.refinement.moves import children, level_set
from crumple.refinement.pool import Pool, Start
from crumple.search.screening import Screen

LIBRARY = read_library()
EVERYWHERE = np.ones(len(CURVE_STRAIN) - 1, bool)


@pytest.fixture(scope="module")
def model():
    return load_response(packaged("response"))


def predicted(model, state, correction):
    """Mean of the members on the logarithmic scale, corrected, (50,)."""
    with torch.inference_mode():
        out = torch.stack([member(state) for member in model.members])
        mean = (out * model.deviation + model.mean).mean(dim=0)[0].double().numpy()
        if correction is None:
            return mean
        features = torch.cat([member.features(state) for member in model.members], dim=1)
        return mean + correction(features)[0].double().numpy()


def learnt(model, quarter):
    """A correction by neighbours of a design, the stiffer than predicted the more is solid."""
    near, _ = children([level_set(quarter)], 40, np.random.default_rng(0), Designs())
    more = near.mean(axis=(1, 2)) - quarter.mean()
    stress = model.predict(near).stress * (1 + 20 * more[:, None])
    screen = Screen(model)
    return screen.fit(screen.raw(near), stress, np.zeros(len(near))).mean


@pytest.mark.parametrize("kind", ["alone", "corrected"])
def test_the_jacobian_is_that_of_finite_differences(model, kind):
    quarter, curve = LIBRARY.quarter[3], LIBRARY.curve_stress[3, 1:].astype(float)
    weight = Aim(curve, EVERYWHERE).weight()
    corrections = {"alone": None, "corrected": learnt(model, quarter)}
    both = {k: aiming.jacobian(model, quarter, weight, c) for k, c in corrections.items()}
    derivative, scale = both[kind], np.abs(both[kind]).max()
    assert np.abs(both["corrected"] - both["alone"]).max() > 0.1 * scale  # they can be told apart
    for place in ((0, 0), (1, 2), (5, 3)):
        amplitude = np.zeros((QUARTER, QUARTER))
        amplitude[place] = 0.5  # a hundredth of a pixel
        field = torch.from_numpy(fft.idctn(amplitude, norm="ortho")).float() * SCALE
        state = encode_quarters(quarter[None])
        after, before = (
            predicted(model, state + sign * field, corrections[kind]) for sign in (1, -1)
        )
        expected = aiming.components(weight * (after - before))  # over an amplitude of 1
        assert derivative[:, *place] == pytest.approx(expected, abs=0.02 * scale)


def test_less_damping_brings_a_linear_curve_nearer():
    generator = np.random.default_rng(0)
    derivative = generator.standard_normal((aiming.SHAPES, aiming.MODES, aiming.MODES))
    missing = 0.01 * generator.standard_normal(aiming.SHAPES)
    fields = list(aiming.steps(derivative, missing))
    assert len(fields) == len(aiming.DAMPINGS)
    size = aiming.MODES
    left = [
        np.linalg.norm(
            missing
            - np.tensordot(
                derivative, fft.dctn(field, norm="ortho")[:size, :size], axes=((1, 2), (0, 1))
            )
        )
        for field in fields
    ]
    assert (np.diff(left) < 0).all()
    assert left[-1] < 1e-3 * np.linalg.norm(missing)


def test_steps_that_are_too_large_are_left_out():
    derivative = np.random.default_rng(0).standard_normal(
        (aiming.SHAPES, aiming.MODES, aiming.MODES)
    )
    fields = list(aiming.steps(derivative, np.full(aiming.SHAPES, 1e3)))
    assert all(np.sqrt(np.mean(field**2)) <= aiming.LARGEST for field in fields)
    assert len(fields) < len(aiming.DAMPINGS)
    assert not list(aiming.steps(np.zeros_like(derivative), np.ones(aiming.SHAPES)))


class Believer:
    """Judges by the forward model alone, as if it were the truth."""

    def __init__(self, model, goal):
        self.model, self.goal = model, goal

    def __call__(self, quarter, source):
        curve = self.model.predict(quarter).stress
        error = nrmse(curve, self.goal)
        return Pool(quarter, np.full(len(quarter), source), curve, error, error)


@pytest.mark.parametrize("way", ["aim", "flip"])
def test_aimed_designs_come_nearer_by_the_model_itself(model, way):
    """Where the model is the truth, the best of what is tried closes most of the gap."""
    gained, gained_by_chance = [], []
    for row in (10, 20):
        quarter = LIBRARY.quarter[row]
        curve = model.predict(quarter[None]).stress[0]
        goal = curve * np.linspace(1, 1.05, len(curve))
        aim, judge = Aim(goal[1:], EVERYWHERE), Believer(model, goal)
        start, generator = Start(quarter, curve), np.random.default_rng(row)
        if way == "aim":
            found = aiming.aimed(start, aim, model, judge, Designs(), 2)
        else:
            found = flipping.flipped(start, aim, judge, generator, Designs())
        assert set(found.source) == {way}
        gained.append(found.merit.min() / nrmse(curve, goal))
        at_random, _ = children([level_set(quarter)], len(found.quarter), generator, Designs())
        gained_by_chance.append(judge(at_random, "wave").merit.min() / nrmse(curve, goal))
    assert np.median(gained) < 0.5
    assert np.median(gained) < 0.7 * np.median(gained_by_chance)


def test_the_other_direction_leads_away(model):
    """A control of the sign: the same small step, forward and backward."""
    quarter = LIBRARY.quarter[20]
    curve = model.predict(quarter[None]).stress[0]
    aim = Aim(1.05 * curve[1:], EVERYWHERE)
    derivative = aiming.jacobian(model, quarter, aim.weight())
    field = next(aiming.steps(derivative, aim.missing(curve[1:])))
    field *= 0.15 / np.sqrt(np.mean(field**2))
    moved = np.stack([level_set(quarter) + sign * field > 0 for sign in (1, 0, -1)])
    errors = nrmse(model.predict(moved).stress, 1.05 * curve)
    assert errors[0] < errors[1] < errors[2]


def test_only_strains_that_count_are_looked_at():
    stress = np.linspace(1, 2, len(EVERYWHERE))
    known = np.arange(len(stress)) < 10
    other = np.where(known, stress, stress + 5)
    assert Aim(stress, known).missing(other) == pytest.approx(0, abs=1e-12)
    assert np.abs(Aim(stress, EVERYWHERE).missing(other)).max() > 0.1


def test_the_components_are_those_of_stress():
    """For a small difference they are its cosine transform, whatever the scale between."""
    stress = np.linspace(0.01, 30, len(EVERYWHERE))
    small = 1e-6 * SOFT * np.cos(np.linspace(0, 3, len(stress)))
    expected = aiming.components(small)
    assert Aim(stress + small, EVERYWHERE).missing(stress) == pytest.approx(expected, rel=1e-3)
