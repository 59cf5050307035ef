"""The design model follows the curve; the forward model knows the curve of a design."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from crumple import designs
from crumple.config import Config
from crumple.diffusion.designer import (
    DesignerProblem,
    DesignModel,
    noise,
)
from crumple.diffusion.optimiser import Muon
from crumple.diffusion.pairs import Examples, Pairs
from crumple.diffusion.response import (
    ResponseProblem,
    curve_loss,
    from_logarithmic,
    load_response,
    to_logarithmic,
)
from crumple.diffusion.training import update_average
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.library import packaged, read_library
from crumple.metrics import CAUTION, frame_stress, nrmse

SMALL = {
    "designer": {"channels": [32, 32], "depths": [1, 1], "embedding": 64},
    "designer_training": {"drop_steps": 0.0},
    "response": {"members": 2, "channels": [16, 32], "depths": [1, 1]},
    "generation": {"draws": 12, "candidates": 6, "batch": 8, "steps": 10, "guidance": 1.5},
}


def some_pairs(count):
    """Random designs, and curves that differ clearly: their size, and whether they soften."""
    quarter = np.stack([designs.sample(0, i, Config().designs).quarter for i in range(count)])
    size = np.geomspace(1, 60, count)[:, None]
    bend = np.linspace(-1, 1, count)[:, None]
    curve = size * np.tanh(CURVE_STRAIN / 0.01) * (1 + bend * CURVE_STRAIN / 0.4)
    split = Examples(quarter, curve.astype(np.float32))
    return Pairs(split, split, {"settings": {}, "inputs": {}})


def trained(problem, steps, batch, rate):
    """Train a problem by the parts of the loop, without its files; return the average."""
    torch.manual_seed(0)
    network, average = problem.build(), problem.build()
    optimizer = Muon(network, rate, weight_decay=0.01)
    for step in range(steps):
        loss = problem.loss(network, range(step * batch, (step + 1) * batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_average(average, network, min(0.98, step / (step + 10)))
    return average.eval()


@pytest.fixture(scope="module")
def pairs():
    return some_pairs(4)


@pytest.fixture(scope="module")
def problem(pairs):
    return DesignerProblem(Config.model_validate(SMALL), pairs, torch.device("cpu"))


def test_the_design_follows_the_curve_and_not_another_one(pairs, problem):
    denoiser = trained(problem, 250, 16, 3e-3)
    model = DesignModel(denoiser, torch.tensor(problem.stress_rms).float())
    goal = np.repeat(frame_stress(pairs.training.curve), 6, axis=0)
    right = np.repeat(np.arange(4), 6)
    drawn = model.sample(goal, range(24), Config.model_validate(SMALL).generation)
    both_ways = np.stack([pairs.training.quarter, pairs.training.quarter[..., ::-1]])
    distance = (drawn[None, :, None] != both_ways[:, None]).mean(axis=(-2, -1)).min(axis=0)
    nearest = distance.argmin(axis=1)
    shuffled = (right + 1) % 4
    assert np.mean(nearest == right) > 0.8
    assert np.mean(nearest == shuffled) < 0.2


def test_half_period_shifts_are_drawn_and_nothing_else_moves_a_design(pairs, problem):
    seen = []

    def network(noisy, sigma, stress, known):
        seen.append(noisy / (1 + sigma[:, None, None, None]))
        return torch.zeros_like(noisy)

    settings = {**SMALL, "designer_training": {"noise_mean": -10.0, "noise_std": 0.001}}
    quiet = DesignerProblem(Config.model_validate(settings), pairs, torch.device("cpu"))
    quiet.loss(network, range(64))
    states, _ = quiet.training
    shown = torch.cat(seen)
    plain = (shown[:, None] - states[None]).abs().amax(dim=(2, 3, 4)) < 1e-3
    turned = (shown[:, None] - states.flip(-1)[None]).abs().amax(dim=(2, 3, 4)) < 1e-3
    assert (plain | turned).any(dim=1).all()
    assert 16 <= int(turned.any(dim=1).sum()) <= 48


def test_noise_is_a_function_of_the_seed():
    one, again, other = (noise(seed, torch.device("cpu")) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_frame_stress_reads_the_curve_at_the_strains_of_the_frames():
    curve = (300 * CURVE_STRAIN)[None]
    assert np.allclose(frame_stress(curve), 300 * FRAME_STRAIN)


def test_logarithmic_scale_and_its_inverse():
    stress = torch.tensor([-0.3, 0.0, 1e-3, 0.5, 80.0])
    assert torch.allclose(from_logarithmic(to_logarithmic(stress)), stress, rtol=1e-5, atol=1e-7)


def test_curve_loss_of_a_perfect_and_of_a_tenfold_prediction():
    stress, deviation = torch.full((1, 50), 10.0), torch.ones(50)
    assert float(curve_loss(stress, stress, deviation)) < 1e-6
    logarithmic = np.arcsinh(100 / 0.05) - np.arcsinh(10 / 0.05)
    assert float(curve_loss(10 * stress, stress, deviation)) == pytest.approx((1 + logarithmic) / 2)


def test_forward_model_learns_the_curves_of_its_designs(pairs):
    settings = Config.model_validate(SMALL)
    problem = ResponseProblem(settings, pairs, torch.device("cpu"))
    model = trained(problem, 120, 8, 3e-3)
    prediction = model.predict(pairs.training.quarter)
    errors = nrmse(prediction.stress, pairs.training.curve)
    swapped = nrmse(prediction.stress, pairs.training.curve[::-1])
    assert errors.max() < 0.15 < 3 * errors.max() < swapped.min()
    assert np.all(prediction.stress[:, 0] == 0) and np.all(prediction.spread[:, 1:] > 0)
    shifted = model.predict(pairs.training.quarter[..., ::-1])
    assert np.allclose(prediction.stress, shifted.stress, rtol=1e-4)


def test_the_spread_of_the_package_says_how_far_off_a_prediction_is():
    """On held-out designs; for the spreads of other designs the rank correlation is none."""
    library = read_library()
    rows = library.held_out(0.09)[:200]
    prediction = load_response(packaged("response")).predict(library.quarter[rows])
    truth = library.curve_stress[rows]
    error = nrmse(prediction.stress, truth)
    spread = nrmse(truth + prediction.spread, truth)
    assert spearmanr(error, spread).statistic > 0.35
    assert abs(spearmanr(error, np.roll(spread, 1)).statistic) < 0.25
    assert CAUTION / 2 < np.median(error) / np.median(spread) < 2 * CAUTION


def test_a_single_member_has_no_spread(pairs):
    settings = Config.model_validate({**SMALL, "response": {**SMALL["response"], "members": 1}})
    problem = ResponseProblem(settings, pairs, torch.device("cpu"))
    prediction = problem.build().eval().predict(pairs.training.quarter)
    assert np.isnan(prediction.spread[:, 1:]).all()
