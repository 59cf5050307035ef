"""Parts of the report: triangulated bodies, packing, charts, images, and the page as a whole."""

import base64
import html
import io
import json
import re
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

import synthetic
from crumple import designs, evaluation
from crumple.config import Config
from crumple.errors import UserError
from crumple.library import MODELS, packaged
from crumple.report import bodies, charts, page, panes, pictures, tables, words, write_report
from crumple.results import read_results

SETTINGS = Config().designs


def area(body, frame=0):
    a, b, c = body.position[frame][body.triangles].swapaxes(0, 1)
    return 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum()


def still(size):
    return np.zeros((1, 3, size, size))


def test_body_of_a_full_cell_covers_it():
    assert area(bodies.body(np.ones((8, 8)), still(8))) == pytest.approx(1)


def test_body_follows_pixel_edge_midpoints():
    """One pixel inside a void cell is a diamond with half its area, before softening."""
    solid = np.zeros((5, 5))
    solid[2, 2] = 1
    body = bodies.body(solid, still(5))
    assert len(body.triangles) == 4 and len(body.outline) == 4
    assert area(body) < 0.5 / 25  # softening shrinks it further
    assert body.position[0].mean(axis=0) == pytest.approx([0.5, 0.5])


def test_corners_that_touch_stay_apart():
    solid = np.zeros((6, 6))
    solid[2, 2] = solid[3, 3] = 1
    body = bodies.body(solid, still(6))
    degree = np.bincount(body.outline.ravel())
    assert len(body.outline) == 8 and set(degree[degree > 0]) == {2}
    assert len(body.triangles) == 8


def test_body_area_is_that_of_the_design():
    for index in range(5):
        solid = designs.mirror(designs.sample(0, index, SETTINGS).quarter)
        assert area(bodies.body(solid, still(96))) == pytest.approx(solid.mean(), rel=0.02)


def test_body_moves_with_an_affine_displacement():
    """Shortening by 20 % and a turn: positions are exact but for the half pixel at the platens."""
    solid = designs.mirror(designs.sample(0, 2, SETTINGS).quarter)
    centres = (np.arange(96) + 0.5) / 96
    x, y = np.meshgrid(centres, 1 - centres)
    frames = np.stack([0.1 * np.sin(2 * np.pi * x) * solid, -0.2 * y * solid, -y * solid])[None]
    reference = bodies.body(solid, np.zeros_like(frames)).position[0]
    moved = bodies.body(solid, frames)
    inside = (np.abs(reference - 0.5) < 0.49).all(axis=1)
    expected = reference * [1, 0.8] + np.stack(
        [0.1 * np.sin(2 * np.pi * reference[:, 0]), 0 * reference[:, 1]], axis=1
    )
    assert np.abs(moved.position[0] - expected)[inside].max() < 2e-3
    assert np.abs(moved.position[0] - expected).max() < 6e-3
    assert np.abs(moved.value[0] + reference[:, 1])[inside].max() < 5e-3


def test_empty_body():
    body = bodies.body(np.zeros((6, 6)), still(6))
    assert len(body.triangles) == 0 and body.position.shape == (1, 0, 2)
    assert bodies.pack(body, -10.0, 10.0)["vertices"] == 0


def unpack(packed):
    """What the page's script does, in Python."""
    raw = zlib.decompress(base64.b64decode(packed["data"]))
    frames, vertices, count = packed["frames"], packed["vertices"], packed["triangles"]
    sizes = [(2 * frames, vertices, "<i2"), (1, 3 * count, "<u2")]
    sizes += [(1, 2 * packed["edges"], "<u2"), (frames, vertices, "i1")]
    parts, offset = [], 0
    for rows, columns, kind in sizes:
        values = np.frombuffer(raw, kind, rows * columns, offset).reshape(rows, columns)
        parts.append(np.cumsum(values, axis=1, dtype=kind))
        offset += values.nbytes
    assert offset == len(raw)
    return parts


def test_packing_is_undone_within_its_resolution():
    quarter = designs.sample(0, 1, SETTINGS).quarter
    frames = synthetic.fields(quarter, synthetic.curve(1, 0.2, synthetic.FRAME_STRAIN), 0.4)
    body = bodies.body(designs.mirror(quarter), frames[:, :3])
    position, triangles, outline, stress = unpack(bodies.pack(body, -50.0, 50.0))
    position = position.reshape(11, 2, -1).transpose(0, 2, 1) * bodies.LENGTH_UNIT
    assert np.abs(position - body.position).max() <= bodies.LENGTH_UNIT / 2
    assert np.array_equal(triangles.reshape(-1, 3), body.triangles)
    assert np.array_equal(outline.reshape(-1, 2), body.outline)
    level = np.clip(body.value / 50, -1, 1)
    assert np.abs(stress / 127 - level).max() <= 0.5 / 127 + 1e-9


def test_ticks_are_round_and_inside():
    assert charts.ticks(charts.Axis("", 0, 0.2)) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert charts.ticks(charts.Axis("", 0, 87.3)) == [0, 20, 40, 60, 80]
    assert charts.ticks(charts.Axis("", 0.08, 1.1, log=True)) == pytest.approx([0.1, 0.2, 0.5, 1])
    assert charts.ticks(charts.Axis("", 0.6, 1.4, log=True)) == pytest.approx(
        [0.6, 0.8, 1, 1.2, 1.4]
    )
    decades = charts.ticks(charts.Axis("", 1e-6, 2e2, log=True))
    assert decades == pytest.approx(10.0 ** np.arange(-6, 3))


def test_chart_places_a_line_and_skips_gaps():
    axes = charts.Axis("x", 0, 0.2), charts.Axis("y", 0, 10)
    line = charts.Line("a & b", "fe", [0, 0.1, 0.2], [0, np.nan, 10], [1, 1, 2])
    drawn = charts.chart([line], *axes, size=(474, 148))
    assert drawn.lines[0].points == "54.0,110.0 454.0,10.0"
    assert drawn.bands[0].points == "54.0,100.0 454.0,-10.0 454.0,30.0 54.0,120.0"
    assert charts.chart([line._replace(spread=None)], *axes).bands == []
    svg = page.environment().get_template("chart.html").module.draw(drawn)
    assert re.search(r'class="line fe" [^>]*points="([^"]*)"', svg)[1] == drawn.lines[0].points
    assert svg.count("a &amp; b") == 1 and "NaN" not in svg  # the other name is escaped as JSON is
    data = json.loads(html.unescape(re.search(r"data-chart='([^']*)'", svg)[1]))
    assert data["lines"] == [{"label": "a & b", "x": [0, 0.1, 0.2], "y": [0, None, 10]}]


def test_png_round_trip():
    image = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    with Image.open(io.BytesIO(pictures.png(image))) as found:
        assert (found.format, found.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(found), image)


def report_of(paths, out):
    """Write the report of a run that has been evaluated."""
    parts = [paths["designs"]], [paths["shard"]]
    inputs = [paths[name] for name in ("dataset", "model", "generated", "evaluation")]
    write_report(*inputs, *parts, out)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has been evaluated."""
    folder = tmp_path_factory.mktemp("run")
    paths = synthetic.write_chain(folder) | {"folder": folder, "evaluation": folder / "evaluation"}
    parts = [paths["designs"]], [paths["shard"]]
    evaluation.evaluate(paths["generated"], paths["dataset"], *parts, paths["evaluation"])
    return paths


def test_page_is_complete_and_needs_no_network(tmp_path):
    paths = synthetic.write_chain(tmp_path)
    write = synthetic.write_run_report
    text = write(paths, tmp_path / "evaluation", tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "@import" not in text
    assert text.count('class="target"') == 3 and text.count("<canvas") == 11
    assert "not meshable: gmsh gave up" in text and "no solid" in text
    result = (tmp_path / "evaluation/targets.csv").read_text()
    assert "heldout_000006" in result


def test_a_page_of_a_library_needs_no_data_set(tmp_path):
    """What a library and the models of the package know of themselves stands where data would."""
    paths = synthetic.write_chain(tmp_path, library=True, fields_too=False)
    models = {name: packaged(name) for name in MODELS}
    write = synthetic.write_run_report
    text = write(paths, tmp_path / "e", tmp_path / "report.html", **models).read_text()
    assert f"run {tmp_path.name}" in text and "<h2>Library</h2>" in text
    assert text.count("<canvas") == 5 and text.count("<figcaption>the target&#39;s own") == 2
    assert re.findall(r'<span class="stage">(\w+)</span><b>(\w+)</b>', text)[:2] == [
        ("Library", "23"),
        ("Models", "2"),
    ]
    tiles = re.findall(r'data-design="(\d+)"', text)
    assert sorted(map(int, tiles)) == [i for i in range(24) if i != 1]  # which has failed
    assert sorted(re.findall(r'data-name="(\d+)"', text)) == sorted(tiles)
    held_out = json.loads((packaged("response") / "response.json").read_text())["held_out"]
    assert f"<dd>{words.percent(held_out['nrmse_50_percent'])}</dd>" in text
    assert text.count("<dt>precision</dt><dd>bf16</dd>") == 2
    assert text.count('class="learner"') == 2

    text = write(paths, tmp_path / "e", tmp_path / "report.html", model=None).read_text()
    assert "<h2>Library</h2>" in text and "<h2>Training</h2>" not in text


def test_a_page_of_another_library_is_refused(tmp_path):
    paths = synthetic.write_chain(tmp_path, library=True)
    parts = [paths["designs"]], [paths["shard"]]
    evaluation.evaluate(paths["generated"], paths["dataset"], *parts, tmp_path / "e")
    other = packaged("library.npz")
    with pytest.raises(UserError, match="doesn't belong to the designs given here"):
        write_report(other, None, paths["generated"], tmp_path / "e", *parts, tmp_path / "r.html")


def test_a_page_without_room_keeps_the_best_candidates(tmp_path, monkeypatch):
    paths = synthetic.write_chain(tmp_path)
    full = synthetic.write_run_report(paths, tmp_path / "e", tmp_path / "full.html").read_text()
    sizes = [len(data) for data in re.findall(r'"data":"([^"]*)"', full)]
    monkeypatch.setattr(panes, "BODY_BYTES", sum(sizes) - min(sizes))
    less = synthetic.write_run_report(paths, tmp_path / "e2", tmp_path / "less.html").read_text()
    assert less.count("<canvas") < 11
    for article in less.split('<article class="target"')[1:]:
        best = re.search(r'aria-selected="true">[^<]*best', article)
        pane = re.search(r'<div class="candidate" role="tabpanel"([^>]*)>', article)
        first = article.split(pane[0])[1].split('<div class="candidate"')[0]
        assert best and "deformation, simulated" in (article if "hidden" in pane[1] else first)


def test_report_without_results(tmp_path):
    """A missing evaluation is one sentence; a missing training log is not an error."""
    paths = synthetic.write_chain(tmp_path)
    arguments = [[paths["designs"]], [paths["shard"]]]
    with pytest.raises(Exception, match="crumple evaluate"):
        write_report(
            paths["dataset"],
            paths["model"],
            paths["generated"],
            tmp_path,
            *arguments,
            tmp_path / "r",
        )
    evaluation.evaluate(paths["generated"], paths["dataset"], *arguments, tmp_path / "e")
    (paths["model"] / "stats.jsonl").unlink()
    write_report(
        paths["dataset"],
        paths["model"],
        paths["generated"],
        tmp_path / "e",
        *arguments,
        tmp_path / "r.html",
    )
    assert "no losses" in (tmp_path / "r.html").read_text()


DAMAGED = {
    "evaluation.json": ["{}", "[]", "no JSON", '{"targets": []}', "twice the strain"],
    "stats.jsonl": ['{"step": 10\n', "[1]\n", '{"loss": 0.5}\n', '{"step": "ten"}\n'],
    "config.json": ["{}", "[]", '{"format": "crumple-model"}', '{"training": 3}'],
}


@pytest.mark.parametrize("name, text", [(n, t) for n, texts in DAMAGED.items() for t in texts])
def test_damaged_results_are_one_sentence(run, tmp_path, name, text):
    """Formerly a traceback, or a page of wrong numbers."""
    folder = shutil.copytree(run["folder"], tmp_path / "run")
    paths = {key: folder / path.relative_to(run["folder"]) for key, path in run.items()}
    path = paths["evaluation" if name == "evaluation.json" else "model"] / name
    if text == "twice the strain":
        text = path.read_text().replace("0.002", "0.004")
    path.write_text(text)
    with pytest.raises(UserError, match=f"cannot read .*{name}.*; (run|train)") as caught:
        report_of(paths, tmp_path / "report.html")
    assert "\n" not in str(caught.value) and not (tmp_path / "report.html").exists()


def test_names_from_files_are_text(run):
    """What a target file, a mesh or a log calls things never becomes part of the page's code."""
    name = "</h3><script>alert(1)</script>\"'&"
    results = read_results(run["evaluation"])
    row = results.targets[0].model_copy(update={"target": name})
    shape = charts.chart([], charts.Axis(name, 0, 1), charts.Axis(name, 0, 1), title=name)
    table = tables.target_table([row])
    templates = page.environment()
    for text in (
        templates.get_template("macros.html").module.table(table),
        templates.get_template("macros.html").module.legend([("fe", name, "")]),
        templates.get_template("chart.html").module.draw(shape),
    ):
        assert "<script" not in text and name not in text
        assert html.unescape(text).count(name) >= 1


def test_an_evaluation_of_other_candidates_is_refused(run, tmp_path):
    """Its record says that it is of these, but its content isn't."""
    folder = shutil.copytree(run["folder"], tmp_path / "run")
    paths = {key: folder / path.relative_to(run["folder"]) for key, path in run.items()}
    path = paths["evaluation"] / "evaluation.json"
    results = json.loads(path.read_text())
    results["candidates"].pop()
    path.write_text(json.dumps(results))
    with pytest.raises(UserError, match="evaluation.json: its candidates are not those of .*zarr"):
        report_of(paths, tmp_path / "report.html")
