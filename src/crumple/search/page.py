"""The result of a search: one HTML page that needs nothing else, not even a network.

It shows what was asked for and what was found, how the search went, designs of another shape, what
the curve depends on, and links to the files of `crumple winner`. The frame, the charts and the
script are those of the report (:mod:`crumple.report`); the sections are in ``templates/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from crumple.atomic import claim, save_text
from crumple.designs import mirror
from crumple.goals import Goal, Limits, Measures
from crumple.layout import CELL, CURVE_STRAIN, FRAME_STRAIN
from crumple.metrics import PEAKS, nrmse
from crumple.provenance import seal_page
from crumple.report import page
from crumple.report.bodies import LENGTH_UNIT
from crumple.report.charts import Chart, Line
from crumple.report.collection import spread
from crumple.report.panes import Picture
from crumple.report.pictures import design_uri
from crumple.report.tables import Column, Entry, Table, plain
from crumple.report.words import GAP, percent, title
from crumple.search.choice import ALIKE, CONTENDERS, DIFFERENT, NEAR, TIMES, difference
from crumple.search.drawing import (
    STRAIN_STOPS,
    Legend,
    Scales,
    best_so_far,
    moving_bodies,
    scales,
    search_chart,
    short,
    stress_chart,
)
from crumple.search.history import History
from crumple.search.reading import Found, finer_mesh, read_search
from crumple.search.result import (
    CURVES,
    DESIGN,
    EXPORTS,
    SENSITIVITY,
    TABLE,
    WINNER,
    runner_up,
)
from crumple.widths import WIDEST

SECTIONS = ("result", "search", "alternatives", "sensitivity", "files", "method")
BACKGROUND_CURVES = 50
STEPS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # errors that a search passes
SAME = 1e-3  # NRMSE of a simulation made again that counts as rounding
FILES = {  # of the folder, and what they are for
    f"{WINNER}/{DESIGN}": f"the design, {CELL} x {CELL} pixels; other commands take it",
    f"{EXPORTS}/design.svg": "drawing for laser cutters and papers, 1 unit is 1 mm",
    f"{EXPORTS}/design.dxf": "drawing for CAD, milling, water jet",
    f"{EXPORTS}/design.stl": "solid for printers",
    f"{EXPORTS}/design.inp": "the meshed cell for Abaqus and CalculiX",
    f"{WINNER}/curve.csv": "the simulated curve",
    f"{WINNER}/deformation.pvd": "the simulated states, for ParaView",
    f"{WINNER}/deformation.gif": "the deformation as a movie, von Mises stress",
    f"{WINNER}/overview.png": "curve and states in one picture",
    f"{SENSITIVITY}/{TABLE}": "the table of the sensitivity",
    f"{SENSITIVITY}/{CURVES}": "the curves of its variants",
}


def write_design_page(
    rounds: Sequence[Path],
    targets: Sequence[Path],
    goal_name: str | None,
    folder: Path,
    library_path: Path | None,
    tolerance: float,
    out: Path,
) -> None:
    """Write the page of a search.

    Parameters
    ----------
    rounds
        Results of the rounds, in their order.
    targets, goal_name
        What was searched for, as for :func:`crumple.search.choice.one_goal`.
    folder
        Of :func:`crumple.search.winner.write_winner`, for the same rounds and goal.
    library_path
        Library whose nearest design is shown; None for that of the package.
    tolerance
        Error at which the goal is met.
    out
        The HTML file; its links to the folder are relative.

    Raises
    ------
    UserError
        When something cannot be read, or the folder is of another search.
    """
    out = claim(out, "design-page")
    found = read_search(rounds, targets, goal_name, folder, library_path, tolerance)
    ends = scales(found.designs)
    packed = [body for design in found.designs for body in moving_bodies(design, ends)]
    base = quote(os.path.relpath(folder, out.parent).replace(os.sep, "/"))
    name = title(found.goal.name)
    html = page.render(
        "crumple.search",
        title=name,
        kicker=f"search of {len(found.history.index)} simulations",
        heading=f"A design for “{name}”",
        sections=SECTIONS,
        strain=FRAME_STRAIN.tolist(),
        strain_stops=STRAIN_STOPS,
        short=short,
        found=found,
        finer=finer_mesh(found),
        first=reached(found.history, found.tolerance),
        pane=winner_pane(found, ends),
        course=course(found),
        alternatives=[alternative(found, k, ends) for k in range(1, len(found.designs))],
        sensitivity=sensitivity(found),
        files=files(folder, base, len(found.designs)),
        method=method(found),
        animation={
            "frame_strain": FRAME_STRAIN.tolist(),
            "length_unit": LENGTH_UNIT,
            "stops": {"stress": page.STOPS, "strain": STRAIN_STOPS},
            "packed": packed,
        },
    )
    record = found.record.model_dump()
    record["inputs"] |= {"library": found.library.record["inputs"]["designs"]}
    save_text(out, seal_page(html, record | {"stage": "design-page"}))
    print(f"{found.goal.name}: {'met' if found.is_met else 'not met'}; {out}")


# --- the winner ----------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """What the winner has of something that may be limited."""

    name: str
    value: str
    kept: bool | None  # whether it keeps to its limit; None: it has none


class DesignPane(NamedTuple):
    """A design with its curves and its moving bodies."""

    chip: str
    chart: Chart
    legend: list[Legend]
    bodies: tuple[int, int]  # numbers of those coloured by stress and by plastic strain
    limits: tuple[str, str]  # ends of their colour scales
    pictures: list[Picture]
    text: str
    quantities: list[Quantity]


def winner_pane(found: Found, ends: Scales) -> DesignPane:
    """Show the winner."""
    winner, finer = found.designs[0], finer_mesh(found)
    curves: list[tuple[Line, float | None]] = [
        (Line(finer.name, "finer", CURVE_STRAIN, finer.stress), finer.error),
        (Line("simulated", "fe", CURVE_STRAIN, winner["curve_stress"]), found.error),
    ]
    pictures = [Picture(design_uri(mirror(winner["quarter"])), "the design")]
    if found.match is not None:
        line = Line("nearest of the library", "match", CURVE_STRAIN, found.match.stress)
        curves.insert(0, (line, found.match.error))
        picture = design_uri(mirror(found.match.quarter))
        pictures.append(Picture(picture, "nearest of the library"))
    library = found.library.curve_stress
    background = [
        Line("", "", CURVE_STRAIN[::2], stress[::2])
        for stress in spread(list(library[np.argsort(library[:, -1])]), BACKGROUND_CURVES)
    ]
    drawn, legend = stress_chart(
        found.goal, curves, background, "Stress-strain curve of the winner", cursor=True
    )
    text = f"{_origin(found, winner)}."
    again = float(nrmse(found.history.curve_stress[found.best], winner["curve_stress"]))
    if not again <= SAME:
        text += f" Simulated again, its curve differs by {short(again)} from that of the search."
    has = quantities(found.goal, found.measures)
    legend.append(Legend("background", f"{len(background)} designs of the library"))
    return DesignPane("", drawn, legend, (0, 1), ends.words(), pictures, text, has)


def quantities(goal: Goal, measures: Measures) -> list[Quantity]:
    """Compare a design with each limit of a goal alone."""
    values = {
        "solid_fraction": ("solid fraction", percent(measures.solid_fraction)),
        "strut": ("narrowest strut", _width(measures.strut, goal.cell_size)),
        "gap": ("narrowest gap", _width(measures.gap, goal.cell_size)),
        "plastic_strain": ("equivalent plastic strain", f"{measures.plastic_strain:.3f}"),
    }
    found = []
    for name, words in values.items():
        limit = getattr(goal.limits, name)
        alone = goal.model_copy(update={"limits": Limits().model_copy(update={name: limit})})
        found.append(Quantity(*words, None if limit is None else not alone.violations(measures)))
    return found


def _width(pixels: float, cell_size: float | None) -> str:
    words = f"{'more than ' if pixels >= WIDEST else ''}{pixels:.1f}{GAP}px"
    return words if cell_size is None else f"{words} ({pixels * cell_size / CELL:.2f}{GAP}mm)"


# --- the search ----------------------------------------------------------------------------------


def reached(history: History, error: float) -> int | None:
    """Return after how many simulations the least error was at most this; None: never."""
    places = np.flatnonzero(best_so_far(history) <= error)
    return int(places[0]) + 1 if len(places) else None


def marks(history: History) -> list[tuple[float, int | None]]:
    """Return when each of ``STEPS`` was reached, with the first that was not."""
    every = [(step, reached(history, step)) for step in STEPS]
    missing = [count for _, count in every].count(None)
    return every[: len(every) - missing + 1]


def course(found: Found) -> dict[str, Any]:
    """Return how the search went: chart, when it reached which error, and what helped."""
    history = found.history
    first_match = found.match.error if found.match else None
    drawn, legend = search_chart(history, found.tolerance, first_match, found.best)
    failed = int(np.sum(history.status != "ok"))
    outside = int(np.sum((history.status == "ok") & (history.violation != "")))
    return {
        "chart": drawn,
        "legend": legend,
        "marks": [(f"{100 * mark:g}{GAP}%", count) for mark, count in marks(history)],
        "sources": source_table(history),
        "failed": failed,
        "outside": outside,
    }


def source_table(history: History) -> Table:
    """Return a row per source of designs: how many, how good, and how often better than all."""
    least = best_so_far(history)
    better = least < np.append(np.inf, least[:-1])
    rows = []
    for source in np.unique(history.source).tolist():
        mine = history.source == source
        known = history.error[mine & np.isfinite(history.error)]
        values = [float(np.median(known)), float(known.min())] if len(known) else [None, None]
        rows.append(
            [
                plain(source),
                plain(int(mine.sum())),
                *(Entry(value, short(value)) for value in values),
                plain(int(better[mine].sum())),
            ]
        )
    rows.sort(key=lambda row: -int(row[-1].text))
    headings = ("designs", "median error", "least error", "best so far")
    columns = [Column("from", "text"), *(Column(heading) for heading in headings)]
    return Table("sources-table", columns, rows)


# --- other shapes --------------------------------------------------------------------------------


def alternative(found: Found, number: int, ends: Scales) -> DesignPane:
    """Show a runner-up, which count from 1, beside the winner."""
    winner, design = found.designs[0], found.designs[number]
    error = float(found.goal.error(design["curve_stress"]))
    curves: list[tuple[Line, float | None]] = [
        (Line("the winner", "match", CURVE_STRAIN, winner["curve_stress"]), found.error),
        (Line("simulated", "fe", CURVE_STRAIN, design["curve_stress"]), error),
    ]
    drawn, legend = stress_chart(
        found.goal, curves, (), f"Stress-strain curve of runner-up {number}", cursor=True
    )
    other = percent(difference(design["quarter"], winner["quarter"]), 0)
    return DesignPane(
        f"{number} · {short(error)}",
        drawn,
        legend,
        (2 * number, 2 * number + 1),
        ends.words(),
        [Picture(design_uri(mirror(design["quarter"])), "the design")],
        f"{_origin(found, design)}. It differs from the winner in {other} of the pixels.",
        quantities(found.goal, Measures(*design["measures"].tolist())),
    )


def _origin(found: Found, design: Mapping[str, NDArray]) -> str:
    """Say which design of the search one is, and what proposed it."""
    place = found.place(design)
    return f"Design {design['index']} of the search, from {found.history.source[place]}"


# --- sensitivity ---------------------------------------------------------------------------------


class VariantRow(NamedTuple):
    """A row of the table of the sensitivity."""

    name: str
    change: str
    width: float  # of a bar for it, per cent of the widest
    values: list[str]
    failure: str


def sensitivity(found: Found) -> dict[str, Any]:
    """Return curves and table of the variants, and the largest change."""
    table = found.table
    column = f"error_{found.goal.name}"
    changes = table["nrmse_nominal"].to_numpy(float)
    widest = np.nanmax(changes[1:], initial=1e-9)
    rows = []
    for number, row in table.iterrows():
        ok = row["status"] == "ok"
        values = [
            short(float(row[column])),
            f"{row['stress_20']:.2f}",
            f"{row['energy']:.3g}",
            f"{row['plastic_strain']:.2f}",
        ]
        change = "–" if number == 0 else short(float(row["nrmse_nominal"]))
        width = 100 * float(np.nan_to_num(row["nrmse_nominal"] / widest))
        failure = "" if ok else str(row["status"])
        rows.append(VariantRow(str(row["variant"]), change, width, values if ok else [], failure))
    names = table["variant"].tolist()
    curves = {name: found.curves[name].to_numpy(float) for name in names}
    drawn, legend = stress_chart(
        found.goal,
        [(Line("as it is", "fe", CURVE_STRAIN, curves[names[0]]), None)],
        [Line(name, "", CURVE_STRAIN, stress) for name, stress in curves.items()],
        "Stress-strain curves of the winner with one thing changed at a time",
        highest=float(np.nanmax(list(curves.values()))),
    )
    largest = int(np.nanargmax(changes))
    return {
        "chart": drawn,
        "legend": [*legend, Legend("variant", "one thing changed")],
        "rows": rows,
        "largest": (names[largest], short(float(changes[largest]))),
        "failed": [row.name for row in rows if row.failure],
    }


# --- files and method ----------------------------------------------------------------------------


class Link(NamedTuple):
    """A file that the page points at."""

    href: str
    name: str
    size: str
    what: str


def files(folder: Path, base: str, designs: int) -> list[Link]:
    """List the files of the folder that are there.

    Parameters
    ----------
    folder
        Of `crumple winner`.
    base
        What a link to the folder begins with.
    designs
        How many designs it holds.
    """
    wanted = FILES | {
        f"{runner_up(number)}/{DESIGN}": f"runner-up {number}" for number in range(1, designs)
    }
    return [
        Link(f"{base}/{name}", name, _size((folder / name).stat().st_size), what)
        for name, what in wanted.items()
        if (folder / name).exists()
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f}{GAP}MB" if count >= 1e6 else f"{max(count // 1000, 1)}{GAP}kB"


def method(found: Found) -> dict[str, Any]:
    """Return what the result depends on, and how things were chosen."""
    settings, record = found.record.settings, found.record
    physics = {**settings["mesh"], **settings["simulate"]}
    facts = [
        (section, ", ".join(f"{k.replace('_', ' ')} {_value(v)}" for k, v in values.items()))
        for section, values in physics.items()
    ]
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in record.versions.items())))
    facts += [
        ("goal, SHA-256", record.inputs["goal"]),
        ("results of the rounds", record.inputs["rounds"]),
        ("designs of the library", found.library.record["inputs"]["designs"]),
    ]
    size = settings["export"]
    return {
        "facts": facts,
        "different": percent(DIFFERENT, 0),
        "times": f"{TIMES:g}",
        "alike": f"{ALIKE:g}",
        "contenders": CONTENDERS,
        "near": percent(NEAR, 0),
        "peaks": percent(PEAKS),
        "cell_size": f"{size['cell_size']:g}",
        "thickness": f"{size['thickness']:g}",
        "tiles": " x ".join(map(str, size["tiles"])),
        "library": len(found.library),
    }


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"({len(value)} points)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
