"""Weights on disk: safetensors beside a JSON file with their checksum and what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save
from torch import Tensor, nn

from crumple import __version__
from crumple.atomic import atomic_path, save_text
from crumple.provenance import hash_file
from crumple.readers import read_json, refusing


class Description(BaseModel):
    """What the JSON file of every kind of model holds; there may be more."""

    format: str
    version: Literal[1]
    weights: str  # SHA-256 of the weights


D = TypeVar("D", bound=Description)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by their names as safetensors, atomically."""
    content = save({name: value.contiguous() for name, value in tensors.items()})
    with atomic_path(path) as temporary:  # safetensors' own file is for its owner only (mode 600)
        temporary.write_bytes(content)


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    description: Mapping[str, Any],
) -> None:
    """Write weights and their description.

    Parameters
    ----------
    path
        Without its suffix; gets ``.safetensors`` and ``.json``.
    weights
        State of a network.
    dtype
        What they are rounded to.
    description
        ``format`` and what else JSON can hold; version and checksum are added.
    """
    file = path.with_suffix(".safetensors")
    write_tensors(file, {name: value.to(dtype) for name, value in weights.items()})
    about = {
        "version": 1,
        "crumple": __version__,
        "weights": hash_file(file),
        **description,
    }
    save_text(path.with_suffix(".json"), json.dumps(about, indent=2))


def read_description(path: Path, kind: type[D], advice: str) -> D:
    """Return the description of weights; ``path`` as in :func:`save_weights`."""
    return read_json(path.with_suffix(".json"), kind, advice)


def load_weights(network: nn.Module, path: Path, checksum: str, advice: str) -> None:
    """Give a network its weights.

    Parameters
    ----------
    network
        Built by the description.
    path
        As in :func:`save_weights`.
    checksum
        That of the description.
    advice
        What the user can do about a damaged file.

    Raises
    ------
    UserError
        When the file is missing, has changed, or holds other tensors than the network has.
    """
    file = path.with_suffix(".safetensors")
    with refusing(file, advice):
        if hash_file(file) != checksum:
            raise ValueError("it has changed since it was written")
        weights = load_file(file)
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        if {name: value.shape for name, value in weights.items()} != shapes:
            raise ValueError(f"it doesn't fit {path.name}.json, or another version wrote it")
    network.load_state_dict(weights)
