"""Training of any denoiser: one flat loop, distributed by Accelerate, resumed bit for bit.

What is trained is a :class:`Problem`: a network, and the loss of a sample as a function of its
global index alone. So neither a restart nor the number of processes changes what a step sees.
"""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from crumple.atomic import is_finished, resumable_folder, save_text, scratch
from crumple.config import Optimisation, Training
from crumple.diffusion import checkpoint
from crumple.diffusion.checkpoint import CONSTANT, LATEST, STATS, TENSORBOARD, Progress, Stateful
from crumple.diffusion.optimiser import Muon
from crumple.diffusion.precision import resolve
from crumple.diffusion.schedule import decay_start, ema_decay, learning_rate
from crumple.errors import UserError
from crumple.progress import progress_line
from crumple.readers import read_json_lines


class Problem(Protocol):
    """What :func:`train` trains.

    Losses are functions of the network and of the samples' numbers alone (the seed of the run being
    given to the problem), whatever the process or the batch that they are computed in.
    """

    def build(self) -> nn.Module:
        """Return the untrained network, on the CPU; torch has been seeded."""
        ...

    def loss(self, network: nn.Module, indices: Sequence[int]) -> Tensor:
        """Return the loss ``(batch,)`` of the training samples of these numbers.

        Parameters
        ----------
        network
            From :meth:`build`, possibly wrapped: call it, and look at nothing else of it.
        indices
            Numbers of the samples since the start of the training, over all processes.
        """
        ...

    def validation_count(self) -> int:
        """Return the number of validation samples; 0: there is no validation loss."""
        ...

    def validation_loss(self, network: nn.Module, numbers: Sequence[int]) -> Tensor:
        """Return the loss ``(batch,)`` of validation samples, which are always the same."""
        ...

    def save(self, folder: Path, weights: dict[str, Tensor], training: dict[str, Any]) -> None:
        """Write the trained model.

        Parameters
        ----------
        folder
            Where to.
        weights
            Averaged weights: a state of what :meth:`build` returns.
        training
            How they came about: seed, steps, samples, precision, settings.
        """
        ...


# Settings with which a training goes on whatever they were before.
MAY_CHANGE = ("steps", "decay", "precision")
NEVER = 2**62  # a step that no training makes


def train(
    out: Path,
    record: Mapping[str, Any],
    section: str,
    settings: Optimisation,
    seed: int,
    prepare: Callable[[Path, Accelerator], Problem],
) -> None:
    """Train a problem; every process of a distributed run calls this.

    A run that was stopped leaves its last checkpoint in ``<out>.partial``, and the same command
    continues there. So does a command that asks for more steps, also when ``out`` is finished: it
    goes on from the step at which the rate began to fall, and ends with the weights that a
    training of that length would have had from the start.

    Parameters
    ----------
    out
        Folder that the model becomes: what the problem saves, the checkpoints, ``stats.jsonl`` and
        ``tensorboard`` with losses, rates and memory.
    record
        What makes the model, see :func:`crumple.provenance.made_by`.
    section
        Name of the settings in the configuration.
    settings
        Steps, rate, precision, reports.
    seed
        Of the first weights.
    prepare
        Makes the problem, given a folder for files that are needed during training alone. Every
        process calls it.

    Raises
    ------
    UserError
        When the settings can't be used, the loss isn't finite, or a signal stopped the run.
    """
    gpu = torch.cuda.is_available()
    precision = resolve(settings.precision, "cuda" if gpu else "cpu", f"{section}.precision")
    ignored = [f"settings.{record['stage']}.{section}.{name}" for name in MAY_CHANGE]
    size, parts = micro_batches(settings, int(os.environ.get("WORLD_SIZE", 1)), section)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    accelerator = Accelerator(
        cpu=not gpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=parts,
    )
    main = accelerator.is_main_process
    work = resumable_folder(out, record, keep=True, ignored=ignored)
    with work if main else nullcontext(scratch(out)) as folder:
        cache = folder / "cache"
        if main:
            cache.mkdir(exist_ok=True)
            if not (folder / LATEST).exists() and is_finished(out, record, ignored):
                checkpoint.go_on_from(out, folder)
        accelerator.wait_for_everyone()
        problem = prepare(cache, accelerator)
        plan = Plan(section, settings, precision, seed, folder)
        with stop_requested() as stop:
            training_loop(problem, plan, accelerator, size, parts, stop)
        del problem  # which may hold files of the cache open; network file systems mind
        gc.collect()
        accelerator.wait_for_everyone()
        if main:
            shutil.rmtree(cache)
    accelerator.end_training()


def is_compiled(settings: Optimisation, device: torch.device) -> bool:
    """Return whether ``torch.compile`` is worth its minutes.

    It never is for the small networks, which are trained before it has ended.
    """
    asked = settings.compile if isinstance(settings, Training) else "no"
    return asked == "yes" or (asked == "auto" and device.type == "cuda")


class Plan(NamedTuple):
    """What a training is told.

    Attributes
    ----------
    section
        Name of its settings in the configuration.
    settings
        Steps, rate, precision, reports.
    precision
        What ``settings.precision`` means on this machine.
    seed
        Of the first weights.
    folder
        Where checkpoints, logs and the model are.
    """

    section: str
    settings: Optimisation
    precision: str
    seed: int
    folder: Path


def training_loop(
    problem: Problem,
    plan: Plan,
    accelerator: Accelerator,
    size: int,
    parts: int,
    stop: Sequence[str],
) -> None:
    """Train from the last checkpoint, or from nothing, to the last step.

    Parameters
    ----------
    problem, plan
        What is trained, and how.
    accelerator
        Device and processes.
    size, parts
        See :func:`micro_batches`.
    stop
        Becomes true when training has to stop after the present step.
    """
    settings, folder = plan.settings, plan.folder
    device, main = accelerator.device, accelerator.is_main_process
    processes, rank = accelerator.num_processes, accelerator.process_index

    # --- the network, and where its training stands
    torch.manual_seed(plan.seed)
    network = problem.build().to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    if is_compiled(settings, device):
        network.compile()
        average.compile()
    optimizer = Muon(network, settings.learning_rate, settings.weight_decay)
    wrapped, optimizer = accelerator.prepare(network, optimizer)
    progress = Progress(losses=torch.zeros(2, device=device))
    contents: dict[str, Stateful] = {
        "progress": progress,
        "network": network,
        "average": average,
        "optimizer": optimizer,
    }
    if accelerator.scaler is not None:
        contents["scaler"] = accelerator.scaler
    went_back = checkpoint.resume(folder, contents, progress, settings, device)
    agree_on_precision(progress, plan)
    not_finite = torch.full((), NEVER, device=device)  # the first step whose loss isn't

    def save(name: str) -> None:
        require_finite(network.parameters(), progress, plan)
        if main:
            checkpoint.save(folder / name, contents)
        accelerator.wait_for_everyone()

    if went_back:
        save(LATEST)

    # --- reports
    if main:
        forget_lines(folder / STATS, progress.step)
    writer = SummaryWriter(folder / TENSORBOARD, purge_step=progress.step) if main else None
    first = logged_step = progress.step
    quiet = not (main and sys.stderr.isatty())
    bar = tqdm(total=settings.steps, initial=first, desc="train", unit="step", disable=quiet)
    start = checkpointed = logged = time.monotonic()

    while progress.step < settings.steps:
        if progress.step == decay_start(settings):
            save(CONSTANT)

        # --- one step
        rate = learning_rate(progress.step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=device)
        for part in range(parts):
            index = progress.step * settings.batch + size * (part * processes + rank)
            with accelerator.accumulate(wrapped):
                mean = problem.loss(wrapped, range(index, index + size)).mean()
                accelerator.backward(mean)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
                optimizer.step()
                optimizer.zero_grad()
            loss += mean.detach() / parts
        loss = accelerator.reduce(loss, "mean")
        progress.losses += torch.stack([loss, torch.ones_like(loss)])
        progress.step += 1
        not_finite = not_finite.where(loss.isfinite(), not_finite.clamp(max=progress.step))
        decay = ema_decay(progress.step * settings.batch, settings.batch)
        update_average(average, network, decay)
        bar.update()

        # --- what is due after it
        last = progress.step == settings.steps
        log = progress.step % settings.log_every == 0 or last
        validate = progress.step % settings.validate_every == 0 or last
        due = time.monotonic() - checkpointed > 60 * settings.checkpoint_minutes
        stopped, due = any_process(accelerator, bool(stop), due or last)
        if (log or validate or due or stopped) and not_finite < NEVER:
            raise UserError(advice_not_finite(f"loss is not finite at step {not_finite}", plan))

        # --- one line of the log
        line: dict[str, float | None] = {"step": progress.step} if log or validate else {}
        if log:
            seconds = time.monotonic() - logged
            line |= {
                "samples": progress.step * settings.batch,
                "loss": (progress.losses[0] / progress.losses[1]).item(),
                "learning_rate": rate,
                "gradient_norm": float(norm),
                "samples_per_s": settings.batch * (progress.step - logged_step) / seconds,
                "memory_mb": memory_mb(device),
            }
            progress.losses.zero_()
        if validate:
            line["validation_loss"] = validation_loss(problem, average, accelerator, size)
        if line:
            logged, logged_step = time.monotonic(), progress.step
            if writer is not None:
                write_line(folder / STATS, writer, line)
                show_line(line, bar, first, settings.steps, logged - start)

        # --- one checkpoint
        if stopped or due:
            save(LATEST)
            checkpointed = time.monotonic()
        if stopped:
            name = stop[0] if stop else "a signal to another process"
            raise UserError(
                f"training stopped by {name} after step {progress.step} of {settings.steps}, "
                "checkpoint saved: run the same command again to continue"
            )

    bar.close()
    if writer is not None:
        writer.close()
        training = {
            "seed": plan.seed,
            "steps": progress.step,
            "samples": progress.step * settings.batch,
            "precision": progress.precision,
            "settings": settings.model_dump(mode="json"),
        }
        problem.save(folder, average.state_dict(), training)


# --- what stops a training -----------------------------------------------------------------------


def agree_on_precision(progress: Progress, plan: Plan) -> None:
    """Record the precision of the next steps, if it may be that one.

    Raises
    ------
    UserError
        When the steps so far were made in another one and nobody has asked for this one: ``auto``
        means something else on this machine.
    """
    before = progress.precision[-1][1] if progress.precision else None
    if before == plan.precision or progress.step >= plan.settings.steps:
        return
    if before is not None and plan.settings.precision == "auto":
        name = f"{plan.section}.precision"
        raise UserError(
            f"{plan.folder} was trained in {before} so far, and {name} auto means {plan.precision} "
            f"on this machine: set {name} to {before} or to {plan.precision} to go on"
        )
    progress.precision.append((progress.step, plan.precision))


def require_finite(parameters: Iterable[Tensor], progress: Progress, plan: Plan) -> None:
    """Raise when weights aren't finite, so that no checkpoint holds such ones."""
    if not all(parameter.isfinite().all() for parameter in parameters):
        what = f"weights are not finite after step {progress.step}"
        raise UserError(advice_not_finite(what, plan))


def advice_not_finite(what: str, plan: Plan) -> str:
    """Return the sentence about a training that has diverged."""
    again = f"lower {plan.section}.learning_rate and remove {plan.folder} to train again"
    if plan.precision == "fp32":
        return f"{what}: {again}; it keeps the last checkpoint before"
    return (
        f"{what}: set {plan.section}.precision to fp32 to go on from the last checkpoint before, "
        f"or {again}"
    )


# --- a step --------------------------------------------------------------------------------------


def micro_batches(settings: Optimisation, processes: int, section: str) -> tuple[int, int]:
    """Return samples that a process holds at once, and how often it does so per step."""
    share, remainder = divmod(settings.batch, processes)
    if remainder:
        raise UserError(
            f"{section}.batch {settings.batch} can't be split over {processes} processes: "
            "make it a multiple"
        )
    size = max(n for n in range(1, min(settings.micro_batch, share) + 1) if share % n == 0)
    return size, share // size


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the present ones."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def validation_loss(
    problem: Problem, average: nn.Module, accelerator: Accelerator, size: int
) -> float | None:
    """Return the loss of the averaged weights on all validation samples, ``size`` at once."""
    count = problem.validation_count()
    if not count:
        return None
    total = torch.zeros((), device=accelerator.device, dtype=torch.float64)
    mine = range(accelerator.process_index, count, accelerator.num_processes)
    for start in range(0, len(mine), size):
        with accelerator.autocast():
            losses = problem.validation_loss(average, mine[start : start + size])
        total += losses.sum(dtype=torch.float64)
    return accelerator.reduce(total, "sum").item() / count


def any_process(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Return for each flag whether any process has it set; the answer is the same for all."""
    if accelerator.num_processes == 1:
        return list(flags)
    value = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(value, "sum") > 0).tolist()


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


# --- the log -------------------------------------------------------------------------------------


class LoggedStep(BaseModel):
    """A line of ``stats.jsonl``; there is more."""

    step: int


def forget_lines(stats: Path, step: int) -> None:
    """Remove the lines that came after the checkpoint from which training continues."""
    if not stats.exists():
        return
    text = stats.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)  # the last may be cut off
    save_text(stats, "".join(lines))
    steps = read_json_lines(stats, LoggedStep, "remove it and train on without it")
    save_text(
        stats, "".join(line for line, at in zip(lines, steps, strict=True) if at.step <= step)
    )


def write_line(stats: Path, writer: SummaryWriter, line: Mapping[str, float | None]) -> None:
    """Write one line of ``stats.jsonl``, and the same to TensorBoard."""
    with stats.open("a") as file:
        file.write(json.dumps(line) + "\n")
    for name, value in line.items():
        if name != "step" and value is not None:
            writer.add_scalar(name, value, line["step"])


def show_line(line: Mapping[str, Any], bar: tqdm, first: int, steps: int, seconds: float) -> None:
    """Show a line on the bar of a terminal, or as text in a log."""
    shown = {}
    if "loss" in line:
        shown["loss"] = f"{line['loss']:.4f}"
    if line.get("validation_loss") is not None:
        shown["validation"] = f"{line['validation_loss']:.4f}"
    if "loss" in line:
        shown["samples/s"] = f"{line['samples_per_s']:.3g}"
        shown["MB"] = f"{line['memory_mb']:.0f}"
    bar.set_postfix(shown)
    if bar.disable:
        values = ", ".join(f"{name} {value}" for name, value in shown.items())
        text = progress_line("train", "step", line["step"] - first, steps - first, seconds)
        print(f"{text}, {values}", file=sys.stderr, flush=True)


def memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process, on the accelerator where there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
