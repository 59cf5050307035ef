"""The store of candidates: the choice among them, their designs, and whose simulation is whose."""

import shutil

import numpy as np
import pytest
import zarr

import synthetic
from crumple import candidates
from crumple.config import Config
from crumple.errors import UserError
from crumple.layout import FRAME_STRAIN


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return synthetic.write_chain(tmp_path_factory.mktemp("chain"))


def test_rank():
    rank = candidates.rank_within(np.array([0, 0, 0, 1, 1]), np.array([0.3, np.nan, 0.1, 0.2, 0.2]))
    assert rank.tolist() == [1, 2, 0, 0, 1]


def test_selection_prefers_acceptable_designs_and_keeps_the_failures():
    target = np.array([0, 0, 0, 1, 1, 1])
    rank = np.array([2, 0, 1, 1, 0, 2])
    status = np.array(["ok", "empty", "ok", "short", "empty", "ok"])
    assert candidates.select(target, rank, status, 2).tolist() == [[2, 0], [5, 4]]
    with pytest.raises(UserError, match="evaluation.verify"):
        candidates.select(target, rank, status, 4)


def test_extract_writes_shards_of_designs(tmp_path):
    targets = {name: synthetic.curve(0.5, 0.2, FRAME_STRAIN) for name in "abc"}
    synthetic.write_generated(tmp_path / "generated.zarr", targets, 2)
    settings = Config.model_validate({"evaluation": {"verify": 2}, "designs": {"shard_size": 4}})
    candidates.extract(tmp_path / "generated.zarr", settings, 0, tmp_path / "0000.npz")
    with np.load(tmp_path / "0000.npz") as shard:
        assert shard["index"].tolist() == [0, 1, 2, 3]
        assert shard["candidate"].tolist() == [0, 1, 2, 3]
        assert shard["status"].tolist() == ["ok", "no solid", "ok", "ok"]
        store = candidates.open_candidates(tmp_path / "generated.zarr")
        assert np.array_equal(shard["quarter"], store["quarter"][:4])
    candidates.extract(tmp_path / "generated.zarr", settings, 1, tmp_path / "0001.npz")
    with np.load(tmp_path / "0001.npz") as shard:
        assert shard["index"].tolist() == [4, 5] and shard["target"].tolist() == [2, 2]
    with pytest.raises(UserError, match="no shard 2"):
        candidates.extract(tmp_path / "generated.zarr", settings, 2, tmp_path / "0002.npz")
    assert not (tmp_path / "0002.npz").exists()


def test_what_is_not_a_store_of_candidates(chain, tmp_path):
    with pytest.raises(UserError, match="nothing.zarr.*generate"):
        candidates.open_candidates(tmp_path / "nothing.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(UserError, match="crumple generate"):
        candidates.open_candidates(tmp_path / "other.zarr")
    damaged = shutil.copytree(chain["generated"], tmp_path / "damaged.zarr")
    zarr.open_group(damaged, mode="a")["target"][:] = 7
    with pytest.raises(UserError, match="has changed since it was written; run `crumple generate`"):
        candidates.open_candidates(damaged)


def test_a_spread_of_the_prediction_may_be_there(chain, tmp_path):
    assert "predicted_spread" not in candidates.open_candidates(chain["generated"])
    targets = {"a": synthetic.curve(0.5, 0.2, FRAME_STRAIN)}
    synthetic.write_generated(tmp_path / "generated.zarr", targets, 3, fields_too=False)
    store = candidates.open_candidates(tmp_path / "generated.zarr")
    assert store["predicted_spread"].shape == (3, 11)
    assert store["predicted_spread"].metadata.dimension_names == ("candidate", "strain")
    wrong = zarr.open_group(tmp_path / "generated.zarr", mode="a")
    wrong.create_array("predicted_spread", data=np.zeros((3, 51)), overwrite=True)
    with pytest.raises(UserError, match="predicted_spread is 3 x 51, not 3 x 11"):
        candidates.open_candidates(tmp_path / "generated.zarr")


def test_candidates_on_which_an_ensemble_disagrees_rank_later(tmp_path):
    targets = {"a": synthetic.curve(0.5, 0.2, FRAME_STRAIN)}
    synthetic.write_generated(tmp_path / "generated.zarr", targets, 3, fields_too=False)
    store = zarr.open_group(tmp_path / "generated.zarr", mode="r")
    columns = {name: array[:] for name, array in store.arrays() if name != "rank"}
    columns["status"] = np.full(3, "ok")
    error = np.array([0.03, 0.04, 0.05], np.float32)
    spread = np.outer([0.05, 0.0, 0.0], targets["a"]).astype(np.float32)
    for name, ranks in (("with", [2, 0, 1]), ("without", [0, 1, 2])):
        if name == "without":
            spread = 0 * spread
        changed = columns | {"predicted_nrmse": error, "predicted_spread": spread}
        candidates.write_candidates(tmp_path / name, changed, dict(store.attrs))
        assert zarr.open_group(tmp_path / name, mode="r")["rank"][:].tolist() == ranks


def test_join_finds_the_simulation_of_each_candidate(chain):
    store = candidates.open_candidates(chain["generated"])
    joined = list(candidates.join(store, [chain["designs"]], [chain["shard"]]))
    assert [v.index for v in joined] == list(range(6))
    for verified in joined:
        quarter = store["quarter"][verified.candidate]
        assert np.array_equal(verified.shard["quarter"][verified.row], quarter)
    assert [v.status for v in joined].count("ok") == 5
    assert joined[2].status == "not meshable: gmsh gave up"


def test_results_of_another_run_are_refused(chain, tmp_path):
    """As many designs with the same numbers: only their pixels tell the runs apart."""
    targets = {name: synthetic.curve(0.5, 0.2, FRAME_STRAIN) for name in "abc"}
    synthetic.write_generated(tmp_path / "generated.zarr", targets, 3, seed=2)
    config = Config.model_validate({"evaluation": {"verify": 2}})
    candidates.extract(tmp_path / "generated.zarr", config, 0, tmp_path / "0000.npz")
    status = ["ok"] * 6
    synthetic.write_verified(
        tmp_path / "0000.npz", tmp_path / "generated.zarr", tmp_path / "0000.zarr", [1] * 6, status
    )
    store = candidates.open_candidates(chain["generated"])
    with pytest.raises(UserError, match="0000.npz doesn't belong to the candidates"):
        list(candidates.join(store, [tmp_path / "0000.npz"], [tmp_path / "0000.zarr"]))
    with pytest.raises(
        UserError, match="0000.zarr doesn't belong to the designs given here: make it again"
    ):
        list(candidates.join(store, [chain["designs"]], [tmp_path / "0000.zarr"]))
    with pytest.raises(UserError, match="1 files of designs and 2 shards"):
        list(candidates.join(store, [chain["designs"]], [chain["shard"]] * 2))
