"""What an evaluation says: rows of candidates and targets, their summary, and their files.

Two conventions stand beside each other, and their names say which is meant:

- ``counted_*``: every candidate that was chosen for simulation counts. One without a result,
  because its design isn't acceptable or couldn't be meshed or simulated, counts with an error of
  100 %, which is the error of giving no design.
- ``fe_*``: failures are left out; what remains are the errors of the simulated candidates.

Errors are fractions (:mod:`crumple.metrics`), stresses MPa. What is not known is None, in JSON null
and in CSV empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from scipy import stats

from crumple.atomic import save_text
from crumple.layout import FRAME_STRAIN
from crumple.readers import read_json

RESULT = "evaluation.json"
ADVICE = "run `crumple evaluate` again"
HELD_OUT = "heldout_"  # prefix of the names of targets that are responses of the validation split
FAILED = 1.0  # the error that a failure counts with
LEAST_RANKED = 3  # candidates that a rank correlation is made of
STEPS = len(FRAME_STRAIN)


def _six_digits(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.tolist() if isinstance(value, np.ndarray) else value


Number = Annotated[float | None, BeforeValidator(_six_digits)]
Stresses = Annotated[
    list[Number], BeforeValidator(_six_digits), Field(min_length=STEPS, max_length=STEPS)
]


class Row(BaseModel):
    """A row of a table; whoever reads it knows all of its columns."""

    model_config = ConfigDict(extra="forbid")


class CandidateRow(Row):
    """One generated candidate: what was predicted, and what its simulation says.

    Attributes
    ----------
    candidate, target, rank, seed
        Row in the store, name of the target, rank of the predicted error within it from 0, seed.
    design
        ``ok``, or why the design isn't acceptable.
    readouts_agree
        Part of the pixels that both read-outs of :mod:`crumple.topology` find alike; None where
        the fields show no design.
    index, verified
        Number among the designs that were chosen for simulation, and ``ok`` or why there is no
        result; None for a candidate that wasn't chosen.
    nrmse_predicted_target, nrmse_fe_target, nrmse_predicted_fe
        Errors of the predicted and the simulated curve against the target, and of the predicted
        against the simulated curve.
    counted_error
        ``nrmse_fe_target``, or 1 where the candidate was chosen and has no result.
    field_errors, field_error_mean
        Error of s22 at every strain step, and its mean over the steps that were predicted.
    predicted_stress, predicted_spread, fe_stress
        Predicted curve, its standard deviation over an ensemble where that is known, and simulated
        curve.
    """

    candidate: int
    target: str
    rank: int = Field(ge=0)
    seed: int
    design: str
    readouts_agree: Number
    index: int | None = None
    verified: str | None = None
    nrmse_predicted_target: Number
    nrmse_fe_target: Number = None
    counted_error: Number = None
    nrmse_predicted_fe: Number = None
    field_error_mean: Number = None
    field_errors: Stresses | None = None
    predicted_stress: Stresses
    predicted_spread: Stresses | None = None
    fe_stress: Stresses | None = None


class TargetRow(Row):
    """One target: baselines, failures, and the errors of its candidates.

    Attributes
    ----------
    group
        ``held out`` for a response of the validation split, else ``given``.
    candidates, acceptable, verified, failures
        How many were generated, how many of these are acceptable designs, how many were chosen for
        simulation, and how many of these failed, by kind.
    acceptable_fraction
        Acceptable ones among the generated.
    best_match, best_match_index, best_match_stress
        Error of the closest training design, its number and its curve.
    random_mean, random_best_of_k
        Expected error of a training design drawn at random, and of the best of ``verified`` ones.
    predicted_first
        Predicted error of the first choice.
    counted_first, counted_mean, counted_best
        Of the chosen candidates: the first choice, the mean, the best; failures count as 1.
    fe_first, fe_mean, fe_median, fe_best
        The same with failures left out.
    predicted_fe_mean, field_error_mean
        Of the simulated candidates: mean error of the predicted against the simulated curve, and of
        the predicted against the simulated s22.
    rank_correlation
        Spearman's, of predicted and simulated error over the simulated candidates; None for fewer
        than 3. 1 where the prediction orders them as the simulations do.
    """

    target: str
    group: str
    candidates: int
    acceptable: int
    acceptable_fraction: float
    readouts_agree: Number
    verified: int
    failures: dict[str, int]
    best_match: float
    best_match_index: int
    random_mean: float
    random_best_of_k: float
    predicted_first: Number
    counted_first: Number
    counted_mean: Number
    counted_best: Number
    fe_first: Number
    fe_mean: Number
    fe_median: Number
    fe_best: Number
    predicted_fe_mean: Number
    rank_correlation: Number
    field_error_mean: Number
    target_stress: Stresses
    best_match_stress: Stresses


class Statistic(Row):
    """Of one figure, over the targets that have it."""

    targets: int
    mean: Number
    median: Number
    lower_quartile: Number
    upper_quartile: Number


class Summary(Row):
    """Counts over a group of targets, and statistics of the figures of :class:`TargetRow`.

    Attributes
    ----------
    targets_without_result
        Targets none of whose candidates could be simulated.
    better_than_best_match
        Part of the targets whose best simulated candidate is closer than every training design.
    rank_correlation_pooled
        Spearman's, over the simulated candidates of all targets together: also high where only the
        difficulty of the targets is predicted.
    """

    targets: int
    candidates: int
    acceptable: int
    acceptable_fraction: float
    verified: int
    failures: dict[str, int]
    targets_without_result: int
    better_than_best_match: float
    rank_correlation_pooled: Number
    readouts_agree: Statistic
    best_match: Statistic
    random_mean: Statistic
    random_best_of_k: Statistic
    predicted_first: Statistic
    counted_first: Statistic
    counted_mean: Statistic
    counted_best: Statistic
    fe_first: Statistic
    fe_mean: Statistic
    fe_median: Statistic
    fe_best: Statistic
    predicted_fe_mean: Statistic
    rank_correlation: Statistic
    field_error_mean: Statistic


SUMMARISED = tuple(n for n, f in Summary.model_fields.items() if f.annotation is Statistic)


class Results(Row):
    """Content of ``evaluation.json``; what contradicts itself is refused."""

    frame_strain: list[float]
    training_designs: int
    summary: dict[str, Summary]
    targets: list[TargetRow] = Field(min_length=1)
    candidates: list[CandidateRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Results:
        if self.frame_strain != FRAME_STRAIN.tolist():
            raise ValueError("frame_strain isn't that of this program")
        if [row.candidate for row in self.candidates] != list(range(len(self.candidates))):
            raise ValueError("its candidates are not numbered from 0")
        if {row.target for row in self.candidates} != {row.target for row in self.targets}:
            raise ValueError("its candidates are not those of its targets")
        if "all" not in self.summary:
            raise ValueError("it has no summary of all targets")
        return self


# --- statistics ----------------------------------------------------------------------------------


def target_row(
    target: str,
    candidates: Sequence[CandidateRow],
    target_stress: np.ndarray,
    training_errors: np.ndarray,
    best_match: tuple[int, np.ndarray],
) -> TargetRow:
    """Put together what is known of one target.

    Parameters
    ----------
    target
        Name.
    candidates
        All that were generated for it.
    target_stress
        ``(steps,)``, NaN where unknown.
    training_errors
        ``(designs,)`` errors of the training designs against it.
    best_match
        Number and curve ``(steps,)`` of the closest one.
    """
    chosen = sorted((c for c in candidates if c.index is not None), key=attrgetter("index"))
    done = [c for c in chosen if c.verified == "ok"]
    fe = _known(c.nrmse_fe_target for c in done)
    counted = _known(c.counted_error for c in chosen)
    acceptable = sum(c.design == "ok" for c in candidates)
    return TargetRow(
        target=target,
        group="held out" if target.startswith(HELD_OUT) else "given",
        candidates=len(candidates),
        acceptable=acceptable,
        acceptable_fraction=acceptable / len(candidates),
        readouts_agree=_mean(c.readouts_agree for c in candidates),
        verified=len(chosen),
        failures=dict(Counter(kind(str(c.verified)) for c in chosen if c.verified != "ok")),
        best_match=float(training_errors.min()),
        best_match_index=best_match[0],
        random_mean=float(training_errors.mean()),
        random_best_of_k=expected_best_of(training_errors, max(len(chosen), 1)),
        predicted_first=chosen[0].nrmse_predicted_target if chosen else None,
        counted_first=chosen[0].counted_error if chosen else None,
        counted_mean=_mean(counted),
        counted_best=min(counted, default=None),
        fe_first=chosen[0].nrmse_fe_target if chosen else None,
        fe_mean=_mean(fe),
        fe_median=float(np.median(fe)) if fe else None,
        fe_best=min(fe, default=None),
        predicted_fe_mean=_mean(c.nrmse_predicted_fe for c in done),
        rank_correlation=rank_correlation(done),
        field_error_mean=_mean(c.field_error_mean for c in done),
        target_stress=target_stress,
        best_match_stress=best_match[1],
    )


def kind(status: str) -> str:
    """Return the kind of a failure, which stands before the colon of its reason."""
    return status.partition(":")[0]


def summarise(rows: Sequence[TargetRow], candidates: Sequence[CandidateRow]) -> Summary:
    """Summarise a group of targets.

    A target without a simulated candidate has no ``fe_*`` figures: it is counted in
    ``targets_without_result``, and as not better than its best match.

    Parameters
    ----------
    rows
        At least one.
    candidates
        Those of these targets, others too.
    """
    names = {row.target for row in rows}
    table = pd.DataFrame([row.model_dump(include=set(SUMMARISED)) for row in rows]).astype(float)
    numbers = pd.DataFrame(
        {
            "targets": table.count(),
            "mean": table.mean(),
            "median": table.median(),
            "lower_quartile": table.quantile(0.25),
            "upper_quartile": table.quantile(0.75),
        }
    )
    better = [row.fe_best is not None and row.fe_best < row.best_match for row in rows]
    generated, acceptable = (sum(getattr(r, n) for r in rows) for n in ("candidates", "acceptable"))
    return Summary(
        targets=len(rows),
        candidates=generated,
        acceptable=acceptable,
        acceptable_fraction=acceptable / generated,
        verified=sum(row.verified for row in rows),
        failures=dict(sum((Counter(row.failures) for row in rows), Counter())),
        targets_without_result=sum(row.fe_best is None for row in rows),
        better_than_best_match=float(np.mean(better)),
        rank_correlation_pooled=rank_correlation([c for c in candidates if c.target in names]),
        **{str(n): Statistic.model_validate(v) for n, v in numbers.to_dict("index").items()},
    )


def rank_correlation(candidates: Iterable[CandidateRow]) -> float | None:
    """Return Spearman's rank correlation of predicted and simulated error.

    Parameters
    ----------
    candidates
        Those without both errors are left out.

    Returns
    -------
    float or None
        None where fewer than 3 have both, or all are alike: there is no order then.
    """
    pairs = [(c.nrmse_predicted_target, c.nrmse_fe_target) for c in candidates]
    known = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2)
    if len(known) < LEAST_RANKED or (np.ptp(known, axis=0) == 0).any():
        return None
    return float(stats.spearmanr(*known.T).statistic)


def expected_best_of(errors: np.ndarray, k: int) -> float:
    """Return the expected smallest of ``k`` errors drawn at random without replacement.

    Exact, by the order statistics of a finite population: the i-th smallest of n values is the
    smallest of the draw with probability C(n - i, k - 1) / C(n, k).

    Parameters
    ----------
    errors
        ``(n,)`` the population.
    k
        Size of the draw; at most ``n`` are drawn.
    """
    ordered = np.sort(np.asarray(errors, np.float64))
    n = len(ordered)
    k = min(k, n)
    probability, expected = k / n, 0.0
    for i, error in enumerate(ordered[: n - k + 1], start=1):
        expected += probability * error
        probability *= (n - i - k + 1) / (n - i) if i < n else 0.0
    return expected


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    found = _known(values)
    return float(np.mean(found)) if found else None


# --- files ---------------------------------------------------------------------------------------


def write_results(folder: Path, results: Results) -> None:
    """Write ``candidates.csv``, ``targets.csv``, and ``evaluation.json``, which has curves too.

    Parameters
    ----------
    folder
        Existing folder.
    results
        What goes there.
    """
    save_text(folder / "targets.csv", _csv(pd.DataFrame(map(_columns, results.targets))))
    candidates = pd.DataFrame(map(_columns, results.candidates))
    candidates["index"] = candidates["index"].astype("Int64")  # some have none
    for step, strain in enumerate(results.frame_strain):
        candidates[f"field_error_{strain:g}"] = [
            row.field_errors[step] if row.field_errors else None for row in results.candidates
        ]
    save_text(folder / "candidates.csv", _csv(candidates))
    save_text(folder / RESULT, results.model_dump_json(indent=1) + "\n")


def _columns(row: Row) -> dict[str, Any]:
    """Return what a CSV file holds of a row: no curves, failures in words."""
    values = {
        k: v for k, v in row if k != "field_errors" and not k.endswith(("_stress", "_spread"))
    }
    if "failures" in values:
        values["failures"] = "; ".join(
            f"{count} {kind}" for kind, count in values["failures"].items()
        )
    return values


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def read_results(folder: Path) -> Results:
    """Read ``evaluation.json``.

    Raises
    ------
    UserError
        When it is missing, isn't as :func:`write_results` writes it, or contradicts itself.
    """
    return read_json(folder / RESULT, Results, ADVICE)
