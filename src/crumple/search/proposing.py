"""One round of a search: the designs that are worth a simulation next.

What is known are the nearest designs of the library and all that the search has simulated. The
best of them are changed and mixed (:mod:`crumple.search.moves`), or aimed at the goal
(:mod:`crumple.search.aiming`), the forward model predicts the curves of the children
(:mod:`crumple.search.screening`), the best of those are parents again, and after some generations
the most promising ones are proposed. All of this is a function of the seed,
the round and the results so far; nothing depends on how these were computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crumple import config as cfg
from crumple import seeds
from crumple.atomic import atomic_path, save_npz, save_record
from crumple.designs import mirror
from crumple.diffusion.designer import DesignModel
from crumple.goals import Goal, Limits, measure
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN, QUARTER
from crumple.library import Library
from crumple.provenance import hash_designs
from crumple.search.aiming import Aim, aimed
from crumple.search.history import PROPOSED, History
from crumple.search.moves import children, level_set
from crumple.search.screening import DRAWS, Screen
from crumple.topology import acceptance, largest_domain

MATCHES = 64  # of the library, whose curves are known to the first round
PARENTS = 16  # that the moves of a generation begin with
AIMED = 4  # of them, aimed at the goal
DIFFERENT = 3  # pixels of a quarter by which two proposals of a round differ at least
DRAWN = 48  # designs that the design model draws for the first round
T = TypeVar("T", "Proposals", "Pool")


class Simulated(NamedTuple):
    """Designs with their simulated curves."""

    quarter: NDArray  # (n, 48, 48)
    curve_stress: NDArray  # (n, 51) MPa
    score: NDArray  # (n,) error, infinite where a limit is exceeded


class Proposals(NamedTuple):
    """Designs to simulate."""

    quarter: NDArray  # (n, 48, 48) uint8
    source: NDArray  # (n,) name of the move, `model` or `library`
    predicted_error: NDArray  # (n,)


NOTHING = Proposals(np.zeros((0, QUARTER, QUARTER), np.uint8), np.zeros(0, str), np.zeros(0))


class Pool(NamedTuple):
    """Designs that have not been simulated, with what is predicted of them."""

    quarter: NDArray  # (n, 48, 48)
    source: NDArray  # (n,)
    curve_stress: NDArray  # (n, 51) MPa, mean of the prediction
    risk: NDArray  # (n,) root mean square of the error over the draws of the prediction
    gain: NDArray  # (n,) mean of what it improves on the best score, over the draws


EMPTY = Pool(*NOTHING[:2], np.zeros((0, len(CURVE_STRAIN))), np.zeros(0), np.zeros(0))


class Parent(NamedTuple):
    """A design to go on from."""

    quarter: NDArray  # (48, 48)
    curve_stress: NDArray  # (51,) MPa, simulated or predicted


def propose(
    goal: Goal,
    history: History,
    library: Library,
    screen: Screen,
    designer: DesignModel | None,
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
    designer
        Draws designs for the first round; None: it begins with the library alone.
    config
        ``seed``, the acceptance rules in ``designs``, and ``search``.
    number
        Of the round, from 0.
    count
        Designs that are wanted.
    """
    settings = config.search
    generator = seeds.rng(config.seed, "search", number)
    known = known_designs(goal, history, library)
    raw = screen.raw(known.quarter, keep=True)
    correction = screen.fit(raw, known.curve_stress, known.score)
    draws = generator.standard_normal((DRAWS, len(CURVE_STRAIN) - 1))
    seen: set[bytes] = set()
    for image in (*history.quarter, *known.quarter):
        is_fresh(image, seen)

    def predicted(quarter: NDArray, source: NDArray) -> Pool:
        new = [k for k, image in enumerate(quarter) if is_fresh(image, seen)]
        if not new:
            return EMPTY
        said = screen.raw(quarter[new])
        curves = correction.curves(said, draws)
        errors = goal.error(curves)
        return Pool(
            quarter[new],
            source[new],
            curves.mean(axis=1),
            np.sqrt(np.square(errors).mean(axis=1)),
            np.maximum(known.score.min() - errors, 0).mean(axis=1),
        )

    pool = EMPTY
    if designer is not None and number == 0:
        drawn = drawn_designs(goal, designer, config, generator)
        pool = predicted(drawn, np.full(len(drawn), "model"))
    aim = Aim(*(part[1:] for part in goal.representative()))
    spent: set[bytes] = set()
    for _ in range(settings.generations):
        parents = choose_parents(known, pool)
        made, source = children(
            [level_set(parent.quarter) for parent in parents],
            settings.screened // settings.generations,
            generator,
            config.designs,
        )
        pool = joined(pool, predicted(made, source))
        made = aimed_designs(parents[:AIMED], screen, aim, config.designs, spent)
        pool = joined(pool, predicted(made, np.full(len(made), "aim")))
    first = nearest(known, goal) if number == 0 else NOTHING
    chosen = choose(pool, goal, count - len(first.quarter))
    new = Proposals(pool.quarter[chosen], pool.source[chosen], pool.risk[chosen])
    return joined(first, new)


def joined(one: T, other: T) -> T:
    """Return two sets of proposals, or two pools, as one."""
    return type(one)(*map(np.concatenate, zip(one, other, strict=True)))


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
    done = np.flatnonzero(history.status == "ok")
    return Simulated(
        np.concatenate([library.quarter[near], history.quarter[done]]),
        np.concatenate([library.curve_stress[near], history.curve_stress[done]]).astype(float),
        np.concatenate([error[near], history.score[done]]),
    )


def is_fresh(quarter: NDArray, seen: set[bytes]) -> bool:
    """Return whether a design is a new one, and remember it and its shift by half a period."""
    if quarter.tobytes() in seen:
        return False
    seen |= {quarter.tobytes(), quarter[:, ::-1].tobytes()}
    return True


def drawn_designs(
    goal: Goal, designer: DesignModel, config: cfg.Config, generator: np.random.Generator
) -> NDArray:
    """Draw designs (n, 48, 48) from the design model where the goal names stresses."""
    stress, known = goal.representative(FRAME_STRAIN)
    wanted = np.tile(np.where(known, stress, np.nan), (DRAWN, 1))
    noise = generator.integers(2**63, size=DRAWN).tolist()
    images = [largest_domain(image) for image in designer.sample(wanted, noise, config.generation)]
    kept = [image for image in images if acceptance(image, config.designs) == "ok"]
    return np.array(kept, np.uint8).reshape(-1, QUARTER, QUARTER)


def aimed_designs(
    parents: Sequence[Parent], screen: Screen, aim: Aim, settings: cfg.Designs, spent: set[bytes]
) -> NDArray:
    """Aim designs (n, 48, 48) at the goal, each once."""
    images = []
    for quarter, curve in parents:
        if aim.known.any() and is_fresh(quarter, spent):
            images += aimed(screen.model, quarter, curve[1:], aim, settings)
    return np.array(images, np.uint8).reshape(-1, QUARTER, QUARTER)


def choose_parents(known: Simulated, pool: Pool) -> list[Parent]:
    """Choose the designs that the next generation comes from: the best of both."""
    quarter = np.concatenate([known.quarter, pool.quarter])
    curves = np.concatenate([known.curve_stress, pool.curve_stress])
    best = np.argsort(np.concatenate([known.score, pool.risk]), kind="stable")
    return [Parent(quarter[k], curves[k]) for k in best[:PARENTS]]


def choose(pool: Pool, goal: Goal, count: int) -> list[int]:
    """Choose designs to simulate: those that may gain most, and as many that are the surest.

    They keep to the limits of the goal, and differ from each other.
    """
    gain, risk = (np.argsort(v, kind="stable").tolist() for v in (-pool.gain, pool.risk))
    chosen = apart(pool.quarter, gain, count // 2, DIFFERENT, goal)
    return chosen + apart(pool.quarter, risk, count - len(chosen), DIFFERENT, goal, chosen)


def apart(
    quarter: NDArray,
    order: Sequence[int],
    count: int,
    pixels: int,
    goal: Goal | None = None,
    chosen: Sequence[int] = (),
) -> list[int]:
    """Choose designs that differ from each other, and keep to the limits of a goal.

    Parameters
    ----------
    quarter
        (n, 48, 48).
    order
        Rows, the best one first.
    count
        At most so many.
    pixels
        By which each differs from all others, and from those ``chosen`` before, wherever the
        quarter begins.
    """
    found: list[int] = []
    for k in order:
        if len(found) == count:
            break
        others = quarter[[*chosen, *found]]
        differing = [np.count_nonzero(others != flip, axis=(1, 2)) for flip in _flips(quarter[k])]
        if np.min(differing, initial=pixels) >= pixels and not (
            goal is not None and violation(goal, quarter[k])
        ):
            found.append(k)
    return found


def _flips(image: NDArray) -> tuple[NDArray, NDArray]:
    return image, image[:, ::-1]


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
