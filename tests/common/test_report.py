"""Parts of the report: triangulated bodies, packing, charts, images, and the page as a whole."""

import base64
import re
import struct
import zlib

import numpy as np
import pytest

import synthetic
from crumple import designs, evaluation, report
from crumple.config import Config
from crumple.report import bodies, charts, pixels, write_report

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
    assert np.abs(moved.stress[0] + reference[:, 1])[inside].max() < 5e-3


def test_empty_body():
    body = bodies.body(np.zeros((6, 6)), still(6))
    assert len(body.triangles) == 0 and body.position.shape == (1, 0, 2)
    assert bodies.pack(body, 10.0)["vertices"] == 0


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
    position, triangles, outline, stress = unpack(bodies.pack(body, 50.0))
    position = position.reshape(11, 2, -1).transpose(0, 2, 1) * bodies.LENGTH_UNIT
    assert np.abs(position - body.position).max() <= bodies.LENGTH_UNIT / 2
    assert np.array_equal(triangles.reshape(-1, 3), body.triangles)
    assert np.array_equal(outline.reshape(-1, 2), body.outline)
    level = np.clip(body.stress / 50, -1, 1)
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
    line = charts.Line("a & b", "fe", [0, 0.1, 0.2], [0, np.nan, 10])
    svg = charts.chart([line], charts.Axis("x", 0, 0.2), charts.Axis("y", 0, 10), size=(474, 148))
    points = re.search(r'class="line fe"[^>]*points="([^"]*)"', svg)[1]
    assert points == "54.0,110.0 454.0,10.0"
    assert "a &amp; b" in svg and "NaN" not in svg


def test_png_round_trip():
    image = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    data = pixels.png(image)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (7, 5)
    length = struct.unpack(">I", data[33:37])[0]
    raw = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(5, 8)
    assert np.array_equal(raw[:, 1:], image)


def test_page_is_complete_and_needs_no_network(tmp_path):
    paths = synthetic.write_chain(tmp_path)
    write = synthetic.write_run_report
    html = write(paths, tmp_path / "evaluation", tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html) and "@import" not in html
    assert html.count('class="target"') == 3 and html.count("<canvas") == 11
    assert "not meshable: gmsh gave up" in html and "no solid" in html
    result = (tmp_path / "evaluation/targets.csv").read_text()
    assert "heldout_000006" in result


def test_a_page_without_room_keeps_the_best_candidates(tmp_path, monkeypatch):
    paths = synthetic.write_chain(tmp_path)
    full = synthetic.write_run_report(paths, tmp_path / "e", tmp_path / "full.html").read_text()
    sizes = [len(data) for data in re.findall(r'"data":"([^"]*)"', full)]
    monkeypatch.setattr(report, "BODY_BYTES", sum(sizes) - min(sizes))
    html = synthetic.write_run_report(paths, tmp_path / "e2", tmp_path / "less.html").read_text()
    assert html.count("<canvas") < 11
    for article in html.split('<article class="target"')[1:]:
        best = re.search(r'aria-selected="true">[^<]*best', article)
        pane = re.search(r'<div class="candidate" role="tabpanel"([^>]*)>', article)
        assert best and ("data-fe" in article if "hidden" in pane[1] else "data-fe" in pane[1])


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
