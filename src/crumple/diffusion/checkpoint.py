"""What a training continues from: everything that the next step depends on, in one file.

The content of a checkpoint is described once, by the mapping of names to objects that
:func:`save` and :func:`restore` are given. Weights, averages and the optimiser are fp32 whatever
the precision of the products, and equal in all processes, so that a checkpoint is restored onto
another precision or another number of processes as it is.

A training keeps two of them: ``checkpoint.pt``, the latest, and ``constant.pt``, of the step at
which the rate begins to fall. More steps go on from the second
(:mod:`crumple.diffusion.schedule`): what came after it was made at rates that the longer training
doesn't have.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from crumple.atomic import atomic_path
from crumple.config import Optimisation
from crumple.diffusion.schedule import decay_start
from crumple.errors import UserError
from crumple.readers import refusing

LATEST, CONSTANT = "checkpoint.pt", "constant.pt"
STATS, TENSORBOARD = "stats.jsonl", "tensorboard"
ADVICE = "remove the folder that it is in and train again, or put a copy of it back"


class Stateful(Protocol):
    """A network, an optimiser, a gradient scaler, or a :class:`Progress`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass
class Progress:
    """Where a training stands.

    Attributes
    ----------
    step
        Steps made.
    schedule
        Step at which the rate begins to fall and the last one, as they were when this step was
        made.
    precision
        Pairs of a step and the resolved precision of the steps from there on.
    losses
        Sum and number of the losses since the last line of the log, the same in all processes.
    """

    step: int = 0
    schedule: tuple[int, int] = (0, 0)
    precision: list[tuple[int, str]] = field(default_factory=list)
    losses: Tensor = field(default_factory=lambda: torch.zeros(2))

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in vars(self):
            setattr(self, name, state_dict[name])


def save(path: Path, contents: Mapping[str, Stateful]) -> None:
    """Write a checkpoint atomically."""
    with atomic_path(path) as temporary:
        torch.save({name: part.state_dict() for name, part in contents.items()}, temporary)


def restore(path: Path, contents: Mapping[str, Stateful], device: torch.device) -> None:
    """Bring all parts into the state that :func:`save` found them in.

    Raises
    ------
    UserError
        When the file is damaged or of another network.
    """
    where = device if device.type != "cpu" else "cpu"  # torch.load has no cpu:0
    with refusing(path, ADVICE):
        state = torch.load(path, map_location=where, weights_only=True)
        for name, part in contents.items():
            if name != "scaler" or name in state:  # only fp16 has one
                part.load_state_dict(state[name])


def resume(
    folder: Path,
    contents: Mapping[str, Stateful],
    progress: Progress,
    settings: Optimisation,
    device: torch.device,
) -> bool:
    """Continue from the last checkpoint whose steps are those of the schedule asked for.

    Parameters
    ----------
    folder
        Where :data:`LATEST` and :data:`CONSTANT` are, if there are any.
    contents
        See :func:`save`; ``progress`` is one of them.
    progress
        Where the training stands afterwards.
    settings
        Schedule.
    device
        Where the parts are.

    Returns
    -------
    bool
        Whether steps made at a falling rate are given up, which :data:`LATEST` still holds.

    Raises
    ------
    UserError
        When a checkpoint is damaged, or the rate should have begun to fall earlier.
    """
    schedule = decay_start(settings), settings.steps
    back = False
    if (folder / LATEST).exists():
        restore(folder / LATEST, contents, device)
        back = progress.step > progress.schedule[0] and progress.schedule != schedule
        if back:
            restore(folder / CONSTANT, contents, device)
        if progress.step > schedule[0] and progress.schedule != schedule:
            raise UserError(
                f"{folder} has been trained for {progress.step} steps at the constant rate, but "
                f"steps {settings.steps} with decay {settings.decay:g} would have it fall from "
                f"step {schedule[0]} on: set more steps or a smaller decay, or name another place "
                "with --out"
            )
    progress.schedule = schedule
    return back


def go_on_from(finished: Path, folder: Path) -> None:
    """Copy what a finished training leaves for a longer one, the latest checkpoint last."""
    for name in (TENSORBOARD, STATS, CONSTANT, LATEST):
        source = finished / name
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        elif source.exists():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(source, temporary)
