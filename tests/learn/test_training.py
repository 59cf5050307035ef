"""Training: what a step sees, averages, resume after SIGKILL, several processes, overfitting."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import synthetic
from crumple import dataset
from crumple.config import Config, Training
from crumple.diffusion import training
from crumple.diffusion.model import load_model
from crumple.errors import UserError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(settings: Config, manifest: Path, out: Path, *options: str) -> list[str]:
    """The command that a rule runs."""
    arguments = ["train", "--config", settings.model_dump_json(), "--dataset", str(manifest)]
    return [sys.executable, "-m", "crumple", *arguments, "--out", str(out), *options]


def run(settings: Config, manifest: Path, out: Path, *options: str) -> None:
    subprocess.run(command(settings, manifest, out, *options), env=ENVIRONMENT, check=True)


def stats(folder: Path) -> list[dict]:
    """Log lines without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    clock = ("samples_per_s", "memory_mb")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.fixture(scope="module")
def trained(settings, manifest, tmp_path_factory):
    """An uninterrupted run by one process."""
    out = tmp_path_factory.mktemp("run") / "model"
    run(settings, manifest, out)
    return out


def test_a_draw_is_a_function_of_seed_and_index():
    settings = Training()
    draws = [training.draw(3, i, 10, 11, list(range(8)), settings) for i in range(4000)]
    again = training.draw(3, 1234, 10, 11, list(range(8)), settings)
    assert again.noise_seed == draws[1234].noise_seed and again.row == draws[1234].row
    assert np.array_equal(again.known, draws[1234].known)
    assert training.draw(4, 1234, 10, 11, list(range(8)), settings).noise_seed != again.noise_seed

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


def test_learning_rate_rises_and_falls():
    settings = Training(steps=100, warmup=10, decay=0.2, learning_rate=1.0)
    rates = [training.learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(0.5) and rates[99] == pytest.approx(0.05)


def test_average_forgets_at_the_stated_rate():
    average, network = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(average.weight)
    torch.nn.init.ones_(network.weight)
    seen, steps = 10_000, int(training.EMA_RAMP * 10_000) // 8
    for _ in range(steps):  # half a half-life's batch at a time
        training.update_average(average, network, training.ema_decay(seen, 8))
    assert average.weight.item() == pytest.approx(0.5, abs=0.01)
    assert training.ema_decay(8, 8) < 1e-5  # the first average is the network itself


def test_micro_batches():
    settings = Training(batch=24, micro_batch=5)
    assert training.micro_batches(settings, 1) == (4, 6)
    assert training.micro_batches(settings, 2) == (4, 3)
    assert training.micro_batches(Training(batch=24, micro_batch=64), 2) == (12, 1)
    with pytest.raises(UserError, match="5 processes"):
        training.micro_batches(settings, 5)


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="GPU"):
        training.mixed_precision("fp16", "cpu")
    assert training.mixed_precision("fp32", "cpu") == "no"
    assert training.mixed_precision("bf16", "cpu") == "bf16"


def test_model_folder(trained):
    assert not trained.with_name("model.partial").exists()
    assert not (trained / "cache").exists()
    assert any((trained / "tensorboard").iterdir())
    lines = stats(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6]
    model = load_model(trained)
    assert model.normalisation.layout.channels == 34
    state = torch.load(trained / "checkpoint.pt")
    saved = load_file(trained / "model.safetensors")
    assert all(torch.equal(saved[name], state["average"][name]) for name in saved)
    assert not all(torch.equal(saved[name], state["network"][name]) for name in saved)


def test_a_killed_run_continues_bit_for_bit(trained, manifest, settings, tmp_path):
    out = tmp_path / "model"
    log = out.with_name("model.partial") / "stats.jsonl"
    process = subprocess.Popen(command(settings, manifest, out), env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # killed in the middle, not finished
    assert not out.exists()

    run(settings, manifest, out)
    assert stats(out) == stats(trained)
    uninterrupted, resumed = (torch.load(f / "checkpoint.pt") for f in (trained, out))
    for part in ("network", "average"):
        for name, value in uninterrupted[part].items():
            assert torch.equal(value, resumed[part][name]), name
    for number, state in uninterrupted["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg_sq"], resumed["optimizer"]["state"][number]["exp_avg_sq"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leaves_a_checkpoint_and_one_sentence(settings, manifest, tmp_path, number):
    out = tmp_path / "model"
    long = settings.training.model_copy(update={"steps": 10_000, "checkpoint_minutes": 60.0})
    settings = settings.model_copy(update={"training": long})
    process = subprocess.Popen(
        command(settings, manifest, out), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "train: 2/" in line:
            break
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    last = text.splitlines()[-1]
    assert last.startswith(f"crumple: error: training stopped by {number.name} after step")
    step = torch.load(out.with_name("model.partial") / "checkpoint.pt")["step"]
    assert f"after step {step} of 10000" in last


def test_two_processes_train_like_one(trained, settings, manifest, tmp_path):
    out = tmp_path / "model"
    run(settings, manifest, out, "--processes", "2")
    for one, two in zip(stats(trained), stats(out), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-4)
    one, two = (load_file(folder / "model.safetensors") for folder in (trained, out))
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5), name


def test_another_seed_is_another_run(trained, settings, manifest, tmp_path):
    run(settings.model_copy(update={"seed": 1}), manifest, tmp_path / "model")
    first, other = (stats(folder)[0]["loss"] for folder in (trained, tmp_path / "model"))
    assert abs(first - other) > 1e-4


def test_two_designs_are_learnt_by_heart(tmp_path):
    """The loss on two designs falls far below that on others, which the network never saw."""
    model = {"channels": [32, 64], "depths": [1, 1], "embedding": 32, "head": 32, "patch": 4}
    model |= {"frames": "last", "fields": ["s22"], "spatial_attention": 12}
    hard = {"steps": 300, "batch": 2, "learning_rate": 3e-3, "warmup": 10, "log_every": 50}
    hard |= {"noise_mean": 0.5, "noise_std": 0.5, "augmentation": "none", "precision": "fp32"}
    hard |= {"drop_curve": 0.0, "drop_steps": 0.0, "validate_every": 300}
    halves = Config.model_validate({"dataset": {"validation_fraction": 0.5}})
    path = synthetic.write_dataset(tmp_path / "data", 4, 4, halves)  # designs 0, 2 and 3
    config = Config.model_validate({"model": model, "training": hard})
    training.train(config, path, tmp_path / "model")
    lines = stats(tmp_path / "model")
    assert lines[-1]["loss"] < 0.15
    assert lines[0]["loss"] > 2 * lines[-1]["loss"]
    assert lines[-1]["validation_loss"] > 2 * lines[-1]["loss"]


def test_data_of_other_physics_are_not_trained_on(manifest, settings, tmp_path):
    """A shared `data` link kept the old physics; another seed on the same data is fine."""
    old = settings.model_copy(update={"contact": Config(contact={"friction": 0.1}).contact})
    with pytest.raises(UserError, match=r"dataset.json was made with .*contact.friction 0.4"):
        training.train(old, manifest, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    dataset.Dataset(manifest).check_settings(settings.model_copy(update={"seed": 5}))


def test_a_damaged_shard_is_not_trained_on(settings, tmp_path):
    manifest = synthetic.write_dataset(tmp_path / "data", 6, 3, Config())
    (tmp_path / "data/shards/0001.zarr/frames/c/0/0/0/0/0").unlink()  # zarr reads zeros instead
    with pytest.raises(UserError, match=r"0001.zarr has changed since .* make this shard again"):
        training.train(settings, manifest, tmp_path / "model")
    assert not (tmp_path / "model").exists()
