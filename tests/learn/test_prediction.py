"""Fields of given designs: what they are made of, and that a model learns to predict them."""

import numpy as np
import pytest
import torch

import synthetic
from crumple.config import Config, Generation, cross_check
from crumple.dataset import Dataset
from crumple.designs import mirror
from crumple.diffusion import data, spacetime
from crumple.diffusion.joint import joint_candidates
from crumple.diffusion.model import TrainedModel, build_network, load_model
from crumple.diffusion.preconditioning import Denoiser
from crumple.diffusion.prediction import predict_fields
from crumple.errors import UserError
from crumple.targets import Targets

GENERATION = Generation(sigma_max=20.0, batch=2)


@pytest.fixture(scope="module")
def model(settings, manifest, tmp_path_factory) -> TrainedModel:
    """A model with random weights."""
    cache = tmp_path_factory.mktemp("cache") / "cache"
    data.build_cache(Dataset(manifest), settings.model, cache)
    normalisation = data.load_samples(cache, 10, torch.device("cpu"))[0].normalisation
    torch.manual_seed(0)
    network = build_network(settings.model, normalisation.layout, 11)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return TrainedModel(Denoiser(network).eval(), normalisation, settings.model, 1.0)


@pytest.fixture(scope="module")
def quarters(manifest) -> np.ndarray:
    dataset = Dataset(manifest)
    return dataset.read("quarter", dataset.split["train"][:3])


def test_a_row_depends_on_its_design_and_number_alone(model, quarters):
    fields = predict_fields(model, quarters, GENERATION)
    assert fields.shape == (3, 11, 3, 96, 96)
    void = np.array([mirror(quarter) for quarter in quarters]) == 0
    assert not fields.transpose(0, 3, 4, 1, 2)[void].any()
    alone = predict_fields(model, quarters, GENERATION.model_copy(update={"batch": 1}))
    assert np.allclose(fields, alone, rtol=1e-3, atol=1e-4)
    other = predict_fields(model, quarters[[0, 2, 2]], GENERATION)
    assert np.allclose(other[[0, 2]], fields[[0, 2]], rtol=1e-3, atol=1e-4)
    assert not np.allclose(other[1], fields[1], rtol=1e-2)
    assert not np.allclose(predict_fields(model, quarters, GENERATION, seed=1), fields, rtol=1e-2)


def test_fields_are_what_the_denoiser_expects(model, quarters):
    one = predict_fields(model, quarters[:1], GENERATION)
    layout, normalisation = model.normalisation.layout, model.normalisation
    seed = int(np.random.default_rng(np.random.SeedSequence(0, spawn_key=(10, 0))).integers(2**63))
    noise = layout.noise(96, seed, torch.device("cpu"))[None]
    state = 20.0 * noise
    state[0, 0] = torch.from_numpy(mirror(quarters[0]) - 0.5)  # the scaled mask
    with torch.inference_mode():
        denoised = model.denoiser(
            state,
            torch.tensor([20.0]),
            torch.zeros(1, 11),
            torch.zeros(1, 11, dtype=torch.bool),
            torch.tensor([True]),
        )
    expected = layout.split(normalisation.decode(denoised))[1][0].numpy() * mirror(quarters[0])
    assert np.allclose(one[0], expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_has_not_learnt_it_says_so(model, quarters):
    joint = TrainedModel(model.denoiser, model.normalisation, model.settings, 0.0)
    with pytest.raises(UserError, match="known_design 0: it draws designs and fields together"):
        predict_fields(joint, quarters, GENERATION)


def test_a_model_of_known_designs_draws_none(model, settings):
    """Without this it would take its noise for designs, and say nothing."""
    goal = Targets(["soft"], np.ones((1, 11)), np.ones((1, 11), bool))
    with pytest.raises(UserError, match="known_design 1: .* cannot draw any"):
        joint_candidates(model, None, goal, range(1), settings)
    joint = Config.model_validate({"generation": {"method": "joint"}})
    with pytest.raises(UserError, match="method joint draws .* training.known_design 1 shows"):
        cross_check(joint)


def test_fields_of_two_designs_are_learnt_by_heart(by_heart):
    """Each design gets its own stress field, from its shape alone."""
    model, quarters, truth = by_heart
    predicted = predict_fields(model, quarters, GENERATION)
    assert predicted.shape == truth.shape == (2, 1, 1, 96, 96)

    def error(one, other):
        return np.linalg.norm(one - other) / np.linalg.norm(other)

    own = [error(predicted[i], truth[i]) for i in range(2)]
    swapped = [error(predicted[i], truth[1 - i]) for i in range(2)]
    assert max(own) < 0.3
    assert all(one < 0.7 * other for one, other in zip(own, swapped, strict=True))


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory):
    """A model of the last stress field, trained on two designs; these; their fields."""
    folder = tmp_path_factory.mktemp("by_heart")
    model = {"channels": [32, 64], "depths": [1, 1], "embedding": 32, "head": 32, "patch": 4}
    model |= {"frames": "last", "fields": ["s22"], "spatial_attention": 12}
    hard = {"steps": 250, "batch": 2, "learning_rate": 3e-3, "warmup": 10, "log_every": 50}
    hard |= {"noise_mean": 1.0, "noise_std": 1.5, "precision": "fp32", "validate_every": 250}
    halves = Config.model_validate({"dataset": {"validation_fraction": 0.5}})
    path = synthetic.write_dataset(folder / "data", 4, 4, halves)  # designs 0, 2 and 3
    config = Config.model_validate({"model": model, "training": hard})
    spacetime.train(config, path, folder / "model")
    dataset = Dataset(path)
    places = dataset.split["train"]
    frames = dataset.read("frames", places)[:, -1:, 2:3].astype(np.float32)
    return load_model(folder / "model"), dataset.read("quarter", places), frames
