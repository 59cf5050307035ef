"""The correction of the forward model: exact where something is known, silent far from it."""

import numpy as np
import pytest
import torch

from crumple.config import Designs
from crumple.diffusion.quarters import signed_distance
from crumple.diffusion.response import from_logarithmic, load_response
from crumple.library import packaged, read_library
from crumple.metrics import nrmse
from crumple.refinement.moves import children
from crumple.search.screening import DRAWS, Correction, Raw, Screen

STEPS, MEMBERS = 50, 2
GENERATOR = np.random.default_rng(0)
DRAWN = GENERATOR.standard_normal((DRAWS, STEPS))


def made_up(features, bias):
    """Designs of which the networks say 2 (on the logarithmic scale), ``bias`` too little."""
    value = np.full((MEMBERS, len(features), STEPS), 2.0)
    return Raw(value, features), 2.0 + bias[:, None] * np.linspace(0.5, 1, STEPS)


def logarithmic(curves):
    return np.arcsinh(curves[..., 1:] / 0.05)


@pytest.fixture
def correction():
    features = GENERATOR.standard_normal((60, 8))
    return Correction(*made_up(features, np.sin(features[:, 0]))), features


def test_known_designs_are_predicted_as_they_are(correction):
    correction, features = correction
    raw, truth = made_up(features, np.sin(features[:, 0]))
    mean = logarithmic(correction.curves(raw, 0 * DRAWN)).mean(axis=1)
    left = np.abs(mean - truth).mean() / np.abs(truth - 2.0).mean()
    assert left < 0.3


def test_the_mean_is_that_of_the_curves(correction):
    correction, features = correction
    raw, _ = made_up(features + 0.3, features[:, 0])
    mean = correction.mean(torch.from_numpy(raw.features)).numpy()
    curves = logarithmic(correction.curves(raw, 0 * DRAWN)).mean(axis=1)
    assert np.abs(mean).max() > 0.1
    assert mean == pytest.approx(curves - 2.0, abs=1e-6)


def test_far_from_everything_the_forward_model_speaks_alone(correction):
    correction, features = correction
    raw, _ = made_up(features + 1e9, 0 * features[:, 0])
    assert logarithmic(correction.curves(raw, 0 * DRAWN)) == pytest.approx(2.0, abs=1e-6)


def test_doubt_grows_with_the_distance(correction):
    correction, features = correction
    doubt = [
        logarithmic(correction.curves(made_up(features + shift, features[:, 0])[0], DRAWN))
        .std(axis=1)
        .mean()
        for shift in (0, 1, 1e3)
    ]
    assert doubt[0] < doubt[1] < doubt[2]


def test_neighbours_share_their_error_and_strangers_do_not():
    """A common cause that the networks don't see, at the scale of the packaged model's features."""
    library, screen = read_library(), Screen(load_response(packaged("response")))
    parents = library.quarter[:40]
    made, _ = children([signed_distance(parents[0])], 20, GENERATOR, Designs())
    raw = screen.raw(np.concatenate([parents, made]))
    bias = np.where(np.arange(len(parents) + len(made)) % 40 == 0, 0.2, 0.0)
    bias[len(parents) :] = 0.2  # that of their parent, design 0
    value = raw.value.mean(axis=0) + bias[:, None]
    truth = np.pad(from_logarithmic(torch.from_numpy(value)).numpy(), ((0, 0), (1, 0)))
    known, new = slice(0, len(parents)), slice(len(parents), None)
    fitted = screen.fit(
        Raw(raw.value[:, known], raw.features[known]), truth[known], np.arange(len(parents))
    )
    one = Raw(raw.value[:, new], raw.features[new])
    corrected = fitted.curves(one, 0 * DRAWN).mean(axis=1)
    plain = np.pad(
        from_logarithmic(torch.from_numpy(one.value.mean(axis=0))).numpy(), ((0, 0), (1, 0))
    )
    assert np.median(nrmse(corrected, truth[new])) < 0.6 * np.median(nrmse(plain, truth[new]))


def test_the_networks_look_once_at_what_is_kept(monkeypatch):
    screen = Screen(load_response(packaged("response")))
    quarter = read_library().quarter[:3]
    first = screen.raw(quarter, keep=True)

    def run(new, batch):
        assert new == []
        return iter(())

    monkeypatch.setattr(screen, "_run", run)
    again = screen.raw(quarter[::-1])
    assert np.array_equal(again.value, first.value[:, ::-1])
    assert np.array_equal(again.features, first.features[::-1])


def test_features_and_read_out_are_the_model():
    model = load_response(packaged("response"))
    quarter = read_library().quarter[:2]
    raw = Screen(model).raw(np.concatenate([quarter, quarter[:, :, ::-1]]))
    both = from_logarithmic(torch.from_numpy(raw.value)).numpy()
    mean = (both[:, :2] + both[:, 2:]).mean(axis=0) / 2
    assert mean == pytest.approx(model.predict(quarter).stress[:, 1:], rel=1e-4)
