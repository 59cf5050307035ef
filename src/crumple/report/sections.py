"""What the sections of the page say, from results that are already read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from crumple.config import OPERATION
from crumple.report import tables
from crumple.report.charts import Axis, Chart, Line, chart, upper
from crumple.report.collection import DesignCollection, spread
from crumple.report.panes import STRAIN, STRESS
from crumple.report.pictures import design_uri
from crumple.report.reading import Learner, Run, TrainingNote
from crumple.report.words import percent, plural
from crumple.results import Results

TILES = 48
HELD_OUT = {  # what a forward model says of its errors
    "nrmse_50_percent": "error on held-out designs, median",
    "nrmse_90_percent": "a tenth of them is worse than",
}
IMMATERIAL = {  # settings of a training that don't change its model
    path.removeprefix("training.") for path in OPERATION if path.startswith("training.")
}
SECTIONS = ("overview", "targets", "tables", "data", "training", "failures", "method")


# --- overview ------------------------------------------------------------------------------------


def overview(run: Run) -> dict[str, Any]:
    """Return the head of the page: what came out, failures included."""
    every = run.results.summary["all"]
    k = chosen_per_target(run.results)
    figures = [
        ("fe", every.counted_first, "first choice, simulated, against target"),
        ("fe", every.counted_best, f"best of {k}, simulated, against target"),
        ("", every.best_match, "closest curve in the training set against target"),
        ("predicted", every.predicted_fe_mean, "predicted against simulated curve"),
    ]
    return {
        "every": every,
        "simulated": every.verified - sum(every.failures.values()),
        "better": round(every.better_than_best_match * every.targets),
        "figures": [(kind, percent(one.median), what) for kind, one, what in figures],
        "stages": stages(run),
        "groups": [(name, one.targets) for name, one in run.results.summary.items()],
        "summary": tables.summary_groups(list(run.results.summary.values()), k),
    }


def chosen_per_target(results: Results) -> str:
    """Return how many candidates of a target were simulated, as a word for 'best of'."""
    counts = {row.verified for row in results.targets}
    return f"{counts.pop()}" if len(counts) == 1 else "all"


def stages(run: Run) -> list[tuple[str, str, str]]:
    """Return the stages of the run: name, number, explanation."""
    every = run.results.summary["all"]
    failures = sum(every.failures.values())
    each = run.store.attrs.get("seconds")
    sampling = f"; {each / every.candidates:.2g} s each" if each is not None else ""
    return [
        *_before_generation(run),
        ("Generated", f"{every.candidates}", f"for {every.targets} targets{sampling}"),
        ("Acceptable", f"{every.acceptable}", "meet the rules of the random designs"),
        ("Verified", f"{every.verified - failures}", f"simulated anew; {failures} without result"),
    ]


def _before_generation(run: Run) -> list[tuple[str, str, str]]:
    """Return what there was before candidates: designs, their simulations, the models."""
    valid, failed, seconds = run.designs.valid, len(run.designs.failures), run.designs.cpu_seconds
    trained = f"on {run.results.training_designs} designs, the rest held out"
    if run.designs.kind == "library":
        return [
            ("Library", f"{valid}", "random designs, simulated before"),
            ("Models", f"{len(run.learners)}", f"trained before, {trained}"),
        ]
    cost = f"{seconds.mean():.1f} CPU s each" if len(seconds) else "cost unknown"
    return [
        ("Designs", f"{valid + failed}", "random quarters, mirrored twice"),
        ("Simulated", f"{valid}", f"{failed} failed; {cost}"),
        ("Training", plural(len(run.learners), "model"), trained),
    ]


# --- data set ------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A design of the gallery."""

    index: int  # type: ignore[assignment]
    uri: str
    stress: float  # at the end, MPa


def gallery(designs: DesignCollection) -> dict[str, Any]:
    """Return designs that the models have learnt from, and the curves beside them."""
    samples = designs.members
    top = upper([float(sample.stress.max()) for sample in samples])
    return {
        "chart": chart(
            [],
            Axis(STRAIN, 0.0, float(samples[0].strain[-1])),
            Axis(STRESS, 0.0, top),
            background=[Line(str(s.index), "", s.strain, s.stress) for s in samples],
            title=f"Stress-strain curves of the {designs.kind}",
        ),
        "kind": designs.kind,
        "drawn": len(samples),
        "total": designs.valid,
        "tiles": [
            Tile(s.index, design_uri(s.solid), float(s.stress[-1])) for s in spread(samples, TILES)
        ],
    }


# --- training ------------------------------------------------------------------------------------


def training(learner: Learner) -> dict[str, Any]:
    """Return the losses of a model over the steps, and what is known of its training."""
    log = learner.log
    losses = [(line.step, line.loss) for line in log if line.loss]
    checks = [(line.step, line.validation_loss) for line in log if line.validation_loss]
    lines = [
        Line(label, kind, *zip(*found, strict=True))
        for label, kind, found in (
            ("training", "train", losses),
            ("validation, averaged weights", "validation", checks),
        )
        if found
    ]
    facts = []
    if losses:
        rates = [line.samples_per_s for line in log if line.samples_per_s]
        facts.append(("steps", f"{losses[-1][0]}"))
        if rates:
            facts.append(("samples per second", f"{np.median(rates):.3g} (median)"))
        facts.append(("loss at the end", f"{losses[-1][1]:.4f}"))
    if checks:
        step, least = min(checks, key=lambda check: check[1])
        facts.append(("validation loss at the end", f"{checks[-1][1]:.4f}"))
        facts.append(("lowest", f"{least:.4f} at step {step}"))
    errors = learner.held_out
    facts += [(what, percent(errors[name])) for name, what in HELD_OUT.items() if name in errors]
    facts += _counts(learner.training, {name for name, _ in facts})
    return {
        "title": learner.title,
        "chart": loss_chart(lines) if lines else None,
        "legend": [(line.kind, line.label, "") for line in lines],
        "facts": facts,
    }


def loss_chart(lines: Sequence[Line]) -> Chart:
    """Return the chart of losses over steps."""
    values = [value for line in lines for value in line.y]
    return chart(
        lines,
        Axis("optimiser step", 0.0, float(max(line.x[-1] for line in lines))),
        Axis("loss", 0.9 * min(values), 1.1 * max(values), log=True),
        size=(620, 300),
        title="Training and validation loss",
    )


def _counts(note: TrainingNote, known: Collection[str]) -> list[tuple[str, str]]:
    """Return what a model says of its training and isn't known: counts, settings that matter.

    What the training came to, such as its precision, stands for the setting of that name.
    """
    counts = note.model_dump(exclude={"precision"})
    settings = {
        k: v for value in counts.values() if isinstance(value, dict) for k, v in value.items()
    }
    counts = {name: value for name, value in counts.items() if not isinstance(value, dict)}
    if note.precision:
        counts["precision"] = ", ".join(
            f"{name} from step {step}" if step else name for step, name in note.precision
        )
    return [
        (name.replace("_", " "), _words(value))
        for name, value in (settings | counts).items()
        if name not in IMMATERIAL and name not in known
    ]


def _words(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
