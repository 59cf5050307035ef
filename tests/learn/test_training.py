"""Training: what a step sees, averages, resume after SIGKILL, several processes, overfitting."""

import json
import math
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
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import nn

from crumple import seeds
from crumple.config import Config, DesignerTraining, Optimisation, Training
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


class PowerFails(Exception):
    """Ends a training between two steps."""


class Plane:
    """The smallest problem: a linear network learns a plane from noisy points."""

    last = 10**9  # index of the sample at which the power fails

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
        if indices[0] >= self.last:
            raise PowerFails
        return self._loss(network, "training", indices)

    def validation_count(self):
        return 5

    def validation_loss(self, network, numbers):
        return self._loss(network, "validation", numbers)

    def save(self, folder, weights, training):
        assert (self.cache / "needed.txt").exists()
        save_file(weights, folder / "plane.safetensors")
        (folder / "training.json").write_text(json.dumps(training))


def until(step: int) -> type[Plane]:
    """The problem, when the power fails after this step."""
    return type("Until", (Plane,), {"last": step * PLANE.batch})


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
    checkpoint_minutes=1e-9,  # after every step
)


def train_plane(out: Path, problem=Plane, **changes) -> Path:
    """Train the smallest problem, as if in a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = Optimisation.model_validate(PLANE.model_dump() | changes)
    recorded = settings.model_dump(mode="json", exclude={"micro_batch", "log_every"})
    record = {"stage": "train", "settings": {"train": {"training": recorded}}, "inputs": {}}
    training.train(out, record, "training", settings, 0, problem)
    return out


def test_the_loop_trains_any_problem(tmp_path):
    out = train_plane(tmp_path / "plane")
    assert sorted(path.name for path in out.iterdir()) == [
        *("SHA256SUMS", "checkpoint.pt", "constant.pt", "made_by.json", "plane.safetensors"),
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


# --- training that goes on -----------------------------------------------------------------------


def assert_same(one: Path, other: Path) -> None:
    """Assert that two folders hold the same training, bit for bit."""
    assert stats(one) == stats(other)
    one, other = (torch.load(folder / "checkpoint.pt") for folder in (one, other))
    assert one["progress"]["step"] == other["progress"]["step"]
    for part in ("network", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), (part, name)
    for number, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, other["optimizer"]["state"][number][name]), name


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """An uninterrupted training of 100 steps, of which the last 30 at a falling rate."""
    return train_plane(tmp_path_factory.mktemp("hundred") / "plane")


@pytest.mark.parametrize("first", [{"steps": 60}, {"decay": 0.5}, {"steps": 60, "decay": 0.0}])
def test_a_finished_training_goes_on(hundred, tmp_path, first):
    out = train_plane(tmp_path / "plane", **first)
    start = torch.load(out / "constant.pt") if (out / "constant.pt").exists() else None
    if start is not None:  # what came after it isn't made twice
        assert start["progress"]["step"] in (42, 50)
    before = stats(out)
    train_plane(out)
    assert_same(out, hundred)
    assert json.loads((out / "training.json").read_text())["steps"] == 100
    assert before != stats(out)


def test_only_the_steps_that_are_missing_are_made(hundred, tmp_path):
    out = train_plane(tmp_path / "plane", steps=60)
    with pytest.raises(PowerFails):  # what comes first is the rest of the constant rate
        train_plane(out, until(42))
    assert torch.load(out.with_name("plane.partial") / "checkpoint.pt")["progress"]["step"] == 42
    assert json.loads((out / "training.json").read_text())["steps"] == 60
    train_plane(out)
    assert_same(out, hundred)
    train_plane(out, until(0))  # nothing is missing
    assert_same(out, hundred)


def test_a_running_training_goes_on(hundred, tmp_path):
    for step in (50, 55):  # before and after the rate has begun to fall at 52
        out = tmp_path / f"{step}"
        with pytest.raises(PowerFails):
            train_plane(out, until(step), steps=75)
        train_plane(out)
        assert_same(out, hundred)


def test_an_interrupted_decay_continues_where_it_was(hundred, tmp_path):
    out = tmp_path / "plane"
    with pytest.raises(PowerFails):
        train_plane(out, until(90))
    assert torch.load(out.with_name("plane.partial") / "checkpoint.pt")["progress"]["step"] == 90
    train_plane(out)
    assert_same(out, hundred)


def test_fewer_steps_do_not_undo_what_was_made(hundred, tmp_path):
    out = train_plane(tmp_path / "plane")
    message = r"trained for 70 steps at the constant rate, but steps 60 with decay 0.3 .* step 42"
    with pytest.raises(UserError, match=message):
        train_plane(out, steps=60)
    assert_same(out, hundred)


def test_other_settings_begin_anew_and_unfinished_work_is_kept(hundred, tmp_path):
    out = tmp_path / "plane"
    with pytest.raises(PowerFails):
        train_plane(out, until(50))
    kept = (out.with_name("plane.partial") / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match="partial is unfinished work of other .*learning_rate 0.1"):
        train_plane(out, learning_rate=0.2)
    assert (out.with_name("plane.partial") / "checkpoint.pt").read_bytes() == kept
    train_plane(out)
    train_plane(out, learning_rate=0.2)
    assert stats(out)[0]["learning_rate"] == 0.2
    assert stats(out)[0]["loss"] != stats(hundred)[0]["loss"]


def test_another_precision_stops_unless_it_is_asked_for(hundred, tmp_path):
    here = resolve("auto", "cpu", "training.precision")
    other = "fp32" if here == "bf16" else "bf16"
    out = tmp_path / "plane"
    with pytest.raises(PowerFails):
        train_plane(out, until(50), precision=other)
    kept = (out.with_name("plane.partial") / "checkpoint.pt").read_bytes()
    with pytest.raises(
        UserError, match=f"trained in {other} so far, .* auto means {here} .* to go"
    ):
        train_plane(out, precision="auto")
    assert (out.with_name("plane.partial") / "checkpoint.pt").read_bytes() == kept
    train_plane(out, precision=here)
    made = json.loads((out / "training.json").read_text())
    assert made["precision"] == [[0, other], [50, here]]
    train_plane(out, precision="auto")  # nothing is missing, so nothing is computed in it
    fp32 = [json.loads(line)["loss"] for line in (hundred / "stats.jsonl").read_text().splitlines()]
    mixed = [line["loss"] for line in stats(out)]
    assert mixed == pytest.approx(fp32, rel=0.2)
    assert mixed[:5] != fp32[:5] if other == "bf16" else mixed[:5] == fp32[:5]


class Overflows(Plane):
    """Beyond every number from step 36 on."""

    def loss(self, network, indices):
        return super().loss(network, indices) * (1 if indices[0] < 35 * PLANE.batch else math.inf)


class NoSlope(Plane):
    """A root at zero: the loss is 0, its slope is infinite."""

    def loss(self, network, indices):
        return (super().loss(network, indices) * 0).sqrt()


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, log_every):
    with pytest.raises(UserError, match=r"loss is not finite at step 36: lower .*learning_rate"):
        train_plane(tmp_path / "plane", Overflows, log_every=log_every, validate_every=1000)
    assert not (tmp_path / "plane").exists()
    state = torch.load(tmp_path / "plane.partial/checkpoint.pt")
    assert state["progress"]["step"] == 35
    assert all(value.isfinite().all() for value in state["network"].values())


def test_a_loss_that_is_not_finite_is_found_at_the_next_line(tmp_path):
    """Nothing is looked at between them: a GPU would have to wait for every step."""
    with pytest.raises(UserError, match=r"loss is not finite at step 36"):
        train_plane(tmp_path / "plane", Overflows, log_every=20, checkpoint_minutes=60)
    assert stats(tmp_path / "plane.partial")[-1]["step"] == 20


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    """The loss of a step says nothing of the weights that come out of it."""
    with pytest.raises(UserError, match="weights are not finite after step 1"):
        train_plane(tmp_path / "plane", NoSlope)
    assert not (tmp_path / "plane.partial/checkpoint.pt").exists()


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    out = train_plane(tmp_path / "plane")
    content = (out / "constant.pt").read_bytes()
    (out / "constant.pt").write_bytes(content[:-100])
    with pytest.raises(UserError, match="cannot read .*plane.partial/constant.pt: .*train again"):
        train_plane(out, steps=200)

    class Wider(Plane):
        def build(self):
            return nn.Linear(4, 1)

    with pytest.raises(UserError, match="cannot read .*checkpoint.pt: .*size mismatch"):
        train_plane(out, Wider)


def test_a_log_that_was_cut_off_goes_on(hundred, tmp_path):
    """Power may fail while a line is written; anything else than that is said."""
    out = tmp_path / "plane"
    with pytest.raises(PowerFails):
        train_plane(out, until(50))
    log = out.with_name("plane.partial") / "stats.jsonl"
    whole = log.read_text()
    log.write_text('{"step": "ten"}\n' + whole)
    with pytest.raises(UserError, match=r"cannot read .*stats.jsonl: in line 1, 'step' = 'ten'"):
        train_plane(out)
    log.write_text(whole + '{"step": 60, "lo')
    train_plane(out)
    assert_same(out, hundred)


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


def test_only_the_space_time_network_is_compiled_and_unasked_only_on_a_gpu():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert training.is_compiled(Training(), gpu)
    assert not training.is_compiled(Training(), cpu)
    assert training.is_compiled(Training(compile="yes"), cpu)
    assert not training.is_compiled(Training(compile="no"), gpu)
    assert not training.is_compiled(DesignerTraining(), gpu)


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
    assert_same(out, trained)


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


def test_two_processes_continue_what_one_began(trained, settings, manifest, tmp_path):
    out = tmp_path / "model"
    short = settings.training.model_copy(update={"steps": 3, "decay": 0.0})
    run(settings.model_copy(update={"training": short}), manifest, out)  # with as many threads
    run(settings, manifest, out, "--processes", "2")
    for one, two in zip(stats(trained), stats(out), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert stats(out)[:3] == stats(trained)[:3]


def test_another_seed_is_another_run(trained, settings, manifest, tmp_path):
    run(settings.model_copy(update={"seed": 1}), manifest, tmp_path / "model")
    first, other = (stats(folder)[0]["loss"] for folder in (trained, tmp_path / "model"))
    assert abs(first - other) > 1e-4
