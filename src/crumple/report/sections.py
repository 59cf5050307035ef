"""What the sections of the page say, from results that are already read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from crumple.report import tables
from crumple.report.charts import Axis, Chart, Line, chart, upper
from crumple.report.panes import STRAIN, STRESS
from crumple.report.pictures import design_uri
from crumple.report.reading import Member, Run, spread
from crumple.report.words import percent
from crumple.results import Results

TILES = 48
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
    manifest, every = run.dataset.manifest, run.results.summary["all"]
    valid, failed = len(manifest["valid"]), len(manifest["failures"])
    shards = [run.dataset.shard(number) for number in range(len(manifest["shards"]))]
    timed = [shard["cpu_seconds"][:] for shard in shards if "cpu_seconds" in shard]
    seconds = np.concatenate([np.zeros(0), *timed])  # imported shards have none
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    cost = f"{seconds.mean():.1f} CPU s each" if len(seconds) else "cost unknown"
    failures = sum(every.failures.values())
    steps = max((line.step for line in run.log), default=0)
    each = run.store.attrs.get("seconds")
    sampling = f"; {each / every.candidates:.2g} s each" if each is not None else ""
    trained = len(manifest["split"]["train"])
    return [
        ("Designs", f"{valid + failed}", "random quarters, mirrored twice"),
        ("Simulated", f"{valid}", f"{failed} failed; {cost}"),
        ("Training", f"{steps} steps", f"on {trained} designs, the rest held out"),
        ("Generated", f"{every.candidates}", f"for {every.targets} targets{sampling}"),
        ("Acceptable", f"{every.acceptable}", "meet the rules of the random designs"),
        ("Verified", f"{every.verified - failures}", f"simulated anew; {failures} without result"),
    ]


# --- data set ------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A design of the gallery."""

    index: int  # type: ignore[assignment]
    uri: str
    stress: float  # at the end, MPa


def gallery(run: Run, samples: Sequence[Member]) -> dict[str, Any]:
    """Return designs of the data set and the curves beside them.

    Parameters
    ----------
    run
        What was read.
    samples
        Designs whose curves are drawn.
    """
    top = upper([float(sample.stress.max()) for sample in samples])
    return {
        "chart": chart(
            [],
            Axis(STRAIN, 0.0, float(samples[0].strain[-1])),
            Axis(STRESS, 0.0, top),
            background=[Line(str(s.index), "", s.strain, s.stress) for s in samples],
            title="Stress-strain curves of the data set",
        ),
        "drawn": len(samples),
        "total": len(run.dataset.manifest["valid"]),
        "tiles": [
            Tile(s.index, design_uri(s.solid), float(s.stress[-1])) for s in spread(samples, TILES)
        ],
    }


# --- training ------------------------------------------------------------------------------------


def training(run: Run) -> dict[str, Any]:
    """Return the losses over the steps, and what is known of the training."""
    losses = [(line.step, line.loss) for line in run.log if line.loss]
    checks = [(line.step, line.validation_loss) for line in run.log if line.validation_loss]
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
        rates = [line.samples_per_s for line in run.log if line.samples_per_s]
        facts.append(("steps", f"{losses[-1][0]}"))
        if rates:
            facts.append(("samples per second", f"{np.median(rates):.3g} (median)"))
        facts.append(("loss at the end", f"{losses[-1][1]:.4f}"))
    if checks:
        step, least = min(checks, key=lambda check: check[1])
        facts.append(("validation loss at the end", f"{checks[-1][1]:.4f}"))
        facts.append(("lowest", f"{least:.4f} at step {step}"))
    settings = _flat(run.training)
    facts += [(name, _words(value)) for name, value in settings.items() if name != "steps"]
    return {
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


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings without their nesting."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, dict) else {name.replace("_", " "): value}
    return flat


def _words(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- method --------------------------------------------------------------------------------------


def method(run: Run) -> list[tuple[str, str]]:
    """Return what the results depend on."""
    manifest = run.dataset.manifest
    versions = [f"{name} {', '.join(found)}" for name, found in manifest["versions"].items()]
    return [("configuration", manifest["config_hash"]), ("versions", "; ".join(versions))]
