"""Candidates for target curves: drawn in parts by all processes, ranked by the forward model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from crumple import __version__
from crumple.atomic import resumable_folder, save_npz, scratch
from crumple.candidates import STORE, write_candidates
from crumple.config import Config
from crumple.diffusion.cascade import cascade_candidates
from crumple.diffusion.designer import load_designer
from crumple.diffusion.joint import joint_candidates
from crumple.diffusion.model import load_model
from crumple.diffusion.precision import autocast, resolve
from crumple.diffusion.response import load_response
from crumple.diffusion.sampling import evaluations
from crumple.errors import UserError
from crumple.layout import FRAME_STRAIN
from crumple.library import packaged
from crumple.progress import progress
from crumple.provenance import folder_record, hash_file, hash_model, made_by
from crumple.readers import Schema, read_npz
from crumple.targets import Targets, read_targets

PART = Schema(
    "remove it and run `crumple generate` again",
    {name: array for name, array in STORE.arrays.items() if name != "rank"},
    STORE.optional,
)
Part = tuple[range, Callable[[], dict[str, NDArray]]]


class Models(NamedTuple):
    """Folders of trained models; the cascade has its own where it isn't given another one."""

    response: Path | None  # of `crumple train-response`
    designer: Path | None  # of `crumple train-designer`
    model: Path | None  # of `crumple train`


def generate(config: Config, models: Models, target_files: Sequence[Path], out: Path) -> None:
    """Generate candidates for every target; every process of a distributed run calls this.

    Candidates are the same whatever the number of processes, which share them out in parts; what
    is done is not done again when the command is repeated after an interruption, with batches of
    another size too.

    Parameters
    ----------
    config
        Sections ``seed``, ``designs`` (acceptance rules) and ``generation``.
    models
        What to generate with.
    target_files
        See :func:`crumple.targets.read_targets`.
    out
        Zarr store with a row per candidate, those of a target together: ``frames`` (n, 11, 3, 96,
        96) in physical units, ``mask``, ``predicted_stress`` and its ``predicted_spread``,
        ``target_stress`` (NaN where a target says nothing), ``predicted_nrmse``, ``rank`` within
        the target, ``quarter`` and its ``status``, ``quarter_fields``, ``seed``. What a model
        doesn't predict is NaN.

    Raises
    ------
    UserError
        When a model is missing or damaged, or a target can't be used.
    """
    settings = config.generation
    state = PartialState(cpu=not torch.cuda.is_available())
    precision = resolve(settings.precision, state.device.type, "generation.precision")
    targets = read_targets(target_files, FRAME_STRAIN)
    if settings.method == "cascade":
        designer = models.designer or packaged("designer")
        models = models._replace(
            designer=designer, response=models.response or packaged("response")
        )
    parts = _parts(config, models, targets, state.device)
    record = _record(config, models)
    goals = [targets.names, targets.stress.tolist(), targets.known.tolist()]
    main = state.is_main_process
    start = time.monotonic()
    key = record | {"targets": goals, "precision": precision}
    with resumable_folder(out, key) if main else nullcontext(scratch(out)) as folder:
        state.wait_for_everyone()
        mine = parts[state.process_index :: state.num_processes]
        for numbers, draw in progress(mine, len(mine), "generate", "part") if main else mine:
            if not all(_place(folder, number).exists() for number in numbers):
                with autocast(precision, state.device.type):
                    columns = draw()
                for row, number in enumerate(numbers):
                    one = {name: values[row : row + 1] for name, values in columns.items()}
                    save_npz(_place(folder, number), **one)
        state.wait_for_everyone()
        if main:
            attributes = {
                "made_by": record,
                "crumple": __version__,
                "frame_strain": FRAME_STRAIN.tolist(),
                "target_names": targets.names,
                "method": settings.method,
                "guidance": settings.guidance,
                "sampler": settings.sampler,
                "steps": settings.steps,
                "precision": precision,
                "evaluations_per_sample": evaluations(settings.sampler, settings.steps),
                "seconds": time.monotonic() - start,
            }
            count = len(targets.names) * settings.candidates
            _assemble(folder, count, attributes)
    state.wait_for_everyone()
    state.destroy_process_group()


def _parts(config: Config, models: Models, targets: Targets, device: torch.device) -> list[Part]:
    """Return the work in parts: numbers of candidates, and what returns their columns."""
    settings = config.generation
    size = settings.candidates
    if settings.method == "cascade":
        assert models.designer and models.response
        designer = load_designer(models.designer, device)
        judge = load_response(models.response, device)
        fields = load_model(models.model, device) if models.model else None
        goals = np.where(targets.known, targets.stress, np.nan)
        return [
            (
                range(number * size, (number + 1) * size),
                functools.partial(
                    cascade_candidates, designer, judge, fields, goal, number, config
                ),
            )
            for number, goal in enumerate(goals)
        ]
    response = load_response(models.response, device) if models.response else None
    if models.model is None:
        raise UserError("generation.method joint needs a trained model: name it by --model")
    model = load_model(models.model, device)
    count = len(targets.names) * size
    batches = [range(i, min(i + settings.batch, count)) for i in range(0, count, settings.batch)]
    return [
        (batch, functools.partial(joint_candidates, model, response, targets, batch, config))
        for batch in batches
    ]


def _record(config: Config, models: Models) -> dict[str, Any]:
    """Return the record of the candidates: of every model, and of the hashes of their weights."""
    records, hashes = [], {}
    for name, folder in models._asdict().items():
        if folder is not None:
            records.append(folder_record(folder, f"train this {name} again"))
            weights = folder / f"{name}.safetensors"
            hashes[name] = hash_model(folder) if name == "model" else hash_file(weights)
    return made_by("generate", config, *records, **hashes)


def _place(folder: Path, number: int) -> Path:
    """Return where a candidate waits for the others."""
    return folder / f"candidate-{number:06d}.npz"


def _assemble(folder: Path, count: int, attributes: dict[str, Any]) -> None:
    """Turn the candidates in ``folder`` into a zarr store there."""
    paths = [_place(folder, number) for number in range(count)]
    columns: dict[str, list[NDArray]] = {}
    for path in paths:
        for name, values in read_npz(path, PART).items():
            columns.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    write_candidates(folder, arrays, attributes)
    for path in paths:
        path.unlink()
