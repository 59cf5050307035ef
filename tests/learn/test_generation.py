"""Generation: read-out of every kind of model, ranking, several processes, interruption."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

import synthetic
from crumple import metrics
from crumple.atomic import save_record
from crumple.config import Config, Generation, Model
from crumple.dataset import Dataset
from crumple.diffusion import data, generation
from crumple.diffusion.model import build_network, load_model, save_model
from crumple.errors import UserError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TARGETS = "target,0.002,0.02,0.1,0.2\nsoft,0.1,1,2,1\nstiff,2,20,60,\n"


def samples(manifest: Path, folder: Path, model: Model) -> data.Samples:
    """Data set of a kind of model."""
    data.build_cache(Dataset(manifest), model, folder / "cache")
    return data.load_samples(folder / "cache", 10, torch.device("cpu"))[0]


@pytest.fixture(scope="module")
def model_folder(settings, manifest, tmp_path_factory) -> Path:
    """A model with random weights, which is enough for everything but quality."""
    folder = tmp_path_factory.mktemp("model")
    normalisation = samples(manifest, folder, settings.model).normalisation
    torch.manual_seed(0)
    network = build_network(settings.model, normalisation.layout, 11)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_model(folder, network.state_dict(), settings.model, normalisation, {})
    save_record(folder, synthetic.model_record(manifest, settings))
    return folder


def run(settings: Config, model: Path, targets: Path, out: Path, *options: str) -> None:
    arguments = ["generate", "--config", settings.model_dump_json(), "--model", str(model)]
    arguments += ["--targets", str(targets), "--out", str(out), *options]
    subprocess.run([sys.executable, "-m", "crumple", *arguments], env=ENVIRONMENT, check=True)


@pytest.fixture(scope="module")
def generated(settings, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    (folder / "targets.csv").write_text(TARGETS)
    run(settings, model_folder, folder / "targets.csv", folder / "generated.zarr")
    return folder / "generated.zarr"


def test_store(generated, settings):
    store = zarr.open_group(generated, mode="r")
    assert store["frames"].shape == (4, 11, 3, 96, 96)
    assert store["target"][:].tolist() == [0, 0, 1, 1]
    assert store.attrs["target_names"] == ["soft", "stiff"]
    assert store.attrs["evaluations_per_sample"] == 3
    assert len(set(store["seed"][:].tolist())) == 4
    goal = store["target_stress"][:]
    assert np.isnan(goal).sum(axis=1).tolist() == [0, 0, 5, 5]  # the stiff one ends at 10 %
    void = store["mask"][:] < 0.5
    assert not store["frames"][:].transpose(0, 3, 4, 1, 2)[void].any()

    known = np.isfinite(goal)
    predicted = store["predicted_stress"][:]
    frames = store["frames"][:].astype(float)
    J = metrics.volume_change(frames[:, :, :2], store["mask"][:][:, None] > 0.5)
    curve = metrics.predicted_curve(frames[:, :, 2], np.array(store.attrs["frame_strain"]), J)
    assert np.allclose(curve, predicted, rtol=2e-2, atol=0.05)  # float16
    for row in range(4):
        error = metrics.nrmse(predicted[row, known[row]], goal[row, known[row]])
        assert store["predicted_nrmse"][row] == pytest.approx(error, rel=1e-5)
    assert sorted(store["rank"][:2].tolist()) == sorted(store["rank"][2:].tolist()) == [0, 1]


def test_processes_share_the_work_and_change_nothing(generated, settings, model_folder, tmp_path):
    targets = generated.with_name("targets.csv")
    run(settings, model_folder, targets, tmp_path / "two.zarr", "--processes", "2")
    one, two = (zarr.open_group(p, mode="r") for p in (generated, tmp_path / "two.zarr"))
    for name, array in one.arrays():
        np.testing.assert_array_equal(array[:], two[name][:], err_msg=name)


class PowerFails(Exception):
    """Ends a generation between two batches."""


@pytest.fixture
def counted(monkeypatch):
    """What was sampled, of how much may be sampled until the power fails."""
    original, log = generation._candidates, SimpleNamespace(done=[], last=99)

    def candidates(model, goals, numbers, config):
        if len(log.done) == log.last:
            raise PowerFails
        log.done.append(numbers)
        return original(model, goals, numbers, config)

    monkeypatch.setattr(generation, "_candidates", candidates)
    return log


def interrupted(log, settings, model_folder, folder: Path, **changes) -> list:
    """Arguments of a generation that was interrupted after its first batch."""
    (folder / "targets.csv").write_text(TARGETS)
    arguments = [model_folder, [folder / "targets.csv"], folder / "out.zarr"]
    log.last = 1
    with pytest.raises(PowerFails):
        generation.generate(changed(settings, **changes), *arguments)
    assert not (folder / "out.zarr").exists()
    log.last = 99
    return arguments


def changed(settings: Config, **changes) -> Config:
    """Settings with others of generation."""
    values = settings.generation.model_dump() | changes
    return settings.model_copy(update={"generation": Generation.model_validate(values)})


def test_an_interrupted_run_does_not_repeat_what_is_done(
    settings, model_folder, generated, tmp_path, counted
):
    arguments = interrupted(counted, settings, model_folder, tmp_path)
    generation.generate(settings, *arguments)
    assert counted.done == [range(0, 3), range(3, 4)]
    one, two = (zarr.open_group(p, mode="r") for p in (generated, tmp_path / "out.zarr"))
    for name, array in one.arrays():
        np.testing.assert_array_equal(array[:], two[name][:], err_msg=name)


def test_batches_of_another_size_continue(settings, model_folder, generated, tmp_path, counted):
    arguments = interrupted(counted, settings, model_folder, tmp_path, batch=1)
    generation.generate(changed(settings, batch=2), *arguments)
    assert counted.done == [range(0, 1), range(0, 2), range(2, 4)]
    one, two = (zarr.open_group(p, mode="r") for p in (generated, tmp_path / "out.zarr"))
    assert sorted(one["seed"][:].tolist()) == sorted(two["seed"][:].tolist())
    assert two["target"][:].tolist() == [0, 0, 1, 1]


def test_precision_is_a_setting_that_is_kept(settings, model_folder, tmp_path, counted):
    """Candidates of two precisions are not mixed, and bf16 is what it says, on every CPU."""
    arguments = interrupted(counted, settings, model_folder, tmp_path, precision="fp32")
    generation.generate(changed(settings, precision="bf16"), *arguments)
    assert counted.done == [range(0, 3), range(0, 3), range(3, 4)]
    generation.generate(changed(settings, precision="fp32"), *arguments[:2], tmp_path / "fp32.zarr")
    masks = []
    for name, precision in (("out", "bf16"), ("fp32", "fp32")):
        store = zarr.open_group(tmp_path / f"{name}.zarr", mode="r")
        assert store.attrs["precision"] == precision
        masks.append(store["mask"][:].astype(float).ravel())
    assert not np.array_equal(*masks)
    assert np.corrcoef(*masks)[0, 1] > 0.98

    with pytest.raises(UserError, match="generation.precision fp16 needs a GPU"):
        generation.generate(changed(settings, precision="fp16"), *arguments)


def test_a_run_is_not_continued_with_other_weights(
    settings, model_folder, manifest, tmp_path, counted
):
    arguments = interrupted(counted, settings, model_folder, tmp_path)
    other = shutil.copytree(model_folder, tmp_path / "other")
    model = load_model(other)
    weights = {name: 2 * value for name, value in model.denoiser.network.state_dict().items()}
    save_model(other, weights, model.settings, model.normalisation, {})
    generation.generate(settings, other, *arguments[1:])
    assert counted.done == [range(0, 3), range(0, 3), range(3, 4)]


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"fields": []},
        {"frames": "last", "fields": ["s22"]},
        {"mask": False, "fields": ["u1", "u2", "s22"]},
    ],
)
def test_read_out_recovers_the_data(kind, manifest, tmp_path):
    """Simulated fields, taken for a sample, give back their design, fields and curve."""
    model, dataset = Model.model_validate(kind), Dataset(manifest)
    loaded = samples(manifest, tmp_path, model)
    state, scaled = loaded.batch(range(3), [0] * 3)
    physical = loaded.normalisation.decode(state).numpy()
    mask, frames, curve = generation.read_sample(physical, loaded.normalisation)
    places = dataset.split["train"][:3]
    solid, stored = dataset.read("solid", places), dataset.read("frames", places)
    stress = dataset.read("frame_stress", places)
    assert np.array_equal(mask > 0.5, solid > 0) or not model.mask
    assert np.mean((mask > 0.5) != (solid > 0)) < 0.01

    if model.fields:
        quarters = generation.quarters_from_fields(physical, loaded.normalisation)
        assert np.mean(quarters != solid[:, :48, :48]) < 0.01

    steps = slice(-1, None) if model.frames == "last" else slice(None)
    for channel, name in enumerate(["u1", "u2", "s22"]):
        predicted = frames[:, :, channel]
        if name in model.fields or (name == "u2" and "w2" in model.fields):
            expected = stored[:, steps, channel] * (mask > 0.5)[:, None]
            assert np.allclose(predicted[:, steps], expected, atol=2e-2, rtol=2e-2)
        else:
            assert np.isnan(predicted).all()
    if "s22" in model.fields:
        # The made-up fields carry the curve without their change of volume.
        without = stress[:, steps]
        J = metrics.volume_change(stored[:, :, :2], solid[:, None])
        s22, strain = stored[:, :, 2], np.array(dataset.manifest["frame_strain"])
        expected = metrics.predicted_curve(s22, strain, J) if "u1" in model.fields else without
        assert np.allclose(curve[:, steps], expected, atol=0.1)
        assert np.abs(expected - without).max() > 1 or "u1" not in model.fields
    else:
        assert np.isnan(curve).all()


@pytest.mark.parametrize(
    "kind",
    [
        {"fields": []},
        {"frames": "last", "fields": ["s22"]},
        {"per_frame_tokens": False},
        {"mask": False, "fields": ["u1", "u2", "s22"]},
        {"reference_frame": "eulerian", "mask": False, "fields": ["solid", "s22", "mises"]},
    ],
)
def test_every_ablation_generates(kind, settings, tmp_path):
    model = Model.model_validate(settings.model.model_dump() | kind)
    strain = tuple(synthetic.FRAME_STRAIN.tolist())
    frames = strain[-1:] if model.frames == "last" else strain
    normalisation = data.Normalisation(
        reference_frame=model.reference_frame,
        mask=model.mask,
        fields=tuple(model.fields),
        frame_strain=frames,
        rms=tuple((1.0,) * len(model.fields) for _ in frames),
        curve_strain=strain,
        stress_rms=(10.0,) * len(strain),
    )
    network = build_network(model, normalisation.layout, 11)
    save_model(tmp_path, network.state_dict(), model, normalisation, {})
    save_record(tmp_path, synthetic.model_record())
    targets = tmp_path / "targets.csv"
    targets.write_text(TARGETS)
    generation.generate(settings, tmp_path, [targets], tmp_path / "out.zarr")
    store = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert store["frames"].shape == (4, 11, 3, 96, 96)
    assert sorted(store["rank"][:2].tolist()) == [0, 1]
    predicted = np.isfinite(store["predicted_stress"][:]).sum(axis=1)
    expected = 0 if not model.fields else len(frames)
    assert (predicted == expected).all()


def test_guidance_and_noise_matter_and_a_repeat_is_equal(settings, model_folder):
    model = load_model(model_folder)
    torch.manual_seed(1)
    noise = torch.randn(1, 34, 96, 96)
    stress = torch.tensor(synthetic.curve(0.5, 0.2, synthetic.FRAME_STRAIN)).float()[None]
    known = torch.ones_like(stress, dtype=torch.bool)

    def draw(noise=noise, **changes):
        return generation.sample(
            model, stress, known, noise, settings.generation.model_copy(update=changes)
        )

    assert torch.equal(draw(), draw())
    assert not torch.allclose(draw(), draw(guidance=1.0))
    assert not torch.allclose(draw(), draw(noise=-noise))
    assert draw(sampler="heun").shape == noise.shape


def test_what_is_no_model_is_one_sentence(model_folder, tmp_path):
    with pytest.raises(UserError, match="config.json: No such file.*train this model again"):
        load_model(tmp_path)
    for name in ("config.json", "normalisation.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("16,", "48,"))
    with pytest.raises(UserError, match="doesn't fit config.json"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="model.safetensors: it has changed since it was written"):
        load_model(tmp_path)
