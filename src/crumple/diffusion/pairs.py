"""Designs and their curves, of a library, as training and validation pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple.config import Config
from crumple.errors import UserError
from crumple.library import designs_of, read_library
from crumple.provenance import made_by, require_settings


class Examples(NamedTuple):
    """Designs of one split, and their curves."""

    quarter: NDArray  # (n, 48, 48) uint8
    curve: NDArray  # (n, 51) float32, MPa


@dataclass(frozen=True)
class Pairs:
    """Both splits, and the record of the library that they come from."""

    training: Examples
    validation: Examples
    record: dict[str, Any]

    def made_by(self, stage: str, config: Config) -> dict[str, Any]:
        """Return the record of a model that is trained on these pairs."""
        return made_by(stage, config, self.record)


def read_pairs(config: Config, path: Path | None) -> Pairs:
    """Read a library and hold out the designs that a data set of them would hold out.

    Parameters
    ----------
    config
        ``dataset.validation_fraction``; and the settings that the designs have to be made with,
        but for the seed.
    path
        See :func:`crumple.library.read_library`.

    Raises
    ------
    UserError
        When the library cannot be read or was made with other settings.
    """
    library = read_library(path)
    require_settings(library.record, designs_of(config), path or "the library of the package")
    held = np.zeros(len(library), bool)
    held[library.held_out(config.dataset.validation_fraction)] = True
    if held.all():
        raise UserError(f"{path or 'the library'} has no design to train on")
    curve = library.curve_stress.astype(np.float32)
    return Pairs(
        Examples(library.quarter[~held], curve[~held]),
        Examples(library.quarter[held], curve[held]),
        library.record,
    )
