"""A search round by round: what `crumple propose`, `crumple collect` and `crumple design` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from crumple.config import Config
from crumple.diffusion.response import load_response
from crumple.goals import read_goals
from crumple.library import Library, packaged, read_library
from crumple.provenance import (
    PHYSICS,
    fingerprint,
    hash_file,
    made_by,
    require_settings,
    stages_of,
)
from crumple.search.choice import goal_hash, one_goal
from crumple.search.history import History, read_history
from crumple.search.proposing import NOTHING, propose, write_proposals
from crumple.search.screening import Screen

NUMBERS = 1_000_000  # designs of one goal; those of a data set come before them


class Sources(NamedTuple):
    """What a search begins with; None: what the package has."""

    library: Path | None
    response: Path | None


class GoalSearch:
    """The search for one goal, with what it needs loaded.

    Parameters
    ----------
    config
        ``seed``, ``designs``, ``search``, and the physics, which has to be that of
        the library.
    sources
        Library and forward model.
    goals
        Files of goals (:func:`crumple.goals.read_goals`).
    name
        Which of their goals.
    """

    def __init__(self, config: Config, sources: Sources, goals: Sequence[Path], name: str) -> None:
        self.goal = one_goal(goals, name)
        names = [goal.name for goal in read_goals(goals)]
        self.first = NUMBERS * (1 + names.index(self.goal.name))
        self.config = config
        self.library: Library = read_library(sources.library)
        where = sources.library or "the library of the package"
        require_settings(self.library.record, stages_of(config, PHYSICS), where)
        response = sources.response or packaged("response")
        self.screen = Screen(load_response(response))
        self.inputs = {
            "goal": goal_hash(self.goal),
            "library": self.library.record["inputs"]["designs"],
            "response": hash_file(response / "response.safetensors"),
        }

    def record(self, results: Sequence[Path]) -> dict[str, Any]:
        """Return what makes the round after the given ones."""
        rules = {"settings": stages_of(self.config, ["sample"]), "inputs": {}}
        history = fingerprint(results) if results else "none"
        return made_by("propose", self.config, rules, **self.inputs, results=history)

    def is_met(self, history: History) -> bool:
        """Return whether a design meets the goal."""
        return bool(history.score.min(initial=np.inf) <= self.config.search.tolerance)

    def wanted(self, history: History) -> int:
        """Return how many designs the next round simulates; 0 ends the search."""
        settings = self.config.search
        left = settings.budget - len(history.index)
        return 0 if self.is_met(history) else max(0, min(settings.batch, left))

    def propose(self, results: Sequence[Path], out: Path) -> None:
        """Write the designs of the round after the given ones.

        Parameters
        ----------
        results
            Files of all earlier rounds, in order.
        out
            See :func:`crumple.search.proposing.write_proposals`.
        """
        history = read_history(results)
        count, proposals = self.wanted(history), NOTHING
        if count:
            torch.set_num_threads(1)  # sums of several threads come out in another order
            proposals = propose(
                self.goal,
                history,
                self.library,
                self.screen,
                self.config,
                len(results),
                count,
            )
        first = self.first + len(history.index)
        write_proposals(out, proposals, first, self.config, self.record(results))
