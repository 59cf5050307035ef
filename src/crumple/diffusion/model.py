"""A trained model as a folder that others can load: weights, configuration, normalisation.

``model.safetensors`` holds the averaged (EMA) weights, ``config.json`` the settings of the network
(section ``model`` of the run's configuration) and what made it, ``normalisation.json`` the scaling
of its channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field
from safetensors.torch import load_file
from torch import Tensor

from crumple import __version__
from crumple.atomic import save_text
from crumple.config import Model
from crumple.diffusion.data import Normalisation
from crumple.diffusion.network import Layout, Network
from crumple.diffusion.noise_prediction import NoisePredictor
from crumple.diffusion.preconditioning import Denoiser
from crumple.diffusion.published_network import PublishedNetwork
from crumple.diffusion.weights import write_tensors
from crumple.errors import UserError
from crumple.provenance import hash_file
from crumple.readers import read_json, refusing

ADVICE = "train this model again with `crumple train`"


class ModelConfig(BaseModel):
    """Content of ``config.json``; there may be more."""

    format: Literal["crumple-model"]
    version: Literal[2]
    weights: str  # SHA-256 of model.safetensors
    model: Model
    known_design: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class TrainedModel:
    """What :func:`load_model` returns.

    Attributes
    ----------
    denoiser
        With the averaged weights.
    normalisation
        Channels of a state and their scaling.
    settings
        Of the network.
    known_design
        Part of the training samples that were shown a clean design: with 0 the model doesn't know
        how to predict the fields of one, with 1 it doesn't know how to draw one.
    """

    denoiser: Denoiser | NoisePredictor
    normalisation: Normalisation
    settings: Model
    known_design: float


def build_denoiser(settings: Model, layout: Layout, steps: int) -> Denoiser | NoisePredictor:
    """Return an untrained denoiser of states of ``layout``, given curves of ``steps`` stresses."""
    if settings.kind == "published":
        return NoisePredictor(PublishedNetwork(layout, steps, settings.channels, settings.head))
    return Denoiser(build_network(settings, layout, steps))


def build_network(settings: Model, layout: Layout, steps: int) -> Network:
    """Return an untrained network of this program; see :func:`build_denoiser`."""
    network = Network(
        layout,
        steps=steps,
        channels=settings.channels,
        depths=settings.depths,
        patch=settings.patch,
        embedding=settings.embedding,
        head=settings.head,
        spatial_attention=settings.spatial_attention,
        per_frame=settings.per_frame_tokens and layout.frames == steps,
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_model(
    folder: Path,
    weights: dict[str, Tensor],
    settings: Model,
    normalisation: Normalisation,
    known_design: float,
    training: dict,
) -> None:
    """Write the three files of a model.

    Parameters
    ----------
    folder
        Existing folder.
    weights
        State of the network.
    settings, normalisation
        Of the network, and the scaling of its channels.
    known_design
        Part of the training samples that were shown a clean design.
    training
        How the weights came about, for the reader of ``config.json``.
    """
    write_tensors(folder / "model.safetensors", weights)
    config = {
        "format": "crumple-model",
        "version": 2,
        "crumple": __version__,
        "weights": hash_file(folder / "model.safetensors"),
        "model": settings.model_dump(mode="json"),
        "known_design": known_design,
        "training": training,
    }
    save_text(folder / "config.json", json.dumps(config, indent=2))
    save_text(folder / "normalisation.json", normalisation.to_json())


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> TrainedModel:
    """Load a model for sampling.

    Parameters
    ----------
    folder
        Folder written by ``crumple train`` or ``crumple import-checkpoint``.
    device
        Where the weights go.

    Raises
    ------
    UserError
        When the folder isn't a model of this version of crumple.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json", ModelConfig, ADVICE)
    normalisation = read_json(folder / "normalisation.json", Normalisation, ADVICE)
    with refusing(folder / "model.safetensors", ADVICE):
        if hash_file(folder / "model.safetensors") != config.weights:
            raise ValueError("it has changed since it was written")
        weights = load_file(folder / "model.safetensors")
    shape = normalisation.layout, len(normalisation.curve_strain)
    # No memory is asked for before the sizes are known to be right.
    with refusing(folder / "normalisation.json", ADVICE), torch.device("meta"):
        expected = build_denoiser(config.model, *shape).network.state_dict()
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in expected.items()
    }:
        raise UserError(
            f"{folder}: model.safetensors doesn't fit config.json and normalisation.json, or comes "
            f"from another version of crumple; {ADVICE}"
        )
    denoiser = build_denoiser(config.model, *shape)
    denoiser.network.load_state_dict(weights)
    denoiser.to(device).eval()
    return TrainedModel(denoiser, normalisation, config.model, config.known_design)
