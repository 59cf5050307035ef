"""Draw the pictures of the README from the results of a run.

    python docs/figures.py results/demo docs

writes `designs.png` (designs and curves of the data set), `deformation.png` (the simulated cells
that move most sideways) and `targets.png` (targets, predictions and finite elements, in the manner
of the paper's Fig. 3).
"""

import argparse
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image

from crumple.candidates import join, open_candidates
from crumple.dataset import Dataset
from crumple.report.bodies import Body, body, stress_limit
from crumple.report.collection import Member, read_collection
from crumple.report.page import STOPS
from crumple.report.words import percent, title
from crumple.results import CandidateRow, TargetRow, read_results
from crumple.topology import MASK_LEVEL

INK, SOFT, WASH = "#1c2127", "#5b646e", "#c9c6bd"
PREDICTED, FE, MATCH = "#2d6a9f", "#c2502b", "#9aa1a8"
STRESS = LinearSegmentedColormap.from_list("stress", np.array(STOPS) / 255)
SHOWN_STRAINS = (0.06, 0.1, 0.14, 0.2)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of a run, such as results/demo")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--targets", type=int, default=4, help="targets to show; default 4")
    args = parser.parse_args()
    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.edgecolor": SOFT,
            "axes.labelcolor": SOFT,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    path = args.results / "data" / "dataset.json"
    dataset = Dataset(path)
    save(draw_designs(read_collection(path, 300).members), args.out / "designs.png")
    save(draw_deformation(dataset), args.out / "deformation.png")
    save(draw_targets(args.results, args.targets), args.out / "targets.png")


def save(figure: plt.Figure, path: Path) -> None:
    """Write a picture, in 256 colours to keep it small, and say how large it is."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, facecolor="white", bbox_inches="tight")
    plt.close(figure)
    with Image.open(picture) as image:
        colours = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    colours.save(path, format="PNG", optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def draw_designs(samples: list[Member], rows: int = 4, columns: int = 8) -> plt.Figure:
    """Draw designs, weakest first, beside all curves."""
    shown = [samples[k] for k in np.linspace(0, len(samples) - 1, rows * columns).astype(int)]
    figure = plt.figure(figsize=(11, 3.7))
    left, right = figure.add_gridspec(1, 2, width_ratios=(1, 2), wspace=0.08)
    axes = figure.add_subplot(left)
    curves = [np.column_stack([100 * s.strain, s.stress]) for s in samples]
    axes.add_collection(LineCollection(curves, colors=WASH, linewidths=0.6))
    axes.add_collection(
        LineCollection(
            [np.column_stack([100 * s.strain, s.stress]) for s in shown],
            array=np.arange(len(shown)),
            cmap=STRESS_LINES,
            linewidths=1.2,
        )
    )
    axes.set(xlim=(0, 20), ylim=(0, 1.03 * max(s.stress.max() for s in samples)))
    axes.set(xlabel="applied strain, %", ylabel="effective stress, MPa")
    tiles = right.subgridspec(rows, columns, wspace=0.12, hspace=0.12)
    for k, sample in enumerate(shown):
        tile = figure.add_subplot(tiles[k // columns, k % columns])
        colour = STRESS_LINES(k / (len(shown) - 1))
        picture = np.where(np.asarray(sample.solid, bool)[..., None], colour, 1.0)
        tile.imshow(picture, interpolation="antialiased")
        tile.set(xticks=[], yticks=[])
        for spine in tile.spines.values():
            spine.set(visible=True, color=WASH, linewidth=0.6)
    return figure


def draw_deformation(dataset: Dataset, rows: int = 3, searched: int = 128) -> plt.Figure:
    """Draw the designs whose sideways displacement ranges most, at five strains."""
    places = dataset.split["train"][:searched]
    sway = [np.ptp(dataset.shard(int(n))["frames"][r, -1, 0].astype(float)) for n, r in places]
    strain = np.array(dataset.manifest["frame_strain"])
    columns = [0, *(int(np.abs(strain - s).argmin()) for s in SHOWN_STRAINS)]
    figure = plt.figure(figsize=(11, 1.55 * rows))
    grid = figure.add_gridspec(rows, len(columns), wspace=0.05, hspace=0.08)
    for line, place in enumerate(np.argsort(sway)[::-1][:rows]):
        number, row = (int(k) for k in places[place])
        frames = dataset.shard(number)["frames"][row, :, :3]
        moving = body(dataset.shard(number)["solid"][row], frames)
        limit = stress_limit(frames[:, 2])
        for column, frame in enumerate(columns):
            axes = figure.add_subplot(grid[line, column])
            drawing = draw_body(axes, moving, frame, strain[frame], limit)
            if line == 0:
                axes.set_title(f"{100 * strain[frame]:.3g} %", fontsize=9, color=SOFT)
        add_scale(figure, drawing, figure.axes[-len(columns) :])
    return figure


def add_scale(figure: plt.Figure, drawing, axes: list[Axes]) -> None:
    """Put a colour scale beside a row of cells."""
    bar = figure.colorbar(drawing, ax=axes, fraction=0.015, pad=0.01)
    bar.set_label(r"$\sigma_{22}$, MPa", color=SOFT)
    bar.outline.set_visible(False)


STRESS_LINES = LinearSegmentedColormap.from_list(
    "lines", ["#123c6b", "#3f86b5", "#d08a45", "#9c3320"]
)


def draw_targets(results: Path, count: int) -> plt.Figure:
    """Draw the best simulated candidate of each target: curves and deformed cells."""
    evaluation = read_results(results / "evaluation")
    strain = np.array(evaluation.frame_strain)
    frames = [int(np.abs(strain - s).argmin()) for s in SHOWN_STRAINS]
    rows = [row for row in evaluation.targets if row.fe_best is not None][:count]
    store = open_candidates(results / "generated.zarr")
    designs = sorted((results / "verified" / "designs").glob("*.npz"))
    shards = [results / "verified" / "shards" / f"{path.stem}.zarr" for path in designs]
    verified = {v.candidate: v for v in join(store, designs, shards)}
    figure = plt.figure(figsize=(11, 2.75 * len(rows)))
    grid = figure.add_gridspec(len(rows), 2, width_ratios=(1, 2.3), wspace=0.09, hspace=0.3)
    for number, row in enumerate(rows):
        candidate = next(
            c
            for c in evaluation.candidates
            if c.target == row.target and c.nrmse_fe_target == row.fe_best
        )
        axes = figure.add_subplot(grid[number, 0])
        draw_curves(axes, strain, row, candidate)
        if row is rows[-1]:
            axes.set_xlabel("applied strain, %")
        simulated = verified[candidate.candidate]
        solid = simulated.shard["solid"][simulated.row]
        fe = simulated.shard["frames"][simulated.row, :, :3]
        predicted = store["frames"][candidate.candidate, :, :3]
        mask = store["mask"][candidate.candidate] > MASK_LEVEL
        limit = stress_limit(fe[:, 2])
        bodies = {"predicted": body(mask, predicted)} if np.isfinite(predicted).all() else {}
        bodies["simulated"] = body(solid, fe)
        cells = grid[number, 1].subgridspec(len(bodies), len(frames), wspace=0.05, hspace=0.08)
        for line, (name, moving) in enumerate(bodies.items()):
            for column, frame in enumerate(frames):
                axes = figure.add_subplot(cells[line, column])
                drawing = draw_body(axes, moving, frame, strain[frame], limit)
                if column == 0:
                    axes.text(-0.29, 0.5, name, rotation=90, va="center", ha="right", color=SOFT)
                if line == 0:
                    axes.set_title(f"{100 * strain[frame]:.0f} %", fontsize=9, color=SOFT)
        add_scale(figure, drawing, figure.axes[-len(bodies) * len(frames) :])
    return figure


def draw_curves(axes: Axes, strain: np.ndarray, row: TargetRow, candidate: CandidateRow) -> None:
    """Draw target, prediction, simulation and best match."""
    curves = [
        ("best match", row.best_match_stress, row.best_match, MATCH, ":"),
        ("target", row.target_stress, None, INK, "-"),
        (
            "predicted",
            candidate.predicted_stress,
            candidate.nrmse_predicted_target,
            PREDICTED,
            "--",
        ),
        ("simulated", candidate.fe_stress, candidate.nrmse_fe_target, FE, "-"),
    ]
    if candidate.predicted_spread is not None:
        middle, half = (
            np.array(values, float)
            for values in (candidate.predicted_stress, candidate.predicted_spread)
        )
        axes.fill_between(
            100 * strain, middle - half, middle + half, color=PREDICTED, alpha=0.15, lw=0
        )
    for name, values, error, colour, style in curves:
        stress = np.array(values, float)
        label = name if error is None else f"{name} ({percent(error)})"
        axes.plot(100 * strain, stress, style, color=colour, lw=2, label=label)
    axes.set(xlim=(0, 20), ylim=(0, None), ylabel="effective stress, MPa")
    axes.set_title(title(row.target), fontsize=10, loc="left", color=INK)
    axes.legend(framealpha=0.75, edgecolor="none", fontsize=8, labelcolor=SOFT)


def draw_body(axes: Axes, moving: Body, frame: int, strain: float, limit: float):
    """Draw the deformed cell with half a neighbour on each side, between its platens."""
    for shift in (-1, 1, 0):
        place = moving.position[frame] + [shift, 0]
        drawing = axes.tripcolor(
            *place.T,
            moving.triangles,
            moving.value[frame],
            shading="gouraud",
            cmap=STRESS,
            vmin=-limit,
            vmax=limit,
            alpha=0.3 if shift else 1,
            rasterized=True,
        )
        axes.add_collection(
            LineCollection(
                place[moving.outline], colors=INK, linewidths=0.5, alpha=0.25 if shift else 0.8
            )
        )
    for height in (0, 1 - strain):
        axes.axhline(height, color=SOFT, lw=1.6)
    axes.set(xlim=(-0.25, 1.25), ylim=(-0.02, 1.02), aspect="equal")
    axes.axis("off")
    return drawing


if __name__ == "__main__":
    main()
