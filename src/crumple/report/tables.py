"""The tables of the page: cells that sort by a value and show a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from crumple.report.words import percent, plural, title
from crumple.results import CandidateRow, Statistic, Summary, TargetRow, kind


class Column(NamedTuple):
    """Heading and CSS class of a column."""

    heading: str
    kind: str = ""


class Entry(NamedTuple):
    """What a cell shows, and the value that it sorts by; None is missing and sorts last."""

    value: float | str | None
    text: str
    link: str = ""
    bad: bool = False
    hint: str = ""


class Table(NamedTuple):
    """A table whose columns sort."""

    name: str
    columns: list[Column]
    rows: list[list[Entry]]


def plain(value: int | str) -> Entry:
    """Return a cell that shows its value."""
    return Entry(value, str(value))


def error(value: float | None) -> Entry:
    """Return a cell with a fraction as per cent."""
    return Entry(value, percent(value))


def status(text: str, short: bool = False) -> Entry:
    """Return a cell with ``ok`` or a failure; the short form leaves out the reason."""
    if text == "ok":
        return plain(text)
    return Entry(text, kind(text) if short else text, bad=True, hint=text)


TARGET_COLUMNS = {
    "best_match": "best match",
    "random_best_of_k": "random, best of as many",
    "predicted_first": "predicted, 1st choice",
    "counted_first": "simulated, 1st choice",
    "counted_mean": "simulated, mean",
    "counted_best": "simulated, best",
    "predicted_fe_mean": "predicted vs simulated",
}


def target_table(rows: Sequence[TargetRow]) -> Table:
    """Return a row per target."""
    columns = [Column("acceptable"), Column("failed")]
    columns += [Column(heading) for heading in TARGET_COLUMNS.values()]
    columns = [Column("target", "text"), *columns, Column("rank correlation")]
    body = []
    for number, row in enumerate(rows):
        failed = sum(row.failures.values())
        body.append(
            [
                Entry(row.target, title(row.target), link=f"#target-{number}"),
                Entry(row.acceptable_fraction, f"{row.acceptable} of {row.candidates}"),
                Entry(failed, f"{failed} of {row.verified}"),
                *(error(getattr(row, name)) for name in TARGET_COLUMNS),
                correlation(row.rank_correlation),
            ]
        )
    return Table("targets-table", columns, body)


def correlation(value: float | None) -> Entry:
    """Return a cell with a correlation coefficient."""
    return Entry(value, "–" if value is None else f"{value:.2f}".replace("-", "−"))


CANDIDATE_COLUMNS = {
    "nrmse_predicted_target": "predicted vs target",
    "nrmse_fe_target": "simulated vs target",
    "nrmse_predicted_fe": "predicted vs simulated",
    "field_error_mean": "field error",
}


def candidate_table(candidates: Sequence[CandidateRow]) -> Table:
    """Return a row per generated candidate."""
    columns = [Column("target", "text"), Column("candidate"), Column("predicted rank")]
    columns += [Column("design", "long"), Column("simulation", "long")]
    columns += [Column(heading) for heading in CANDIDATE_COLUMNS.values()]
    body = [
        [
            Entry(row.target, title(row.target)),
            plain(row.candidate),
            Entry(row.rank, str(row.rank + 1)),
            status(row.design),
            Entry(None, "not chosen") if row.verified is None else status(row.verified, short=True),
            *(error(getattr(row, name)) for name in CANDIDATE_COLUMNS),
        ]
        for row in candidates
    ]
    return Table("candidates-table", columns, body)


def failure_table(
    dataset: Iterable[Mapping[str, Any]], candidates: Sequence[CandidateRow]
) -> Table | None:
    """List what failed: designs of the data set, read-outs, simulations of candidates.

    Parameters
    ----------
    dataset
        ``failures`` of the manifest.
    candidates
        All of them.

    Returns
    -------
    Table or None
        None where nothing failed.
    """
    unread = Counter(row.design for row in candidates if row.design != "ok")
    rows = [("data set", plain(one["index"]), one["reason"]) for one in dataset]
    rows += [
        ("read-out", Entry(count, plural(count, "candidate")), reason)
        for reason, count in unread.items()
    ]
    rows += [
        (
            "verification",
            Entry(row.candidate, f"candidate {row.candidate}, {title(row.target)}"),
            row.verified,
        )
        for row in candidates
        if row.design == "ok" and row.verified not in (None, "ok")
    ]
    if not rows:
        return None
    columns = [Column("where", "text"), Column("which", "text"), Column("reason", "long")]
    return Table("failures", columns, [[plain(a), which, plain(b)] for a, which, b in rows])


# --- the summary: figures down, groups of targets across ------------------------------------------


class Group(NamedTuple):
    """Rows of the summary that belong together."""

    heading: str
    rows: list[tuple[str, list[str]]]  # what, and a text per group of targets


def summary_groups(summaries: Sequence[Summary], k: str) -> list[Group]:
    """Return the summary of every group of targets, side by side.

    Parameters
    ----------
    summaries
        Of the groups.
    k
        Number of candidates per target that were simulated, as a word.
    """

    def medians(names: Mapping[str, str]) -> list[tuple[str, list[str]]]:
        return [
            (text, [spread_text(getattr(summary, name)) for summary in summaries])
            for name, text in names.items()
        ]

    pooled = [correlation(summary.rank_correlation_pooled).text for summary in summaries]
    inner = [correlation(summary.rank_correlation.median).text for summary in summaries]
    acceptable = [
        f"{percent(s.acceptable_fraction, 0)} ({s.acceptable} of {s.candidates})" for s in summaries
    ]
    better = [f"{round(s.better_than_best_match * s.targets)} of {s.targets}" for s in summaries]
    first, mean, best = "first choice", f"mean of {k}", f"best of {k}"
    return [
        Group(
            "simulated against target, failures count as 100 %",
            medians({"counted_first": first, "counted_mean": mean, "counted_best": best}),
        ),
        Group(
            "simulated against target, failures left out",
            medians({"fe_first": first, "fe_mean": mean, "fe_best": best}),
        ),
        Group(
            "without the model",
            medians(
                {
                    "best_match": "best match in the training set",
                    "random_best_of_k": f"random designs, best of {k}",
                    "random_mean": "random designs, mean",
                }
            )
            + [("targets on which the best candidate beats the best match", better)],
        ),
        Group(
            "how far to trust the prediction",
            medians(
                {
                    "predicted_first": "predicted against target, first choice",
                    "predicted_fe_mean": "predicted against simulated curve",
                    "field_error_mean": "predicted against simulated σ₂₂",
                }
            )
            + [
                ("rank correlation of predicted and simulated error, within a target", inner),
                ("the same, all candidates together", pooled),
                ("acceptable designs", acceptable),
            ],
        ),
    ]


def spread_text(statistic: Statistic) -> str:
    """Return a median with the quartiles where there is more than one target."""
    text = percent(statistic.median)
    if statistic.targets > 1 and None not in (statistic.lower_quartile, statistic.upper_quartile):
        low, high = (
            percent(v).removesuffix("%").strip()
            for v in (statistic.lower_quartile, statistic.upper_quartile)
        )
        text += f" ({low} – {high})"
    return text
