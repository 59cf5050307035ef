"""Samples of the denoiser: channels, scaling, cache, symmetries."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch

from crumple import dataset as stored
from crumple.config import Config, Model
from crumple.dataset import Dataset
from crumple.diffusion import data
from crumple.diffusion.network import Layout
from crumple.diffusion.preconditioning import SIGMA_DATA
from crumple.layout import pixel_height

FRAMES = 11


@pytest.fixture(scope="module")
def cache(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "cache"
    data.build_cache(Dataset(manifest), Model(), folder)
    return folder


@pytest.fixture(scope="module")
def splits(manifest, cache):
    count = len(Dataset(manifest).split["train"])
    return data.load_samples(cache, count, torch.device("cpu"))


def test_channels_are_mask_and_fields_in_physical_units(manifest):
    dataset = Dataset(manifest)
    place = dataset.split["train"][3]
    sample = data.read_sample(dataset, Model(), place).astype(np.float64)
    frames = dataset.read("frames", [place])[0].astype(np.float64)
    solid = dataset.read("solid", [place])[0] > 0
    assert sample.shape == (1 + FRAMES * 3, 96, 96)
    assert np.array_equal(sample[0] > 0, solid)
    strain, y = dataset.manifest["frame_strain"], pixel_height()
    for k in range(FRAMES):
        u1, w2, s22 = sample[1 + 3 * k : 4 + 3 * k]
        assert np.array_equal(u1, frames[k, 0]) and np.array_equal(s22, frames[k, 2])
        assert np.allclose(w2[solid], (frames[k, 1] + strain[k] * y)[solid], atol=2e-4)
        assert not w2[~solid].any()


def test_scaling_is_that_of_the_training_split_and_is_inverted(splits, cache):
    training, validation = splits
    rows = range(len(training))
    states, stress = training.batch(rows, [0] * len(training))
    assert states.dtype == torch.float32
    rms = states.square().mean(dim=(0, 2, 3)).sqrt()
    assert torch.allclose(rms, torch.full_like(rms, SIGMA_DATA), rtol=1e-3)
    assert torch.allclose(stress.square().mean(dim=0), torch.ones(FRAMES), rtol=1e-4)
    assert not torch.allclose(
        validation.batch([0], [0])[0].square().mean(dim=(0, 2, 3)).sqrt(), rms, rtol=0.05
    )
    decoded = training.normalisation.decode(states)
    assert torch.allclose(decoded, training.physical.float(), atol=1e-4, rtol=1e-4)
    text = training.normalisation.to_json()
    assert data.Normalisation.model_validate_json(text) == training.normalisation


def reflected(frames, solid, strain, element):
    """The same element of the group by the data set's own functions."""
    if element & data.V:
        frames, solid = stored.mirror_y(frames, solid, strain), solid[::-1]
    if element & data.H:
        frames, solid = stored.mirror_x(frames), solid[:, ::-1]
    return frames, solid


@pytest.mark.parametrize("element", range(4))
def test_symmetries_are_those_of_the_data_set(element):
    rng = np.random.default_rng(element)
    solid = rng.random((96, 96)) < 0.5
    strain = np.linspace(0.01, 0.2, FRAMES)
    frames = rng.normal(size=(FRAMES, 4, 96, 96)) * solid
    y = pixel_height()

    def state(frames, solid):
        w2 = np.where(solid, frames[:, 1] + strain[:, None, None] * y, 0)
        fields = np.stack([frames[:, 0], w2, frames[:, 2]], axis=1)
        return torch.from_numpy(np.concatenate([solid[None], fields.reshape(-1, 96, 96)]))

    def turn(element):
        sign = data.signs(element, ["u1", "w2", "s22"], Layout(1, FRAMES, 3))
        return data.move_pixels(state(frames, solid), element) * sign[:, None, None]

    turned = turn(element)
    assert torch.allclose(turned, state(*reflected(frames, solid, strain, element)), atol=1e-12)
    for other in set(range(4)) - {element}:
        assert not torch.allclose(turned, turn(other))


def test_batches_are_turned_and_the_cache_stays_as_it_is(splits):
    training, _ = splits
    before = training.physical.clone()
    states, stress = training.batch([2, 2], [0, data.H | data.V])
    sign = data.signs(data.H | data.V, ["u1", "w2", "s22"], training.normalisation.layout)
    turned = data.move_pixels(states[0], data.H | data.V) * sign[:, None, None]
    assert torch.equal(states[1], turned)
    assert torch.equal(stress[0], stress[1])
    assert torch.equal(training.physical, before)


def test_samples_of_a_file_are_those_of_the_mapped_array(splits):
    training, validation = splits
    for samples in splits:
        stress = torch.zeros(len(samples), FRAMES)
        mapped = data.Samples(samples.physical, stress, samples.normalisation)
        rows = [len(samples) - 1, 0]
        assert torch.equal(samples.batch(rows, [0, data.H])[0], mapped.batch(rows, [0, data.H])[0])
    assert not torch.equal(training.batch([0], [0])[0], validation.batch([0], [0])[0])


def test_samples_that_are_driven_out_of_memory_are_read_past_it(cache, monkeypatch):
    training, _ = data.load_samples(cache, 10, torch.device("cpu"))
    rows = range(len(training))
    expected = training.physical.clone()
    file = training._source
    if file._direct is None:
        pytest.skip("the file system has no direct reads")
    assert all(torch.equal(file[row], expected[row]) for _ in range(2) for row in rows)
    assert not file.driven_out

    read, direct = os.preadv, []

    def nothing_in_memory(number, buffers, offset, flags=0):
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError
        direct.append(number == file._direct.fileno())
        return read(number, buffers, offset)

    monkeypatch.setattr(os, "preadv", nothing_in_memory)
    assert all(torch.equal(file[row], expected[row]) for row in rows)
    assert file.driven_out and all(direct) and len(direct) == len(rows)


@pytest.mark.parametrize("driven_out", [False, True])
def test_a_file_that_is_cut_off_later_is_one_sentence(cache, tmp_path, driven_out):
    shorter = shutil.copytree(cache, tmp_path / "cache")
    _, validation = data.load_samples(shorter, 10, torch.device("cpu"))
    validation._source.driven_out = driven_out
    os.truncate(shorter / "samples.npy", (shorter / "samples.npy").stat().st_size - 1)
    with pytest.raises(data.UserError, match="samples.npy ends before its sample 0: train again"):
        validation.batch([len(validation) - 1, 0], [0, 0])


def test_augmentation_choices():
    model = Model()
    assert data.symmetries("none", model) == [0]
    assert data.symmetries("all", model) == [0, data.H, data.V, data.H | data.V]
    published = Model(mask=False, fields=["u1", "u2", "s22"])
    assert data.symmetries("all", published) == [0, data.H]


@pytest.mark.parametrize(
    ("settings", "channels", "frames"),
    [
        ({"fields": []}, 1, 1),
        ({"frames": "last", "fields": ["s22"]}, 2, 1),
        ({"mask": False, "fields": ["u1", "u2", "s22"]}, 33, 11),
        ({"fields": ["u1", "w2", "s22", "mises"]}, 45, 11),
    ],
)
def test_ablations_have_their_channels(manifest, tmp_path, settings, channels, frames):
    model = Model.model_validate(settings)
    data.build_cache(Dataset(manifest), model, tmp_path / "cache")
    samples, _ = data.load_samples(tmp_path / "cache", 10, torch.device("cpu"))
    assert samples.normalisation.layout.frames == frames
    assert samples.batch([0], [0])[0].shape == (1, channels, 96, 96)


def test_missing_eulerian_fields_are_one_sentence(manifest, tmp_path):
    model = Model(reference_frame="eulerian", mask=False, fields=["solid", "s22", "mises"])
    with pytest.raises(data.UserError, match="fields.eulerian"):
        data.build_cache(Dataset(manifest), model, tmp_path / "cache")
    assert not (tmp_path / "cache/samples.npy").exists()


def test_cache_is_built_once(manifest, cache):
    before = (cache / "samples.npy").stat().st_mtime_ns
    data.build_cache(Dataset(manifest), Model(), cache)
    assert (cache / "samples.npy").stat().st_mtime_ns == before
    assert json.loads((cache / "normalisation.json").read_text())["fields"] == ["u1", "w2", "s22"]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("samples.npy", lambda content: content[:-1], "samples is cut off"),
        ("samples.npy", lambda content: content.replace(b"<f2", b"<i2"), "holds integers, not num"),
        ("samples.npy", lambda content: content.replace(b" 34,", b" 17,"), "is 11 x 17 x 96 x 96"),
        ("stress.npy", lambda content: content.replace(b"(11, 11)", b"(121,)  "), "is 121, not 11"),
        ("stress.npy", lambda content: b"", "magic string"),
    ],
)
def test_a_damaged_cache_is_one_sentence(cache, tmp_path, name, change, words):
    damaged = shutil.copytree(cache, tmp_path / "cache")
    content = (cache / name).read_bytes()
    (damaged / name).write_bytes(change(content))
    with pytest.raises(data.UserError, match=f"cannot read .*{name}: .*remove .*cache and train"):
        data.load_samples(damaged, 10, torch.device("cpu"))
    with pytest.raises(data.UserError, match=words):
        data.load_samples(damaged, 10, torch.device("cpu"))
    data.load_samples(cache, 10, torch.device("cpu"))


def test_the_cache_reads_few_samples_ahead_of_those_it_has_taken(manifest, tmp_path, monkeypatch):
    """A data set that is larger than the memory would fill it otherwise."""
    monkeypatch.setattr(data, "AHEAD", 2)
    read, most = [], 0

    def read_sample(*arguments):
        read.append(arguments)
        return original(*arguments)

    def taken(samples, *words):
        nonlocal most
        for count, sample in enumerate(samples):
            time.sleep(0.02)
            most = max(most, len(read) - count)
            yield sample

    original = data.read_sample
    monkeypatch.setattr(data, "read_sample", read_sample)
    monkeypatch.setattr(data, "progress", taken)
    data.build_cache(Dataset(manifest), Model(), tmp_path / "cache")
    assert len(read) > 10 and most <= 5  # the first one is read once more, for its shape


def test_config_refuses_what_makes_no_model():
    for bad in ({"mask": False}, {"fields": ["solid"]}, {"channels": [100, 200, 300]}):
        with pytest.raises(ValueError):
            Config.model_validate({"model": bad})
