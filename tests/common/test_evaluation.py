"""Error measures and baselines against values worked out by hand or by enumeration."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

import synthetic
from crumple import evaluation, metrics, report
from crumple.config import Config
from crumple.dataset import Dataset
from crumple.errors import UserError
from crumple.library import write_library


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    paths = synthetic.write_chain(folder)
    evaluation.evaluate(
        paths["generated"], paths["dataset"], [paths["designs"]], [paths["shard"]], folder / "out"
    )
    return paths | {"out": folder / "out"}


def test_evaluation_of_curves_with_known_errors(chain):
    """Predictions miss by 5 and 10 per cent, simulations by 20, 10, (failed), 0, 10 and 5."""
    result = json.loads((chain["out"] / "evaluation.json").read_text())
    first, second, held_out = result["targets"]
    assert first["fe_first"] == pytest.approx(0.2) and first["fe_best"] == pytest.approx(0.1)
    assert first["acceptable"] == 2 and first["candidates"] == 3
    assert second["failures"] == {"not meshable": 1}
    assert second["fe_first"] is None and second["fe_mean"] == pytest.approx(0, abs=1e-6)
    assert second["counted_first"] == 1 and second["counted_mean"] == pytest.approx(0.5, abs=1e-6)
    assert held_out["group"] == "held out" and held_out["fe_median"] == pytest.approx(0.075)
    assert held_out["predicted_first"] == pytest.approx(0.05)
    summary = result["summary"]["all"]
    assert summary["fe_best"]["median"] == pytest.approx(0.05)
    assert summary["fe_first"]["mean"] == pytest.approx(0.15)  # of the two that have one
    assert summary["counted_first"]["mean"] == pytest.approx(1.3 / 3)
    assert summary["counted_best"]["median"] == pytest.approx(0.05)
    assert summary["verified"] == 6 and summary["failures"] == {"not meshable": 1}
    assert result["summary"]["held out"]["targets"] == 1


def test_field_error_scales_with_the_prediction(chain):
    """Where the simulated curve is 1.2 times the target, the predicted field is 1.05 / 1.2."""
    candidate = json.loads((chain["out"] / "evaluation.json").read_text())["candidates"][0]
    assert candidate["field_errors"] == pytest.approx([1 - 1.05 / 1.2] * 11, abs=2e-3)


def test_best_match_is_found_across_shards(chain):
    """Against a plain search; the validation designs and the failed one do not count."""
    manifest = json.loads(chain["dataset"].read_text())
    result = json.loads((chain["out"] / "evaluation.json").read_text())
    assert result["training_designs"] == len(manifest["split"]["train"])
    places = manifest["split"]["train"]
    index, curves = (
        Dataset(chain["dataset"]).read(name, places).astype(float)
        for name in ("index", "frame_stress")
    )
    for row in result["targets"]:
        errors = {
            int(number): float(metrics.nrmse(stress, row["target_stress"]))
            for number, stress in zip(index, curves, strict=True)
        }
        assert row["best_match_index"] == min(errors, key=errors.get)
        assert row["best_match"] == pytest.approx(min(errors.values()), rel=1e-4)
        assert row["random_mean"] == pytest.approx(np.mean(list(errors.values())), rel=1e-4)
    held_out = result["targets"][2]
    assert held_out["best_match"] > 0.01  # its own design is not in the training set


def test_tables_have_a_row_per_target_and_candidate(chain):
    rows = list(csv.DictReader((chain["out"] / "candidates.csv").open()))
    assert len(rows) == 9
    assert rows[2]["design"] == "no solid" and rows[2]["verified"] == ""
    assert rows[3]["verified"].startswith("not meshable")
    assert float(rows[0]["field_error_0.2"]) == pytest.approx(1 - 1.05 / 1.2, abs=2e-3)
    assert float(rows[0]["readouts_agree"]) > 0.97 > float(rows[2]["readouts_agree"])
    targets = list(csv.DictReader((chain["out"] / "targets.csv").open()))
    assert [row["target"] for row in targets][:2] == ["a_stiff", "d_softening"]
    assert float(targets[0]["fe_best"]) == pytest.approx(0.1)


def wanting(count):
    return Config.model_validate({"evaluation": {"held_out": count}})


def test_held_out_targets_are_the_validation_curves(chain, tmp_path):
    evaluation.write_held_out_targets(chain["dataset"], wanting(1), tmp_path / "heldout.csv")
    header, row = (tmp_path / "heldout.csv").read_text().splitlines()
    assert header.startswith("target,0.002,0.02,") and header.endswith(",0.2")
    dataset = Dataset(chain["dataset"])
    place = dataset.split["validation"][:1]
    index, stress = (dataset.read(name, place)[0] for name in ("index", "frame_stress"))
    assert row.split(",")[0] == f"heldout_{index:06d}"
    assert [float(v) for v in row.split(",")[1:]] == pytest.approx(stress, rel=1e-4)
    with pytest.raises(UserError, match="held_out"):
        evaluation.write_held_out_targets(chain["dataset"], wanting(100), tmp_path / "more.csv")


def test_parts_of_different_runs_are_refused(chain, tmp_path):
    """Formerly such an evaluation was written without a word."""

    def refused(reason, **changed):
        paths = chain | changed
        with pytest.raises(UserError, match=reason):
            evaluation.evaluate(
                paths["generated"],
                paths["dataset"],
                [paths["designs"]],
                [paths["shard"]],
                tmp_path / "e",
            )
        assert not (tmp_path / "e").exists()

    other = synthetic.write_chain(tmp_path / "other", candidates=4)
    refused("doesn't belong to the candidates given here", generated=other["generated"])
    refused("doesn't belong to the designs given here", shard=other["shard"])
    refused("doesn't belong to the candidates given here", designs=other["designs"])
    config = Config.model_validate({"dataset": {"validation_fraction": 0.3}})
    data = synthetic.write_dataset(tmp_path / "data", 24, 12, config)
    refused("generated.zarr doesn't belong to the dataset given here", dataset=data)
    slippery = Config.model_validate({"contact": {"friction": 0.1}})
    factors, status = [1.0] * 6, ["ok"] * 6
    shard = tmp_path / "slippery.zarr"
    synthetic.write_verified(chain["designs"], chain["generated"], shard, factors, status, slippery)
    refused("slippery.zarr was made with other settings .contact.friction 0.1", shard=shard)


def test_damaged_simulations_and_candidates_are_not_evaluated(chain, tmp_path):
    for name in ("shard", "generated"):
        damaged = shutil.copytree(chain[name], tmp_path / f"{name}.zarr")
        next(p for p in (damaged / "frames/c").rglob("*") if p.is_file()).unlink()
        paths = chain | {name: damaged}
        with pytest.raises(UserError, match=f"{name}.zarr has changed since it was written"):
            synthetic.write_run_report(paths, tmp_path / "e", tmp_path / "r.html")


def test_a_report_of_another_evaluation_is_refused(chain, tmp_path):
    other = synthetic.write_chain(tmp_path / "other", candidates=4)
    parts = [other["designs"]], [other["shard"]]
    with pytest.raises(UserError, match="doesn't belong to the candidates given here"):
        report.write_report(
            *(other[name] for name in ("dataset", "model", "generated")),
            chain["out"],
            *parts,
            tmp_path / "r.html",
        )


def test_a_model_of_curves_alone_is_evaluated(chain, tmp_path):
    """No fields: the curves are compared all the same, their spread is shown as a band."""
    paths = synthetic.write_chain(tmp_path / "curves", fields_too=False)
    synthetic.write_run_report(paths, tmp_path / "e", tmp_path / "r.html")
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    before = json.loads((chain["out"] / "evaluation.json").read_text())
    for new, old in zip(found["targets"], before["targets"], strict=True):
        same = ("counted_mean", "fe_best", "predicted_first", "predicted_fe_mean")
        assert [new[n] for n in same] == pytest.approx([old[n] for n in same], abs=1e-6)
        assert new["field_error_mean"] is None and new["readouts_agree"] is None
    assert found["summary"]["all"]["field_error_mean"]["targets"] == 0
    spread = [c["predicted_spread"] for c in found["candidates"]]
    assert spread[0] is None and spread[1] == [2.0] * 10 + [None] and spread[2] == [2.0] * 11
    assert all(c["predicted_spread"] is None for c in before["candidates"])
    html = (tmp_path / "r.html").read_text()
    assert html.count("<canvas") == 5  # of the simulations
    assert html.count('<polygon class="band predicted"') == 5 == html.count("± standard deviation")
    text = re.sub(r"base64,[^\"]*|<script.*", "", html, flags=re.DOTALL)
    assert not re.findall(r"\b(nan|NaN|None|null)\b", text)


def test_a_model_without_predictions_is_still_evaluated(chain, tmp_path):
    """As the design-only model: no curve, no fields; the simulations count all the same."""
    blind = synthetic.write_chain(tmp_path / "blind", predictions=False)
    synthetic.write_run_report(blind, tmp_path / "e", tmp_path / "r.html")
    result = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    before = json.loads((chain["out"] / "evaluation.json").read_text())
    for new, old in zip(result["targets"], before["targets"], strict=True):
        assert new["fe_best"] == pytest.approx(old["fe_best"], abs=1e-6)
        assert new["predicted_first"] is None and new["field_error_mean"] is None
    html = (tmp_path / "r.html").read_text()
    assert html.count("<canvas") == 5
    text = re.sub(r"base64,[^\"]*|<script.*", "", html, flags=re.DOTALL)
    assert not re.findall(r"\b(nan|NaN|None)\b", text)


def test_a_library_stands_for_its_data_set(chain, tmp_path):
    """The same designs, curves and order of those held out; another library is refused."""
    library = tmp_path / "library.npz"
    write_library([chain["dataset"]], None, library)
    one, other = (evaluation.read_known(path, 0.1) for path in (chain["dataset"], library))
    for of_data, of_library in ((one.training, other.training), (one.held_out, other.held_out)):
        first, second = np.argsort(of_data.index), np.argsort(of_library.index)
        assert np.array_equal(of_data.index[first], of_library.index[second])
        # 0.2 % strain lies between two points of the curves of a library
        difference = np.abs(of_data.stress[first] - of_library.stress[second])[:, 1:]
        assert difference.max() < 2e-3 * of_data.stress.max()
    assert np.array_equal(one.held_out.index, other.held_out.index)
    other.require({"inputs": {"designs": other.record["inputs"]["designs"]}}, library)
    with pytest.raises(UserError):
        other.require({"inputs": {"designs": "0" * 64}}, library)
