"""Diffusion model of designs: the quarter of a cell given a stress-strain curve.

It is the first factor of p(design, fields | curve) = p(design | curve) p(fields | design). The free
part of a design is one image of 48x48 pixels, a 150th of the numbers of all fields, so that it
learns from a hundred times as many samples in the same time, and its noise levels are its own.

``designer.safetensors`` holds the averaged weights, ``designer.json`` what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor, nn

from crumple.config import Config, Designer, Generation
from crumple.diffusion import training
from crumple.diffusion.pairs import Pairs, read_pairs
from crumple.diffusion.preconditioning import Denoiser, denoising_loss
from crumple.diffusion.quarter_networks import QuarterDenoiser
from crumple.diffusion.quarters import decode_quarters, encode_quarters
from crumple.diffusion.sampling import SAMPLERS, guided, karras_sigmas
from crumple.diffusion.spacetime import Draw, draw, validation_draws
from crumple.diffusion.weights import Description, load_weights, read_description, save_weights
from crumple.layout import FRAME_STRAIN, QUARTER
from crumple.metrics import frame_stress

ADVICE = "train it again with `crumple train-designer`"
FLIP = 1  # the element of the symmetry group that mirrors a quarter from left to right


class DesignerDescription(Description):
    """Content of ``designer.json``; there may be more."""

    format: Literal["crumple-designer"]
    designer: Designer
    stress_rms: list[PositiveFloat]  # MPa, at FRAME_STRAIN


@dataclass(frozen=True)
class DesignModel:
    """What :func:`load_designer` returns.

    Attributes
    ----------
    denoiser
        Of states of :func:`crumple.diffusion.quarters.encode_quarters`.
    stress_rms
        ``(11,)`` unit of the stress at ``FRAME_STRAIN``, MPa.
    """

    denoiser: Denoiser
    stress_rms: Tensor

    def sample(
        self, stress: NDArray, seeds: Sequence[int], settings: Generation
    ) -> NDArray[np.uint8]:
        """Draw a binary image for every row of ``stress``; it need not be an acceptable design.

        Parameters
        ----------
        stress
            ``(n, 11)`` curves at ``FRAME_STRAIN``, MPa; NaN where the target says nothing.
        seeds
            ``n`` seeds of the noise.
        settings
            Sampler, noise levels, guidance.

        Returns
        -------
        ndarray
            ``(n, 48, 48)``.
        """
        device = self.stress_rms.device
        goal = torch.tensor(stress, dtype=torch.float32, device=device)
        denoise = guided(
            self.denoiser,
            goal.nan_to_num() / self.stress_rms,
            goal.isfinite(),
            settings.guidance,
            settings.guidance_interval,
        )
        sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max)
        start = torch.stack([noise(seed, device) for seed in seeds]) * settings.sigma_max
        with torch.inference_mode():
            return decode_quarters(SAMPLERS[settings.sampler](denoise, start, sigmas))


def noise(seed: int, device: torch.device) -> Tensor:
    """Return standard normal noise ``(1, 48, 48)`` of a seed, on one kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn((1, QUARTER, QUARTER), generator=generator, device=device)


def build_network(settings: Designer) -> QuarterDenoiser:
    """Return an untrained network."""
    network = QuarterDenoiser(
        len(FRAME_STRAIN), settings.channels, settings.depths, settings.embedding
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class DesignerProblem:
    """The design model as a :class:`crumple.diffusion.training.Problem`.

    Parameters
    ----------
    config
        Sections ``seed``, ``designer`` and ``designer_training``.
    pairs
        Designs and their curves.
    device
        Where batches go.
    """

    def __init__(self, config: Config, pairs: Pairs, device: torch.device) -> None:
        self.config, self.device = config, device
        stress = frame_stress(pairs.training.curve)
        self.stress_rms = np.sqrt(np.square(stress).mean(axis=0))
        self.training = self._split(pairs.training.quarter, stress)
        held_out = frame_stress(pairs.validation.curve)
        self.validation = self._split(pairs.validation.quarter, held_out)
        count, steps = len(held_out), len(FRAME_STRAIN)
        self.draws = validation_draws(config.seed, count, steps, config.designer_training)

    def _split(self, quarter: NDArray, stress: NDArray) -> tuple[Tensor, Tensor]:
        scaled = (stress / self.stress_rms).astype(np.float32)
        return encode_quarters(quarter), torch.from_numpy(scaled)

    def build(self) -> nn.Module:
        """Return the untrained denoiser."""
        return Denoiser(build_network(self.config.designer))

    def loss(self, network: nn.Module, indices: Sequence[int]) -> Tensor:
        """Return the loss of training samples; half of them are shifted by half a period."""
        count, steps = self.training[1].shape
        seed, settings = self.config.seed, self.config.designer_training
        draws = [draw(seed, i, count, steps, [0, FLIP], settings, "designer") for i in indices]
        return self._loss(network, self.training, draws)

    def validation_count(self) -> int:
        """Return the number of held-out samples, each noise level counted."""
        return len(self.draws)

    def validation_loss(self, network: nn.Module, numbers: Sequence[int]) -> Tensor:
        """Return the loss of held-out samples."""
        return self._loss(network, self.validation, [self.draws[i] for i in numbers])

    def _loss(
        self, network: nn.Module, split: tuple[Tensor, Tensor], draws: Sequence[Draw]
    ) -> Tensor:
        states, stress = split
        state = torch.stack([_turned(states[d.row], d.element) for d in draws])
        return denoising_loss(
            network,
            state.to(self.device),
            torch.stack([noise(d.noise_seed, self.device) for d in draws]),
            torch.tensor([d.sigma for d in draws], device=self.device),
            stress[[d.row for d in draws]].to(self.device),
            torch.from_numpy(np.stack([d.known for d in draws])).to(self.device),
            torch.ones(1, device=self.device),
        )

    def save(self, folder: Path, weights: dict[str, Tensor], training: dict[str, Any]) -> None:
        """Write the model."""
        weights = {name.removeprefix("network."): value for name, value in weights.items()}
        description = {
            "format": "crumple-designer",
            "designer": self.config.designer.model_dump(mode="json"),
            "stress_rms": self.stress_rms.tolist(),
            "training": training | {"designs": len(self.training[0])},
        }
        save_weights(folder / "designer", weights, torch.bfloat16, description)


def _turned(state: Tensor, element: int) -> Tensor:
    return state.flip(-1) if element == FLIP else state


def train_designer(config: Config, library: Path | None, out: Path) -> None:
    """Train the design model; every process of a distributed run calls this.

    Parameters
    ----------
    config
        Sections ``seed``, ``dataset`` (what is held out), ``designer`` and ``designer_training``.
    library
        See :func:`crumple.library.read_library`.
    out
        Folder that the model becomes.
    """
    pairs = read_pairs(config, library)
    settings = config.designer_training

    def prepare(cache: Path, accelerator: Accelerator) -> DesignerProblem:
        return DesignerProblem(config, pairs, accelerator.device)

    record = pairs.made_by("train-designer", config)
    training.train(out, record, "designer_training", settings, config.seed, prepare)


def load_designer(folder: Path, device: torch.device | str = "cpu") -> DesignModel:
    """Load a design model.

    Raises
    ------
    UserError
        When the folder doesn't hold one of this version of crumple, or it has been changed.
    """
    path = folder / "designer"
    about = read_description(path, DesignerDescription, ADVICE)
    network = build_network(about.designer)
    load_weights(network, path, about.weights, ADVICE)
    return DesignModel(
        Denoiser(network).to(device).eval(), torch.tensor(about.stress_rms, device=device)
    )
