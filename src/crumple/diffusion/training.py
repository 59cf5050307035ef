"""Training of the denoiser: one flat loop, distributed by Accelerate, resumed bit for bit.

What a step sees is a function of (seed, global sample index): which design, which symmetry, which
noise, which part of the curve. So neither a restart nor the number of processes changes it.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from crumple import seeds
from crumple.atomic import atomic_path, resumable_folder, save_text, scratch
from crumple.config import Config, Training
from crumple.dataset import Dataset
from crumple.diffusion.data import Samples, build_cache, load_samples, symmetries
from crumple.diffusion.model import build_network, save_model
from crumple.diffusion.preconditioning import Denoiser, denoising_loss
from crumple.errors import UserError
from crumple.progress import progress_line
from crumple.provenance import hash_file, made_by

VALIDATION_LEVELS = 4  # noise levels per held-out sample
EMA_RAMP = 0.05  # half-life of the average, as part of the samples seen so far


class Draw(NamedTuple):
    """What training does with one sample; a function of (seed, global sample index)."""

    row: int
    element: int
    sigma: float
    known: np.ndarray
    noise_seed: int


class Batch(NamedTuple):
    """Arguments of the loss; see :func:`crumple.diffusion.preconditioning.denoising_loss`."""

    state: Tensor
    noise: Tensor
    sigma: Tensor
    stress: Tensor
    known: Tensor


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of the designs in one epoch."""
    return seeds.rng(seed, "epochs", epoch).permutation(count)


def draw(
    seed: int, index: int, count: int, steps: int, elements: list[int], settings: Training
) -> Draw:
    """Decide everything about the training sample number ``index`` of the run.

    Parameters
    ----------
    seed
        Global seed.
    index
        Number of samples that came before, over all processes.
    count
        Designs in the training split.
    steps
        Strain steps of a curve.
    elements
        Symmetries to draw from.
    settings
        Distribution of the noise level, and how often (a part of) the curve is hidden.
    """
    random = seeds.rng(seed, "training", index)
    sigma = math.exp(settings.noise_mean + settings.noise_std * random.standard_normal())
    element = elements[random.integers(len(elements))]
    known = np.ones(steps, bool)
    kind, visible = random.random(2)
    if kind < settings.drop_curve:
        known[:] = False
    elif kind < settings.drop_curve + settings.drop_steps:
        known = random.random(steps) < visible
    row = int(epoch_order(seed, index // count, count)[index % count])
    return Draw(row, element, sigma, known, int(random.integers(2**63)))


def assemble(
    samples: Samples, draws: list[Draw], device: torch.device, out: Tensor | None = None
) -> Batch:
    """Put a batch together from what was drawn for its samples, the states in ``out``."""
    state, stress = samples.batch([d.row for d in draws], [d.element for d in draws], out)
    layout = samples.normalisation.layout
    noise = [layout.noise(state.shape[-1], d.noise_seed, device) for d in draws]
    return Batch(
        state.to(device),
        torch.stack(noise),
        torch.tensor([d.sigma for d in draws], device=device),
        stress.to(device),
        torch.from_numpy(np.stack([d.known for d in draws])).to(device),
    )


def validation_draws(seed: int, samples: Samples, settings: Training) -> list[Draw]:
    """Return the fixed noise of the validation loss.

    Noise levels are quantiles of the training distribution, spread over samples so that few of
    them cover it evenly.
    """
    normal = torch.distributions.Normal(settings.noise_mean, settings.noise_std)
    count = min(len(samples), settings.validation_samples)
    draws = []
    for row in range(count):
        for level in range(VALIDATION_LEVELS):
            quantile = (level + (0.5 + row * 0.6180339887) % 1) / VALIDATION_LEVELS
            sigma = normal.icdf(torch.tensor(quantile)).exp().item()
            random = seeds.rng(seed, "validation", row * VALIDATION_LEVELS + level)
            known = np.ones(samples.stress.shape[1], bool)
            draws.append(Draw(row, 0, sigma, known, int(random.integers(2**63))))
    return draws


def learning_rate(step: int, settings: Training) -> float:
    """Return the rate of step ``step``: linear warm-up, constant, linear decay to zero."""
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    fall = min(1.0, (settings.steps - step) / max(1.0, settings.decay * settings.steps))
    return settings.learning_rate * rise * fall


def ema_decay(samples_seen: int, batch: int) -> float:
    """Return the weight of the old average: a half-life that grows with the samples seen.

    With a half-life of a fixed part of the run so far the average forgets the start whatever the
    length of the run (Karras et al. 2022, their ramp-up; 2024, arXiv:2312.02696).
    """
    return 0.5 ** (batch / max(EMA_RAMP * samples_seen, 1e-8))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the present ones."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def build_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return AdamW with decay on matrices and convolutions, not on gains, biases and tokens."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))


def mixed_precision(precision: str, device_type: str) -> str:
    """Return Accelerate's name of a precision; ``auto`` looks at the hardware."""
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device_type == "cuda" else _cpu_multiplies_bf16()
        precision = "bf16" if fast else "fp32"
    if precision == "fp16" and device_type != "cuda":
        raise UserError("training.precision fp16 needs a GPU: use auto, bf16 or fp32")
    return "no" if precision == "fp32" else precision


def _cpu_multiplies_bf16() -> bool:
    cpu = torch.backends.cpu.get_cpu_capability()
    return cpu == "AVX512" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def micro_batches(settings: Training, processes: int) -> tuple[int, int]:
    """Return samples that a process holds at once, and how often it does so per step."""
    share, remainder = divmod(settings.batch, processes)
    if remainder:
        raise UserError(
            f"training.batch {settings.batch} can't be split over {processes} processes: "
            "make it a multiple"
        )
    size = max(n for n in range(1, min(settings.micro_batch, share) + 1) if share % n == 0)
    return size, share // size


def train(config: Config, manifest_path: Path, out: Path) -> None:
    """Train a model; every process of a distributed run calls this.

    A run that was stopped leaves its last checkpoint in ``<out>.partial``, and the same command
    continues there.

    Parameters
    ----------
    config
        Sections ``seed``, ``model`` and ``training``.
    manifest_path
        ``dataset.json``.
    out
        Folder that the model becomes: see :mod:`crumple.diffusion.model`; besides ``stats.jsonl``
        and ``tensorboard``, with losses, rates and memory.

    Raises
    ------
    UserError
        When the data or the settings can't be used, or a signal stopped the run.
    """
    dataset = Dataset(manifest_path)
    dataset.check_settings(config)
    gpu = torch.cuda.is_available()
    precision = mixed_precision(config.training.precision, "cuda" if gpu else "cpu")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    size, accumulation = micro_batches(config.training, processes)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    accelerator = Accelerator(
        cpu=not gpu, mixed_precision=precision, gradient_accumulation_steps=accumulation
    )
    data = {"dataset": hash_file(manifest_path)}
    record = made_by("train", config, dataset.manifest["made_by"], **data)
    key = record | {"precision": precision}
    main = accelerator.is_main_process
    with resumable_folder(out, key) if main else nullcontext(scratch(out)) as folder:
        cache = folder / "cache"
        if main:
            build_cache(dataset, config.model, cache)
        accelerator.wait_for_everyone()
        splits = load_samples(cache, len(dataset.split["train"]), accelerator.device)
        with stop_requested() as stop:
            _Run(accelerator, config, *splits, size, accumulation, folder).loop(stop)
        accelerator.wait_for_everyone()
        if main:
            shutil.rmtree(cache)
    accelerator.end_training()


@contextmanager
def stop_requested() -> Iterator[list[str]]:
    """Yield a list that gets the name of a signal (SIGTERM, SIGUSR1, SIGINT) when one arrives."""
    received: list[str] = []
    names = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {
        number: signal.signal(number, lambda n, _: received.append(signal.Signals(n).name))
        for number in names
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """State of a training run: what a checkpoint holds, and where it logs to."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: Config,
        training: Samples,
        validation: Samples,
        micro_batch: int,
        accumulation: int,
        folder: Path,
    ) -> None:
        self.accelerator, self.config, self.folder = accelerator, config, folder
        self.training, self.validation = training, validation
        self.micro_batch, self.accumulation = micro_batch, accumulation
        self.settings = config.training
        self.normalisation = training.normalisation
        self.elements = symmetries(self.settings.augmentation, config.model)
        device = accelerator.device
        layout, steps = self.normalisation.layout, len(self.normalisation.curve_strain)
        self.channel_weights = layout.weights().to(device)

        torch.manual_seed(config.seed)
        self.network = build_network(config.model, layout, steps).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        if self.settings.compile == "yes" or (
            self.settings.compile == "auto" and device.type == "cuda"
        ):
            self.network.compile()
            self.average.compile()
        self.denoiser, self.optimizer = accelerator.prepare(
            Denoiser(self.network), build_optimizer(self.network, self.settings)
        )
        shape = (micro_batch, *training.physical.shape[1:])
        self.buffer = torch.empty(shape, device=training.physical.device)
        self.step = 0
        self.window = torch.zeros(2, device=device)  # sum of losses and number since the last line

    def loop(self, stop: list[str]) -> None:
        """Train to the last step, or to the first one after a signal."""
        self._restore()
        main = self.accelerator.is_main_process
        writer = SummaryWriter(self.folder / "tensorboard", purge_step=self.step) if main else None
        settings, first = self.settings, self.step
        bar = tqdm(
            total=settings.steps,
            initial=first,
            desc="train",
            unit="step",
            disable=not (main and sys.stderr.isatty()),
        )
        start = checkpointed = logged = time.monotonic()
        logged_step = first
        while self.step < settings.steps:
            norm = self._optimise()
            self.step += 1
            bar.update()
            now = time.monotonic()
            last = self.step == settings.steps
            line = {}
            if self.step % settings.log_every == 0 or last:
                rate = settings.batch * (self.step - logged_step) / (now - logged)
                line = self._training_line(norm, rate)
            if self.step % settings.validate_every == 0 or last:
                line |= {"step": self.step, "validation_loss": self._validation_loss()}
            if line:
                logged, logged_step = time.monotonic(), self.step
                if main:
                    self._log(line, writer, bar, first, logged - start)
            due = now - checkpointed > 60 * settings.checkpoint_minutes
            stopped, due = self._any(bool(stop), due or last)
            if stopped:
                self._checkpoint()
                name = stop[0] if stop else "a signal to another process"
                raise UserError(
                    f"training stopped by {name} after step {self.step} of {settings.steps}, "
                    "checkpoint saved: run the same command again to continue"
                )
            if due:
                self._checkpoint()
                checkpointed = time.monotonic()
        bar.close()
        if main:
            writer.close()
            training = {
                "seed": self.config.seed,
                "steps": self.step,
                "samples": self.step * settings.batch,
                "settings": settings.model_dump(mode="json"),
            }
            save_model(
                self.folder,
                self.average.state_dict(),
                self.config.model,
                self.normalisation,
                training,
            )

    def _optimise(self) -> Tensor:
        """Make one optimiser step; return the norm of the gradient."""
        accelerator, settings = self.accelerator, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        loss_sum = torch.zeros((), device=accelerator.device)
        for part in range(self.accumulation):
            batch = self._batch(part)
            with accelerator.accumulate(self.denoiser):
                loss = denoising_loss(self.denoiser, *batch, self.channel_weights).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.denoiser.parameters(), settings.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            loss_sum += loss.detach() / self.accumulation
        self.window += torch.stack([self._mean(loss_sum), torch.ones_like(loss_sum)])
        decay = ema_decay((self.step + 1) * settings.batch, settings.batch)
        update_average(self.average, self.network, decay)
        return norm

    def _batch(self, part: int) -> Batch:
        """Return this process's samples of one part of the present step."""
        accelerator = self.accelerator
        first = self.step * self.settings.batch + self.micro_batch * (
            part * accelerator.num_processes + accelerator.process_index
        )
        draws = [
            draw(
                self.config.seed,
                index,
                len(self.training),
                self.training.stress.shape[1],
                self.elements,
                self.settings,
            )
            for index in range(first, first + self.micro_batch)
        ]
        return assemble(self.training, draws, accelerator.device, self.buffer)

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        """Return the loss of the averaged weights on held-out designs, with fixed noise."""
        draws = validation_draws(self.config.seed, self.validation, self.settings)
        if not draws:
            return None
        accelerator, denoiser = self.accelerator, Denoiser(self.average)
        total = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        mine = draws[accelerator.process_index :: accelerator.num_processes]
        for start in range(0, len(mine), self.micro_batch):
            part = mine[start : start + self.micro_batch]
            batch = assemble(self.validation, part, accelerator.device, self.buffer)
            with accelerator.autocast():
                losses = denoising_loss(denoiser, *batch, self.channel_weights)
            total += losses.sum(dtype=torch.float64)
        return accelerator.reduce(total, "sum").item() / len(draws)

    def _training_line(self, norm: Tensor, rate: float) -> dict:
        loss = (self.window[0] / self.window[1]).item()
        self.window.zero_()
        return {
            "step": self.step,
            "samples": self.step * self.settings.batch,
            "loss": loss,
            "learning_rate": learning_rate(self.step - 1, self.settings),
            "gradient_norm": float(norm),
            "samples_per_s": rate,
            "memory_mb": _memory_mb(self.accelerator.device),
        }

    def _log(
        self, line: dict, writer: SummaryWriter, bar: tqdm, first: int, seconds: float
    ) -> None:
        """Write one line of ``stats.jsonl``, the same to TensorBoard, and show it."""
        with (self.folder / "stats.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step" and value is not None:
                writer.add_scalar(name, value, self.step)
        shown = {
            "loss": f"{line['loss']:.4f}" if "loss" in line else None,
            "validation": f"{line['validation_loss']:.4f}" if line.get("validation_loss") else None,
            "samples/s": f"{line['samples_per_s']:.3g}" if "loss" in line else None,
            "MB": f"{line['memory_mb']:.0f}" if "loss" in line else None,
        }
        shown = {name: value for name, value in shown.items() if value is not None}
        bar.set_postfix(shown)
        if bar.disable:
            done, total = self.step - first, self.settings.steps - first
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            line = progress_line("train", "step", done, total, seconds)
            print(f"{line}, {values}", file=sys.stderr, flush=True)

    def _mean(self, value: Tensor) -> Tensor:
        """Average over processes."""
        return self.accelerator.reduce(value, "mean")

    def _any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether any process has it set; the answer is the same for all."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        value = torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device)
        return (self.accelerator.reduce(value, "sum") > 0).tolist()

    def _checkpoint(self) -> None:
        """Write everything that the next step depends on, atomically."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "step": self.step,
                "window": self.window,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            with atomic_path(self.folder / "checkpoint.pt") as temporary:
                torch.save(state, temporary)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        """Continue from the checkpoint, if there is one; forget log lines that came after it."""
        checkpoint = self.folder / "checkpoint.pt"
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=self.accelerator.device)
            self.step, self.window = state["step"], state["window"]
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        stats = self.folder / "stats.jsonl"
        if stats.exists() and self.accelerator.is_main_process:
            lines = stats.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n")]
            save_text(stats, "".join(x for x in kept if json.loads(x)["step"] <= self.step))
        self.accelerator.wait_for_everyone()


def _memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process, on the accelerator where there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
