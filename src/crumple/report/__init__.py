"""The report of a run: one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from crumple import designs as design_images
from crumple.atomic import claim, save_text
from crumple.candidates import Verified, join, open_candidates
from crumple.dataset import Dataset
from crumple.errors import UserError
from crumple.evaluation import HELD_OUT
from crumple.provenance import folder_record, hash_file, require_inputs, seal_page
from crumple.report import page
from crumple.report.bodies import LENGTH_UNIT, body, pack
from crumple.report.charts import Line
from crumple.topology import MASK_LEVEL

TILES, CURVES, BACKGROUND_CURVES = 48, 300, 50
# What a page of under 15 MB has room for; the tables list everything.
TARGETS_SHOWN, CANDIDATES_SHOWN = 24, 5
BODY_BYTES = 9_000_000
STRESS_QUANTILE = 0.995  # of the simulated |sigma_22|: the ends of the colour scale


def write_report(
    dataset_path: Path,
    model: Path,
    generated: Path,
    evaluation: Path,
    design_files: Sequence[Path],
    shards: Sequence[Path],
    out: Path,
) -> None:
    """Write the report of a run.

    Parameters
    ----------
    dataset_path
        ``dataset.json``.
    model
        Folder of the trained model, for ``stats.jsonl`` and ``config.json``.
    generated
        Candidates of ``crumple generate``.
    evaluation
        Folder of ``crumple evaluate``.
    design_files, shards
        Extracted designs and the shards simulated from them, in the same order.
    out
        The HTML file.
    """
    out = claim(out, "report")
    dataset = Dataset(dataset_path)
    result = _json(evaluation / "evaluation.json")
    stats = _stats(model / "stats.jsonl")
    store = open_candidates(generated)
    require_inputs(store.attrs["made_by"], generated, dataset=hash_file(dataset_path))
    record = folder_record(evaluation, "run `crumple evaluate` again")
    require_inputs(record, evaluation, candidates=store.attrs["checksum"])
    samples = spread_samples(dataset, CURVES)
    background = [
        Line("", "", s.strain[::2], s.stress[::2]) for s in _spread(samples, BACKGROUND_CURVES)
    ]
    verified = {v.candidate: v for v in join(store, design_files, shards)}
    shown, packed = _candidates(result, dataset, store, verified)
    strain, scale = result["frame_strain"], page.colour_scale_css()
    articles = [
        page.target_article(row, strain, shown[row["target"]], background, scale)
        for row in result["targets"][:TARGETS_SHOWN]
    ]
    sections = {
        "overview": _overview(dataset, result, stats, store),
        "targets": "<h2>Targets</h2>"
        "<p class=note>The curve that was asked for, what the model predicted, what the finite "
        "elements say, and the closest curve of the training set. Both animations show the "
        "deformed cell with its neighbours.</p>"
        + "".join(articles)
        + _left_out(len(result["targets"]) - len(articles)),
        "tables": "<h2>Tables</h2><p class=note>NRMSE of the curves over the "
        f"{len(strain)} strain steps; a heading sorts.</p><h3>Targets</h3>"
        + page.target_table(result["targets"])
        + "<h3>Candidates</h3>"
        + page.candidate_table(result["candidates"]),
        "data": "<h2>Data set</h2>"
        + page.gallery(_spread(samples, TILES), samples, len(dataset.manifest["valid"])),
        "training": "<h2>Training</h2>" + _training(stats, model),
        "failures": "<h2>Failures</h2>"
        + page.failures(dataset.manifest["failures"], result["candidates"]),
        "method": _method(dataset),
    }
    animation = {
        "frame_strain": strain,
        "length_unit": LENGTH_UNIT,
        "stops": page.STOPS,
        "packed": packed,
    }
    run = escape(dataset.folder.parent.name)
    document = _document(run, page.headline(result["summary"]), sections, animation)
    inputs = record["inputs"] | {"evaluation": hash_file(evaluation / "evaluation.json")}
    save_text(out, seal_page(document, {**record, "stage": "report", "inputs": inputs}))


def _left_out(count: int) -> str:
    return f"<p class=note>{count} more targets are in the tables.</p>" if count > 0 else ""


def _document(run: str, lede: str, sections: Mapping[str, str], animation: Mapping) -> str:
    """Put the page together."""
    folder = resources.files(__name__) / "assets"
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in sections)
    body_html = "".join(f'<section id="{name}">{html}</section>' for name, html in sections.items())
    data = json.dumps(animation, separators=(",", ":")).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>crumple: {run}</title>'
        f"<style>{(folder / 'report.css').read_text(encoding='utf-8')}</style></head><body>"
        f'<nav><div><span class="brand">crumple</span>{links}<span class="spacer"></span>'
        '<button type="button" id="theme" aria-label="light or dark">◐</button></div></nav>'
        f'<header class="top"><div class="run">run {run}</div>'
        f'<h1>Designs for a given stress–strain curve</h1><p class="lede">{lede}</p></header>'
        f"<main>{body_html}</main><footer>Made by crumple.</footer>"
        f'<div id="tip" role="status"></div><script type="application/json" id="bodies">{data}'
        f"</script><script>{(folder / 'report.js').read_text(encoding='utf-8')}</script>"
        "</body></html>\n"
    )


# --- reading -------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: run `crumple evaluate` again") from error


def _stats(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the training log; none where there is no log."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return ``count`` items at even distances, all of them where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, count).round().astype(int)]


def spread_samples(dataset: Dataset, count: int) -> list[page.Sample]:
    """Read designs and curves from all over the data set, weakest design first."""
    places = np.concatenate([dataset.split["train"], dataset.split["validation"]])
    places = places[np.lexsort(places.T[::-1])]
    samples = []
    for number, row in _spread(places, count):
        shard = dataset.shard(int(number))
        samples.append(
            page.Sample(
                int(shard["index"][row]),
                shard["solid"][row],
                shard["curve_strain"][:],
                shard["curve_stress"][row],
            )
        )
    return sorted(samples, key=lambda sample: float(sample.stress[-1]))


def _others(dataset: Dataset, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the designs that a target is compared with, by caption."""
    wanted = {"best match": row["best_match_index"]}
    if row["target"].startswith(HELD_OUT):
        wanted["the target's own"] = int(row["target"].removeprefix(HELD_OUT))
    place = {
        index: (number, r)
        for number, shard in enumerate(dataset.manifest["shards"])
        for r, index in enumerate(shard["indices"])
    }
    return {
        caption: dataset.shard(place[index][0])["solid"][place[index][1]]
        for caption, index in wanted.items()
        if index in place
    }


def _shown(rows: Sequence[Mapping], candidates: Sequence[Mapping]) -> list[tuple[Mapping, Mapping]]:
    """Choose target and candidate of every pane, first choices first; the best is among them."""
    chosen = []
    for row in rows:
        mine = [c for c in candidates if c["target"] == row["target"] and "verified" in c]
        mine.sort(key=lambda c: c["index"])
        best = [c for c in mine if page.is_best(c, row)]
        rest = [c for c in mine if not page.is_best(c, row)]
        kept = [*best, *rest][:CANDIDATES_SHOWN]
        chosen += [(row, c) for c in mine if c in kept]
    return chosen


def _candidates(
    result: Mapping[str, Any],
    dataset: Dataset,
    store: zarr.Group,
    verified: Mapping[int, Verified],
) -> tuple[dict[str, list[page.Shown]], list[dict]]:
    """Collect the candidates of the panes by target, and pack the bodies that there is room for.

    The best candidate of every target comes first, then the simulated ones, then the others, of
    which only the prediction moves.
    """
    rows = result["targets"][:TARGETS_SHOWN]
    chosen = _shown(rows, result["candidates"])
    order = sorted(
        range(len(chosen)),
        key=lambda k: (
            not page.is_best(chosen[k][1], chosen[k][0]),
            chosen[k][1]["verified"] != "ok",
        ),
    )
    room, packed, numbers, limits = BODY_BYTES, [], {}, {}
    for k in order:
        candidate = chosen[k][1]
        limits[k], bodies = _bodies(candidate, store, verified[candidate["candidate"]])
        room -= sum(len(moving["data"]) for moving in bodies.values())
        if room < 0:
            break
        numbers[k] = {side: len(packed) + n for n, side in enumerate(bodies)}
        packed += bodies.values()
    shown: dict[str, list[page.Shown]] = {row["target"]: [] for row in rows}
    others = {row["target"]: _others(dataset, row) for row in rows}
    for k, (row, candidate) in enumerate(chosen):
        number, target = candidate["candidate"], row["target"]
        shown[target].append(
            page.Shown(
                candidate,
                store["mask"][number].astype(float),
                design_images.mirror(store["quarter"][number]),
                others[target],
                numbers.get(k, {}),
                limits.get(k, 0.0),
            )
        )
    return shown, packed


def _bodies(
    candidate: Mapping[str, Any], store: zarr.Group, verified: Verified
) -> tuple[float, dict[str, dict]]:
    """Return the end of the colour scale in MPa and the packed bodies of one candidate."""
    moving, limit = {}, 0.0
    predicted = store["frames"][candidate["candidate"], :, :3]
    if np.isfinite(predicted).all():
        mask = store["mask"][candidate["candidate"]] > MASK_LEVEL
        moving["predicted"] = body(mask, predicted)
        limit = stress_limit(predicted[:, 2])
    if candidate["verified"] == "ok":
        frames = verified.shard["frames"][verified.row, :, :3]
        moving["fe"] = body(verified.shard["solid"][verified.row], frames)
        limit = stress_limit(frames[:, 2])
    return limit, {side: pack(shape, limit) for side, shape in moving.items()}


def stress_limit(s22: np.ndarray) -> float:
    """Return the end of a symmetric colour scale, in MPa, rounded up to 5."""
    stress = np.abs(np.asarray(s22, np.float32))
    solid = stress[stress > 0]
    high = np.quantile(solid, STRESS_QUANTILE) if len(solid) else 1.0
    return 5.0 * np.ceil(high / 5)


# --- sections that need more than one source -----------------------------------------------------


def _overview(
    dataset: Dataset, result: Mapping[str, Any], stats: Sequence[Mapping], store: zarr.Group
) -> str:
    summary, manifest = result["summary"], dataset.manifest
    stages = _stages(manifest, dataset, summary["all"], stats, store)
    return (
        "<h2>Overview</h2>"
        + page.figures(summary)
        + "<p class=note>Medians over the targets, those with a simulated design where it takes "
        "one. Every design is judged by its own finite-element simulation.</p>"
        + page.pipeline(stages)
        + page.summary_table(summary)
    )


def _stages(
    manifest: Mapping, dataset: Dataset, every: Mapping, stats: Sequence[Mapping], store: zarr.Group
) -> list[tuple[str, str, str]]:
    valid, failed = len(manifest["valid"]), len(manifest["failures"])
    seconds = [dataset.shard(k)["cpu_seconds"][:] for k in range(len(manifest["shards"]))]
    seconds = np.concatenate(seconds)
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    cost = f"{seconds.mean():.1f} CPU s each" if len(seconds) else "cost unknown"
    training = manifest["split"]["train"]
    failures = sum(every["failures"].values())
    steps = max((s["step"] for s in stats), default=0)
    sampling = ""
    if "seconds" in store.attrs:
        sampling = f"; {store.attrs['seconds'] / every['candidates']:.2g} s each"
    return [
        ("Designs", f"{valid + failed}", "random quarters, mirrored twice"),
        ("Simulated", f"{valid}", f"{failed} failed; {cost}"),
        ("Training", f"{steps} steps", f"on {len(training)} designs, the rest held out"),
        ("Generated", f"{every['candidates']}", f"for {every['targets']} targets{sampling}"),
        ("Acceptable", f"{every['acceptable']}", "meet the rules of the random designs"),
        (
            "Verified",
            f"{every['verified'] - failures}",
            f"simulated anew; {failures} without result",
        ),
    ]


def _training(stats: Sequence[Mapping], model: Path) -> str:
    pairs = []
    losses = [s for s in stats if s.get("loss")]
    checks = [s for s in stats if s.get("validation_loss")]
    if losses:
        rates = [s["samples_per_s"] for s in losses if s.get("samples_per_s")]
        pairs.append(("steps", f"{losses[-1]['step']}"))
        if rates:
            pairs.append(("samples per second", f"{np.median(rates):.3g} (median)"))
        pairs.append(("loss at the end", f"{losses[-1]['loss']:.4f}"))
    if checks:
        best = min(checks, key=lambda s: s["validation_loss"])
        pairs.append(("validation loss at the end", f"{checks[-1]['validation_loss']:.4f}"))
        pairs.append(("lowest", f"{best['validation_loss']:.4f} at step {best['step']}"))
    config = model / "config.json"
    if config.exists():
        settings = _flat(json.loads(config.read_text())["training"])
        pairs += [(name, _words(value)) for name, value in settings.items() if name != "steps"]
    return f'<div class="columns"><div>{page.training_chart(stats)}</div>{page.facts(pairs)}</div>'


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings without their nesting."""
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, dict) else {name.replace("_", " "): value}
    return flat


def _words(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _method(dataset: Dataset) -> str:
    manifest = dataset.manifest
    versions = "; ".join(
        f"{name} {', '.join(found)}" for name, found in manifest.get("versions", {}).items()
    )
    pairs = [("configuration", manifest.get("config_hash", "")), ("versions", versions)]
    return (
        "<h2>Method</h2><div class=columns><div>"
        "<p><b>NRMSE</b>: |σ − σ<sub>ref</sub>| / |σ<sub>ref</sub>| over the strain steps, with "
        "the target, or for predictions the simulation, as reference. <b>Field error</b>: "
        "the same for the σ<sub>22</sub> pixels of one step.</p>"
        "<p><b>Predicted</b> is the curve read from the sampled stress field; candidates are "
        "chosen by it before any simulation. <b>Best match</b> is the training design whose "
        "curve is closest; <b>random, best of as many</b> is what as many training designs drawn "
        "at random would give, on average.</p></div><div>"
        "<p>Compression between rigid platens; the cell is periodic sideways. Pixels of the "
        "undeformed cell are moved by their displacements; outlines run through the mid-points "
        "of pixel edges, for the prediction and the simulation alike.</p>"
        + page.facts([pair for pair in pairs if pair[1]])
        + "</div></div>"
    )
