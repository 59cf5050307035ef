"""What the training of the space-time model sees: designs with their fields, and their curves.

A sample has noise on design and fields, and a curve (of which a part may be hidden); or it shows
the clean design, no curve, and noise on the fields alone: ``training.known_design`` is the part of
such samples, from which the network learns to predict the fields of a design
(:mod:`crumple.diffusion.prediction`). Everything about a sample is a function of (seed, global
sample index): which of both, which design, which symmetry, which noise, which part of the curve.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from crumple import seeds
from crumple.config import Config, Denoising, unknown_to_model
from crumple.dataset import Dataset
from crumple.diffusion import training
from crumple.diffusion.data import Samples, build_cache, load_samples, symmetries
from crumple.diffusion.model import build_denoiser, save_model
from crumple.diffusion.noise_prediction import noise_loss
from crumple.diffusion.preconditioning import denoising_loss
from crumple.errors import ConfigError
from crumple.provenance import hash_file, made_by

LOSSES = {"crumple": denoising_loss, "published": noise_loss}  # by the kind of model
VALIDATION_LEVELS = 4  # noise levels per held-out sample


class Draw(NamedTuple):
    """What training does with one sample."""

    row: int
    element: int
    sigma: float
    known: np.ndarray
    noise_seed: int
    given: bool = False


class Batch(NamedTuple):
    """Arguments of the loss; see :func:`crumple.diffusion.preconditioning.denoising_loss`."""

    state: Tensor
    noise: Tensor
    sigma: Tensor
    stress: Tensor
    known: Tensor
    channel_weights: Tensor
    given: Tensor


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of the designs in one epoch."""
    return seeds.rng(seed, "epochs", epoch).permutation(count)


def draw(
    seed: int,
    index: int,
    count: int,
    steps: int,
    elements: list[int],
    settings: Denoising,
    stage: seeds.Stage = "training",
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
    stage
        Whose random numbers are drawn.
    """
    random = seeds.rng(seed, stage, index)
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


def validation_draws(seed: int, count: int, steps: int, settings: Denoising) -> list[Draw]:
    """Return the fixed noise of the validation loss for ``count`` held-out designs.

    Noise levels are quantiles of the training distribution, spread over samples so that few of
    them cover it evenly.
    """
    normal = torch.distributions.Normal(settings.noise_mean, settings.noise_std)
    draws = []
    for row in range(min(count, settings.validation_samples)):
        for level in range(VALIDATION_LEVELS):
            quantile = (level + (0.5 + row * 0.6180339887) % 1) / VALIDATION_LEVELS
            sigma = normal.icdf(torch.tensor(quantile)).exp().item()
            random = seeds.rng(seed, "validation", row * VALIDATION_LEVELS + level)
            known = np.ones(steps, bool)
            draws.append(Draw(row, 0, sigma, known, int(random.integers(2**63))))
    return draws


def given(draw: Draw) -> Draw:
    """Return a draw that shows the clean design, and no curve."""
    return draw._replace(known=np.zeros_like(draw.known), given=True)


class SpaceTime:
    """The space-time model as a :class:`crumple.diffusion.training.Problem`.

    Parameters
    ----------
    config
        Sections ``seed``, ``model`` and ``training``.
    training_split, validation_split
        Samples of the data set.
    device
        Where batches go.
    """

    def __init__(
        self,
        config: Config,
        training_split: Samples,
        validation_split: Samples,
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.training, self.validation = training_split, validation_split
        self.normalisation = training_split.normalisation
        self.steps = len(self.normalisation.curve_strain)
        self.elements = symmetries(config.training.augmentation, config.model)
        layout = self.normalisation.layout
        self.channel_weights = torch.stack([layout.weights(), layout.weights(given=True)])
        part = config.training.known_design
        draws = validation_draws(config.seed, len(validation_split), self.steps, config.training)
        self.held_out = [
            given(one) if number * 0.6180339887 % 1 < part else one
            for number, one in enumerate(draws)
        ]
        self._states = torch.empty(0)

    def build(self) -> nn.Module:
        """Return the denoiser."""
        return build_denoiser(self.config.model, self.normalisation.layout, self.steps)

    def loss(self, network: nn.Module, indices: Sequence[int]) -> Tensor:
        """Return the loss of training samples."""
        return self._loss(network, self.training, [self.draw(index) for index in indices])

    def draw(self, index: int) -> Draw:
        """Decide everything about a training sample, also whether its design is given."""
        seed, settings = self.config.seed, self.config.training
        one = draw(seed, index, len(self.training), self.steps, self.elements, settings)
        forward = seeds.rng(seed, "forward", index).random() < settings.known_design
        return given(one) if forward else one

    def validation_count(self) -> int:
        """Return the number of held-out samples, each noise level counted."""
        return len(self.held_out)

    def validation_loss(self, network: nn.Module, numbers: Sequence[int]) -> Tensor:
        """Return the loss of held-out samples."""
        return self._loss(network, self.validation, [self.held_out[i] for i in numbers])

    def save(self, folder: Path, weights: dict[str, Tensor], training: dict[str, Any]) -> None:
        """Write the model; see :mod:`crumple.diffusion.model`."""
        weights = {name.removeprefix("network."): value for name, value in weights.items()}
        part = self.config.training.known_design
        save_model(folder, weights, self.config.model, self.normalisation, part, training)

    def _loss(self, network: nn.Module, samples: Samples, draws: list[Draw]) -> Tensor:
        loss = LOSSES[self.config.model.kind]
        return loss(network, *self.assemble(samples, draws))

    def assemble(self, samples: Samples, draws: list[Draw]) -> Batch:
        """Put a batch together from what was drawn for its samples."""
        if len(self._states) < len(draws):  # fresh memory for every batch would take longer
            shape = (len(draws), *samples.physical.shape[1:])
            self._states = torch.empty(shape, device=samples.physical.device)
        rows, elements = [d.row for d in draws], [d.element for d in draws]
        state, stress = samples.batch(rows, elements, self._states)
        layout, size = self.normalisation.layout, state.shape[-1]
        noise = torch.stack([layout.noise(size, d.noise_seed, self.device) for d in draws])
        forward = torch.tensor([d.given for d in draws])
        noise[forward.to(self.device), : layout.static] = 0
        return Batch(
            state.to(self.device),
            noise,
            torch.tensor([d.sigma for d in draws], device=self.device),
            stress.to(self.device),
            torch.from_numpy(np.stack([d.known for d in draws])).to(self.device),
            self.channel_weights[forward.long()].to(self.device),
            forward.to(self.device),
        )


def train(config: Config, manifest_path: Path, out: Path) -> None:
    """Train the space-time model; every process of a distributed run calls this.

    Parameters
    ----------
    config
        Sections ``seed``, ``model`` and ``training``.
    manifest_path
        ``dataset.json``.
    out
        Folder that the model becomes: see :mod:`crumple.diffusion.model` and
        :func:`crumple.diffusion.training.train`.

    Raises
    ------
    UserError
        When the data or the settings can't be used, or a signal stopped the run.
    """
    wrong = unknown_to_model(config)
    if wrong:
        raise ConfigError(wrong)
    dataset = Dataset(manifest_path)
    dataset.check_settings(config)
    data = {"dataset": hash_file(manifest_path)}
    record = made_by("train", config, dataset.manifest["made_by"], **data)

    def prepare(cache: Path, accelerator: Accelerator) -> SpaceTime:
        if accelerator.is_main_process:
            build_cache(dataset, config.model, cache)
        accelerator.wait_for_everyone()
        splits = load_samples(cache, len(dataset.split["train"]), accelerator.device)
        return SpaceTime(config, *splits, accelerator.device)

    training.train(out, record, "training", config.training, config.seed, prepare)
