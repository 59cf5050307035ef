"""Pictures of designs, deformed states and data sets; matplotlib without a window system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crumple.atomic import atomic_path

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, and look-ups do without

INK, GREY, PALE, ACCENT = "#1d2a3a", "#7c8794", "#e9ecef", "#d1495b"
STRESS_MAP = LinearSegmentedColormap.from_list(
    "stress", ["#0b2545", "#1f5f8b", "#7fb7be", "#e6e0d0", "#f0a868", "#c1442e"]
)
STRESS_NORM = Normalize(-100, 66.7)  # MPa; puts 0 on the light tone
LEVEL_MAP = LinearSegmentedColormap.from_list("level", ["#8ac6c0", "#2a7f9e", "#3b2f63"])
SOLID_MAP = LinearSegmentedColormap.from_list("solid", ["white", INK])
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "text.color": INK,
}


def deformed_pixels(solid: NDArray, u: NDArray) -> NDArray:
    """Return the corners (k, 4, 2) of the solid pixels after displacement, in reading order.

    A corner moves with the mean of the solid pixels around it, the cell being periodic in x, so
    that neighbours stay joined.

    Parameters
    ----------
    solid
        (n, n), non-zero where solid.
    u
        (2, n, n) displacement of the pixel centres in cell sides.
    """
    n = len(solid)
    solid = np.asarray(solid, bool)
    total = np.zeros((2, n + 1, n + 1))
    count = np.zeros((n + 1, n + 1))
    moved = np.where(solid, np.asarray(u, np.float64), 0)
    for di in (0, 1):
        for dj in (0, 1):
            rows, columns = slice(di, di + n), slice(dj, dj + n)
            total[:, rows, columns] += moved
            count[rows, columns] += solid
    for seam in (total, count):
        seam[..., 0] += seam[..., -1]
        seam[..., -1] = seam[..., 0]
    position = total / np.maximum(count, 1)
    position[0] += np.arange(n + 1) / n
    position[1] += 1 - np.arange(n + 1)[:, None] / n
    i, j = np.nonzero(solid)
    corners = [position[:, i + a, j + b] for a, b in ((1, 0), (1, 1), (0, 1), (0, 0))]
    return np.stack(corners).transpose(2, 0, 1)


def draw_cell(ax: Axes, polygons: NDArray, colors: NDArray | str) -> None:
    """Draw polygons (k, 4, 2) of one unit cell and what enters it from its neighbours.

    Parameters
    ----------
    colors
        One colour, or (k) stresses in MPa for the common scale ``STRESS_NORM``.
    """
    for shift in (-1, 0, 1):
        near = polygons + (shift, 0)
        visible = (near[..., 0].max(axis=1) > 0) & (near[..., 0].min(axis=1) < 1)
        if not visible.any():
            continue
        quads = PolyCollection(near[visible], linewidth=0.3, antialiased=False, rasterized=True)
        if isinstance(colors, str):
            quads.set(facecolor=colors, edgecolor=colors)
        else:
            quads.set(array=np.asarray(colors)[visible], cmap=STRESS_MAP, norm=STRESS_NORM)
            quads.set_edgecolor("face")
        ax.add_collection(quads)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    for y in (0, polygons[..., 1].max()):
        ax.plot([0, 1], [y, y], color=GREY, linewidth=0.8, clip_on=False)


def simulation_figure(out: Path, simulation: Mapping[str, NDArray]) -> None:
    """Draw one simulation: the curve above, deformed states coloured by s22 below.

    Parameters
    ----------
    out
        PNG file.
    simulation
        Arrays of a simulation file: ``nodes``, ``cells``, ``u``, ``cauchy``, the curve and the
        frame strains.
    """
    strains = simulation["frame_strain"]
    reached = np.flatnonzero(np.isfinite(simulation["frame_stress"]))
    shown = reached[np.unique(np.linspace(0, len(reached) - 1, 5).round().astype(int))]
    corners = simulation["nodes"][simulation["cells"]]
    with plt.rc_context(STYLE | {"font.size": 9}), atomic_path(out) as temporary:
        figure = plt.figure(figsize=(11, 6.2), layout="constrained")
        upper, lower = np.ravel(np.array(figure.subfigures(2, 1, height_ratios=[1.25, 1])))
        plan, curve = upper.subplots(1, 2, width_ratios=[1, 2.1])
        draw_cell(plan, corners, INK)
        plan.set_title("design", size=9, color=GREY)
        strain, stress = 100 * simulation["curve_strain"], simulation["curve_stress"]
        curve.plot(strain, stress, color=LEVEL_MAP(0.6), lw=2)
        curve.plot(100 * strains[shown], simulation["frame_stress"][shown], "o", color=ACCENT, ms=5)
        top = 1.08 * np.nanmax(stress, initial=1e-9)
        curve.set(xlim=(0, 100 * strains[-1] * 1.02), ylim=(0, top))
        curve.set(xlabel="nominal strain (%)", ylabel="effective stress (MPa)")
        if str(simulation["status"]) != "ok":
            curve.set_title(str(simulation["status"]), size=9, color=ACCENT, wrap=True)
        for ax, k in zip(np.atleast_1d(lower.subplots(1, 5)), shown, strict=False):
            moved = (simulation["nodes"] + simulation["u"][k])[simulation["cells"]]
            draw_cell(ax, moved, simulation["cauchy"][k][..., 1].mean(axis=1))
            ax.set_title(f"{100 * strains[k]:.3g} %", size=9, color=GREY)
        bar = lower.colorbar(
            ScalarMappable(STRESS_NORM, STRESS_MAP), ax=lower.axes, extend="both", shrink=0.85
        )
        bar.set_label("s22 (MPa)")
        bar.outline.set_visible(False)
        figure.savefig(temporary, dpi=150, metadata={"Software": "crumple"})
        plt.close(figure)


class Panel(NamedTuple):
    """What is drawn of one goal."""

    title: str
    words: Sequence[str]
    bounds: Sequence[tuple[NDArray, NDArray, NDArray, bool]]  # strain, low, high; whether as points
    shapes: Sequence[tuple[float, float, str]]  # first and last strain, name
    nearest: NDArray | None  # a curve beside it, MPa


def goal_figure(out: Path, strain: NDArray, panels: Sequence[Panel]) -> None:
    """Draw goals below each other: levels, bounds and shapes, and what they say in words.

    Parameters
    ----------
    out
        PNG file.
    strain
        (steps,) of the nearest curves.
    panels
        One per goal.
    """
    with plt.rc_context(STYLE | {"font.size": 9}), atomic_path(out) as temporary:
        figure, rows = plt.subplots(
            len(panels), 2, figsize=(10, 3.2 * len(panels)), squeeze=False, layout="constrained"
        )
        for (plot, text), panel in zip(rows, panels, strict=True):
            _draw_goal(plot, strain, panel)
            plot.set_title(panel.title, loc="left", weight="bold")
            text.axis("off")
            text.text(0, 1, "\n".join(panel.words), va="top", wrap=True)
        figure.savefig(temporary, dpi=150, metadata={"Software": "crumple"})
        plt.close(figure)


def _draw_goal(ax: Axes, strain: NDArray, panel: Panel) -> None:
    levels = [b[np.isfinite(b)] for _, *both, _ in panel.bounds for b in both]
    shown = np.concatenate([*levels, [] if panel.nearest is None else panel.nearest])
    top = 1.15 * shown.max() if len(shown) else 1.0
    if panel.nearest is not None:
        ax.plot(100 * strain, panel.nearest, color=GREY, lw=1, ls="--", label="nearest design")
        ax.legend(frameon=False)
    bottom = min(0, *shown) if len(shown) else 0
    _draw_wishes(ax, panel, bottom, top)
    ax.set(xlim=(0, 100 * strain[-1]), ylim=(bottom, top))
    ax.set(xlabel="nominal strain (%)", ylabel="effective stress (MPa)")
    if not len(shown):
        ax.set_yticks([])


def _draw_wishes(ax: Axes, panel: Panel, bottom: float, top: float) -> None:
    """Draw levels, bounds and shapes between two stresses."""
    for at, low, high, as_points in panel.bounds:
        if as_points:
            (line,) = ax.plot(100 * at, low, "o", color=ACCENT, ms=5, mec="white", mew=0.6)
            line.set(linestyle=(0, (4, 3)), linewidth=0.8, clip_on=False, zorder=5)
        elif np.array_equal(low, high):
            ax.plot(100 * at, low, color=ACCENT, lw=2, zorder=4)
        else:
            inside = np.maximum(low, bottom), np.minimum(high, top)
            ax.fill_between(100 * at, *inside, color=ACCENT, alpha=0.2, lw=0)
            for bound in (low, high):
                ax.plot(100 * at, np.where(np.isfinite(bound), bound, np.nan), color=ACCENT, lw=1)
    for start, end, name in panel.shapes:
        ax.axvspan(100 * start, 100 * end, color=LEVEL_MAP(0.3), alpha=0.15, lw=0)
        place = 50 * (start + end), bottom + 0.97 * (top - bottom)
        ax.text(*place, name, ha="center", va="top", color=LEVEL_MAP(0.6))


def sensitivity_figure(
    out: Path, rows: pd.DataFrame, curves: pd.DataFrame, target: Panel | None
) -> None:
    """Draw the curves of the variants of a design, and how far they are from the first.

    Parameters
    ----------
    out
        PNG file.
    rows
        ``variant``, ``nrmse_nominal``, ``status`` and, if there is a target, its column of errors.
    curves
        Strain, and a column of stresses (MPa) per variant.
    target
        Drawn with the curves.
    """
    strain, stress = 100 * curves.iloc[:, 0], curves.iloc[:, 1:]
    levels = [b[np.isfinite(b)] for _, *both, _ in (target.bounds if target else ()) for b in both]
    top = 1.1 * max(np.nanmax(stress), *np.concatenate([*levels, [0.0]]))
    colours = [INK, *(matplotlib.colormaps["tab10"](k) for k in range(10))]
    places = np.arange(len(rows))
    with plt.rc_context(STYLE | {"font.size": 9}), atomic_path(out) as temporary:
        figure, (plot, bars) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        if target is not None:
            _draw_wishes(plot, target, 0.0, top)
        for number, name in enumerate(stress):
            width = 2.5 if number == 0 else 1.2
            plot.plot(strain, stress[name], color=colours[number % len(colours)], lw=width)
        plot.set(xlim=(0, 1.01 * strain.iloc[-1]), ylim=(0, top))
        plot.set(xlabel="nominal strain (%)", ylabel="effective stress (MPa)")
        bars.barh(places, 100 * rows["nrmse_nominal"], color=colours[: len(rows)])
        if target is not None:
            errors = 100 * rows[f"error_{target.title}"].replace(np.inf, np.nan)
            label = f"error from {target.title}"
            bars.plot(errors, places, "D", color=ACCENT, mec="white", ms=7, label=label)
            bars.legend(frameon=False)
        for place, status in zip(places, rows["status"], strict=True):
            if status != "ok":
                bars.text(0, place, f" {status}", va="center", color=ACCENT)
        bars.set_yticks(places, rows["variant"])
        bars.invert_yaxis()
        bars.set(xlabel="NRMSE from the nominal curve (%)", xlim=(0, None))
        figure.savefig(temporary, dpi=150, metadata={"Software": "crumple"})
        plt.close(figure)


def choose_spread(values: NDArray, count: int) -> NDArray:
    """Return the places of ``count`` values (fewer if there are fewer) evenly spread by rank."""
    order = np.argsort(values, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def contact_sheet(
    out: Path,
    title: str,
    subtitle: str,
    strain: NDArray,
    curves: NDArray,
    solid_fraction: NDArray,
    tiles: Sequence[Mapping[str, NDArray]],
) -> None:
    """Draw a data set on one page: curves and statistics, then designs from soft to stiff.

    Parameters
    ----------
    out
        PNG file.
    title, subtitle
        Head of the page.
    strain, curves
        (S) and (n, S) effective stress of the valid designs in MPa.
    solid_fraction
        Of all designs.
    tiles
        Per shown design: ``index``, ``solid`` (96, 96), ``frames`` (F, 4, 96, 96) and ``curve``.
    """
    columns, tile_width, tile_height = 4, 3.3, 1.32
    rows = -(-len(tiles) // columns)
    top = 3.75
    height = top + rows * tile_height
    peak = Normalize(*np.percentile(curves.max(axis=1), [2, 98]))
    with plt.rc_context(STYLE), atomic_path(out) as temporary:
        figure = plt.figure(figsize=(columns * tile_width + 0.5, height), facecolor="white")

        def place(x: float, y: float, width: float, tall: float) -> Axes:
            """Add axes at a position in inches from the upper left corner."""
            total = figure.get_figwidth()
            return figure.add_axes(
                (x / total, 1 - (y + tall) / height, width / total, tall / height)
            )

        figure.text(0.45 / figure.get_figwidth(), 1 - 0.42 / height, title, size=17, weight="bold")
        figure.text(0.45 / figure.get_figwidth(), 1 - 0.68 / height, subtitle, size=9, color=GREY)
        _all_curves(place(0.85, 1.05, 5.3, 1.75), strain, curves, peak)
        _histogram(place(7.0, 1.05, 2.6, 1.75), solid_fraction, "solid fraction")
        ends = curves[:, -1]
        _histogram(place(10.35, 1.05, 2.6, 1.75), ends, "stress at 20 % strain (MPa)")
        for k, tile in enumerate(tiles):
            x = 0.45 + (k % columns) * tile_width
            y = top + (k // columns) * tile_height
            cell = place(x, y, 0.95, 0.95), place(x + 1.0, y, 0.95, 0.95)
            _tile(*cell, place(x + 2.1, y + 0.02, 0.85, 0.91), tile, strain, curves, peak)
        _stress_bar(place(10.35, 0.42, 2.6, 0.1))
        figure.savefig(temporary, dpi=150, metadata={"Software": "crumple"})
        plt.close(figure)


def _all_curves(ax: Axes, strain: NDArray, curves: NDArray, peak: Normalize) -> None:
    shown = curves[choose_spread(curves.max(axis=1), 400)]
    opacity = float(np.clip(40 / len(shown), 0.12, 0.8))
    for curve in shown:
        ax.plot(strain * 100, curve, color=LEVEL_MAP(peak(curve.max())), lw=0.8, alpha=opacity)
    ax.set(xlim=(0, 20), ylim=(0, None), xlabel="strain (%)", ylabel="effective stress (MPa)")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _histogram(ax: Axes, values: NDArray, label: str) -> None:
    ax.hist(values, bins=min(30, max(6, len(values) // 5)), color=LEVEL_MAP(0.45), rwidth=0.92)
    ax.set(xlabel=label, ylabel="designs")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _stress_bar(ax: Axes) -> None:
    bar = ax.figure.colorbar(
        ScalarMappable(STRESS_NORM, STRESS_MAP), cax=ax, orientation="horizontal", extend="both"
    )
    bar.outline.set_visible(False)
    bar.set_ticks([-100, -50, 0, 50])
    ax.set_title("vertical stress s22 at 20 % strain (MPa)", size=8, color=INK, loc="left", pad=3)


def _tile(undeformed: Axes, deformed: Axes, plot: Axes, tile, strain, curves, peak) -> None:
    solid, last = tile["solid"], np.asarray(tile["frames"][-1], np.float64)
    draw_cell(undeformed, deformed_pixels(solid, np.zeros_like(last[:2])), INK)
    draw_cell(deformed, deformed_pixels(solid, last[:2]), last[2][solid > 0])
    low, high = np.percentile(curves, [5, 95], axis=0)
    plot.fill_between(strain * 100, low, high, color=PALE, linewidth=0)
    plot.plot(strain * 100, tile["curve"], color=LEVEL_MAP(peak(tile["curve"].max())), lw=1.6)
    plot.set(xlim=(0, 20), ylim=(0, np.percentile(curves, 99) * 1.05), xticks=[], yticks=[])
    plot.set_title(f"#{tile['index']}   {tile['curve'].max():.0f} MPa", size=7, color=GREY, pad=2)


def match_figure(
    out: Path,
    verdict: str,
    panel: Panel,
    band: tuple[NDArray, NDArray, NDArray],
    matches: Sequence[Mapping[str, Any]],
) -> None:
    """Draw a goal and what matches it: curves on the left, designs on the right, best first.

    Parameters
    ----------
    out
        PNG file.
    verdict
        How good the best match is; stands below the title.
    panel
        What is drawn of the goal.
    band
        Strain (S), and the stress (S) below and above which 5 % of all designs lie.
    matches
        Per design: ``cell`` (96, 96), ``curve`` (S), and the texts ``heading``, ``error`` and
        ``caption`` of its tile.
    """
    columns = min(4, len(matches))
    tile, across, down, curves, left = 1.72, 0.2, 0.56, 5.2, 0.75  # inches
    right = left + curves + 0.6
    width = right + columns * (tile + across) + 0.15
    letters = int(13 * (width - left))  # of the smaller text in a line
    lines = [*wrap("; ".join(panel.words), letters), *wrap(verdict, letters)]
    top = 1.0 + 0.17 * len(lines)
    height = top + max(-(-len(matches) // columns) * (tile + down), 3.9) + 0.1
    colors = LEVEL_MAP(np.linspace(1, 0, max(len(matches), 2)))
    with plt.rc_context(STYLE | {"font.size": 9}), atomic_path(out) as temporary:
        figure = plt.figure(figsize=(width, height), facecolor="white")

        def place(x: float, y: float, wide: float, tall: float) -> Axes:
            """Add axes at a position in inches from the upper left corner."""
            corner = x / width, 1 - (y + tall) / height
            return figure.add_axes((*corner, wide / width, tall / height))

        head: dict[str, Any] = {"x": left / width, "va": "top", "parse_math": False}
        title = shorten(panel.title, letters // 2)
        figure.text(y=1 - 0.2 / height, s=title, size=17, weight="bold", **head)
        figure.text(y=1 - 0.58 / height, s="\n".join(lines), size=9, color=GREY, **head)
        _matching_curves(
            place(left, top, curves, height - top - 0.62), panel, band, matches, colors
        )
        for k, match in enumerate(matches):
            row, column = divmod(k, columns)
            ax = place(right + column * (tile + across), top + row * (tile + down), tile, tile)
            _tiled_cell(ax, match["cell"])
            heading: dict[str, Any] = {"size": 9, "pad": 3}
            ax.set_title(match["heading"], color=colors[k], weight="bold", loc="left", **heading)
            ax.set_title(match["error"], color=INK, loc="right", **heading)
            ax.set_xlabel(match["caption"], size=7, color=GREY, loc="left", labelpad=3)
        figure.savefig(temporary, dpi=150, metadata={"Software": "crumple"})
        plt.close(figure)


def _matching_curves(ax: Axes, panel: Panel, band, matches, colors) -> None:
    strain, low, high = band
    ax.fill_between(100 * strain, low, high, color=PALE, linewidth=0, label="90 % of the library")
    for k in reversed(range(len(matches))):
        width, label = (2.4, "best match") if k == 0 else (1.1, None)
        ax.plot(100 * strain, matches[k]["curve"], color=colors[k], lw=width, label=label)
    levels = [bound[np.isfinite(bound)] for _, *both, _ in panel.bounds for bound in both]
    shown = np.concatenate([[0.0], *levels, *(match["curve"] for match in matches)])
    bottom, top = shown.min(), 1.08 * shown.max()
    _draw_wishes(ax, panel, bottom, top)
    ax.plot([], [], "o-", color=ACCENT, ms=5, lw=0.8, label="target")
    ax.set(xlim=(0, 100 * strain[-1]), ylim=(bottom, top))
    ax.set(xlabel="strain (%)", ylabel="effective stress (MPa)")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0))


def _tiled_cell(ax: Axes, cell: NDArray) -> None:
    """Draw 3 x 3 cells, the middle one in ink."""
    n = len(cell)
    image = np.tile(np.where(cell > 0, 0.42, 0.0), (3, 3))
    image[n : 2 * n, n : 2 * n] = cell > 0
    ax.imshow(image, cmap=SOLID_MAP, vmin=0, vmax=1, interpolation="antialiased")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
