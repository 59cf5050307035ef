"""`crumple check` on designs, meshes and simulations as the finite-element stages leave them."""

import shutil

import pytest

from crumple import check, designs, fields, meshing, simulation
from crumple.config import Config
from crumple.dataset import write_manifest

CONFIG = Config.model_validate(
    {"designs": {"count": 2, "shard_size": 1}, "mesh": {"element_size": 0.05}}
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("results") / "small"
    data = run / "data"
    for number in range(2):
        name = f"{number:04d}"
        drawn, meshes = data / f"designs/{name}.npz", data / f"meshes/{name}"
        simulations = data / f"simulations/{name}"
        designs.sample_shard(CONFIG, number, drawn)
        meshing.mesh_shard(CONFIG, drawn, meshes)
        simulation.simulate_shard(CONFIG, meshes, simulations)
        fields.rasterise(CONFIG, drawn, simulations, data / f"shards/{name}.zarr")
    write_manifest(sorted((data / "shards").iterdir()), CONFIG, data / "dataset.json")
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "small")


def test_a_sound_run_has_no_problem(run):
    found = check.examine(run)
    assert found.problems == found.notes == []
    assert found.intact["folders of meshes in data"] == 2
    assert found.intact["folders of simulations in data"] == 2
    assert found.intact["shards in data"] == 2


@pytest.mark.parametrize("at", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["meshes", "simulations"])
def test_a_flipped_bit_is_found(run, kind, at):
    path = run / f"data/{kind}/0001/000001.npz"
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 4
    path.write_bytes(content)
    found = check.examine(run).problems
    assert any(f"{path} has changed since it was written" in line for line in found)


def test_changed_designs_are_found_by_the_meshes_made_of_them(run):
    """Even where the change doesn't matter: here, in the time of a member of the zip file."""
    path = run / "data/designs/0000.npz"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    (line,) = check.examine(run).problems
    assert "meshes/0000 was made from is missing or has changed" in line


def test_meshes_of_other_settings_are_found(run):
    finer = CONFIG.model_copy(
        update={"mesh": CONFIG.mesh.model_copy(update={"element_size": 0.04})}
    )
    shutil.rmtree(run / "data/meshes/0001")
    shutil.rmtree(run / "data/simulations")
    meshing.mesh_shard(finer, run / "data/designs/0001.npz", run / "data/meshes/0001")
    (line,) = check.examine(run).problems
    assert "mesh.element_size 0.04 instead of 0.05" in line


def test_a_mesh_that_is_gone_is_found(run):
    (run / "data/meshes/0001/000001.npz").unlink()
    assert any("000001.npz is missing" in line for line in check.examine(run).problems)
