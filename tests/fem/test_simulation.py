"""The stage: one file per design, failures with reasons, stopping and going on."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import synthetic
from crumple import designs
from crumple.cli import main
from crumple.config import Config
from crumple.fem import newton
from crumple.meshing import mesh_shard

COARSE = json.dumps({"mesh": {"element_size": 0.03}})


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """A shard of three designs, the last of which cannot be meshed."""
    folder = tmp_path_factory.mktemp("meshes")
    quarters = [designs.sample(0, index, Config().designs).quarter for index in range(2)]
    quarters.append(np.eye(48, dtype=np.uint8))
    synthetic.write_designs(folder / "0000.npz", range(3), quarters)
    mesh_shard(Config(mesh={"element_size": 0.03}), folder / "0000.npz", folder / "0000")
    return folder / "0000"


def simulate(meshes, out) -> int:
    return main(["simulate", "--meshes", str(meshes), "--out", str(out)])


def test_shard_holds_every_design(meshes, tmp_path):
    assert simulate(meshes, tmp_path / "out") == 0
    results = [dict(np.load(path)) for path in sorted((tmp_path / "out").glob("*.npz"))]
    assert [str(r["status"]) for r in results] == ["ok", "ok"] + [str(results[2]["status"])]
    assert str(results[2]["status"]).startswith("not meshable: design: the solid is disconn")
    result = results[0]
    assert result["curve_strain"][[0, 1, -1]] == pytest.approx([0, 0.004, 0.2])
    assert result["frame_strain"][[0, 1, -1]] == pytest.approx([0.002, 0.02, 0.2])
    assert np.isfinite(result["curve_stress"]).all() and np.isfinite(result["u"]).all()
    on_curve = result["curve_stress"][5::5]
    assert result["frame_stress"][1:] == pytest.approx(on_curve)
    top = result["nodes"][:, 1] == 1
    assert result["u"][-1][top] == pytest.approx(np.tile([0, -0.2], (top.sum(), 1)), abs=1e-6)


def test_design_without_equilibrium_is_recorded(meshes, tmp_path, monkeypatch):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 1)
    assert simulate(meshes, tmp_path / "out") == 0
    result = np.load(tmp_path / "out" / "000000.npz")
    assert "no equilibrium after 1 Newton iterations at a strain of" in str(result["status"])


def test_missing_meshes_are_one_sentence(tmp_path, capsys):
    assert simulate(tmp_path, tmp_path / "out") == 1
    assert "run `crumple mesh` first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stopped_shard_goes_on(meshes, tmp_path):
    """SIGTERM after the first design: one sentence, nothing half-written, the next run goes on."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "crumple", "simulate", "--meshes", meshes, "--out", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    first = tmp_path / "out.partial" / "000000.npz"
    for _ in range(6000):
        if first.exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("crumple: error: stopped")
    assert not out.exists()
    before = first.stat().st_mtime_ns
    assert simulate(meshes, out) == 0
    assert (out / "000000.npz").stat().st_mtime_ns == before
    assert len(list(out.glob("*.npz"))) == 3


def test_one_design_from_a_picture(tmp_path, monkeypatch, capsys):
    cell = designs.mirror(designs.sample(0, 3, Config().designs).quarter)
    Image.fromarray((255 * (1 - cell)).astype(np.uint8)).save(tmp_path / "cell.png")
    out = tmp_path / "out"
    arguments = ["simulate-one", str(tmp_path / "cell.png"), "--config", COARSE, "--out", str(out)]
    assert main(arguments) == 0
    names = {path.name for path in out.iterdir()}
    assert {"curve.csv", "simulation.npz", "deformation.pvd", "overview.png"} <= names
    assert len(list(out.glob("*.vtu"))) == 11
    assert {"deformation.png", "deformation.gif"} <= names
    # without OpenGL one sentence, and all the rest
    bare = [*arguments[:-1], str(tmp_path / "bare")]
    monkeypatch.setenv("VTK_DEFAULT_OPENGL_WINDOW", "vtkXOpenGLRenderWindow")
    monkeypatch.setenv("DISPLAY", ":99")
    capsys.readouterr()
    assert main(bare) == 0
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "cannot be drawn here: no OpenGL" in sentence
    left = {path.name for path in (tmp_path / "bare").iterdir()}
    assert left == names - {"deformation.png", "deformation.gif"}


def test_a_bad_picture_is_one_sentence(tmp_path, capsys):
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / "cell.png")
    out = tmp_path / "out"
    assert main(["simulate-one", str(tmp_path / "cell.png"), "--out", str(out)]) == 1
    assert "48x48" in capsys.readouterr().err
    assert not out.exists()
