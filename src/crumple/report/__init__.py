"""The report of a run: one HTML page that needs nothing else, not even a network.

``reading`` reads what the page is made of; ``sections``, ``panes`` and ``tables`` say what it
shows, ``charts``, ``bodies`` and ``pictures`` how that looks; ``page`` fills the templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crumple.atomic import claim, save_text
from crumple.provenance import hash_file, seal_page
from crumple.report import page, sections, tables
from crumple.report.bodies import LENGTH_UNIT
from crumple.report.charts import Line
from crumple.report.panes import articles
from crumple.report.reading import read_run, spread, spread_samples
from crumple.results import RESULT

CURVES, BACKGROUND_CURVES = 300, 50


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
        Folder of the trained model, for ``config.json`` and, where there is one, ``stats.jsonl``.
    generated
        Candidates of ``crumple generate``.
    evaluation
        Folder of ``crumple evaluate``.
    design_files, shards
        Extracted designs and the shards simulated from them, in the same order.
    out
        The HTML file.

    Raises
    ------
    UserError
        When something cannot be read, has been damaged, or belongs to another run.
    """
    out = claim(out, "report")
    run = read_run(dataset_path, model, generated, evaluation, design_files, shards)
    samples = spread_samples(run.dataset, CURVES)
    background = [
        Line("", "", s.strain[::2], s.stress[::2]) for s in spread(samples, BACKGROUND_CURVES)
    ]
    shown, packed = articles(run, background)
    strain, results = run.results.frame_strain, run.results
    html = page.render(
        title=run.name,
        kicker=f"run {run.name}",
        heading="Designs for a given stress–strain curve",
        sections=sections.SECTIONS,
        strain=strain,
        overview=sections.overview(run),
        articles=shown,
        left_out=len(results.targets) - len(shown),
        target_table=tables.target_table(results.targets),
        candidate_table=tables.candidate_table(results.candidates),
        data=sections.gallery(run, samples),
        training=sections.training(run),
        failure_table=tables.failure_table(run.dataset.manifest["failures"], results.candidates),
        method=sections.method(run),
        animation={
            "frame_strain": strain,
            "length_unit": LENGTH_UNIT,
            "stops": {"stress": page.STOPS},
            "packed": packed,
        },
    )
    inputs = run.record["inputs"] | {"evaluation": hash_file(evaluation / RESULT)}
    save_text(out, seal_page(html, {**run.record, "stage": "report", "inputs": inputs}))
