"""The solver gives the curves of the packaged library again; matches can go through all stages."""

from pathlib import Path

import numpy as np
import pytest

from crumple import cli, designs, library
from crumple.config import parse_config
from crumple.metrics import nrmse

PAPER = Path(__file__).parents[2] / "workflow/targets/paper.csv"


@pytest.fixture
def matches(tmp_path):
    """The best match of target d, as `crumple lookup` writes it."""
    target = tmp_path / "d.csv"
    rows = PAPER.read_text().splitlines()
    target.write_text("\n".join(row for row in rows if row.startswith(("target", "d_"))))
    assert cli.main(["lookup", str(target), "--count", "1", "--out", str(tmp_path / "found")]) == 0
    return tmp_path / "found"


def test_a_match_is_simulated_again(matches, tmp_path):
    """From the look-up through all stages into a library of its own: nothing has changed."""
    packaged = library.read_library()
    settings = {"element_size": packaged.record["settings"]["mesh"]["mesh"]["element_size"]}
    config = ["--config", parse_config({"mesh": settings}).model_dump_json()]
    steps = {
        "mesh": ["--designs", "found/designs.npz", "--out", "meshes"],
        "simulate": ["--meshes", "meshes", "--out", "simulations"],
        "rasterise": ["--designs", "found/designs.npz", "--simulations", "simulations"],
    }
    steps["rasterise"] += ["--out", "0000.zarr"]
    for stage, arguments in steps.items():
        paths = [str(tmp_path / a) if not a.startswith("--") else a for a in arguments]
        assert cli.main([stage, *config, *paths]) == 0
    shard, mine = tmp_path / "0000.zarr", tmp_path / "mine.npz"
    assert cli.main(["library", str(shard), "--out", str(mine)]) == 0
    again = library.read_library(mine)
    row = packaged.index.tolist().index(int(again.index[0]))
    assert np.array_equal(again.quarter[0], packaged.quarter[row])
    assert nrmse(again.curve_stress[0], packaged.curve_stress[row]) < 2e-3
    others = np.delete(packaged.curve_stress, row, axis=0)
    assert nrmse(others, again.curve_stress[0]).min() > 0.01  # control: it is this design's curve
    assert again.record["settings"] == packaged.record["settings"]


def test_a_match_is_a_design_of_ones_own(matches):
    (picture,) = (matches / "designs").iterdir()
    cell = designs.read_design(picture)
    quarter = library.read_library().quarter[library.read_library().index == int(picture.stem)][0]
    assert np.array_equal(cell, designs.mirror(quarter))
