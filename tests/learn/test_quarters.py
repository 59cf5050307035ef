"""Images of designs and features of curves, as the networks of a design see them."""

import numpy as np
import pytest
import torch

from crumple import config as cfg
from crumple import designs
from crumple.diffusion.preconditioning import SIGMA_DATA
from crumple.diffusion.quarter_networks import QuarterDenoiser, QuarterRegressor
from crumple.diffusion.quarters import (
    FARTHEST,
    curve_features,
    decode_quarters,
    encode_quarters,
    signed_distance,
)


@pytest.fixture(scope="module")
def quarters():
    return np.stack([designs.sample(0, i, cfg.Designs()).quarter for i in range(8)])


def distance_by_brute_force(quarter):
    """Half a pixel less than the distance to the nearest pixel of the other kind."""
    cell = np.pad(quarter.astype(bool), 12, mode="symmetric")
    rows, columns = np.indices(cell.shape)
    result = np.empty((48, 48))
    for i, j in np.ndindex(48, 48):
        solid = cell[i + 12, j + 12]
        other = cell != solid
        nearest = np.sqrt(np.min((rows[other] - i - 12) ** 2 + (columns[other] - j - 12) ** 2))
        result[i, j] = (nearest - 0.5) * (1 if solid else -1)
    return result.clip(-FARTHEST, FARTHEST)


def test_distance_is_that_to_the_nearest_pixel_of_the_other_kind(quarters):
    expected = distance_by_brute_force(quarters[0])
    assert np.allclose(signed_distance(quarters[0]), expected, atol=1e-6)
    assert not np.allclose(signed_distance(quarters[1]), expected, atol=1)


def test_states_give_their_designs_and_have_the_size_that_noise_levels_assume(quarters):
    state = encode_quarters(quarters)
    assert state.shape == (8, 1, 48, 48)
    assert np.array_equal(decode_quarters(state), quarters)
    assert float(state.square().mean().sqrt()) == pytest.approx(SIGMA_DATA, rel=0.03)


def test_a_state_survives_the_noise_that_sampling_ends_with(quarters):
    state = encode_quarters(quarters)
    noisy = state + 0.01 * torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(decode_quarters(noisy), quarters)
    noisy = state + 0.3 * torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
    assert not np.array_equal(decode_quarters(noisy), quarters)


def test_features_do_not_look_at_unknown_stress():
    known = torch.tensor([[True, False, True]])
    one, other = torch.tensor([[1.0, 7.0, 2.0]]), torch.tensor([[1.0, -3.0, 2.0]])
    assert torch.equal(curve_features(one, known), curve_features(other, known))
    assert not torch.equal(curve_features(one, known | True), curve_features(other, known | True))
    assert torch.equal(curve_features(one, known & False), torch.zeros(1, 12))


def test_features_tell_which_step_has_which_stress():
    known = torch.ones(1, 3, dtype=torch.bool)
    up, down = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    assert not torch.allclose(curve_features(up, known), curve_features(down, known))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_run_in_both_precisions(quarters, dtype):
    torch.manual_seed(0)
    state, stress = encode_quarters(quarters), torch.randn(8, 11)
    denoiser = QuarterDenoiser(11, [16, 32], [1, 1], 32)
    regressor = QuarterRegressor(50, [16, 32], [1, 1])
    for layer in (denoiser.head, regressor.head[-1]):
        torch.nn.init.normal_(layer.weight, std=0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        image = denoiser(state, torch.zeros(8), stress, torch.ones(8, 11, dtype=torch.bool))
        curve = regressor(state)
    assert image.shape == state.shape and curve.shape == (8, 50)
    assert curve.dtype == dtype and torch.isfinite(image).all() and torch.isfinite(curve).all()
    assert not torch.equal(curve[0], curve[1])
