"""A trained model as a folder that others can load: weights, configuration, normalisation.

``model.safetensors`` holds the averaged (EMA) weights, ``config.json`` the settings of the network
(section ``model`` of the run's configuration) and what made it, ``normalisation.json`` the scaling
of its channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crumple import __version__
from crumple.atomic import atomic_path, save_text
from crumple.config import Model
from crumple.diffusion.data import Normalisation
from crumple.diffusion.network import Layout, Network
from crumple.diffusion.preconditioning import Denoiser
from crumple.errors import UserError

FILES = ("model.safetensors", "config.json", "normalisation.json")


@dataclass(frozen=True)
class TrainedModel:
    """What :func:`load_model` returns."""

    denoiser: Denoiser
    normalisation: Normalisation
    settings: Model


def build_network(settings: Model, layout: Layout, steps: int) -> Network:
    """Return an untrained network for states of ``layout`` and curves of ``steps`` stresses."""
    return Network(
        layout,
        steps=steps,
        channels=settings.channels,
        depths=settings.depths,
        patch=settings.patch,
        embedding=settings.embedding,
        head=settings.head,
        spatial_attention=settings.spatial_attention,
        per_frame=settings.per_frame_tokens and layout.frames == steps,
    ).to(memory_format=torch.channels_last)


def save_model(
    folder: Path,
    weights: dict[str, Tensor],
    settings: Model,
    normalisation: Normalisation,
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
    training
        How the weights came about, for the reader of ``config.json``.
    """
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
    config = {
        "format": "crumple-model",
        "version": 1,
        "crumple": __version__,
        "model": settings.model_dump(mode="json"),
        "training": training,
    }
    save_text(folder / "config.json", json.dumps(config, indent=2))
    save_text(folder / "normalisation.json", normalisation.to_json())


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> TrainedModel:
    """Load a model for sampling.

    Parameters
    ----------
    folder
        Folder written by ``crumple train``.
    device
        Where the weights go.

    Raises
    ------
    UserError
        When the folder isn't a model of this version of crumple.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        normalisation = Normalisation.from_json((folder / "normalisation.json").read_text())
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} is not a trained model: {error}") from error
    if config.get("format") != "crumple-model" or config.get("version") != 1:
        raise UserError(f"{folder} is not a model that this version of crumple can read")
    settings = Model.model_validate(config["model"])
    network = build_network(settings, normalisation.layout, len(normalisation.curve_strain))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{folder}: model.safetensors doesn't fit config.json, or comes from another version "
            "of crumple: train again"
        ) from error
    network.to(device)
    return TrainedModel(Denoiser(network).eval(), normalisation, settings)
