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
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from crumple import seeds
from crumple.config import Config, Optimisation, Training
from crumple.diffusion import schedule, training
from crumple.diffusion.model import load_model
from crumple.diffusion.precision import resolve
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


class Plane:
    """The smallest problem: a linear network learns a plane from noisy points."""

    def __init__(self, cache: Path, accelerator: Accelerator) -> None:
        self.device, self.cache = accelerator.device, cache
        (cache / "needed.txt").write_text("while training runs")

    def build(self):
        return nn.Linear(3, 1)

    def _loss(self, network, stage, numbers):
        rows = [seeds.rng(0, stage, number).standard_normal(4) for number in numbers]
        x, noise = torch.tensor(np.array(rows), dtype=torch.float32).split([3, 1], dim=1)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * noise
        return (network(x) - y).square().squeeze(1)

    def loss(self, network, indices):
        return self._loss(network, "training", indices)

    def validation_count(self):
        return 5

    def validation_loss(self, network, numbers):
        return self._loss(network, "validation", numbers)

    def save(self, folder, weights, training):
        assert (self.cache / "needed.txt").exists()
        save_file(weights, folder / "plane.safetensors")
        (folder / "training.json").write_text(json.dumps(training))


PLANE = Optimisation(
    steps=100,
    batch=8,
    micro_batch=4,
    learning_rate=0.1,
    warmup=4,
    weight_decay=0.0,
    precision="fp32",
    log_every=10,
    validate_every=20,
)


def train_plane(out: Path, problem=Plane, **changes) -> Path:
    """Train the smallest problem."""
    settings = Optimisation.model_validate(PLANE.model_dump() | changes)
    recorded = settings.model_dump(mode="json", exclude={"micro_batch", "log_every"})
    record = {"stage": "train", "settings": {"train": {"training": recorded}}, "inputs": {}}
    training.train(out, record, "training", settings, 0, problem)
    return out


def test_the_loop_trains_any_problem(tmp_path):
    out = train_plane(tmp_path / "plane")
    assert sorted(path.name for path in out.iterdir()) == [
        *("checkpoint.pt", "constant.pt", "made_by.json", "plane.safetensors"),
        *("stats.jsonl", "tensorboard", "training.json"),
    ]
    weight = load_file(out / "plane.safetensors")["weight"]
    assert weight.tolist()[0] == pytest.approx([1.0, -2.0, 0.5], abs=0.1)
    lines = stats(out)
    assert [line["step"] for line in lines] == list(range(10, 101, 10))
    assert lines[0]["loss"] > 10 * lines[-1]["loss"]
    assert lines[-1]["validation_loss"] == pytest.approx(0.01, abs=0.01)  # that of the noise
    assert lines[-1]["samples"] == 800
    assert json.loads((out / "training.json").read_text())["samples"] == 800


def test_micro_batches_change_how_and_not_what(tmp_path):
    one = train_plane(tmp_path / "one", micro_batch=8)
    four = train_plane(tmp_path / "four", micro_batch=2)
    one, four = (load_file(folder / "plane.safetensors")["weight"] for folder in (one, four))
    assert torch.allclose(one, four, atol=1e-6)


def test_learning_rate_rises_and_falls():
    settings = Training(steps=100, warmup=10, decay=0.2, learning_rate=1.0)
    rates = [schedule.learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(0.5) and rates[99] == pytest.approx(0.05)


def test_average_forgets_at_the_stated_rate():
    average, network = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(average.weight)
    torch.nn.init.ones_(network.weight)
    seen, steps = 10_000, int(schedule.EMA_RAMP * 10_000) // 8
    for _ in range(steps):  # half a half-life's batch at a time
        training.update_average(average, network, schedule.ema_decay(seen, 8))
    assert average.weight.item() == pytest.approx(0.5, abs=0.01)
    assert schedule.ema_decay(8, 8) < 1e-5  # the first average is the network itself


def test_micro_batches():
    settings = Training(batch=24, micro_batch=5)
    assert training.micro_batches(settings, 1, "training") == (4, 6)
    assert training.micro_batches(settings, 2, "training") == (4, 3)
    assert training.micro_batches(Training(batch=24, micro_batch=64), 2, "training") == (12, 1)
    with pytest.raises(UserError, match="5 processes"):
        training.micro_batches(settings, 5, "training")


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="GPU"):
        resolve("fp16", "cpu", "training.precision")
    assert resolve("fp32", "cpu", "training.precision") == "fp32"
    assert resolve("bf16", "cpu", "training.precision") == "bf16"
    assert resolve("auto", "cpu", "training.precision") in ("fp32", "bf16")


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
    averaged, present = (
        [torch.equal(saved[name], state[part][f"network.{name}"]) for name in saved]
        for part in ("average", "network")
    )
    assert all(averaged) and not all(present)


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
    step = torch.load(out.with_name("model.partial") / "checkpoint.pt")["progress"]["step"]
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
