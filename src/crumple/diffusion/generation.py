"""Candidates for target curves: sample, read the design, rank by the predicted curve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from crumple import __version__, seeds
from crumple.atomic import resumable_folder, save_npz, scratch
from crumple.candidates import STORE, write_candidates
from crumple.config import Config, Generation
from crumple.designs import mirror
from crumple.diffusion.data import Normalisation
from crumple.diffusion.model import TrainedModel, load_model
from crumple.diffusion.precision import autocast, resolve
from crumple.diffusion.sampling import SAMPLERS, evaluations, guided, karras_sigmas
from crumple.errors import UserError
from crumple.layout import CELL, GENERATED_CHANNELS, QUARTER, pixel_height
from crumple.metrics import nrmse, predicted_curve, volume_change
from crumple.progress import progress
from crumple.provenance import folder_record, hash_model, made_by
from crumple.readers import Schema, read_npz
from crumple.targets import Targets, read_targets
from crumple.topology import design_from_fields, read_designs

PART = Schema(
    "remove it and run `crumple generate` again",
    {name: array for name, array in STORE.arrays.items() if name != "rank"},
    STORE.optional,
)


def sample(
    model: TrainedModel, stress: Tensor, known: Tensor, noise: Tensor, settings: Generation
) -> Tensor:
    """Draw one sample per row of ``noise``.

    Parameters
    ----------
    model
        From :func:`crumple.diffusion.model.load_model`.
    stress
        ``(batch, steps)`` effective stress in MPa; looked at where ``known``.
    known
        ``(batch, steps)`` bool.
    noise
        ``(batch, channels, 96, 96)``, see :meth:`crumple.diffusion.network.Layout.noise`.
    settings
        Sampler, noise levels, guidance.

    Returns
    -------
    Tensor
        Of the shape of ``noise``, physical units; the order of channels is that of
        ``model.normalisation``.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max)
    denoise = guided(
        model.denoiser,
        model.normalisation.encode_curve(stress),
        known,
        settings.guidance,
        settings.guidance_interval,
    )
    with torch.inference_mode():
        state = SAMPLERS[settings.sampler](denoise, noise * settings.sigma_max, sigmas)
    return model.normalisation.decode(state)


def generate(config: Config, model_folder: Path, target_files: Sequence[Path], out: Path) -> None:
    """Generate candidates for every target; every process of a distributed run calls this.

    Batches are the same whatever the number of processes, which share them out; what is done is
    not done again when the command is repeated after an interruption, with batches of another
    size too.

    Parameters
    ----------
    config
        Sections ``seed``, ``designs`` (acceptance rules) and ``generation``.
    model_folder
        Model of ``crumple train``.
    target_files
        See :func:`crumple.targets.read_targets`.
    out
        Zarr store with a row per candidate, those of a target together: ``frames`` (n, 11, 3, 96,
        96) in physical units, ``mask``, ``predicted_stress``, ``target_stress`` (NaN where a
        target says nothing), ``predicted_nrmse``, ``rank`` within the target, ``quarter`` and its
        ``status``, ``quarter_fields``, ``seed``. What a model doesn't predict is NaN.
    """
    settings = config.generation
    if settings.sigma_min >= settings.sigma_max:
        raise UserError("generation.sigma_min must be smaller than generation.sigma_max")
    gpu = torch.cuda.is_available()
    state = PartialState(cpu=not gpu)
    model = load_model(model_folder, state.device)
    targets = read_targets(target_files, np.array(model.normalisation.curve_strain))
    count = len(targets.names) * settings.candidates
    batches = [range(i, min(i + settings.batch, count)) for i in range(0, count, settings.batch)]

    precision = resolve(settings.precision, state.device.type, "generation.precision")
    trained = folder_record(model_folder, "train this model again with `crumple train`")
    weights = {"model": hash_model(model_folder)}
    record = made_by("generate", config, trained, **weights)
    goals = [targets.names, targets.stress.tolist(), targets.known.tolist()]
    key = record | {"targets": goals, "precision": precision}
    main = state.is_main_process
    start = time.monotonic()
    with resumable_folder(out, key) if main else nullcontext(scratch(out)) as folder:
        state.wait_for_everyone()
        mine = batches[state.process_index :: state.num_processes]
        for batch in progress(mine, len(mine), "generate", "part") if main else mine:
            if not all(_part(folder, number).exists() for number in batch):
                with autocast(precision, state.device.type):
                    columns = _candidates(model, targets, batch, config)
                for row, number in enumerate(batch):
                    one = {name: values[row : row + 1] for name, values in columns.items()}
                    save_npz(_part(folder, number), **one)
        state.wait_for_everyone()
        if main:
            attributes = {
                "made_by": record,
                "crumple": __version__,
                "frame_strain": list(model.normalisation.curve_strain),
                "target_names": targets.names,
                "guidance": settings.guidance,
                "sampler": settings.sampler,
                "steps": settings.steps,
                "precision": precision,
                "evaluations_per_sample": evaluations(settings.sampler, settings.steps),
                "seconds": time.monotonic() - start,
            }
            _assemble(folder, count, attributes)
    state.wait_for_everyone()
    state.destroy_process_group()


def _candidates(
    model: TrainedModel, targets: Targets, numbers: range, config: Config
) -> dict[str, np.ndarray]:
    """Sample the candidates ``numbers`` and describe them; the columns of the store."""
    device = next(model.denoiser.parameters()).device
    target = np.array(numbers) // config.generation.candidates
    seed = [int(seeds.rng(config.seed, "generation", i).integers(2**63)) for i in numbers]
    layout = model.normalisation.layout
    state = sample(
        model,
        torch.tensor(targets.stress[target], dtype=torch.float32, device=device),
        torch.tensor(targets.known[target], device=device),
        torch.stack([layout.noise(CELL, s, device) for s in seed]),
        config.generation,
    )
    physical = state.float().cpu().numpy()
    mask, frames, curve = read_sample(physical, model.normalisation)
    known = targets.known[target] & np.isfinite(curve)
    goal = np.where(targets.known[target], targets.stress[target], np.nan)
    with np.errstate(invalid="ignore"):
        error = nrmse(np.where(known, curve, 0), np.where(known, goal, 0))
    readout = read_designs(mask, config.designs)
    return {
        "frames": frames.astype(np.float16),
        "mask": mask.astype(np.float16),
        "predicted_stress": curve.astype(np.float32),
        "target_stress": goal.astype(np.float32),
        "target": target.astype(np.int32),
        "predicted_nrmse": error.astype(np.float32),
        "quarter": readout.quarter,
        "status": readout.status,
        "quarter_fields": quarters_from_fields(physical, model.normalisation),
        "seed": np.array(seed, np.int64),
    }


def read_sample(
    physical: np.ndarray, normalisation: Normalisation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read mask, fields and the predicted curve from samples of any kind of model.

    Parameters
    ----------
    physical
        ``(n, channels, 96, 96)`` samples in physical units.
    normalisation
        Says what the channels are.

    Returns
    -------
    mask : ndarray
        ``(n, 96, 96)`` in [0, 1]; without a mask channel what the displacement (paper 4.7) or the
        solid of the least deformed frame says.
    frames : ndarray
        ``(n, steps, 3, 96, 96)`` u1, u2 and s22 on the undeformed cell, 0 in the void, NaN where
        not predicted.
    curve : ndarray
        ``(n, steps)`` predicted effective stress, MPa, NaN where not predicted.
    """
    layout, names = normalisation.layout, normalisation.fields
    static, fields = (part.numpy() for part in layout.split(torch.from_numpy(physical)))
    strain = np.array(normalisation.frame_strain)
    steps = np.searchsorted(normalisation.curve_strain, strain - 1e-9)
    shape = (len(physical), len(normalisation.curve_strain))
    frames = np.full((*shape, len(GENERATED_CHANNELS), CELL, CELL), np.nan, np.float32)
    curve = np.full(shape, np.nan)
    by_name = {name: fields[:, :, i] for i, name in enumerate(names)}
    if "w2" in by_name:
        by_name["u2"] = by_name["w2"] - strain[:, None, None] * pixel_height()

    if normalisation.mask:
        mask = static[:, 0].clip(0, 1)
    elif "solid" in by_name:
        mask = by_name["solid"][:, 0].clip(0, 1)
    else:
        quarters = quarters_from_fields(physical, normalisation)
        mask = np.array([mirror(quarter) for quarter in quarters], np.float32)
    if "s22" in by_name:
        cover = by_name["solid"].clip(0, 1) if "solid" in by_name else (mask > 0.5)[:, None]
        J: np.ndarray | float = 1.0
        if "u1" in by_name and "u2" in by_name:
            displacement = np.stack([by_name["u1"], by_name["u2"]], axis=2)
            J = volume_change(displacement, (mask > 0.5)[:, None])
        curve[:, steps] = predicted_curve(by_name["s22"] * cover, strain, J)
    if normalisation.reference_frame == "lagrangian":
        for channel, name in enumerate(GENERATED_CHANNELS):
            if name in by_name:
                frames[:, steps, channel] = by_name[name] * (mask > 0.5)[:, None]
    return mask, frames, curve


def quarters_from_fields(physical: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Read designs without the mask: from u2 where a model generates it, else from all fields.

    Parameters as in :func:`read_sample`.

    Returns
    -------
    ndarray
        ``(n, 48, 48)`` uint8; all zero for models without fields on the undeformed cell.
    """
    names = list(normalisation.fields)
    if not names or normalisation.reference_frame == "eulerian":
        return np.zeros((len(physical), QUARTER, QUARTER), np.uint8)
    fields = normalisation.layout.split(torch.from_numpy(physical))[1].numpy()
    if "u2" in names:
        fields = fields[:, :, [names.index("u2")]]
    return np.array([design_from_fields(sample) for sample in fields])


def _part(folder: Path, number: int) -> Path:
    """Return where a candidate waits for the others."""
    return folder / f"candidate-{number:06d}.npz"


def _assemble(folder: Path, count: int, attributes: dict[str, Any]) -> None:
    """Turn the candidates in ``folder`` into a zarr store there."""
    paths = [_part(folder, number) for number in range(count)]
    columns: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for name, values in read_npz(path, PART).items():
            columns.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    write_candidates(folder, arrays, attributes)
    for path in paths:
        path.unlink()
