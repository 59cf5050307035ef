"""`crumple check`: an undamaged run passes; whatever is damaged, missing or foreign is named."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from crumple import check, cli, dataset, library
from crumple.config import Config
from crumple.library import packaged
from crumple.provenance import hash_designs, hash_file
from small_run import make, make_package_run


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> Path:
    return make(settings, tmp_path_factory.mktemp("results") / "small")


@pytest.fixture(scope="module")
def other(settings, tmp_path_factory) -> Path:
    """The same with another seed and another friction."""
    more = {"seed": 1, "contact": {"friction": 0.1}}
    return make(settings, tmp_path_factory.mktemp("results") / "other", **more)


@pytest.fixture(scope="module")
def package_run(tmp_path_factory) -> Path:
    few = {"candidates": 1, "draws": 2, "refinements": 1, "steps": 2}
    config = Config.model_validate(
        {"models": "package", "generation": few, "evaluation": {"held_out": 1, "verify": 1}}
    )
    return make_package_run(tmp_path_factory.mktemp("results") / "quick", config)


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "small")


def problems(run: Path, capsys) -> list[str]:
    """What the command prints; its exit status and its last line fit."""
    status = cli.main(["check", str(run)])
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if not line.startswith("note: ")]
    if status == 0:
        assert len(lines) == 1 and lines[0].startswith(f"{run}: ok (")
        return []
    assert status == 1 and f"has {len(lines)} problem" in printed.err
    return lines


def test_an_undamaged_run_is_ok(run, capsys):
    assert cli.main(["check", str(run)]) == 0
    printed = capsys.readouterr().out
    for count in (
        "2 files of designs in data",
        "2 shards in data",
        "1 data set",
        "1 library",
        "1 design model",
        "1 forward model",
        "1 model",
        "1 set of candidates",
        "1 shards in verified",
        "1 evaluation",
        "1 report",
    ):
        assert count in printed
    assert "note" not in printed


def test_a_run_that_was_moved_is_ok(run, tmp_path, capsys):
    moved = tmp_path / "elsewhere/name"
    moved.parent.mkdir()
    run.rename(moved)
    assert problems(moved, capsys) == []


def test_a_run_on_linked_data_is_ok(run, tmp_path, capsys):
    (run / "data").rename(tmp_path / "data")
    (run / "data").symlink_to(tmp_path / "data")
    assert problems(run, capsys) == []


@pytest.mark.parametrize(
    "last",
    ["data/shards", "data", "data model", "data designer response model generated.zarr"],
)
def test_a_run_that_is_not_finished_is_ok(run, last, capsys):
    """What wasn't made yet is no problem."""
    for part in run.iterdir():
        if part.name not in last and not (part.name == "held_out.csv" and "gen" in last):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    if last == "data/shards":
        for part in ("data/dataset.json", "data/shards/0001.zarr"):
            shutil.rmtree(run / part) if (run / part).is_dir() else (run / part).unlink()
    assert problems(run, capsys) == []


def test_a_run_on_imported_data_is_ok(settings, tmp_path, capsys):
    """From the published layout to the report; the records say whose physics it is."""
    run = make(settings, tmp_path / "published", imported=True)
    capsys.readouterr()
    assert problems(run, capsys) == []
    for record in ("model/made_by.json", "evaluation/made_by.json"):
        recorded = json.loads((run / record).read_text())["settings"]
        assert recorded["import-published"] == {"physics": "published"}


def test_a_run_with_the_models_of_the_package_is_ok(package_run, capsys):
    assert cli.main(["check", str(package_run)]) == 0
    printed = capsys.readouterr().out
    assert "1 set of candidates" in printed and "1 report" in printed
    assert "data set" not in printed and "note" not in printed


def test_other_models_of_the_package_are_noted(package_run, tmp_path, monkeypatch, capsys):
    """Those of another version: the run is as sound as before."""
    for name in ("designer", "response"):
        shutil.copytree(packaged(name), tmp_path / name)
    with (tmp_path / "designer/designer.safetensors").open("ab") as file:
        file.write(b"0")
    monkeypatch.setattr(check, "packaged", lambda name: tmp_path / name)
    assert problems(package_run, capsys) == []
    assert cli.main(["check", str(package_run)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and "another designer than that of the package" in notes[0]


def test_damage_in_a_run_with_the_models_of_the_package_is_found(package_run, tmp_path, capsys):
    run = shutil.copytree(package_run, tmp_path / "quick")
    path = run / "evaluation/evaluation.json"
    path.write_text(path.read_text().replace("0.2", "0.3", 1))
    assert problems(run, capsys)


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert cli.main(["check", str(tmp_path)]) == 1
    assert "there are no results" in capsys.readouterr().err


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


FILES = (  # every kind of file that carries results
    "data/designs/0001.npz",
    "data/shards/0001.zarr/frames/c",
    "data/shards/0001.zarr/curve_stress/c",
    "data/shards/0001.zarr/frames/zarr.json",
    "data/shards/0001.zarr/zarr.json",
    "data/dataset.json",
    "data/library.npz",
    "designer/designer.safetensors",
    "designer/designer.json",
    "designer/made_by.json",
    "response/response.safetensors",
    "response/response.json",
    "response/stats.jsonl",
    "response/made_by.json",
    "model/model.safetensors",
    "model/config.json",
    "model/normalisation.json",
    "model/stats.jsonl",
    "model/made_by.json",
    "generated.zarr/frames/c",
    "generated.zarr/zarr.json",
    "verified/designs/0000.npz",
    "verified/shards/0000.zarr/frames/c",
    "verified/shards/0000.zarr/zarr.json",
    "evaluation/evaluation.json",
    "evaluation/candidates.csv",
    "evaluation/made_by.json",
    "report.html",
)


@pytest.mark.parametrize("at", [0.3, 0.6])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(run, name, at, capsys):
    path = run / name
    if path.is_dir():
        path = next(p for p in sorted(path.rglob("*")) if p.is_file())
    flip(path, at)
    found = problems(run, capsys)
    part = name.partition(".zarr")[0]
    assert any(part in line for line in found), found


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data/shards/0001.zarr", "0001.zarr is missing: make this shard again"),
        ("data/designs/0001.npz", "or these are missing"),
        ("data/dataset.json", "dataset.json, from which .*model was made, is missing"),
        ("model/model.safetensors", "model.safetensors is missing"),
        ("model", "cannot read .*model: No such file"),
        ("data/library.npz", "library.npz, from which .*designer was made, is missing"),
        ("designer", "designer.safetensors, from which .*generated.zarr was made, is missing"),
        ("response/response.json", "response.json is missing; train it again"),
        ("held_out.csv", "held_out.csv, from which .* is missing"),
        ("generated.zarr", "generated.zarr, which .*evaluation compares, is missing"),
        ("verified/shards/0000.zarr", "0000.zarr, from which .*evaluation was made, is missing"),
        ("evaluation", "evaluation.json, from which .*report.html was made, is missing"),
        ("evaluation/targets.csv", "targets.csv is missing"),
    ],
)
def test_what_is_missing_is_named(run, name, words, capsys):
    remove(run / name)
    found = problems(run, capsys)
    assert any(re.search(words, line) for line in found), found


def test_a_shard_of_another_configuration_is_found(run, other, capsys):
    shutil.rmtree(run / "data/shards/0001.zarr")
    shutil.copytree(other / "data/shards/0001.zarr", run / "data/shards/0001.zarr")
    (line,) = problems(run, capsys)
    assert "data/shards/0001.zarr was made with other settings" in line
    assert "seed 1 instead of 0" in line and "contact.friction 0.1 instead of 0.4" in line


def test_such_a_shard_is_found_without_dataset_json_too(run, other, capsys):
    for part in run.iterdir():
        if part.name != "data":
            remove(part)
    (run / "data/dataset.json").unlink()
    shutil.rmtree(run / "data/shards/0001.zarr")
    shutil.copytree(other / "data/shards/0001.zarr", run / "data/shards/0001.zarr")
    (line,) = problems(run, capsys)
    assert "contact.friction 0.1 instead of 0.4" in line


def test_a_model_of_another_data_set_is_found(run, other, capsys):
    shutil.rmtree(run / "model")
    shutil.copytree(other / "model", run / "model")
    found = problems(run, capsys)
    assert any("model was made with other settings (" in line for line in found)
    assert any("generated.zarr doesn't belong to the model" in line for line in found)


@pytest.mark.parametrize("name", ["data/library.npz", "designer", "response"])
def test_a_library_or_its_models_of_another_run_are_found(run, other, name, capsys):
    remove(run / name)
    if (other / name).is_dir():
        shutil.copytree(other / name, run / name)
    else:
        shutil.copy(other / name, run / name)
    found = problems(run, capsys)
    assert any(f"/{name} was made with other settings (" in line for line in found), found


@pytest.mark.parametrize("name", ["designer", "response"])
def test_models_that_were_trained_again_are_found(run, other, name, capsys):
    """With weights that generated.zarr doesn't come from, and the checksums of these."""
    weights, sums = f"{name}/{name}.safetensors", f"{name}/SHA256SUMS"
    old, new = (hash_file(folder / weights) for folder in (run, other))
    shutil.copy(other / weights, run / weights)
    (run / sums).write_text((run / sums).read_text().replace(old, new))
    (line,) = problems(run, capsys)
    assert f"generated.zarr doesn't belong to the {name} given here" in line


def test_a_library_that_lacks_designs_is_found(run, capsys):
    """As one that was made before the data set has grown; its models fit it."""
    for part in ("designer", "response", "generated.zarr", "evaluation", "report.html"):
        remove(run / part)
    path, whole = run / "data/library.npz", library.read_library(run / "data/library.npz")
    rows = slice(0, -1)
    designs = hash_designs(whole.index[rows], whole.quarter[rows])
    record = whole.record | {"inputs": {"designs": designs}}
    columns = whole.index[rows], whole.quarter[rows], whole.curve_stress[rows]
    library.save_library(path, library.Library(*columns, record))
    found = problems(run, capsys)
    assert any("library.npz lacks designs of" in line for line in found), found


def test_a_run_whose_designs_are_by_the_models_of_the_package_is_ok(settings, tmp_path, capsys):
    """They and their library lie elsewhere, and are known."""
    run = make(settings, tmp_path / "own", packaged_models=True)
    capsys.readouterr()
    assert problems(run, capsys) == []


def test_others_may_read_what_the_umask_lets_them_read(finished):
    umask = os.umask(0)
    os.umask(umask)
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert finished / "model/model.safetensors" in files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


def test_a_data_set_of_another_run_is_found(run, other, capsys):
    shutil.rmtree(run / "data")
    shutil.copytree(other / "data", run / "data")
    found = problems(run, capsys)
    assert any("/model was made with other settings (" in line for line in found)


def test_swapped_shards_are_found(run, capsys):
    one, two = run / "data/shards/0000.zarr", run / "data/shards/0001.zarr"
    one.rename(run / "x")
    two.rename(one)
    (run / "x").rename(two)
    assert len(problems(run, capsys)) == 2


def test_constants_that_are_not_those_of_the_shards_are_found(run, capsys):
    """A manifest that was edited by hand, and a model that was trained on it."""
    for part in run.iterdir():
        if part.name != "data":
            remove(part)
    path = run / "data/dataset.json"
    manifest = json.loads(path.read_text())
    manifest["normalisation"]["s22"]["max"][3] += 1.0
    path.write_text(json.dumps(manifest))
    (line,) = problems(run, capsys)
    assert "normalisation isn't that of its shards" in line


def test_verified_shards_that_were_simulated_again_are_found(run, capsys):
    path = run / "verified/shards/0000.zarr"
    group = zarr.open_group(path)
    group["curve_stress"][:] = np.asarray(group["curve_stress"][:]) * 2
    group.attrs["checksum"] = dataset.hash_arrays(path)
    (line,) = problems(run, capsys)
    assert "evaluation wasn't made from" in line


def test_folders_of_an_older_version_are_noted(run, capsys):
    (run / "model/SHA256SUMS").unlink()
    (run / "model.partial").mkdir()
    assert cli.main(["check", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "note: " in printed and "has no SHA256SUMS" in printed
    assert "note: unfinished: model.partial" in printed


def test_control_the_sentences_come_from_the_damage(finished):
    """The run that all of these are copies of has no problem."""
    assert check.examine(finished).problems == []
