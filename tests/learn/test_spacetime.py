"""What the training of the space-time model sees, and what it refuses to see."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

import synthetic
from crumple import cli, dataset
from crumple.config import OPERATION, Config, Model, Training, cross_check
from crumple.diffusion import data, spacetime
from crumple.errors import UserError


def test_a_draw_is_a_function_of_seed_and_index():
    settings = Training()
    draws = [spacetime.draw(3, i, 10, 11, list(range(8)), settings) for i in range(4000)]
    again = spacetime.draw(3, 1234, 10, 11, list(range(8)), settings)
    assert again.noise_seed == draws[1234].noise_seed and again.row == draws[1234].row
    assert np.array_equal(again.known, draws[1234].known)
    assert spacetime.draw(4, 1234, 10, 11, list(range(8)), settings).noise_seed != again.noise_seed

    for epoch in range(5):
        rows = [d.row for d in draws[10 * epoch : 10 * epoch + 10]]
        assert sorted(rows) == list(range(10))
    assert [d.row for d in draws[:10]] != [d.row for d in draws[10:20]]

    logs = np.log([d.sigma for d in draws])
    assert logs.mean() == pytest.approx(settings.noise_mean, abs=0.1)
    assert logs.std() == pytest.approx(settings.noise_std, rel=0.05)
    known = np.array([d.known for d in draws])
    partial = known.any(axis=1) & ~known.all(axis=1)
    assert (~known.any(axis=1)).mean() == pytest.approx(0.1 + 0.1 / 12, abs=0.02)
    assert partial.mean() == pytest.approx(0.1 * 10 / 12, abs=0.02)
    assert set(d.element for d in draws) == set(range(8))


@pytest.fixture(scope="module")
def splits(manifest, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache") / "cache"
    stored = dataset.Dataset(manifest)
    data.build_cache(stored, Model(), cache)
    return data.load_samples(cache, len(stored.split["train"]), torch.device("cpu"))


def problem(splits, part: float) -> spacetime.SpaceTime:
    """The space-time problem with this part of known designs."""
    config = Config.model_validate({"training": {"known_design": part}})
    return spacetime.SpaceTime(config, *splits, torch.device("cpu"))


def test_known_designs_are_a_part_of_the_samples_and_change_no_other(splits):
    none, some, all_ = (
        [problem(splits, part).draw(i) for i in range(2000)] for part in (0, 0.3, 1)
    )
    assert not any(d.given for d in none) and all(d.given for d in all_)
    assert np.mean([d.given for d in some]) == pytest.approx(0.3, abs=0.03)
    for plain, mixed in zip(none, some, strict=True):
        if mixed.given:
            assert not mixed.known.any()
        same = [name for name in spacetime.Draw._fields if name not in ("known", "given")]
        assert all(getattr(plain, name) == getattr(mixed, name) for name in same)
        assert mixed.given or np.array_equal(plain.known, mixed.known)

    held_out = [d.given for d in problem(splits, 0.3).held_out]
    assert np.mean(held_out) == pytest.approx(0.3, abs=0.25)
    assert all(d.given for d in problem(splits, 1.0).held_out)
    assert not any(d.given for d in problem(splits, 0.0).held_out)


def test_a_known_design_has_no_noise_no_curve_and_no_weight(splits):
    samples, some = splits[0], problem(splits, 0.5)
    draws = [some.draw(i) for i in range(8)]
    batch = some.assemble(samples, draws)
    assert set(batch.given.tolist()) == {False, True}
    for row, one in enumerate(draws):
        assert batch.noise[row, 0].any() != one.given
        assert batch.noise[row, 1:].any()
        assert (batch.channel_weights[row, 0] == 0) == one.given
        assert not (batch.known[row].any() and one.given)


@pytest.mark.parametrize(
    "model",
    [
        {"mask": False, "fields": ["u1", "u2", "s22"]},
        {"reference_frame": "eulerian", "mask": False, "fields": ["solid", "s22", "mises"]},
        {"fields": []},
    ],
)
def test_models_that_cannot_be_shown_a_design_say_so(manifest, tmp_path, model):
    values = {"model": model, "fields": {"eulerian": True}, "evaluation": {"held_out": 0}}
    config = Config.model_validate(values)
    with pytest.raises(UserError, match="known_design 1 shows .* set training.known_design to 0"):
        spacetime.train(config, manifest, tmp_path / "model")
    with pytest.raises(UserError, match="file.yaml: training.known_design 1 shows"):
        cross_check(config, "file.yaml")
    cross_check(Config.model_validate(values | {"training": {"known_design": 0}}))


def learn_by_heart(folder: Path, **changes) -> list[dict]:
    """Train on two designs, hold another one out; return the log."""
    model = {"channels": [32, 64], "depths": [1, 1], "embedding": 32, "head": 32, "patch": 4}
    model |= {"frames": "last", "fields": ["s22"], "spatial_attention": 12}
    hard = {"steps": 300, "batch": 2, "learning_rate": 3e-3, "warmup": 10, "log_every": 50}
    hard |= {"noise_mean": 0.5, "noise_std": 0.5, "known_design": 0.0, "precision": "fp32"}
    hard |= {"drop_curve": 0.0, "drop_steps": 0.0, "validate_every": 300} | changes
    halves = Config.model_validate({"dataset": {"validation_fraction": 0.5}})
    path = synthetic.write_dataset(folder / "data", 4, 4, halves)  # designs 0, 2 and 3
    config = Config.model_validate({"model": model, "training": hard})
    spacetime.train(config, path, folder / "model")
    text = (folder / "model/stats.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_two_designs_are_learnt_by_heart(tmp_path):
    """The loss on two designs falls far below that on others, which the network never saw."""
    lines = learn_by_heart(tmp_path)
    assert lines[-1]["loss"] < 0.15
    assert lines[0]["loss"] > 2 * lines[-1]["loss"]
    assert lines[-1]["validation_loss"] > 2 * lines[-1]["loss"]


def test_bf16_learns_as_fp32_does(tmp_path):
    """On every CPU; weights, their average and the optimiser stay in fp32."""
    short = {"steps": 60, "log_every": 20, "validate_every": 60}
    full = learn_by_heart(tmp_path / "fp32", **short)
    AcceleratorState._reset_state(reset_partial_state=True)
    half = learn_by_heart(tmp_path / "bf16", precision="bf16", **short)
    for one, other in zip(full, half, strict=True):
        assert other["loss"] != one["loss"]
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05)
    assert half[-1]["loss"] < 0.6 * half[0]["loss"]
    state = torch.load(tmp_path / "bf16/model/checkpoint.pt")
    tensors = [*state["network"].values(), *state["average"].values()]
    tensors += [part for one in state["optimizer"]["state"].values() for part in one.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert state["progress"]["precision"] == [(0, "bf16")]


def test_data_of_other_physics_are_not_trained_on(manifest, settings, tmp_path):
    """A shared `data` link kept the old physics; another seed on the same data is fine."""
    old = settings.model_copy(update={"contact": Config(contact={"friction": 0.1}).contact})
    with pytest.raises(UserError, match=r"dataset.json was made with .*contact.friction 0.4"):
        spacetime.train(old, manifest, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    dataset.Dataset(manifest).check_settings(settings.model_copy(update={"seed": 5}))


def test_a_damaged_shard_is_not_trained_on(settings, tmp_path):
    manifest = synthetic.write_dataset(tmp_path / "data", 6, 3, Config())
    (tmp_path / "data/shards/0001.zarr/frames/c/0/0/0/0/0").unlink()  # zarr reads zeros instead
    with pytest.raises(UserError, match=r"0001.zarr has changed since .* make this shard again"):
        spacetime.train(settings, manifest, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_how_it_is_trained_discards_no_model(manifest, settings, tmp_path):
    """Settings that change no result: they neither begin anew nor refuse to go on."""
    short = settings.training.model_copy(update={"steps": 2, "decay": 0.0})
    spacetime.train(settings.model_copy(update={"training": short}), manifest, tmp_path / "model")
    how = {"micro_batch": 4, "compile": "no", "checkpoint_minutes": 7.0, "log_every": 3}
    how |= {"validate_every": 2, "validation_samples": 1}
    assert {f"training.{name}" for name in how} == {
        n for n in OPERATION if n.startswith("training.")
    }
    longer = short.model_copy(update=how | {"steps": 3})
    spacetime.train(settings.model_copy(update={"training": longer}), manifest, tmp_path / "model")
    text = (tmp_path / "model/stats.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2, 3]


def test_a_training_that_diverges_is_one_sentence(manifest, settings, tmp_path):
    wild = settings.training.model_copy(update={"learning_rate": 1e6, "warmup": 0, "steps": 40})
    config = settings.model_copy(update={"training": wild}).model_dump_json()
    arguments = ["train", "--config", config, "--dataset", str(manifest)]
    code = cli.main([*arguments, "--out", str(tmp_path / "model")])
    assert code == 1 and not (tmp_path / "model").exists()
    state = torch.load(tmp_path / "model.partial/checkpoint.pt")
    assert all(value.isfinite().all() for value in state["network"].values())
