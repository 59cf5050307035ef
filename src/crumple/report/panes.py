"""The targets: for each its candidates, with curves, designs and moving bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from crumple import designs
from crumple.report.bodies import body, pack, stress_limit
from crumple.report.charts import Axis, Chart, Line, chart, upper
from crumple.report.pictures import design_uri
from crumple.report.reading import Run
from crumple.report.words import GAP, percent, title
from crumple.results import HELD_OUT, CandidateRow, TargetRow
from crumple.topology import MASK_LEVEL

STRAIN = "applied strain"
STRESS = "effective stress, MPa"
# What a page of under 15 MB has room for; the tables list everything.
TARGETS_SHOWN, CANDIDATES_SHOWN = 24, 5
BODY_BYTES = 9_000_000


class Picture(NamedTuple):
    """An image of a design."""

    uri: str
    caption: str


class Pane(NamedTuple):
    """A candidate that was chosen for simulation."""

    candidate: CandidateRow
    chip: str  # what its button says
    chart: Chart
    legend: list[tuple[str, str, str]]  # CSS class, label, error
    pictures: list[Picture]
    text: str
    bodies: Mapping[str, int]  # numbers of the packed bodies, `predicted` and `fe`
    limit: str  # end of their colour scale


class Article(NamedTuple):
    """A target."""

    title: str
    row: TargetRow
    panes: list[Pane]
    selected: int  # the pane that is shown first


class Choice(NamedTuple):
    """A candidate that gets a pane."""

    row: TargetRow
    candidate: CandidateRow

    @property
    def is_best(self) -> bool:
        """Whether its simulation comes closest to the target."""
        return self.row.fe_best is not None and self.candidate.nrmse_fe_target == self.row.fe_best


def articles(run: Run, background: Sequence[Line]) -> tuple[list[Article], list[dict[str, Any]]]:
    """Return what the page shows of its first targets, and the packed bodies that move there.

    Parameters
    ----------
    run
        What was read.
    background
        Curves of the data set, drawn faintly.
    """
    rows = run.results.targets[:TARGETS_SHOWN]
    choices = {row.target: _choices(row, run.results.candidates) for row in rows}
    numbers, limits, packed = _packed(
        run, [choice for row in rows for choice in choices[row.target]]
    )
    found = []
    for row in rows:
        others = _others(run, row)
        panes = [
            _pane(
                run,
                choice,
                others,
                background,
                numbers.get(choice.candidate.candidate, {}),
                limits.get(choice.candidate.candidate, 0.0),
            )
            for choice in choices[row.target]
        ]
        selected = next((k for k, c in enumerate(choices[row.target]) if c.is_best), 0)
        found.append(Article(title(row.target), row, panes, selected))
    return found, packed


def _choices(row: TargetRow, candidates: Sequence[CandidateRow]) -> list[Choice]:
    """Choose the candidates of a target that get a pane: the first choices and the best."""
    mine = [Choice(row, c) for c in candidates if c.target == row.target and c.verified is not None]
    mine.sort(key=lambda choice: choice.candidate.index or 0)
    kept = sorted(mine, key=lambda choice: not choice.is_best)[:CANDIDATES_SHOWN]
    return [choice for choice in mine if choice in kept]


def _others(run: Run, row: TargetRow) -> list[Picture]:
    """Return pictures of the designs that a target is compared with."""
    wanted = [("best match", row.best_match_index)]
    own = row.target.removeprefix(HELD_OUT)
    if own != row.target and own.isdecimal():
        wanted.append(("the target's own", int(own)))
    found = [(caption, run.designs.solid(index)) for caption, index in wanted]
    return [Picture(design_uri(solid), caption) for caption, solid in found if solid is not None]


# --- bodies --------------------------------------------------------------------------------------


def _packed(
    run: Run, choices: Sequence[Choice]
) -> tuple[dict[int, dict[str, int]], dict[int, float], list[dict[str, Any]]]:
    """Pack the bodies that there is room for.

    The best candidate of every target comes first, then the simulated ones, then the others, of
    which only the prediction moves.

    Returns
    -------
    numbers : dict
        By candidate, the numbers of its bodies in ``packed``.
    limits : dict
        By candidate, the end of the colour scale in MPa.
    packed : list
        See :func:`crumple.report.bodies.pack`.
    """
    order = sorted(choices, key=lambda c: (not c.is_best, c.candidate.verified != "ok"))
    room = BODY_BYTES
    numbers: dict[int, dict[str, int]] = {}
    limits: dict[int, float] = {}
    packed: list[dict[str, Any]] = []
    for choice in order:
        number = choice.candidate.candidate
        limit, bodies = _bodies(run, choice.candidate)
        room -= sum(len(moving["data"]) for moving in bodies.values())
        if room < 0:
            break
        numbers[number] = {side: len(packed) + k for k, side in enumerate(bodies)}
        limits[number] = limit
        packed += bodies.values()
    return numbers, limits, packed


def _bodies(run: Run, candidate: CandidateRow) -> tuple[float, dict[str, dict[str, Any]]]:
    """Return the end of the colour scale in MPa and the packed bodies of one candidate."""
    moving, limit = {}, 0.0
    predicted = run.store["frames"][candidate.candidate, :, :3]
    if np.isfinite(predicted).all():
        mask = run.store["mask"][candidate.candidate] > MASK_LEVEL
        moving["predicted"] = body(mask, predicted)
        limit = stress_limit(predicted[:, 2])
    if candidate.verified == "ok":
        simulated = run.simulations[candidate.candidate]
        frames = simulated.shard["frames"][simulated.row, :, :3]
        moving["fe"] = body(simulated.shard["solid"][simulated.row], frames)
        limit = stress_limit(frames[:, 2])
    return limit, {side: pack(shape, -limit, limit) for side, shape in moving.items()}


# --- one candidate -------------------------------------------------------------------------------


def _pane(
    run: Run,
    choice: Choice,
    others: Sequence[Picture],
    background: Sequence[Line],
    bodies: Mapping[str, int],
    limit: float,
) -> Pane:
    row, candidate = choice
    solid = designs.mirror(run.store["quarter"][candidate.candidate])
    strain = run.results.frame_strain
    curves = _curves(row, candidate, run.results.frame_strain)
    return Pane(
        candidate,
        _chip(choice),
        chart(
            [line for line, _ in curves],
            Axis(STRAIN, 0.0, strain[-1]),
            Axis(STRESS, 0.0, upper([value for line, _ in curves for value in _tops(line)])),
            background=background,
            cursor=bool(bodies),
            title=f"Stress-strain curves for target {row.target}",
        ),
        [
            (line.kind, _label(line), "" if error is None else percent(error))
            for line, error in curves
        ],
        [
            Picture(design_uri(run.store["mask"][candidate.candidate].astype(float)), "as sampled"),
            Picture(design_uri(solid), "design"),
            *others,
        ],
        _text(candidate, row, float(solid.mean())),
        bodies,
        f"{limit:.0f}{GAP}MPa",
    )


def _curves(
    row: TargetRow, candidate: CandidateRow, strain: Sequence[float]
) -> list[tuple[Line, float | None]]:
    """Return the curves of a pane that are known, with their errors against the target."""
    known: list[tuple[str, str, Sequence[float | None] | None, float | None]] = [
        ("best match in training set", "match", row.best_match_stress, row.best_match),
        ("target", "target", row.target_stress, None),
        ("predicted", "predicted", candidate.predicted_stress, candidate.nrmse_predicted_target),
        ("simulated", "fe", candidate.fe_stress, candidate.nrmse_fe_target),
    ]
    lines = []
    for label, kind, stress, error in known:
        values = np.array(stress or [], float)
        if np.isfinite(values).any():
            spread = candidate.predicted_spread if kind == "predicted" else None
            half = None if spread is None else np.array(spread, float)
            lines.append((Line(label, kind, strain, values, half), error))
    return lines


def _tops(line: Line) -> np.ndarray:
    """Return how high a line reaches, with the band around it where that is known."""
    return line.y + np.nan_to_num(0.0 if line.spread is None else line.spread)


def _label(line: Line) -> str:
    return line.label if line.spread is None else f"{line.label} ± standard deviation"


def _chip(choice: Choice) -> str:
    row, candidate = choice
    words = f"choice {(candidate.index or 0) % row.verified + 1}"
    if candidate.verified != "ok":
        return f"{words} · failed"
    best = " · best" if choice.is_best and row.verified > 1 else ""
    return f"{words} · {percent(candidate.nrmse_fe_target)}{best}"


def _text(candidate: CandidateRow, row: TargetRow, solid: float) -> str:
    place = f"predicted rank {candidate.rank + 1} of {row.candidates}"
    words = f"Candidate {candidate.candidate}, {place}; solid fraction {percent(solid, 0)}."
    if candidate.nrmse_predicted_fe is not None:
        error = percent(candidate.nrmse_predicted_fe)
        words += f" The predicted curve misses the simulated one by {error}"
        if candidate.field_error_mean is not None:
            words += f", the predicted field by {percent(candidate.field_error_mean, 0)} on average"
        words += "."
    return words
