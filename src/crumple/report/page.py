"""The sections of the page as HTML, from results that are already read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from crumple.report.charts import Axis, Line, chart, upper
from crumple.report.pixels import design_uri

STRAIN = "applied strain"
STRESS = "effective stress, MPa"
STOPS = [  # compression, unloaded, tension: blue to sand to red
    (16, 44, 87),
    (38, 96, 150),
    (124, 172, 200),
    (222, 216, 203),
    (224, 160, 112),
    (188, 76, 42),
    (116, 22, 20),
]


class Sample(NamedTuple):
    """A design of the data set, for the gallery."""

    index: int
    solid: np.ndarray  # (96, 96)
    strain: np.ndarray  # (51,)
    stress: np.ndarray  # (51,) MPa


class Shown(NamedTuple):
    """A verified candidate, for the viewer."""

    row: Mapping[str, Any]  # of evaluation.json
    mask: np.ndarray  # (96, 96) as sampled
    solid: np.ndarray  # (96, 96) the whole design
    others: Mapping[str, np.ndarray]  # designs to compare with, by caption
    bodies: Mapping[str, int]  # numbers of the packed bodies, `predicted` and `fe`
    stress_limit: float  # MPa at the ends of its colour scale


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def image(solid: np.ndarray, text: str) -> str:
    """Return a picture of a design."""
    return f'<img class="design" src="{design_uri(solid)}" alt="{escape(text)}">'


def table(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[tuple[Any, str]]], name: str
) -> str:
    """Return a table whose columns sort.

    Parameters
    ----------
    columns
        Heading and CSS class of each column.
    rows
        Cells: the value to sort by (None is missing) and what is shown, as HTML.
    name
        The table's id.
    """
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{text}</button></th>'
        for text, kind in columns
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}" data-value="{"" if value is None else escape(str(value))}">'
            f"{shown}</td>"
            for (value, shown), (_, kind) in zip(row, columns, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="sortable" id="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def swatch(kind: str) -> str:
    """Return a short piece of a line, for legends."""
    return f'<svg aria-hidden="true"><line class="line {kind}" x1="1" x2="33" y1="5" y2="5"/></svg>'


# --- overview ------------------------------------------------------------------------------------


def headline(summary: Mapping[str, Any]) -> str:
    """Say in a few sentences what came out, failures included."""
    every = summary["all"]
    if every["fe_best"]["median"] is None:
        return "No candidate could be simulated; the failures below say why."
    better = round(every["better_than_best_match"] * every["targets"])
    simulated = every["verified"] - sum(every["failures"].values())
    reached = every["targets"] - every["targets_without_result"]
    return (
        f"For {every['targets']} target curves, {every['candidates']} designs were generated; "
        f"{every['verified']} were chosen by their predicted curves, and {simulated} of these "
        f"could be simulated. The best of each target misses it by "
        f"<strong>{percent(every['fe_best']['median'])}</strong> (median over the {reached} "
        f"targets with a result), the closest curve in the training set by "
        f"<strong>{percent(every['best_match']['median'])}</strong> (median over all). "
        f"Generation beats the training set on {better} of {every['targets']} targets."
    )


def figures(summary: Mapping[str, Any]) -> str:
    """Return the four figures that matter most."""
    every = summary["all"]
    items = [
        ("fe", every["fe_best"], "simulated against target, best of the simulated"),
        ("", every["best_match"], "closest curve in the training set against target"),
        ("predicted", every["predicted_fe_mean"], "predicted against simulated curve"),
        ("predicted", every["field_error_mean"], "predicted against simulated σ<sub>22</sub>"),
    ]
    return (
        '<div class="figures">'
        + "".join(
            f'<div><div class="value {kind}">{percent(error["median"])}</div>'
            f'<div class="what">{what}</div></div>'
            for kind, error, what in items
        )
        + "</div>"
    )


def pipeline(stages: Sequence[tuple[str, str, str]]) -> str:
    """Return the stages of the run: name, number, explanation."""
    return (
        '<ol class="pipeline">'
        + "".join(
            f'<li><span class="stage">{name}</span><b>{number}</b><small>{text}</small></li>'
            for name, number, text in stages
        )
        + "</ol>"
    )


SUMMARY_COLUMNS = (
    ("best_match", "best match in training set"),
    ("random_best_of_k", "random designs, best of as many"),
    ("predicted_first", "predicted, 1st choice"),
    ("fe_first", "simulated, 1st choice"),
    ("fe_best", "simulated, best"),
    ("predicted_fe_mean", "predicted vs simulated"),
    ("field_error_mean", "field error"),
)


def summary_table(summary: Mapping[str, Any]) -> str:
    """Return medians and means over the targets of each group."""
    columns = [("targets", "text"), ("number", ""), ("with a result", ""), ("", "")]
    columns += [(text, "") for _, text in SUMMARY_COLUMNS]
    rows = []
    for group, values in summary.items():
        for statistic in ("median", "mean"):
            errors = [values[name][statistic] for name, _ in SUMMARY_COLUMNS]
            rows.append(
                [(group, group), (values["targets"], values["targets"])]
                + [(values["targets"] - values["targets_without_result"],) * 2]
                + [(statistic, statistic)]
                + [(error, percent(error)) for error in errors]
            )
    return table(columns, rows, "summary")


# --- targets -------------------------------------------------------------------------------------


def target_article(
    row: Mapping[str, Any],
    strain: Sequence[float],
    candidates: Sequence[Shown],
    background: Sequence[Line],
    scale_css: str,
) -> str:
    """Return everything about one target: curves, designs, deformation."""
    best = next((k for k, c in enumerate(candidates) if is_best(c.row, row)), 0)
    chips = "".join(
        f'<button type="button" role="tab" aria-selected="{str(k == best).lower()}">'
        f"{_chip(shown, row)}</button>"
        for k, shown in enumerate(candidates)
    )
    panes = "".join(
        candidate_pane(row, strain, shown, background, scale_css, hidden=k != best)
        for k, shown in enumerate(candidates)
    )
    name = escape(row["target"])
    return (
        f'<article class="target" id="target-{name}"><header><h3>{title(row["target"])}</h3>'
        f'<span class="tag">{row["group"]}</span><span class="verdict">{_verdict(row)}</span>'
        f'</header><div class="chips" role="tablist" aria-label="candidates">{chips}</div>'
        f"{panes}</article>"
    )


def title(name: str) -> str:
    """Return a target's name for people: ``b_stiffening_at_10`` is `b: stiffening at 10`."""
    if name.startswith("heldout_"):
        return f"held-out design {int(name.removeprefix('heldout_'))}"
    return escape(name.replace("_", " "))


def is_best(candidate: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Return whether a candidate's simulation comes closest to its target."""
    return row["fe_best"] is not None and candidate.get("nrmse_fe_target") == row["fe_best"]


def _chip(shown: Shown, row: Mapping[str, Any]) -> str:
    words = f"choice {shown.row['index'] % row['verified'] + 1}"
    if shown.row["verified"] != "ok":
        return f"{words} · failed"
    best = " · best" if is_best(shown.row, row) and row["verified"] > 1 else ""
    return f"{words} · {percent(shown.row['nrmse_fe_target'])}{best}"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["fe_best"] is None:
        return '<span class="bad">no candidate could be simulated</span>'
    better = row["fe_best"] < row["best_match"]
    kind, word = ("good", "beats") if better else ("bad", "does not beat")
    return (
        f'simulated {percent(row["fe_best"])} <span class="{kind}">{word}</span> '
        f"best match {percent(row['best_match'])}"
    )


def candidate_pane(
    row: Mapping[str, Any],
    strain: Sequence[float],
    shown: Shown,
    background: Sequence[Line],
    scale_css: str,
    hidden: bool,
) -> str:
    """Return the curves, the design and the viewer of one verified candidate."""
    candidate = shown.row
    lines = [
        ("match", "best match in training set", row["best_match_stress"], row["best_match"]),
        ("target", "target", row["target_stress"], None),
        (
            "predicted",
            "predicted",
            candidate["predicted_stress"],
            candidate["nrmse_predicted_target"],
        ),
    ]
    if candidate["verified"] == "ok":
        lines.append(("fe", "simulated", candidate["fe_stress"], candidate["nrmse_fe_target"]))
    lines = [(kind, label, np.array(stress, float), error) for kind, label, stress, error in lines]
    top = upper([value for _, _, stress, _ in lines for value in stress])
    curves = chart(
        [Line(label, kind, strain, stress) for kind, label, stress, _ in lines],
        Axis(STRAIN, 0.0, strain[-1]),
        Axis(STRESS, 0.0, top),
        background=background,
        cursor=bool(shown.bodies),
        title=f"Stress-strain curves for target {row['target']}",
    )
    legend = "".join(
        f'<li>{swatch(kind)}<span>{label}</span><span class="error">'
        + ("" if error is None else f"NRMSE <b>{percent(error)}</b>")
        + "</span></li>"
        for kind, label, _, error in lines
    )
    others = "".join(
        f"<figure>{image(solid, caption)}<figcaption>{caption}</figcaption></figure>"
        for caption, solid in shown.others.items()
    )
    design = (
        f'<div class="design-row"><figure>{image(shown.mask, "sampled mask")}'
        f"<figcaption>as sampled</figcaption></figure>"
        f"<figure>{image(shown.solid, 'design')}<figcaption>design</figcaption></figure>"
        f"{others}"
        f"<p>Candidate {candidate['candidate']}, predicted rank {candidate['rank'] + 1} of "
        f"{row['candidates']}; solid fraction {percent(float(shown.solid.mean()), 0)}."
        f"{_comparison(candidate)}</p></div>"
    )
    data, viewer = "", ""
    if candidate["verified"] != "ok":
        viewer = f'<p class="failed">No simulation: {escape(candidate["verified"])}.</p>'
    if shown.bodies:
        sides = "".join(f' data-{side}="{number}"' for side, number in shown.bodies.items())
        errors = escape(json.dumps(candidate.get("field_errors", [])))
        data = f'{sides} data-errors="{errors}"'
        viewer += _viewer(strain, shown, scale_css)
    elif candidate["verified"] == "ok":
        viewer += '<p class="note">Its deformation is left out to keep the page small.</p>'
    state = " hidden" if hidden else ""
    return (
        f'<div class="candidate" role="tabpanel"{data}{state}><div>{curves}'
        f'<ul class="legend">{legend}</ul></div><div>{viewer}{design}</div></div>'
    )


def _comparison(candidate: Mapping[str, Any]) -> str:
    if candidate["verified"] != "ok":
        return ""
    return (
        f" The predicted curve misses the simulated one by "
        f"{percent(candidate['nrmse_predicted_fe'])}, the predicted field by "
        f"{percent(candidate['field_error_mean'], 0)} on average."
    )


SIDES = {"predicted": "predicted with the design", "fe": "simulated (finite elements)"}


def _viewer(strain: Sequence[float], shown: Shown, scale_css: str) -> str:
    limit = f"{shown.stress_limit:.0f} MPa"
    panels = "".join(
        f'<figure><canvas aria-label="deformation, {SIDES[side]}"></canvas>'
        f"<figcaption>{SIDES[side]}</figcaption></figure>"
        for side in shown.bodies
    )
    return (
        f'<div class="panels">{panels}</div>'
        '<div class="controls"><button type="button" class="play" aria-label="play">▶</button>'
        f'<input type="range" aria-label="{STRAIN}" min="{strain[0]}" max="{strain[-1]}" '
        f'step="any" value="{strain[-1]}"><output></output></div>'
        f'<div class="scale"><span>−{limit}</span><i style="background:{scale_css}"></i>'
        f"<span>+{limit}</span><span></span>"
        '<span style="text-align:center">σ<sub>22</sub>: compression, tension</span></div>'
    )


def colour_scale_css() -> str:
    """Return the colour scale as a CSS gradient."""
    return "linear-gradient(90deg," + ",".join(f"rgb{stop}" for stop in STOPS) + ")"


ERRORS = (
    ("nrmse_predicted_target", "predicted vs target"),
    ("nrmse_fe_target", "simulated vs target"),
    ("nrmse_predicted_fe", "predicted vs simulated"),
    ("field_error_mean", "field error"),
)


def target_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per target."""
    names = ("best_match", "random_best_of_k", "predicted_first", "fe_first", "fe_mean", "fe_best")
    columns = [("target", "text"), ("candidates", ""), ("acceptable", ""), ("verified", "")]
    columns += [("failed", ""), ("best match", ""), ("random, best of as many", "")]
    columns += [("predicted, 1st choice", ""), ("simulated, 1st choice", "")]
    columns += [("simulated, mean", ""), ("simulated, best", "")]
    body = []
    for row in rows:
        failed = sum(row["failures"].values())
        link = f'<a href="#target-{escape(row["target"])}">{title(row["target"])}</a>'
        counts = [(row[k], row[k]) for k in ("candidates", "acceptable", "verified")]
        errors = [(row[name], percent(row[name])) for name in names]
        body.append([(row["target"], link), *counts, (failed, failed), *errors])
    return table(columns, body, "targets-table")


def candidate_table(candidates: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per generated candidate."""
    columns = [("target", "text"), ("candidate", ""), ("predicted rank", ""), ("design", "long")]
    columns += [("simulation", "long")] + [(text, "") for _, text in ERRORS]
    body = []
    for row in candidates:
        verified = row.get("verified")
        errors = [(row.get(name), percent(row.get(name))) for name, _ in ERRORS]
        body.append(
            [
                (row["target"], title(row["target"])),
                (row["candidate"], row["candidate"]),
                (row["rank"], row["rank"] + 1),
                (row["design"], _status(row["design"])),
                (verified, "not chosen" if verified is None else _status(verified, short=True)),
                *errors,
            ]
        )
    return table(columns, body, "candidates-table")


def _status(text: str, short: bool = False) -> str:
    """Return a status as HTML; the short form is the kind of failure, without the reason."""
    if text == "ok":
        return text
    shown = text.partition(":")[0] if short else text
    return f'<span class="bad" title="{escape(text)}">{escape(shown)}</span>'


# --- data set, training, failures ----------------------------------------------------------------


def gallery(samples: Sequence[Sample], curves: Sequence[Sample], total: int) -> str:
    """Return designs of the data set beside their curves.

    Parameters
    ----------
    samples
        Designs to show, among ``curves``.
    curves
        Designs whose curves are drawn.
    total
        Number of valid designs in the data set.
    """
    top = upper([float(sample.stress.max()) for sample in curves])
    picture = chart(
        [],
        Axis(STRAIN, 0.0, float(curves[0].strain[-1])),
        Axis(STRESS, 0.0, top),
        background=[Line(str(s.index), "", s.strain, s.stress) for s in curves],
        title="Stress-strain curves of the data set",
    )
    tiles = "".join(
        f'<figure tabindex="0" data-design="{s.index}">{image(s.solid, f"design {s.index}")}'
        f"<figcaption>{s.index}<br>{s.stress[-1]:.1f} MPa</figcaption></figure>"
        for s in samples
    )
    return (
        f'<div class="gallery"><div class="chart-box">{picture}<p class="note">'
        f"{len(curves)} of {total} simulated curves. Point at a design to find its curve.</p></div>"
        f'<div class="tiles">{tiles}</div></div>'
    )


def training_chart(stats: Sequence[Mapping[str, Any]]) -> str:
    """Return the loss over the steps, training and validation."""
    lines = []
    for label, kind, key in (
        ("training", "train", "loss"),
        ("validation, averaged weights", "validation", "validation_loss"),
    ):
        found = [(s["step"], s[key]) for s in stats if s.get(key)]
        if found:
            lines.append(Line(label, kind, *zip(*found, strict=True)))
    if not lines:
        return "<p>The training log has no losses.</p>"
    values = [v for line in lines for v in line.y]
    last = max(line.x[-1] for line in lines)
    picture = chart(
        lines,
        Axis("optimiser step", 0.0, float(last)),
        Axis("loss", 0.9 * min(values), 1.1 * max(values), log=True),
        size=(620, 300),
        title="Training and validation loss",
    )
    legend = "".join(f"<li>{swatch(line.kind)}<span>{line.label}</span></li>" for line in lines)
    return f'{picture}<ul class="legend">{legend}</ul>'


def failures(dataset: Sequence[Mapping[str, Any]], candidates: Sequence[Mapping[str, Any]]) -> str:
    """List what failed: designs of the data set, read-outs, simulations of candidates."""
    unread = Counter(c["design"] for c in candidates if c["design"] != "ok")
    broken = [c for c in candidates if c["design"] == "ok" and c.get("verified", "ok") != "ok"]
    columns = [("where", "text"), ("which", "text"), ("reason", "long")]
    rows = [
        [("data set", "data set"), (f["index"], f["index"]), _text(f["reason"])] for f in dataset
    ]
    rows += [
        [
            ("read-out", "read-out"),
            (count, f"{count} candidate{'' if count == 1 else 's'}"),
            _text(reason),
        ]
        for reason, count in unread.items()
    ]
    rows += [
        [
            ("verification", "verification"),
            (c["candidate"], f"candidate {c['candidate']}, {title(c['target'])}"),
            _text(c["verified"]),
        ]
        for c in broken
    ]
    return table(columns, rows, "failures") if rows else "<p>Nothing failed.</p>"


def _text(text: str) -> tuple[str, str]:
    return text, escape(text)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a list of names and values."""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs)
    return f"<dl>{items}</dl>"
