"""The README's pictures can be drawn from a run and stay small."""

import runpy
from pathlib import Path

import matplotlib.image
import pytest

import synthetic

SCRIPT = Path(__file__).parents[2] / "docs" / "figures.py"


@pytest.mark.parametrize("fields_too", [True, False])
def test_pictures_of_a_run(tmp_path, monkeypatch, fields_too):
    paths = synthetic.write_chain(tmp_path, fields_too=fields_too)
    synthetic.write_run_report(paths, tmp_path / "evaluation", tmp_path / "report.html")
    out = tmp_path / "pictures"
    out.mkdir()
    monkeypatch.setattr("sys.argv", ["figures.py", str(tmp_path), str(out), "--targets", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    for name in ("designs", "deformation", "targets"):
        picture = matplotlib.image.imread(out / f"{name}.png")
        assert picture.shape[1] > 700 and picture[..., :3].std() > 0.05
        assert (out / f"{name}.png").stat().st_size < 400_000


def test_pictures_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["figures.py", str(tmp_path), str(tmp_path)])
    with pytest.raises(Exception, match=r"dataset\.json"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
