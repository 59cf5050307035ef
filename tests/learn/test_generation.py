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
from crumple import designs, metrics
from crumple.atomic import save_record
from crumple.config import Config, Generation, Model
from crumple.dataset import Dataset
from crumple.diffusion import data, generation, joint
from crumple.diffusion.cascade import cascade_candidates
from crumple.diffusion.designer import DesignerProblem, load_designer
from crumple.diffusion.generation import Models
from crumple.diffusion.model import build_network, load_model, save_model
from crumple.diffusion.pairs import Examples, Pairs
from crumple.diffusion.response import ResponseProblem, load_response
from crumple.errors import UserError
from crumple.layout import CURVE_STRAIN
from crumple.library import packaged
from crumple.topology import acceptance

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
    save_model(folder, network.state_dict(), settings.model, normalisation, 0.5, {})
    save_record(folder, synthetic.model_record(manifest, settings))
    return folder


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Designs and made-up curves."""
    quarter = np.stack([designs.sample(0, i, Config().designs).quarter for i in range(6)])
    curve = np.linspace(5, 50, 6)[:, None] * np.tanh(CURVE_STRAIN / 0.01)
    return Pairs(Examples(quarter, curve), Examples(quarter[:1], curve[:1]), {})


@pytest.fixture(scope="module")
def quarter_models(settings, pairs, tmp_path_factory) -> Models:
    """Design model and forward model with random weights."""
    cpu, folders = torch.device("cpu"), []
    for kind in (ResponseProblem, DesignerProblem):
        problem = kind(settings, pairs, cpu)
        torch.manual_seed(0)
        network = problem.build()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        folders.append(tmp_path_factory.mktemp("model"))
        problem.save(folders[-1], network.state_dict(), {})
        save_record(folders[-1], synthetic.model_record())
    return Models(*folders, None)


@pytest.fixture(scope="module")
def models(quarter_models, model_folder) -> Models:
    return quarter_models._replace(model=model_folder)


def with_method(settings: Config, method: str) -> Config:
    generation = settings.generation.model_copy(update={"method": method})
    return settings.model_copy(update={"generation": generation})


def run(settings: Config, models: Models, targets: Path, out: Path, *options: str) -> None:
    arguments = ["generate", "--config", settings.model_dump_json()]
    for name, folder in models._asdict().items():
        arguments += [f"--{name}", str(folder)] if folder else []
    arguments += ["--targets", str(targets), "--out", str(out), *options]
    subprocess.run([sys.executable, "-m", "crumple", *arguments], env=ENVIRONMENT, check=True)


@pytest.fixture(scope="module", params=["cascade", "joint"])
def method(request, settings) -> Config:
    return with_method(settings, request.param)


@pytest.fixture(scope="module")
def generated(method, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    (folder / "targets.csv").write_text(TARGETS)
    run(method, models, folder / "targets.csv", folder / "generated.zarr")
    return folder / "generated.zarr"


def test_store(generated, method, models):
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
    assert np.isfinite(store["frames"][:]).all() and store["frames"][:].any()
    quarter, predicted = store["quarter"][:], store["predicted_stress"][:]
    status = [acceptance(image, method.designs) for image in quarter]
    assert [str(text) for text in store["status"][:]] == status

    # the curve is predicted for the design that would be simulated, whatever the target
    prediction = load_response(models.response).predict(quarter).stress
    every = [np.interp(synthetic.FRAME_STRAIN, CURVE_STRAIN, one) for one in prediction]
    assert np.allclose(predicted, every, rtol=2e-2, atol=1e-2)  # bf16 where the CPU has it
    known = np.isfinite(goal)
    for row in range(4):
        error = metrics.nrmse(predicted[row, known[row]], goal[row, known[row]])
        assert store["predicted_nrmse"][row] == pytest.approx(error, rel=1e-5)
    assert sorted(store["rank"][:2].tolist()) == sorted(store["rank"][2:].tolist()) == [0, 1]


def test_without_a_forward_model_the_curve_is_that_of_the_sampled_fields(
    settings, model_folder, tmp_path
):
    targets, out = tmp_path / "targets.csv", tmp_path / "out.zarr"
    targets.write_text(TARGETS)
    generation.generate(
        with_method(settings, "joint"), Models(None, None, model_folder), [targets], out
    )
    store = zarr.open_group(out, mode="r")
    frames = store["frames"][:].astype(float)
    J = metrics.volume_change(frames[:, :, :2], store["mask"][:][:, None] > 0.5)
    curve = metrics.predicted_curve(frames[:, :, 2], np.array(store.attrs["frame_strain"]), J)
    assert np.allclose(curve, store["predicted_stress"][:], rtol=2e-2, atol=0.05)  # float16
    assert np.isnan(store["predicted_spread"][:]).all()


def test_the_cascade_keeps_the_best_of_what_it_draws(settings, quarter_models):
    loaded = load_designer(quarter_models.designer), load_response(quarter_models.response)
    goal = synthetic.curve(0.5, 0.2, synthetic.FRAME_STRAIN)
    few = changed(settings, refinements=0)
    every = changed(few, candidates=settings.generation.draws)
    kept, drawn = (cascade_candidates(*loaded, None, goal, 3, one) for one in (few, every))
    assert len(drawn["seed"]) == settings.generation.draws == len(set(drawn["seed"].tolist()))
    assert np.array_equal(kept["quarter"], drawn["quarter"][: len(kept["quarter"])])
    acceptable = drawn["status"] == "ok"
    assert np.all(acceptable[:-1] >= acceptable[1:])
    for group in (acceptable, ~acceptable):
        assert np.all(np.diff(drawn["predicted_nrmse"][group]) >= 0)


def test_the_cascade_puts_what_it_has_improved_first(settings):
    """With the models of the package and few draws; each is better than the best draw."""
    loaded = load_designer(packaged("designer")), load_response(packaged("response"))
    goal = synthetic.curve(0.5, 0.2, synthetic.FRAME_STRAIN)
    plain, improved = (
        cascade_candidates(*loaded, None, goal, 3, changed(settings, draws=8, refinements=n))
        for n in (0, 1)
    )
    assert [*improved["status"]] == ["ok", "ok"]
    assert improved["predicted_nrmse"].max() < 0.9 * plain["predicted_nrmse"].min()
    assert improved["predicted_nrmse"][0] <= improved["predicted_nrmse"][1]


def test_processes_share_the_work_and_change_nothing(generated, method, models, tmp_path):
    targets = generated.with_name("targets.csv")
    run(method, models, targets, tmp_path / "two.zarr", "--processes", "2")
    one, two = (zarr.open_group(p, mode="r") for p in (generated, tmp_path / "two.zarr"))
    for name, array in one.arrays():
        np.testing.assert_array_equal(array[:], two[name][:], err_msg=name)


@pytest.fixture(scope="module")
def together(settings) -> Config:
    return with_method(settings, "joint")


class PowerFails(Exception):
    """Ends a generation between two batches."""


@pytest.fixture
def counted(monkeypatch):
    """What was sampled, of how much may be sampled until the power fails."""
    original, log = generation.joint_candidates, SimpleNamespace(done=[], last=99)

    def candidates(model, response, goals, numbers, config):
        if len(log.done) == log.last:
            raise PowerFails
        log.done.append(numbers)
        return original(model, response, goals, numbers, config)

    monkeypatch.setattr(generation, "joint_candidates", candidates)
    return log


def interrupted(log, settings, models, folder: Path, **changes) -> list:
    """Arguments of a generation that was interrupted after its first batch."""
    (folder / "targets.csv").write_text(TARGETS)
    arguments = [models, [folder / "targets.csv"], folder / "out.zarr"]
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


def test_an_interrupted_run_does_not_repeat_what_is_done(together, models, tmp_path, counted):
    arguments = interrupted(counted, together, models, tmp_path)
    generation.generate(together, *arguments)
    assert counted.done == [range(0, 3), range(3, 4)]
    generation.generate(together, *arguments[:2], tmp_path / "one.zarr")
    one, two = (zarr.open_group(tmp_path / f"{name}.zarr", mode="r") for name in ("one", "out"))
    for name, array in one.arrays():
        np.testing.assert_array_equal(array[:], two[name][:], err_msg=name)


def test_batches_of_another_size_continue(together, models, tmp_path, counted):
    arguments = interrupted(counted, together, models, tmp_path, batch=1)
    generation.generate(changed(together, batch=2), *arguments)
    assert counted.done == [range(0, 1), range(0, 2), range(2, 4)]
    generation.generate(together, *arguments[:2], tmp_path / "one.zarr")
    one, two = (zarr.open_group(tmp_path / f"{name}.zarr", mode="r") for name in ("one", "out"))
    assert sorted(one["seed"][:].tolist()) == sorted(two["seed"][:].tolist())
    assert two["target"][:].tolist() == [0, 0, 1, 1]


def test_precision_is_a_setting_that_is_kept(together, models, tmp_path, counted):
    """Candidates of two precisions are not mixed, and bf16 is what it says, on every CPU."""
    arguments = interrupted(counted, together, models, tmp_path, precision="fp32")
    generation.generate(changed(together, precision="bf16"), *arguments)
    assert counted.done == [range(0, 3), range(0, 3), range(3, 4)]
    generation.generate(changed(together, precision="fp32"), *arguments[:2], tmp_path / "fp32.zarr")
    masks = []
    for name, precision in (("out", "bf16"), ("fp32", "fp32")):
        store = zarr.open_group(tmp_path / f"{name}.zarr", mode="r")
        assert store.attrs["precision"] == precision
        masks.append(store["mask"][:].astype(float).ravel())
    assert not np.array_equal(*masks)
    assert np.corrcoef(*masks)[0, 1] > 0.98

    with pytest.raises(UserError, match="generation.precision fp16 needs a GPU"):
        generation.generate(changed(together, precision="fp16"), *arguments)


def test_a_run_is_not_continued_with_other_weights(together, models, tmp_path, counted):
    arguments = interrupted(counted, together, models, tmp_path)
    other = shutil.copytree(models.model, tmp_path / "other")
    model = load_model(other)
    weights = {name: 2 * value for name, value in model.denoiser.network.state_dict().items()}
    save_model(other, weights, model.settings, model.normalisation, 0.0, {})
    given = models._replace(model=other)
    generation.generate(together, given, *arguments[1:])
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
    mask, frames, curve = joint.read_sample(physical, loaded.normalisation)
    places = dataset.split["train"][:3]
    solid, stored = dataset.read("solid", places), dataset.read("frames", places)
    stress = dataset.read("frame_stress", places)
    assert np.array_equal(mask > 0.5, solid > 0) or not model.mask
    assert np.mean((mask > 0.5) != (solid > 0)) < 0.01

    if model.fields:
        quarters = joint.quarters_from_fields(physical, loaded.normalisation)
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
def test_every_ablation_generates(kind, settings, quarter_models, tmp_path):
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
    save_model(tmp_path, network.state_dict(), model, normalisation, 0.0, {})
    save_record(tmp_path, synthetic.model_record())
    targets = tmp_path / "targets.csv"
    targets.write_text(TARGETS)
    models = Models(quarter_models.response, None, tmp_path)
    generation.generate(with_method(settings, "joint"), models, [targets], tmp_path / "out.zarr")
    store = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert store["frames"].shape == (4, 11, 3, 96, 96)
    assert sorted(store["rank"][:2].tolist()) == [0, 1]
    assert np.isfinite(store["predicted_stress"][:]).all()


def test_guidance_and_noise_matter_and_a_repeat_is_equal(settings, model_folder):
    model = load_model(model_folder)
    torch.manual_seed(1)
    noise = torch.randn(1, 34, 96, 96)
    stress = torch.tensor(synthetic.curve(0.5, 0.2, synthetic.FRAME_STRAIN)).float()[None]
    known = torch.ones_like(stress, dtype=torch.bool)

    def draw(noise=noise, **changes):
        return joint.sample(
            model, stress, known, lambda _: noise, settings.generation.model_copy(update=changes)
        )

    assert torch.equal(draw(), draw())
    assert not torch.allclose(draw(guidance=2.0), draw(guidance=1.0))
    assert not torch.allclose(draw(), draw(noise=-noise))
    assert draw(sampler="heun").shape == noise.shape
    assert not torch.allclose(draw(sampler="ancestral"), draw(sampler="heun"))


def test_a_model_that_is_needed_and_not_named_is_one_sentence(settings, models, tmp_path):
    targets = tmp_path / "targets.csv"
    targets.write_text(TARGETS)
    given = models._replace(model=None)
    with pytest.raises(UserError, match="joint needs a trained model: name it by --model"):
        generation.generate(with_method(settings, "joint"), given, [targets], tmp_path / "out")


def test_the_models_of_the_package_draw_designs_for_a_curve(settings, tmp_path):
    """Without any model named; the designs of a stiff and of a soft curve differ as they should."""
    targets = tmp_path / "targets.csv"
    strains = ",".join(f"{strain:g}" for strain in synthetic.FRAME_STRAIN)
    curves = (scale * np.tanh(synthetic.FRAME_STRAIN / 0.02) for scale in (6, 40))
    rows = [
        ",".join([name, *map(str, c)]) for name, c in zip(("soft", "stiff"), curves, strict=True)
    ]
    targets.write_text("\n".join([f"target,{strains}", *rows]))
    generation.generate(settings, Models(None, None, None), [targets], tmp_path / "out.zarr")
    store = zarr.open_group(tmp_path / "out.zarr", mode="r")
    solid = store["quarter"][:].mean(axis=(1, 2))
    assert solid[:2].max() < solid[2:].min()
    assert store["predicted_nrmse"][:].max() < 0.6
    weights = [*packaged("designer").iterdir(), *packaged("response").iterdir()]
    assert sum(path.stat().st_size for path in weights) < 15e6


@pytest.mark.parametrize("name", ["designer", "response"])
def test_a_damaged_quarter_model_is_one_sentence(name, quarter_models, tmp_path):
    load = {"designer": load_designer, "response": load_response}[name]
    whole = getattr(quarter_models, name)
    load(whole)
    weights = (whole / f"{name}.safetensors").read_bytes()
    (tmp_path / f"{name}.json").write_text((whole / f"{name}.json").read_text())
    (tmp_path / f"{name}.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{name}.safetensors: it has changed since.*train-{name}"):
        load(tmp_path)
    with pytest.raises(UserError, match=f"{name}.json: No such file"):
        load(tmp_path / "elsewhere")


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
