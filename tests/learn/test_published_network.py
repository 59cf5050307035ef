"""The published network: equal to the published code, imported, sampled from, trained.

``published_network.npz`` holds what the published code (jhbastek/VideoMetamaterials at 3db3489)
answers at a small size: channels 16 and 32, pictures of 4x8 pixels, weights and inputs by
:func:`their_weights` and :func:`inputs`, guidance 5. ``step_T`` is its ``p_sample`` at level T.
``names`` are the names and shapes of its parameters. There is none of its code in it.
"""

import functools
import json
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from crumple import cli
from crumple.atomic import SUMS
from crumple.config import Config, Model, cross_check, load_config, parse_config
from crumple.dataset import Dataset, write_manifest
from crumple.diffusion import generation, imported, published_network, sampling, spacetime
from crumple.diffusion.data import Range, build_cache, load_samples, ranges
from crumple.diffusion.generation import Models
from crumple.diffusion.joint import joint_candidates
from crumple.diffusion.model import build_denoiser, load_model
from crumple.diffusion.network import Layout
from crumple.diffusion.noise_prediction import NoisePredictor, noise_loss
from crumple.errors import ConfigError, UserError
from crumple.evaluation import read_known
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.provenance import folder_record, hash_file, is_published
from crumple.published import export_published, import_published

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "workflow/presets/published.yaml"
SMALL = {"channels": [16, 32], "depths": [2, 2], "embedding": 64}
TABLES = ("frame_range_data.csv", "stress_strain_data.csv")


@functools.cache
def reference() -> dict[str, torch.Tensor]:
    """What the published code answers, as states of ours: ``(2, 33, 4, 8)``."""
    with np.load(Path(__file__).with_name("published_network.npz")) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "names"}
    return {name: state(value) for name, value in arrays.items()}


def their_weights() -> dict[str, torch.Tensor]:
    """Weights by the names of the published code, each a function of its name."""
    with np.load(Path(__file__).with_name("published_network.npz")) as file:
        names = json.loads(str(file["names"]))
    weights = {}
    for name, shape in names.items():
        if name.endswith("rotary_emb.freqs"):
            values = 10_000.0 ** (-np.arange(16) / 16)
        else:
            values = 0.2 * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
            if name.endswith(("gamma", "norm.weight", "hidden.0.weight")):
                values += 1
        weights[name] = torch.tensor(values, dtype=torch.float32)
    return weights


def inputs() -> tuple[torch.Tensor, ...]:
    """State, levels, scaled curves and noise, as they were given to the published code."""
    random = np.random.default_rng(0)
    x = torch.tensor(random.standard_normal((2, 3, 11, 4, 8)), dtype=torch.float32)
    stress = torch.tensor(random.uniform(-1, 1, (2, 11)), dtype=torch.float32)
    noise = torch.tensor(random.standard_normal((2, 3, 11, 4, 8)), dtype=torch.float32)
    return state(x), torch.tensor([200.0, 3.0]), stress, state(noise)


def state(video: torch.Tensor) -> torch.Tensor:
    """Return a video ``(batch, c, frames, h, w)`` as a state."""
    return video.transpose(1, 2).flatten(1, 2)


def largest_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.std()).item()


@pytest.fixture(scope="module")
def denoiser() -> NoisePredictor:
    """Small, with the weights of the reference."""
    theirs = their_weights()
    unit = Range(-1.0, 1.0)
    scaling = ranges(dict.fromkeys(("u1", "u2", "s22"), unit), unit, FRAME_STRAIN.tolist())
    model = imported.describe(theirs)
    found = build_denoiser(model, scaling.layout, 11)
    found.network.load_state_dict(imported.translate(theirs, model, scaling))
    return found.eval()


@torch.inference_mode()
def test_the_network_is_the_published_one(denoiser):
    x, level, stress, _ = inputs()
    known = torch.ones_like(stress, dtype=torch.bool)
    found = denoiser.network(x, level, stress, known)
    assert largest_error(found, reference()["conditional"]) < 1e-5
    unconditional = denoiser.network(x, level, stress, ~known)
    assert largest_error(unconditional, reference()["unconditional"]) < 1e-5
    known[:, 4] = False  # a curve that is known in part is none
    assert torch.equal(denoiser.network(x, level, stress, known), unconditional)


@torch.inference_mode()
@pytest.mark.parametrize("level", [255, 100, 0])
def test_a_step_of_the_sampler_is_the_published_one(denoiser, level):
    x, _, stress, noise = inputs()
    known = torch.ones_like(stress, dtype=torch.bool)
    levels = sampling.cosine_sigmas(256).flip(0)
    pair = levels[[level + 1, level]]
    start, end = (1 + pair**2).sqrt()

    def step(quantile):
        denoise = sampling.guided(denoiser, stress, known, 5.0, (0.0, 1e5))
        denoise = sampling.thresholded(denoise, quantile)
        return sampling.ancestral(denoise, x * start, pair, lambda _: noise) / end

    assert largest_error(step(0.9), reference()[f"step_{level}"]) < 2e-5
    if level < 255:  # at the last level nearly all of the state is noise
        assert largest_error(step(0.8), reference()[f"step_{level}"]) > 1e-3


def test_levels_are_those_of_the_cosine_schedule(denoiser):
    sigmas = sampling.cosine_sigmas(256)[:-1].flip(0)
    assert torch.allclose(denoiser.level(sigmas), torch.arange(256).double(), atol=1e-9)
    between = (sigmas[7] * sigmas[8]).sqrt()[None]
    assert denoiser.level(between).item() == pytest.approx(7.5)
    assert denoiser.level(torch.tensor([1e-4, 1e6])).tolist() == [0, 255]
    beta = imported._betas()
    assert beta[-1] == pytest.approx(0.9999) and (beta.diff() > 0).all()
    kept = (1 - beta.double()).cumprod(0)
    assert torch.allclose((1 / kept - 1).sqrt(), sigmas, rtol=1e-3)


def test_the_loss_is_the_error_of_the_noise():
    x, noise = torch.randn(2, 33, 4, 4).double(), torch.randn(2, 33, 4, 4).double()
    sigma = torch.tensor([0.3, 40.0]).double()

    def off_by_a_quarter(noisy, sigma, stress, known):
        return noisy - sigma[:, None, None, None] * (noise + 0.25)

    weights = Layout(static=0, frames=11, fields=3).weights().double()
    loss = noise_loss(off_by_a_quarter, x, noise, sigma, None, None, weights)
    assert loss.tolist() == pytest.approx([0.25, 0.25])


# --- a checkpoint --------------------------------------------------------------------------------


def write_checkpoint(path: Path, weights=None, prefix="", **changes) -> Path:
    """A checkpoint as the published code writes it."""
    weights = weights or their_weights()
    of_network = {f"{prefix}denoise_fn.{name}": value for name, value in weights.items()}
    ema = {f"{prefix}betas": imported._betas()} | of_network
    content = {
        "model": {name: torch.zeros_like(value) for name, value in ema.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
        "steps": 200_000,
        "ema": ema,
    }
    content |= changes
    torch.save({name: part for name, part in content.items() if part is not None}, path)
    return path


@pytest.fixture
def tables(tmp_path) -> Path:
    """The tables of three training samples."""
    folder = tmp_path / "lagrangian/training"
    folder.mkdir(parents=True)
    lines = [[-0.1, 0.2, -0.2, 0.01, 90, -70, 10, 0.5], [-0.3, 0.1, -0.21, 0, 80, -60, 30, 0.4]]
    curves = [scale * np.tanh(CURVE_STRAIN / 0.02) for scale in (5.0, 40.0)]
    np.savetxt(folder / TABLES[0], lines, delimiter=",")
    np.savetxt(folder / TABLES[1], curves, delimiter=",")
    return folder


def run(*arguments) -> int:
    return cli.main(["import-checkpoint", *map(str, arguments)])


@pytest.fixture
def model_folder(tmp_path, tables) -> Path:
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint.pt"), tmp_path / "model"
    assert run(checkpoint, "--tables", tables, "--out", out) == 0
    return out


@torch.inference_mode()
@pytest.mark.parametrize("prefix", ["", "module."])  # of one process, of several
def test_averaged_weights_are_imported(prefix, tmp_path, tables, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pt", prefix=prefix)
    for _ in range(2):  # the command may be repeated
        assert run(checkpoint, "--tables", tables, "--out", tmp_path / "model") == 0
    assert "averaged weights of step 200000" in capsys.readouterr().out
    model = load_model(tmp_path / "model")
    x, level, stress, _ = inputs()
    found = model.denoiser.network(x, level, stress, torch.ones_like(stress, dtype=torch.bool))
    assert largest_error(found, reference()["conditional"]) < 1e-5
    assert model.settings.kind == "published" and model.known_design == 0
    record = folder_record(tmp_path / "model", "")
    assert record["stage"] == "import-checkpoint" and is_published(record)
    assert record["inputs"]["checkpoint"] == hash_file(checkpoint)
    assert (tmp_path / "model" / SUMS).exists()


def test_states_and_curves_are_scaled_as_published(model_folder):
    scaling = load_model(model_folder).normalisation
    low, high = ((-0.3, -0.21, -70.0), (0.2, 0.01, 30.0))
    for values, state_value in ((low, -1), (high, 1)):
        physical = torch.tensor(values * 11)[None, :, None, None]
        assert torch.allclose(scaling.encode(physical), torch.tensor(1.0 * state_value))
        assert torch.allclose(scaling.decode(torch.full_like(physical, state_value)), physical)
    # Between the least of all stresses, at 0.2 %, where the curves have no point, and the largest.
    least, largest = 5 * np.tanh(0.004 / 0.02) / 2, 40 * np.tanh(10)
    for stress, scaled in ((least, -1.0), (largest, 1.0)):
        curve = torch.full((1, 11), stress)
        assert torch.allclose(scaling.encode_curve(curve), torch.tensor(scaled))


def test_the_scaling_of_another_model_is_one_sentence(model_folder):
    path = model_folder / "normalisation.json"
    scaling = json.loads(path.read_text())
    path.write_text(json.dumps(scaling | {"mask": True}))
    with pytest.raises(UserError, match="normalisation.json: the published network has no static"):
        load_model(model_folder)
    path.write_text(json.dumps(scaling | {"centre": [0.0]}))
    with pytest.raises(UserError, match="centre must have a value per field"):
        load_model(model_folder)


class Foreign:
    """What a checkpoint must not hold: it would be run on loading."""

    def __reduce__(self):
        return (Path("/nowhere/else").write_text, ("",))


def without(name: str):
    return {key: value for key, value in their_weights().items() if key != name}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "it is damaged, or holds more"),
        (lambda p: p.write_text("checkpoint"), "it is damaged, or holds more"),
        (lambda p: torch.save({"ema": Foreign()}, p), "it is damaged, or holds more"),
        (lambda p: p.unlink(), "No such file"),
        (lambda p: torch.save([1, 2], p), "doesn't hold model, optimizer, steps, ema"),
        (lambda p: write_checkpoint(p, ema=None), "doesn't hold model, optimizer, steps, ema"),
        (lambda p: write_checkpoint(p, steps="all"), "its steps or its averaged weights are none"),
        (lambda p: write_checkpoint(p, ema={"a": 3}), "other things than tensors"),
        (lambda p: write_checkpoint(p, ema={"a": torch.ones(3)}), "aren't the 256 of the cosine"),
        (lambda p: write_checkpoint(p, ema={"betas": imported._betas()}), "it isn't the published"),
        (lambda p: write_checkpoint(p, without("init_conv.bias")), "init_conv.bias are missing"),
        (
            lambda p: write_checkpoint(p, their_weights() | {"init_conv.conv.x": torch.ones(1)}),
            "init_conv.conv.x aren't those of the published network",
        ),
        (
            lambda p: write_checkpoint(p, their_weights() | {"final_conv.1.bias": torch.ones(4)}),
            "final_conv.1.bias have the shape",
        ),
        (
            lambda p: write_checkpoint(
                p, their_weights() | {"final_conv.1.bias": torch.full((3,), torch.nan)}
            ),
            "final_conv.1.bias aren't finite",
        ),
        (
            lambda p: write_checkpoint(
                p,
                {
                    name: 2 * value if name.endswith("freqs") else value
                    for name, value in their_weights().items()
                },
            ),
            "rotary_emb.freqs isn't as published",
        ),
    ],
)
def test_what_is_no_published_checkpoint_is_one_sentence(write, words, tmp_path, tables, capsys):
    path = write_checkpoint(tmp_path / "checkpoint.pt")
    write(path)
    assert run(path, "--tables", tables, "--out", tmp_path / "model") == 1
    message = capsys.readouterr().err
    assert words in message and str(path) in message and message.count("\n") == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("table", "text", "words"),
    [
        (0, "1,2\n1,2\n", "not of 8: name the published data set"),
        (0, "1,2,3,4,5,6,7,8\n1,2,3\n", "line 2 has 3 values, not 8"),
        (0, "1,2,3,4,5,6,7,x\n" * 2, "could not convert"),
        (0, "1,2,3,4,5,6,7,nan\n" * 2, "not a finite number"),
        (0, "1,2,3,4,5,6,7,8\n", "has 1 lines"),
        (1, None, "No such file"),
    ],
)
def test_a_damaged_table_is_one_sentence(table, text, words, tmp_path, tables, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pt")
    if text is None:
        (tables / TABLES[table]).unlink()
    else:
        (tables / TABLES[table]).write_text(text)
    assert run(checkpoint, "--tables", tables, "--out", tmp_path / "model") == 1
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_only_a_model_is_replaced_and_only_published_data_are_named(
    tmp_path, tables, manifest, capsys
):
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pt")
    assert run(checkpoint, "--tables", tables, "--out", tables) == 1
    assert "`crumple import-checkpoint` hasn't made it" in capsys.readouterr().err
    out = tmp_path / "model"
    assert run(checkpoint, "--tables", tables, "--dataset", manifest, "--out", out) == 1
    assert "isn't the published data set" in capsys.readouterr().err


def test_the_record_names_the_data_set_that_candidates_are_evaluated_with(manifest, tmp_path):
    export_published(manifest, tmp_path / "lagrangian", processes=1)
    import_published(tmp_path / "lagrangian", tmp_path / "shards", processes=1)
    path, tables = tmp_path / "dataset.json", tmp_path / "lagrangian/training"
    write_manifest(sorted((tmp_path / "shards").iterdir()), Config(), path)
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pt")
    for options, fits in (([], False), (["--dataset", path], True)):
        out = tmp_path / f"model-{fits}"
        assert run(checkpoint, "--tables", tables, *options, "--out", out) == 0
        record = folder_record(out, "")
        with nullcontext() if fits else pytest.raises(UserError, match="doesn't belong to"):
            read_known(path, 0.1).require(record, out)


# --- generation and training ---------------------------------------------------------------------


@pytest.fixture
def two_heads(monkeypatch):
    """Attention at 96x96 pixels is most of the work, whatever the width of a network."""
    monkeypatch.setattr(published_network, "HEADS", 2)


def small_training(settings: Config, **changes) -> Config:
    """A step of the smallest published network, and generation of one candidate in two."""
    whole = load_config(PRESET).model_dump()
    whole["model"] |= SMALL | {"head": 8}
    kept = ("known_design", "drop_steps", "noise_mean", "noise_std")
    kept = {name: whole["training"][name] for name in kept}
    short = {"steps": 1, "batch": 1, "micro_batch": 1, "warmup": 0, "validation_samples": 0}
    whole["training"] = settings.training.model_dump() | kept | short
    whole["generation"] |= {"candidates": 1, "draws": 1, "steps": 2, "guidance": 1} | changes
    return parse_config(whole)


def generate(model: Path, folder: Path, curve, config: Config):
    """Candidates for a curve of stresses at the strains of the frames, '' for unknown."""
    targets = folder / "targets.csv"
    names = ",".join(f"{strain:g}" for strain in FRAME_STRAIN)
    targets.write_text(f"target,{names}\nhard,{','.join(map(str, curve))}\n")
    out = folder / "out.zarr"
    generation.generate(config, Models(None, None, model), [targets], out)
    return zarr.open_group(out, mode="r")


CURVE = [2, 10, 12, 12, 13, 14, 15, 15, 16, 17, 18]


def test_it_is_trained_by_the_same_loop_and_generates(two_heads, manifest, settings, tmp_path):
    config = small_training(settings)
    spacetime.train(config, manifest, tmp_path / "model")
    (line,) = [json.loads(line) for line in (tmp_path / "model/stats.jsonl").open()]
    assert 0.3 < line["loss"] < 3  # an untrained network misses the noise by its mean size
    model = load_model(tmp_path / "model")
    assert isinstance(model.denoiser, NoisePredictor)
    before = build_denoiser(config.model, model.normalisation.layout, 11).state_dict()
    assert set(model.denoiser.state_dict()) == set(before)

    store = generate(tmp_path / "model", tmp_path, CURVE, config)
    frames = store["frames"][:].astype(float)
    assert frames.shape == (1, 11, 3, 96, 96) and np.isfinite(frames).all()
    assert store["status"].shape == (1,)
    assert store.attrs["sampler"] == "ancestral" and store.attrs["evaluations_per_sample"] == 2
    offset, scale = model.normalisation.offset_and_scale()
    for channel in range(3):
        low, high = ((offset + sign / scale)[channel].item() for sign in (-1, 1))
        room = 0.01 * (high - low)
        values = frames[:, :, channel]
        assert low - room <= values.min() <= values.max() <= high + room


def test_targets_and_settings_that_do_not_fit_are_one_sentence(model_folder, settings, tmp_path):
    with pytest.raises(UserError, match="is shown whole curves alone"):
        generate(model_folder, tmp_path, [*CURVE[:-1], ""], small_training(settings))
    cascade = {"method": "cascade", "sampler": "heun", "threshold": 1.0, "steps": 1}
    with pytest.raises(UserError, match="known_design 0: it draws designs and fields together"):
        generate(model_folder, tmp_path, CURVE, small_training(settings, **cascade))


@torch.inference_mode()
@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_faster_samplers_work_on_the_same_weights(denoiser, name):
    x, _, stress, _ = inputs()
    known = torch.ones_like(stress, dtype=torch.bool)
    denoise = sampling.guided(denoiser, stress, known, 5.0, (0.0, 1e5))
    denoise = sampling.thresholded(denoise, 0.9)
    sigmas = sampling.karras_sigmas(6, 0.02, 200.0)
    found = sampling.SAMPLERS[name](denoise, 200 * x, sigmas)
    assert found.isfinite().all() and found.abs().max() <= 1.001
    other = sampling.SAMPLERS[name](denoise, 200 * x.flip(0), sigmas)
    assert not torch.allclose(found, other.flip(0))  # the second curve is another one


def test_states_of_a_training_go_from_minus_one_to_one(manifest, settings, tmp_path):
    model = small_training(settings).model
    stored = Dataset(manifest)
    build_cache(stored, model, tmp_path / "cache")
    count = len(stored.split["train"])
    samples, _ = load_samples(tmp_path / "cache", count, torch.device("cpu"))
    states, stress = samples.batch(range(len(samples)), [0] * len(samples))
    per_field = states.unflatten(1, (11, 3)).transpose(1, 2).flatten(2)
    assert torch.allclose(per_field.amin(dim=(0, 2)), torch.tensor(-1.0), atol=1e-5)
    assert torch.allclose(per_field.amax(dim=(0, 2)), torch.tensor(1.0), atol=1e-5)
    assert (stress.min().item(), stress.max().item()) == pytest.approx((-1, 1), abs=1e-5)
    physical = samples.normalisation.decode(states)
    assert torch.allclose(physical, samples.physical.float(), rtol=1e-4, atol=1e-3)


# --- settings ------------------------------------------------------------------------------------


def test_the_preset_is_the_published_network():
    model = load_config(PRESET).model
    with torch.device("meta"):
        network = build_denoiser(model, Layout(0, 11, 3), 11).network
    # 39,547,203 in the published code, of which 1,337,920 are never used.
    assert sum(p.numel() for p in network.parameters()) == 38_209_283


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": {"kind": "published"}}, "kind published is a network with mask false, fields"),
        ({"model": {"patch": 2}}, "kind published is a network with patch 1: set that"),
        ({"model": {"embedding": 512}}, "kind published is a network with embedding 256"),
        ({"training": {"drop_steps": 0.1}}, "knows whole curves alone"),
        ({"training": {"known_design": 0.5}}, "set training.known_design to 0"),
        (
            {"generation": {"method": "cascade"}},
            "sampler ancestral and a threshold below 1 need method joint",
        ),
        (
            {"generation": {"method": "cascade", "sampler": "heun"}},
            "sampler ancestral and a threshold below 1 need method joint",
        ),
        (
            {"generation": {"method": "cascade", "sampler": "heun", "threshold": 1}},
            "set generation.method to joint",
        ),
        ({"generation": {"threshold": 0}}, "'generation.threshold' = 0 is not possible"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, words):
    whole = load_config(PRESET).model_dump()
    if "kind" in values.get("model", {}):
        whole["model"] = {}
    whole |= {section: whole[section] | changes for section, changes in values.items()}
    with pytest.raises(ConfigError, match=words):
        cross_check(parse_config(whole))


def test_a_threshold_is_for_the_published_network_alone(settings):
    generation = {"method": "joint", "threshold": 0.9}
    config = Config.model_validate({"generation": generation})
    own = SimpleNamespace(settings=Model(), known_design=0.5)
    targets = SimpleNamespace(known=np.ones((1, 11), bool))
    with pytest.raises(UserError, match="of the published network alone: set it to 1"):
        joint_candidates(own, None, targets, range(1), config)
