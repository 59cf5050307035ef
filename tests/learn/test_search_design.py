"""`crumple design` with the real finite elements: the same result however it is run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from crumple import cli
from crumple.config import Config
from crumple.dataset import build_manifest
from crumple.goals import read_goals
from crumple.layout import CURVE_STRAIN
from crumple.library import read_library, write_library
from crumple.search.history import read_history

ROOT = Path(__file__).parents[2]
SETTINGS = "search: {batch: 2, shard_size: 1, screened: 20, generations: 1}\n"
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv-fe/bin/python").exists() and "FEM_PYTHON" not in os.environ,
    reason="needs the environment of the finite elements",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A goal that no design of the library meets, and settings of a small search."""
    folder = tmp_path_factory.mktemp("design")
    soft = np.argsort(read_library().quarter.mean(axis=(1, 2)))[10]  # cheap to simulate
    stress = 1.05 * read_library().curve_stress[soft]
    rows = "".join(f"{x:.4f},{y:.5f}\n" for x, y in zip(CURVE_STRAIN, stress, strict=True))
    (folder / "mine.csv").write_text("strain,stress\n" + rows)
    (folder / "small.yaml").write_text(SETTINGS)
    return folder


def arguments(place, out, *more):
    files = [str(place / "mine.csv"), "--config", str(place / "small.yaml"), "--out", str(out)]
    return ["design", *files, "--tolerance", "0", *more]


@pytest.fixture(scope="module")
def direct(place):
    """A search of two rounds in one go, by two processes."""
    out = place / "direct"
    assert cli.main(arguments(place, out, "--budget", "4", "--processes", "2")) == 0
    return out / "mine"


def results(folder):
    return read_history(sorted(folder.glob("rounds/*/results.npz")))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_search_simulates_and_improves(direct):
    history = results(direct)
    assert len(history.index) == 4 and (history.status == "ok").all()
    assert history.source[0] == "library"
    goal = read_goals([direct.parents[1] / "mine.csv"])[0]
    match = goal.error(read_library().curve_stress).min()
    assert 0 < match < 0.05 and history.error[0] == pytest.approx(match, rel=0.02)
    page = (direct / "index.html").read_text()
    assert "<svg" in page and (direct / "result/exports/design.stl").exists()


def test_a_killed_search_goes_on_to_the_same_result(place, direct):
    out = place / "killed"
    command = [sys.executable, "-m", "crumple", *arguments(place, out, "--budget", "4")]
    process = subprocess.Popen([*command, "--processes", "1"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("mine/rounds/000/shards/*.zarr")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "mine/rounds/000/results.npz").exists()
    assert cli.main(arguments(place, out, "--budget", "4", "--processes", "1")) == 0
    assert same(results(out / "mine"), results(direct))


def test_a_larger_budget_goes_on_and_another_goal_is_refused(place, direct, capsys):
    assert cli.main(arguments(place, direct.parent, "--budget", "4")) == 0  # nothing to do
    assert "4 simulations" in capsys.readouterr().out
    other = place / "other"
    other.mkdir()
    text = (place / "mine.csv").read_text()
    (other / "mine.csv").write_text(text.replace("0.2000,", "0.2000,1"))
    (other / "small.yaml").write_text(SETTINGS)
    assert cli.main(arguments(other, direct.parent, "--budget", "4")) == 1
    assert "is a search with other settings or for another goal" in capsys.readouterr().err


def test_what_was_simulated_is_data(direct):
    """`crumple index` takes the shards of a search; a library holds random designs alone."""
    shards = sorted(direct.glob("rounds/*/shards/*.zarr"))
    config = Config.model_validate({"dataset": {"validation_fraction": 0}})
    assert len(build_manifest(shards, config, direct)["valid"]) == 4
    with pytest.raises(Exception, match="a library is made of those"):
        write_library(shards, None, direct / "library.npz")


def test_an_undamaged_search_is_ok(direct, capsys):
    assert cli.main(["check", str(direct.parent)]) == 0
    printed = capsys.readouterr().out
    assert "2 rounds of searches, 1 winners of searches" in printed and "note" not in printed


def flipped(folder):
    chunk = next((folder / "rounds/001/shards/0000.zarr/curve_stress").glob("c/**/*"))
    chunk = next(path for path in (chunk, *chunk.rglob("*")) if path.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)


def rewritten(folder):
    path = folder / "rounds/000/results.npz"
    arrays = dict(np.load(path))
    arrays["curve_stress"] = 0.9 * arrays["curve_stress"]
    np.savez(path, **arrays)


def exchanged(folder):
    one, other = (folder / f"rounds/000/shards/000{k}.zarr" for k in range(2))
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)


def shortened(folder):
    shutil.rmtree(folder / "rounds/001")


def drawn_over(folder):
    path = folder / "index.html"
    path.write_text(path.read_text().replace("goal", "aim", 1))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flipped, "rounds/001/shards/0000.zarr"),
        (rewritten, "curve_stress isn't that of the simulations"),
        (exchanged, "0000.zarr doesn't belong to the designs"),
        (shortened, "result doesn't belong to the rounds"),
        (drawn_over, "has changed since it was written"),
    ],
)
def test_a_damaged_search_is_named(direct, tmp_path, capsys, damage, sentence):
    copy = shutil.copytree(direct.parent, tmp_path / "copy")
    damage(copy / "mine")
    assert cli.main(["check", str(copy)]) == 1
    assert sentence in capsys.readouterr().out


def test_other_physics_than_that_of_the_library_is_refused(place, capsys):
    (place / "slippery.yaml").write_text(SETTINGS + "contact: {friction: 0.1}\n")
    words = arguments(place, place / "slippery")
    words[words.index(str(place / "small.yaml"))] = str(place / "slippery.yaml")
    assert cli.main(words) == 1
    assert "was made with other settings" in capsys.readouterr().err


def test_no_process_at_all_is_refused(place, capsys):
    assert cli.main(arguments(place, place / "none", "--processes", "-1")) == 1
    assert "--processes -1 is not possible" in capsys.readouterr().err


def test_limits_that_no_design_keeps_end_the_search(place, capsys):
    (place / "empty.yaml").write_text(
        "response: [{plateau: {stress: 5 MPa, from: 5 %, to: 20 %}}]\n"
        "limits: {solid_fraction: {at_most: 0.01}}\n"
    )
    words = arguments(place, place / "empty", "--budget", "2", "--processes", "1")
    words[words.index(str(place / "mine.csv"))] = str(place / "empty.yaml")
    for _ in range(2):  # what is there doesn't change that
        assert cli.main(words) == 1
        assert "no design was found that keeps to its limits" in capsys.readouterr().err


def test_without_finite_elements_one_sentence(place, monkeypatch, capsys):
    monkeypatch.setenv("FEM_PYTHON", sys.executable)  # has no dolfinx
    assert cli.main(arguments(place, place / "none", "--budget", "2")) == 1
    error = capsys.readouterr().err
    assert "has ended" in error and "Traceback" not in error


def test_collect_refuses_shards_of_other_designs(place, direct, capsys):
    one, two = direct / "rounds/000", direct / "rounds/001"
    words = ["collect", str(place / "mine.csv"), "--name", "mine", "--out", str(place / "x.npz")]
    proposals = ["--proposals", str(one / "designs/proposals.npz")]
    shards = ["--shards", *map(str, sorted((two / "shards").iterdir()))]
    assert cli.main([*words, *proposals, *shards]) == 1
    assert "doesn't belong to the designs" in capsys.readouterr().err
    own = ["--shards", *map(str, sorted((one / "shards").iterdir()))]
    assert cli.main([*words, *proposals, *own]) == 0
    assert json.loads(str(np.load(place / "x.npz")["made_by"]))["stage"] == "collect"
