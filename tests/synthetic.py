"""A small made-up data set, model log, verified candidates and search, as the stages write them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from PIL import Image

from crumple import candidates as candidates_store
from crumple import dataset, designs, evaluation, metrics, provenance, report, topology
from crumple.atomic import save_npz, save_record
from crumple.config import Config
from crumple.goals import read_goals
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.library import Library, read_library, save_library, write_library
from crumple.search import choice, result
from crumple.search.history import read_history


def curve(stiffness: float, softening: float, strain: np.ndarray) -> np.ndarray:
    """A stress-strain curve that rises, then softens; MPa."""
    return 80 * stiffness * (np.tanh(strain / 0.03) - softening * strain / 0.2)


def fields(quarter: np.ndarray, stress: np.ndarray, sway: float) -> np.ndarray:
    """(11, 4, 96, 96) fields whose stress averages to the curve: shortening and a sway."""
    solid = designs.mirror(quarter).astype(float)
    y = (1 - (np.arange(96) + 0.5) / 96)[:, None] * np.ones((1, 96))
    strain = FRAME_STRAIN[:, None, None]
    u1 = sway * strain * np.sin(np.pi * y) ** 2
    u2 = -strain * y + 0.15 * strain * np.sin(2 * np.pi * y)
    weight = solid * (1 + 0.6 * np.cos(4 * np.pi * y))
    s22 = -(stress * (1 - FRAME_STRAIN))[:, None, None] * weight / weight.mean()
    return np.stack([u1 * solid, u2 * solid, s22, np.abs(s22)], axis=1)


def write_designs(path: Path, index, quarters, config: Config | None = None, **more) -> None:
    """A file of designs, as `crumple sample` writes it; with ``status`` as `crumple extract`."""
    count = len(quarters)
    hashed = provenance.hash_designs(index, quarters)
    save_npz(
        path,
        made_by=json.dumps(provenance.made_by("sample", config or Config(), designs=hashed)),
        index=np.array(index),
        quarter=np.array(quarters),
        seed=np.zeros(count, np.int64),
        threshold=np.full(count, 0.3),
        solid_fraction=np.mean(quarters, axis=(1, 2)),
        tries=np.full(count, 10),
        **more,
    )


def shard_record(config: Config, index, quarters) -> dict:
    """The record of a shard that went through all stages with these settings."""
    record = {"settings": {}, "inputs": {}}
    for stage in ("sample", "mesh", "simulate", "rasterise"):
        record = provenance.made_by(stage, config, record)
    return record | {"inputs": {"designs": provenance.hash_designs(index, quarters)}}


def write_shard(path: Path, quarters, stress, status, index, sway=0.4, config=None, **more) -> None:
    """A shard of simulated designs; rows whose status is not ok are empty; ``more`` arrays."""
    count = len(quarters)
    solid = np.array([designs.mirror(q) for q in quarters])
    frames = np.zeros((count, 11, 4, 96, 96), np.float16)
    frame_stress = np.full((count, 11), np.nan, np.float32)
    curve_stress = np.full((count, 51), np.nan, np.float32)
    statistics = np.zeros((count, 3, 11, 4))
    for row in range(count):
        if status[row] == "ok":
            frame_stress[row] = stress[row]
            curve_stress[row] = np.interp(CURVE_STRAIN, [0, *FRAME_STRAIN], [0, *stress[row]])
            frames[row] = fields(quarters[row], stress[row], sway)
            statistics[row] = dataset.channel_statistics(frames[row], solid[row] > 0, FRAME_STRAIN)
    arrays = {
        "frames": frames,
        "solid": solid,
        "quarter": np.array(quarters),
        "index": np.array(index, np.int64),
        "seed": np.zeros(count, np.int64),
        "threshold": np.full(count, 0.3),
        "tries": np.full(count, 10),
        "solid_fraction": np.mean(quarters, axis=(1, 2)),
        "status": np.array(status),
        "curve_strain": CURVE_STRAIN,
        "curve_stress": curve_stress,
        "frame_strain": FRAME_STRAIN,
        "frame_stress": frame_stress,
        "virial_stress": 1.005 * frame_stress,
        "channel_statistics": statistics,
        "energy_gate": np.array([text == "ok" for text in status]),
        "cpu_seconds": np.full(count, 2.1, np.float32),
    }
    made_by = shard_record(config or Config(), index, quarters)
    dataset.write_shard(path, arrays | more, {"made_by": made_by})


def write_dataset(folder: Path, count: int, shard_size: int, config: Config) -> Path:
    """Shards and dataset.json of ``count`` designs; design 1 has failed."""
    rng = np.random.default_rng(0)
    shards = []
    for shard, start in enumerate(range(0, count, shard_size)):
        index = range(start, min(start + shard_size, count))
        quarters = [designs.sample(config.seed, i, config.designs).quarter for i in index]
        status = ["not converged: at 12 % strain" if i == 1 else "ok" for i in index]
        stress = [curve(q.mean() ** 2, rng.uniform(0, 0.6), FRAME_STRAIN) for q in quarters]
        shards.append(folder / f"shards/{shard:04d}.zarr")
        write_shard(shards[-1], quarters, stress, status, index, config=config)
    dataset.write_manifest(shards, config, folder / "dataset.json")
    return folder / "dataset.json"


def model_record(manifest: Path | None = None, config: Config | None = None) -> dict:
    """The record of a model of a data set or a library; without one of data that are nowhere."""
    config = config or Config()
    if manifest and manifest.suffix == ".npz":
        return provenance.made_by("train-response", config, read_library(manifest).record)
    data = dataset.read_manifest(manifest)["made_by"] if manifest else shard_record(config, [], [])
    hashed = provenance.hash_file(manifest) if manifest else ""
    return provenance.made_by("train", config, data, dataset=hashed)


def write_generated(
    path: Path,
    targets: dict[str, np.ndarray],
    candidates: int,
    seed=1,
    manifest=None,
    predictions=True,
    fields_too=True,
) -> None:
    """Candidates whose predicted curves miss their targets by 5, 10, 15 ... per cent.

    Without ``predictions`` they have no curve and no fields, and one target is known in part.
    Without ``fields_too`` they are of a model of curves: no fields, and curves with a spread of
    2 MPa, which the first candidate lacks and is unknown at the last strain of the second.
    """
    settings = Config().designs
    quarters, frames, predicted, number = [], [], [], []
    for t, stress in enumerate(targets.values()):
        for c in range(candidates):
            quarter = designs.sample(seed, t * candidates + c, settings).quarter
            if c == candidates - 1 and t == 0:
                quarter = np.zeros_like(quarter)
            quarters.append(quarter)
            predicted.append(stress * (1 + 0.05 * (c + 1)))
            frames.append(fields(quarter + (not quarter.any()), predicted[-1], 0.3)[:, :3])
            number.append(t)
    target_stress = np.array(list(targets.values()))[number]
    columns = {
        "frames": np.array(frames, np.float16),
        "mask": np.array([designs.mirror(q) for q in quarters], np.float16),
        "predicted_stress": np.array(predicted, np.float32),
        "target_stress": target_stress.astype(np.float32),
        "target": np.array(number, np.int32),
        "predicted_nrmse": metrics.nrmse(np.array(predicted), target_stress).astype(np.float32),
        "quarter": np.array(quarters, np.uint8),
        "quarter_fields": np.array([topology.design_from_fields(f[:, 1:2]) for f in frames]),
        "status": np.array([topology.acceptance(q, settings) for q in quarters]),
        "seed": np.arange(len(number)),
    }
    if not predictions:
        for name in ("frames", "predicted_stress", "predicted_nrmse"):
            columns[name][:] = np.nan
        columns["target_stress"][:candidates, 4] = np.nan
    if not fields_too:
        columns["frames"][:], columns["quarter_fields"][:] = np.nan, 0
        spread = np.full(columns["predicted_stress"].shape, 2, np.float32)
        spread[0], spread[1, -1] = np.nan, np.nan
        columns["predicted_spread"] = spread
    attributes = {
        "made_by": provenance.made_by("generate", Config(), model_record(manifest)),
        "frame_strain": FRAME_STRAIN.tolist(),
        "target_names": list(targets),
    }
    candidates_store.write_candidates(path, columns, attributes)


def write_verified(
    design_path: Path, generated: Path, out: Path, factors, status, config=None
) -> None:
    """Simulations whose curves are the target times a factor, for one shard of designs."""
    store = zarr.open_group(generated, mode="r")
    with np.load(design_path) as design:
        target = np.nan_to_num(store["target_stress"][:][design["candidate"]], nan=1.0)
        stress = target * np.array(factors)[:, None]
        write_shard(out, design["quarter"], stress, status, design["index"], config=config)


def write_model(folder: Path, steps: int = 400) -> None:
    """A training log that converges, and what a model says of its training."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    lines = []
    for step in range(10, steps + 1, 10):
        entry = {"step": step, "loss": float(0.9 * np.exp(-step / 150) + 0.1 + rng.normal(0, 0.02))}
        if step % 50 == 0:
            entry["validation_loss"] = float(0.8 * np.exp(-step / 150) + 0.18)
        lines.append(json.dumps(entry))
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")
    training = {"step": steps, "settings": Config().training.model_dump(mode="json")}
    described = {"format": "crumple-model", "version": 1, "training": training}
    (folder / "config.json").write_text(json.dumps(described))


def write_chain(
    folder: Path, candidates: int = 3, library: bool = False, **predicted: bool
) -> dict[str, Path]:
    """A whole run, or one that knows its designs from a library; returns the paths of its parts."""
    config = Config.model_validate({"designs": {"count": 24, "shard_size": 12}})
    (folder / "data").mkdir(parents=True)
    manifest = write_dataset(folder / "data", 24, 12, config)
    if library:
        write_library([manifest], None, folder / "library.npz")
        shutil.rmtree(folder / "data")
        manifest = folder / "library.npz"
    held_out = evaluation.read_known(manifest, 0.1).held_out
    targets = {
        "a_stiff": curve(0.9, -0.2, FRAME_STRAIN),
        "d_softening": curve(0.3, 0.7, FRAME_STRAIN),
        f"heldout_{held_out.index[0]:06d}": held_out.stress[0],
    }
    paths = {
        "dataset": manifest,
        "generated": folder / "generated.zarr",
        "designs": folder / "verified/designs/0000.npz",
        "shard": folder / "verified/shards/0000.zarr",
        "model": folder / "model",
    }
    write_generated(paths["generated"], targets, candidates, manifest=manifest, **predicted)
    candidates_store.extract(paths["generated"], config, 0, paths["designs"])
    factors = [1.2, 1.1, 0.7, 1.0, 0.9, 1.05]
    status = ["ok", "ok", "not meshable: gmsh gave up", "ok", "ok", "ok"]
    write_verified(paths["designs"], paths["generated"], paths["shard"], factors, status)
    write_model(paths["model"])
    return paths


def write_run_report(
    paths: dict[str, Path], evaluated: Path, out: Path, **models: Path | None
) -> Path:
    """Evaluate a synthetic run and write its report, by default with the space-time model."""
    parts = [paths["designs"]], [paths["shard"]]
    evaluation.evaluate(paths["generated"], paths["dataset"], *parts, evaluated)
    model = models.pop("model", None) if models else paths["model"]
    files = paths["dataset"], model, paths["generated"], evaluated
    report.write_report(*files, *parts, out, **models)
    return out


# --- a search ------------------------------------------------------------------------------------


def write_rounds(
    folder: Path, goal, quarters, curves, config=None, each=4, **columns
) -> list[Path]:
    """Results of the rounds of a search, some designs each; ``columns`` of the history by name."""
    curves = np.asarray(curves, float)
    known = np.isfinite(curves).all(axis=1)
    record = shard_record(config or Config(), [], [])
    paths = []
    every = {
        "index": np.arange(len(curves)),
        "quarter": np.array(quarters, np.uint8),
        "curve_stress": curves,
        "status": np.where(known, "ok", "not converged: at 12 % strain"),
        "violation": np.full(len(curves), "", "U100"),
        "error": goal.error(curves),
        "source": np.where(np.arange(len(curves)) % 2, "wave", "dent"),
        "predicted_error": np.full(len(curves), np.nan),
    } | columns
    for number, start in enumerate(range(0, len(curves), each)):
        rows = {name: values[start : start + each] for name, values in every.items()}
        hashed = provenance.hash_designs(rows["index"], rows["quarter"])
        made = record | {"stage": "collect", "inputs": {"designs": hashed}}
        paths.append(folder / f"rounds/{number:03d}/results.npz")
        save_npz(paths[-1], made_by=json.dumps(made), **rows)
    return paths


def write_winner(folder: Path, goal, rounds, plastic_strain: float = 0.8) -> Path:
    """What `crumple winner` leaves, without the finite elements: pixels that are pressed flat."""
    history = read_history(rounds)
    chosen = choice.choose(history, choice.contenders(history, 0.01)[0])
    for number, place in enumerate(chosen):
        part = folder / (result.runner_up(number) if number else result.WINNER)
        cell = designs.mirror(history.quarter[place])
        measures = [cell.mean(), 3.2, 4.1, plastic_strain]
        fields = pixel_mesh(cell[::2, ::2], history.curve_stress[place])
        save_npz(
            part / result.FIELDS_FILE,
            index=history.index[place],
            quarter=history.quarter[place],
            curve_stress=history.curve_stress[place],
            measures=np.array(measures),
            **fields,
        )
        Image.fromarray(255 * (1 - cell)).save(part / result.DESIGN)
    (folder / result.EXPORTS).mkdir()
    (folder / result.EXPORTS / "design.svg").write_text("<svg/>")
    write_sensitivity(folder / result.SENSITIVITY, goal, history.curve_stress[chosen[0]])
    made = {"cell_size": 10.0, "thickness": 5.0, "tiles": [2, 3]}
    record = {
        "stage": "winner",
        "settings": provenance.stages_of(Config(), provenance.PHYSICS) | {"export": made},
        "inputs": {"rounds": provenance.fingerprint(rounds), "goal": choice.goal_hash(goal)},
        "versions": dataset.versions(),
    }
    save_record(folder, record)
    return folder


def pixel_mesh(solid: np.ndarray, curve_stress: np.ndarray) -> dict[str, np.ndarray]:
    """Mesh and fields of a cell of square elements that is shortened evenly."""
    n = len(solid)
    i, j = np.nonzero(solid)
    below, above = (i + 1) * (n + 1) + j, i * (n + 1) + j
    used, cells = np.unique(
        np.stack([below, below + 1, above + 1, above], axis=1), return_inverse=True
    )
    nodes = np.stack([used % (n + 1) / n, 1 - used // (n + 1) / n], axis=1)
    strain = FRAME_STRAIN[:, None]
    stress = np.interp(FRAME_STRAIN, CURVE_STRAIN, curve_stress)[:, None] / solid.mean()
    return {
        "nodes": nodes,
        "cells": cells.reshape(-1, 4),
        "displacement": np.stack([0 * strain * nodes[:, 0], -strain * nodes[:, 1]], axis=-1),
        "vertical_stress": -stress * (1 + 0.3 * nodes[:, 0]),
        "plastic_strain": 4 * strain * nodes[:, 1],
    }


def write_sensitivity(folder: Path, goal, stress: np.ndarray) -> None:
    """Table and curves of `crumple sensitivity`; the last variant has failed."""
    factors = {
        "nominal": 1.0,
        "finer mesh, h = 0.01": 0.99,
        "lubricated platens": 0.8,
        "outline -0.25 px": np.nan,
    }
    curves = {name: stress * factor for name, factor in factors.items()}
    every = np.array(list(curves.values()))
    rows = {
        "variant": list(curves),
        "nrmse_nominal": metrics.nrmse(every, stress),
        f"error_{goal.name}": goal.error(every),
        "stress_20": every[:, -1],
        "energy": every.mean(axis=1) * 0.2,
        "plastic_strain": 0.8 * every[:, -1] / stress[-1],
        "status": ["ok", "ok", "ok", "a strut of 0.4 px is lost"],
    }
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / result.TABLE, index=False)
    table = pd.DataFrame({"strain (1)": CURVE_STRAIN} | curves)
    table.to_csv(folder / result.CURVES, index=False)


def write_search(folder: Path, text: str, factors, **columns) -> list[str]:
    """A search for the goal of a YAML file; returns the arguments of `crumple design-page`.

    The curves are one curve times the factors.
    """
    target = folder / "mine.yaml"
    target.write_text(text)
    goal = read_goals([target])[0]
    quarters = [designs.sample(0, k, Config().designs).quarter for k in range(len(factors))]
    curves = [curve(0.5, 0.2, CURVE_STRAIN) * factor for factor in factors]
    rounds = write_rounds(folder, goal, quarters, curves, **columns)
    winner = write_winner(folder / "best of it", goal, rounds)
    known = [k for k, factor in enumerate(factors) if np.isfinite(factor)]
    library = folder / "library.npz"
    record = shard_record(Config(), [], []) | {"stage": "library", "versions": {}}
    stress = 1.1 * np.array([curves[k] for k in known])
    index, quarter = np.array(known) + 100, np.array([quarters[k] for k in known])
    record["inputs"] = {"designs": provenance.hash_designs(index, quarter)}
    save_library(library, Library(index, quarter, stress, record))
    options = {"--targets": target, "--winner": winner, "--library": library}
    options |= {"--out": folder / "index.html"}
    words = [str(word) for pair in options.items() for word in pair]
    return ["design-page", *words, "--rounds", *map(str, rounds)]
