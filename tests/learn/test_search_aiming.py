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
from crumple.search import aiming
from crumple.search.aiming import Aim
from crumple.search.moves import level_set

LIBRARY = read_library()
EVERYWHERE = np.ones(len(CURVE_STRAIN) - 1, bool)


@pytest.fixture(scope="module")
def model():
    return load_response(packaged("response"))


def predicted(model, state):
    """Mean over the members on the logarithmic scale (50,), without the shifted design."""
    with torch.inference_mode():
        out = torch.stack([member(state) for member in model.members])
        return (out * model.deviation + model.mean).mean(dim=0)[0].double().numpy()


def test_the_jacobian_is_that_of_finite_differences(model):
    quarter, curve = LIBRARY.quarter[3], LIBRARY.curve_stress[3, 1:].astype(float)
    weight = Aim(curve, EVERYWHERE).weight()
    derivative = aiming.jacobian(model, quarter, weight)
    for place in ((0, 0), (1, 2), (5, 3)):
        amplitude = np.zeros((QUARTER, QUARTER))
        amplitude[place] = 0.5  # a hundredth of a pixel
        field = torch.from_numpy(fft.idctn(amplitude, norm="ortho")).float() * SCALE
        state = encode_quarters(quarter[None])
        change = predicted(model, state + field) - predicted(model, state - field)
        expected = aiming.components(weight * change)  # over an amplitude of 1
        scale = np.abs(derivative).max()
        assert derivative[:, *place] == pytest.approx(expected, abs=0.02 * scale)


def test_less_damping_brings_a_linear_curve_nearer():
    generator = np.random.default_rng(0)
    derivative = generator.standard_normal((aiming.SHAPES, aiming.MODES, aiming.MODES))
    missing = 0.01 * generator.standard_normal(aiming.SHAPES)
    fields = list(aiming.steps(derivative, missing))
    assert len(fields) == len(aiming.EXPONENTS) * len(aiming.DAMPINGS)
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
    for one in np.split(np.array(left), len(aiming.EXPONENTS)):
        assert (np.diff(one) < 0).all()
        assert one[-1] < 0.3 * np.linalg.norm(missing)


def test_steps_that_are_too_large_are_left_out():
    derivative = np.random.default_rng(0).standard_normal(
        (aiming.SHAPES, aiming.MODES, aiming.MODES)
    )
    fields = list(aiming.steps(derivative, np.full(aiming.SHAPES, 1e3)))
    assert all(np.sqrt(np.mean(field**2)) <= aiming.LARGEST for field in fields)
    assert len(fields) < len(aiming.EXPONENTS) * len(aiming.DAMPINGS)


def test_aimed_designs_come_nearer_by_the_model_itself(model):
    """Where the model is the truth, the best of the steps closes most of the gap."""
    gained = []
    for row in (10, 20, 30):
        quarter = LIBRARY.quarter[row]
        curve = model.predict(quarter[None]).stress[0]
        goal = curve * np.linspace(1, 1.05, len(curve))
        aim = Aim(goal[1:], EVERYWHERE)
        made = aiming.aimed(model, quarter, curve[1:], aim, Designs())
        error = nrmse(model.predict(np.stack(made)).stress, goal)
        gained.append(error.min() / nrmse(curve, goal))
    assert np.median(gained) < 0.5


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
