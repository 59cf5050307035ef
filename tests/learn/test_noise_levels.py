"""The ideal observer of benchmarks/noise_levels.py, against a closed form and noise on states."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from crumple.config import Config, Generation, Training
from crumple.dataset import Dataset

CONFIG = Config(dataset={"validation_fraction": 0.3})


@pytest.fixture
def bench():
    path = Path(__file__).parents[2] / "benchmarks/noise_levels.py"
    spec = importlib.util.spec_from_file_location("noise_levels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return synthetic.write_dataset(tmp_path_factory.mktemp("data"), 6, 3, CONFIG)


def test_two_designs_are_told_apart_as_often_as_they_should(bench, monkeypatch):
    monkeypatch.setattr(bench, "SIGMAS", (1.0, 3.0, 10.0, 1e4))
    monkeypatch.setattr(bench, "DRAWS", 4000)
    states = np.array([[1.0, 2.0, 0.0], [-1.0, 0.0, 3.0]])
    distance = np.linalg.norm(states[0] - states[1])
    errors = np.array([[0.0, 0.4], [0.2, 0.0]])
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    for guess, sigma in zip(bench.observe(states @ states.T, errors), bench.SIGMAS, strict=True):
        d = distance / sigma  # of the two along the line through them, in units of the noise
        right = weight @ (1 / (1 + np.exp(-d * (d / 2 + z)))) / weight.sum()
        assert guess.right == pytest.approx(right, abs=0.01)
        assert guess.error == pytest.approx(0.3 * (1 - right), abs=0.005)


def test_the_observer_sees_what_training_sees(bench, manifest, monkeypatch):
    """Against states with the noise of training, of which the mask's is mirrored."""
    sigmas, draws = (20.0, 120.0), 30
    monkeypatch.setattr(bench, "SIGMAS", sigmas)
    monkeypatch.setattr(bench, "DRAWS", 300)
    samples, curves = bench.known_designs(Dataset(manifest), CONFIG, 100)
    count, layout = len(samples), samples.normalisation.layout

    def parts(states):
        mask = states[:, : layout.static, :48, :48].flatten(1)
        fields = states[:, layout.static :].flatten(1)
        return {"all channels": torch.cat([mask, fields], dim=1), "mask": mask, "fields": fields}

    known = parts(samples.batch(range(count), [0] * count)[0])
    right = {name: np.zeros(len(sigmas)) for name in known}
    for k in range(draws * count):
        noise = parts(layout.noise(96, k, torch.device("cpu"))[None])
        for name, states in known.items():
            for row, sigma in enumerate(sigmas):
                square = (states[k % count] + sigma * noise[name] - states).square().sum(dim=1)
                posterior = (-square.double() / (2 * sigma**2)).softmax(0)
                right[name][row] += posterior[k % count].item() / draws / count
    for name, product in bench.inner_products(samples).items():
        found = [guess.right for guess in bench.observe(product, np.zeros((count, count)))]
        assert found == pytest.approx(right[name], abs=0.06)
    chance = 1 / count
    assert 1.5 * chance < right["mask"][0] < 0.8 and 1.5 * chance < right["fields"][1] < 0.8


def test_shares_and_steps_add_up(bench):
    training, generation = Training(noise_mean=1.0, noise_std=0.5), Generation()
    shares = [bench.training_share(training, *pair) for pair in bench.ranges()]
    assert sum(shares) == pytest.approx(1)
    assert bench.training_share(training, np.exp(0.5), np.exp(1.5)) == pytest.approx(
        0.6827, abs=1e-4
    )
    assert (
        sum(bench.sampler_steps(generation, *pair) for pair in bench.ranges()) == generation.steps
    )
    settings = Generation(guidance=2.0, guidance_interval=(1.0, 10.0))
    where = [bench.guidance(settings, low, low * 1.5) for low in (0.1, 0.8, 2.0, 9.0, 11.0)]
    assert where == ["", "in part", "yes", "in part", ""]


@pytest.mark.parametrize(("sigma_max", "answer"), [(80.0, "no"), (1000.0, "yes")])
def test_the_table(bench, manifest, sigma_max, answer):
    config = CONFIG.model_copy(update={"generation": Generation(sigma_max=sigma_max)})
    text = bench.table(Dataset(manifest), config, 4)
    assert text.startswith("4 designs") and "chance: P 0.250" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(bench.SIGMAS) and rows[1][1].startswith("1.00 / 0 %")
    of_all = text.split("\n\n")[2].splitlines()
    assert of_all[0].startswith("all channels: decided from sigma ")
    assert of_all[1] == f"- {answer}: the sampler starts at chance ({sigma_max:g})"
