"""One round of a search: the designs that are worth a simulation next.

What is known are the nearest designs of the library and all that the search has simulated. The best
of them, far from each other, are aimed at the goal (:mod:`crumple.refinement.aiming`,
:mod:`crumple.refinement.flipping`), and the best of all are changed and mixed
(:mod:`crumple.refinement.moves`). The forward model predicts the curves (:mod:`crumple.search.
judging`). One half of the proposals are the most promising designs, the other half the most
promising ones that are far from these. A search that is stuck begins anew elsewhere in every second
round (:mod:`crumple.search.restarting`). All of this is a function of the seed, the round and the
results so far; nothing depends on how these were computed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crumple import config as cfg
from crumple import seeds
from crumple.atomic import atomic_path, save_npz, save_record
from crumple.designs import mirror
from crumple.goals import Goal, Limits, measure
from crumple.layout import QUARTER
from crumple.library import Library
from crumple.provenance import hash_designs
from crumple.refinement.aiming import Aim, aimed
from crumple.refinement.flipping import flipped
from crumple.refinement.moves import children, level_set
from crumple.refinement.pool import EMPTY, Pool, Start, apart, differing
from crumple.search.history import PROPOSED, History
from crumple.search.judging import Judge, Simulated
from crumple.search.restarting import FreshStart, fresh_start
from crumple.search.screening import Screen

MATCHES = 64  # of the library, whose curves are known to the first round
STARTS = 6  # designs that are aimed at the goal
STEPS = 4  # of each
FLIPPED = 2  # of them, whose pixels are looked at one by one
PARENTS = 16  # that the moves of a generation begin with
CHILDREN = 10  # at least one of so many designs that are screened comes from the moves
DIFFERENT = 8  # pixels of a quarter by which a proposal differs from all known and other ones
NICHE = 60  # pixels, beyond which two designs count as different ways to reach the goal
FAMILY = 300  # pixels that a fresh start keeps away from the best designs of the starts before
AMONG = 1024  # designs of the library that it looks at for that


class Proposals(NamedTuple):
    """Designs to simulate."""

    quarter: NDArray  # (n, 48, 48) uint8
    source: NDArray  # (n,) name of the move, `aim`, `flip` or `library`
    predicted_error: NDArray  # (n,)

    def __add__(self, other: Proposals) -> Proposals:  # type: ignore[override]
        """Return both as one."""
        return Proposals(*map(np.concatenate, zip(self, other, strict=True)))


NOTHING = Proposals(*EMPTY[:2], np.zeros(0))


def propose(
    goal: Goal,
    history: History,
    library: Library,
    screen: Screen,
    config: cfg.Config,
    number: int,
    count: int,
) -> Proposals:
    """Choose the designs of a round.

    Parameters
    ----------
    goal
        What is searched for.
    history
        All that was simulated in earlier rounds.
    library
        Where a search begins.
    screen
        Predicts curves.
    config
        ``seed``, the acceptance rules in ``designs``, and ``search``.
    number
        Of the round, from 0.
    count
        Designs that are wanted.
    """
    settings, rules = config.search, config.designs
    generator = seeds.rng(config.seed, "search", number)
    known = known_designs(goal, history, library)
    judge = Judge(goal, known, screen, generator)
    fresh = fresh_start(history.score, history.round, number)
    if fresh is not None:
        known = known_elsewhere(goal, history, library, fresh) or known
    pool = EMPTY
    aim = Aim(*(part[1:] for part in goal.representative()))
    if aim.known.any():
        starts, correction = choose_starts(known), judge.correction.mean
        for start in starts:
            if len(pool.quarter) < settings.screened:
                pool += aimed(start, aim, screen.model, judge, rules, STEPS, correction)
        for start in starts[:FLIPPED]:
            if len(pool.quarter) < settings.screened:
                pool += flipped(start, aim, judge, generator, rules)
    left = max(settings.screened - len(pool.quarter), settings.screened // CHILDREN)
    for _ in range(settings.generations):
        parents = [level_set(quarter) for quarter in choose_parents(known, pool)]
        share = -(-left // settings.generations)
        pool += judge(*children(parents, share, generator, rules))
    first = nearest(known, goal) if number == 0 else NOTHING
    taken = np.concatenate([known.quarter, history.quarter])
    chosen = choose(pool, taken, goal, count - len(first.quarter))
    return first + Proposals(pool.quarter[chosen], pool.source[chosen], pool.expected_error[chosen])


def nearest(known: Simulated, goal: Goal) -> Proposals:
    """Return the best match of the library that keeps to the limits, if there is one."""
    for k in np.argsort(known.score, kind="stable").tolist():
        if not violation(goal, known.quarter[k]):
            return Proposals(known.quarter[[k]], np.array(["library"]), known.score[[k]])
    return NOTHING


def known_designs(goal: Goal, history: History, library: Library) -> Simulated:
    """Put the nearest designs of the library and those of the search together."""
    error = goal.error(library.curve_stress)
    near = np.argsort(error, kind="stable")[:MATCHES]
    return together(library, near, error[near], history, np.arange(len(history.index)))


def known_elsewhere(
    goal: Goal, history: History, library: Library, fresh: FreshStart
) -> Simulated | None:
    """Put together what a fresh start knows; None where all of the library is too near."""
    error = goal.error(library.curve_stress)
    near = np.argsort(error, kind="stable")[:AMONG]
    pixels = differing(library.quarter[near], history.quarter[fresh.left]).min(axis=1)
    near = near[pixels >= FAMILY][:MATCHES]
    return together(library, near, error[near], history, fresh.own) if len(near) else None


def together(
    library: Library, near: NDArray, error: NDArray, history: History, rows: NDArray
) -> Simulated:
    """Put designs of the library, with their errors, and simulated ones of the search together."""
    done = rows[history.status[rows] == "ok"]
    return Simulated(
        np.concatenate([library.quarter[near], history.quarter[done]]),
        np.concatenate([library.curve_stress[near], history.curve_stress[done]]).astype(float),
        np.concatenate([error, history.score[done]]),
    )


def choose_starts(known: Simulated) -> list[Start]:
    """Choose the best designs that are far from each other."""
    best = np.argsort(known.score, kind="stable").tolist()
    chosen = apart(known.quarter, best, STARTS, NICHE)
    return [Start(known.quarter[k], known.curve_stress[k]) for k in chosen]


def choose_parents(known: Simulated, pool: Pool) -> NDArray:
    """Choose the designs (n, 48, 48) that the next generation comes from: the best of both."""
    best = np.argsort(np.concatenate([known.score, pool.merit]), kind="stable")[:PARENTS]
    return np.concatenate([known.quarter, pool.quarter])[best]


def choose(pool: Pool, taken: NDArray, goal: Goal, count: int) -> list[int]:
    """Choose designs to simulate: the most promising ones, and as many that are far from these.

    They keep to the limits of the goal, and differ from each other and from all that are known: a
    design in which a few pixels are changed tells little more than the design itself. Where there
    are too few such designs, any new one is taken.

    Parameters
    ----------
    pool
        Designs to choose from.
    taken
        (m, 48, 48) designs that are known.
    goal
        Its limits.
    count
        At most so many.
    """
    order = np.argsort(pool.merit, kind="stable").tolist()
    distance = differing(pool.quarter, taken).min(axis=1, initial=QUARTER**2)
    new = [k for k in order if distance[k] >= DIFFERENT]
    allowed = cache(lambda k: not violation(goal, pool.quarter[k]))
    chosen = apart(pool.quarter, new, count // 2, DIFFERENT, allowed)
    for ranks, pixels in ((new, NICHE), (new, DIFFERENT), (order, 1)):
        rest = [k for k in ranks if k not in chosen and distance[k] > 0]
        chosen += apart(pool.quarter, rest, count - len(chosen), pixels, allowed, chosen)
    return chosen


def violation(goal: Goal, quarter: NDArray, plastic_strain: float | None = None) -> str:
    """Return the first limit that a design exceeds, in words; empty where it keeps to all."""
    if goal.limits == Limits():
        return ""
    measures = measure(mirror(quarter))._replace(plastic_strain=plastic_strain)
    return next(iter(goal.violations(measures)), "")


# --- files ---------------------------------------------------------------------------------------


def write_proposals(
    folder: Path, proposals: Proposals, first: int, config: cfg.Config, record: dict[str, Any]
) -> None:
    """Write the designs of a round: all in one file, and in shards for the finite elements.

    Parameters
    ----------
    folder
        Becomes ``proposals.npz`` with what is expected of the designs, and ``0000.npz``,
        ``0001.npz`` ... in the format of the random designs, as many as a whole round needs: the
        last ones hold no design where there are fewer.
    proposals
        At most ``search.batch``.
    first
        Number of the first design.
    config
        ``search`` and ``seed``.
    record
        What made them (:mod:`crumple.provenance`).
    """
    size = config.search.shard_size
    index = first + np.arange(len(proposals.quarter))
    with atomic_path(folder) as new:
        new.mkdir()
        everything = {"index": index, **proposals._asdict()}
        save_npz(new / PROPOSED, made_by=json.dumps(record), **everything)
        for shard in range(-(-config.search.batch // size)):
            rows = slice(shard * size, (shard + 1) * size)
            quarter = proposals.quarter[rows]
            hashes = record["inputs"] | {"designs": hash_designs(index[rows], quarter)}
            save_npz(
                new / f"{shard:04d}.npz",
                made_by=json.dumps(record | {"inputs": hashes}),
                index=index[rows],
                quarter=quarter,
                seed=np.full(len(quarter), config.seed),
                threshold=np.zeros(len(quarter)),  # of a signed distance
                solid_fraction=quarter.mean(axis=(1, 2)),
                tries=np.ones(len(quarter), np.int64),
            )
        save_record(new, record)
