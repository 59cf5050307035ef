"""The report of a run: one HTML page that needs nothing else, not even a network.

``reading`` and ``collection`` read what the page is made of; ``sections``, ``panes`` and ``tables``
say what it shows, ``charts``, ``bodies`` and ``pictures`` how that looks; ``page`` fills the
templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crumple.atomic import claim, save_text
from crumple.provenance import hash_file, seal_page
from crumple.report import page, sections, tables
from crumple.report.bodies import LENGTH_UNIT
from crumple.report.charts import Line
from crumple.report.collection import spread
from crumple.report.panes import articles
from crumple.report.reading import read_run
from crumple.results import RESULT

BACKGROUND_CURVES = 50


def write_report(
    known: Path,
    model: Path | None,
    generated: Path,
    evaluation: Path,
    design_files: Sequence[Path],
    shards: Sequence[Path],
    out: Path,
    designer: Path | None = None,
    response: Path | None = None,
) -> None:
    """Write the report of a run.

    Parameters
    ----------
    known
        ``dataset.json`` of the training data, or the library that the models were trained on.
    model, designer, response
        Folders of the models that the candidates come from, for what they say of their training;
        any may be missing.
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
    models = {"designer": designer, "response": response, "model": model}
    run = read_run(known, models, generated, evaluation, design_files, shards)
    background = [
        Line("", "", one.strain[::2], one.stress[::2])
        for one in spread(run.designs.members, BACKGROUND_CURVES)
    ]
    shown, packed = articles(run, background)
    strain, results = run.results.frame_strain, run.results
    html = page.render(
        title=run.name,
        kicker=f"run {run.name}",
        heading="Designs for a given stress–strain curve",
        sections=[name for name in sections.SECTIONS if name != "training" or run.learners],
        strain=strain,
        overview=sections.overview(run),
        articles=shown,
        left_out=len(results.targets) - len(shown),
        target_table=tables.target_table(results.targets),
        candidate_table=tables.candidate_table(results.candidates),
        data=sections.gallery(run.designs),
        training=[sections.training(learner) for learner in run.learners],
        failure_table=tables.failure_table(run.designs.failures, results.candidates),
        method=run.designs.facts,
        animation={
            "frame_strain": strain,
            "length_unit": LENGTH_UNIT,
            "stops": {"stress": page.STOPS},
            "packed": packed,
        },
    )
    inputs = run.record["inputs"] | {"evaluation": hash_file(evaluation / RESULT)}
    save_text(out, seal_page(html, {**run.record, "stage": "report", "inputs": inputs}))
