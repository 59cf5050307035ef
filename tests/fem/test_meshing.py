"""Outlines and quadrilateral meshes: geometry, conformity, periodicity, defined treatment."""

import subprocess
import sys
import time

import numpy as np
import pytest
import shapely

import synthetic
from crumple import cli, designs, meshing, outline
from crumple.config import Config
from crumple.provenance import fingerprint

SETTINGS = Config().designs


@pytest.fixture(scope="module", autouse=True)
def gmsh():
    with meshing.gmsh_session():
        yield


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "designs.npz"
    quarter = np.stack([designs.sample(0, index, SETTINGS).quarter for index in range(4)])
    quarter[1, :, 20] = 0
    quarter[1, :, 5] = 1
    status = np.array(["ok", "ok", "no domain", "ok"])
    synthetic.write_designs(path, [4, 5, 6, 7], quarter, status=status)
    return path


def _cell(index: int) -> np.ndarray:
    return designs.mirror(designs.sample(0, index, SETTINGS).quarter)


def _areas(mesh: meshing.QuadMesh) -> np.ndarray:
    a, b, c, d = mesh.nodes[mesh.cells].transpose(1, 0, 2)
    return 0.5 * outline.cross(c - a, d - b)


def _sides(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sides of a mesh as pairs of nodes, and how many cells each has."""
    pairs = np.stack([cells, np.roll(cells, -1, axis=1)], axis=-1).reshape(-1, 2)
    return np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)


def _plate_with_hole(radius: float) -> shapely.Geometry:
    hole = shapely.Point(0.5, 0.5).buffer(radius, quad_segs=2000)
    return shapely.box(0, 0, 1, 1).difference(hole)


# Outlines of images


def test_a_disc_of_pixels_gets_a_round_outline():
    centre = (np.arange(96) + 0.5) / 96 - 0.5
    image = np.hypot(centre[:, None], centre[None, :]) > 0.3
    hole = outline.from_image(image).geoms[0].interiors[0]
    radius = np.hypot(*(np.asarray(hole.coords) - 0.5).T)
    assert np.abs(radius - 0.3).max() < 0.5 / 96
    assert shapely.Polygon(hole).area == pytest.approx(np.pi * 0.3**2, rel=2e-3)


def test_rows_run_down_and_columns_to_the_right():
    image = np.zeros((96, 96), np.uint8)
    image[:24, :48] = 1
    x_min, y_min, x_max, y_max = outline.from_image(np.roll(image, 10, axis=1)).bounds
    assert (x_min, y_min, x_max, y_max) == pytest.approx((10 / 96, 72 / 96, 58 / 96, 1), abs=2e-4)


def test_outline_keeps_the_area_of_random_designs():
    for index in range(8):
        cell = _cell(index)
        assert outline.from_image(cell).area == pytest.approx(cell.mean(), rel=6e-3)


def test_pixels_that_touch_at_a_corner_are_separate():
    image = np.zeros((96, 96), np.uint8)
    image[:48, 20:48] = image[48:, 48:76] = 1
    assert len(outline.from_image(image).geoms) == 2
    image[48, 47] = 1
    assert len(outline.from_image(image).geoms) == 1


@pytest.mark.parametrize(
    ("height", "width", "holes"), [(1, 1, 0), (1, 2, 0), (1, 3, 0), (2, 2, 1), (1, 5, 1)]
)
def test_holes_under_three_pixels_are_dropped(height, width, holes):
    image = np.ones((96, 96), np.uint8)
    image[30 : 30 + height, 40 : 40 + width] = 0
    (solid,) = outline.from_image(image).geoms
    assert len(solid.interiors) == holes


def test_holes_cut_by_the_cell_boundary_count_as_a_whole():
    image = np.ones((96, 96), np.uint8)
    image[30, [0, 95]] = 0  # two pixels in all: dropped
    assert outline.from_image(image).area == pytest.approx(1)
    image[31, [0, 95]] = 0  # four: a notch on both sides
    solid = outline.from_image(image)
    assert solid.area < 1 - 2 / 96**2
    mirrored = shapely.transform(solid, lambda xy: [1, 0] + [-1, 1] * xy)
    assert solid.symmetric_difference(mirrored).area < 1e-9
    mesh = meshing.mesh_polygons(solid, 0.014)
    assert np.any((mesh.nodes[:, 0] == 0) & (np.abs(mesh.nodes[:, 1] - 65 / 96) < 2 / 96))


def test_small_islands_are_dropped():
    image = np.zeros((96, 96), np.uint8)
    image[:, 20:40] = 1
    image[50, 60:62] = 1
    assert len(outline.from_image(image).geoms) == 1


@pytest.mark.parametrize("h", [0.014, 0.03])
def test_a_wall_of_one_pixel_is_meshed(h):
    image = np.zeros((96, 96), np.uint8)
    image[:30] = image[66:] = 1
    image[:, 47] = 1
    mesh, _ = meshing.mesh_cell(image, h)
    at_middle = mesh.nodes[np.abs(mesh.nodes[:, 1] - 0.5) < h]
    assert np.ptp(at_middle[:, 0]) == pytest.approx(1 / 96, rel=0.05)


def test_a_diagonal_wall_of_one_pixel_stays_connected():
    image = np.zeros((96, 96), np.uint8)
    image[:30] = image[66:] = 1
    for k in range(36):
        image[30 + k, 20 + k : 22 + k] = 1
    (solid,) = outline.from_image(image).geoms
    assert solid.is_valid
    meshing.mesh_polygons(solid, 0.014)


# Outlines of meshes


def test_outline_of_a_mesh_is_the_outline_it_was_made_of():
    solid = outline.from_image(_cell(2))
    mesh = meshing.mesh_polygons(solid, 0.014)
    again = outline.from_mesh(mesh.nodes.astype(np.float32), mesh.cells[:, ::-1])
    assert again.symmetric_difference(solid).area < 1e-3
    assert again.area == pytest.approx(solid.area, rel=1e-3)
    second, _ = meshing.mesh_region(again, 0.014)
    assert _areas(second).sum() == pytest.approx(_areas(mesh).sum(), rel=5e-4)


def test_outline_of_a_mesh_keeps_corners_and_reads_triangles():
    nodes = np.array([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.5, 0.6], [0.2, 0.8]])
    cells = np.array([[0, 1, 3, 3], [1, 2, 3, 3], [0, 3, 4, 4]])
    solid = outline.from_mesh(nodes, cells)
    assert solid.area == pytest.approx(0.3)
    mesh = meshing.mesh_polygons(solid, 0.05)
    assert _areas(mesh).sum() == pytest.approx(0.3)
    distance = np.hypot(*(mesh.nodes[:, None] - nodes).transpose(2, 0, 1))
    assert distance.min(axis=0) == pytest.approx(np.zeros(5))


# Meshes


def _area_error(h: float, radius: float = 0.31) -> float:
    mesh = meshing.mesh_polygons(_plate_with_hole(radius), h)
    return abs(_areas(mesh).sum() - (1 - np.pi * radius**2))


def test_area_converges_to_that_of_the_smooth_outline():
    sizes = np.array([0.04, 0.02, 0.01])
    errors = [_area_error(h) for h in sizes]
    order = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert order == pytest.approx(2, abs=0.2)
    assert errors[-1] < 1e-4


def test_area_error_is_larger_when_boundary_nodes_stay_on_the_chords(monkeypatch):
    with_outline = _area_error(0.02)
    monkeypatch.setattr(meshing, "_bulge", lambda nodes, *_: nodes)
    assert _area_error(0.02) > 3 * with_outline


@pytest.mark.parametrize("index", range(6))
def test_meshes_of_random_designs_are_valid(index):
    cell = _cell(index)
    solid = outline.from_image(cell)
    mesh, fallback = meshing.mesh_region(solid, 0.014)
    assert fallback == ""
    assert mesh.cells.dtype == np.int32
    assert (meshing.scaled_jacobian(*mesh) > 0.2).all()
    assert (_areas(mesh) > 0).all()
    assert _areas(mesh).sum() == pytest.approx(solid.area, rel=2e-3)
    # conforming: every node used, sides shared by at most two, topology of the outline
    assert np.array_equal(np.unique(mesh.cells), np.arange(len(mesh.nodes)))
    sides, cells_of_side = _sides(mesh.cells)
    assert cells_of_side.max() == 2
    holes = sum(len(part.interiors) for part in solid.geoms)
    assert len(mesh.nodes) - len(sides) + len(mesh.cells) == len(solid.geoms) - holes
    # the boundary closes, and lies on the outline or on the cell boundary
    boundary = sides[cells_of_side == 1]
    assert (np.bincount(boundary.ravel())[boundary] == 2).all()
    away = shapely.distance(solid.boundary, shapely.points(mesh.nodes[np.unique(boundary)]))
    assert np.quantile(away, 0.95) < 1e-6
    assert away.max() < 0.014 / 2


@pytest.mark.parametrize("index", range(6))
def test_opposite_sides_match_exactly(index):
    nodes = meshing.mesh_cell(_cell(index), 0.014)[0].nodes
    for axis in range(2):
        low, high = (np.sort(nodes[nodes[:, axis] == level, 1 - axis]) for level in (0, 1))
        assert len(low) > 4
        assert np.array_equal(low, high)
    assert nodes.min() == 0
    assert nodes.max() == 1
    nearly = np.abs(nodes - np.round(nodes)) < 1e-6
    assert np.array_equal(nodes[nearly], np.round(nodes[nearly]))


def test_element_size_is_what_was_asked_for():
    counts = {}
    for h in (0.02, 0.01):
        mesh, _ = meshing.mesh_cell(_cell(1), h)
        assert meshing.quality(mesh)["mean_side"] == pytest.approx(h, rel=0.15)
        counts[h] = len(mesh.cells)
    assert counts[0.01] / counts[0.02] == pytest.approx(4, rel=0.25)


def test_meshes_do_not_depend_on_what_was_meshed_before():
    first, _ = meshing.mesh_cell(_cell(3), 0.02)
    meshing.mesh_cell(_cell(4), 0.014)
    second, _ = meshing.mesh_cell(_cell(3), 0.02)
    assert np.array_equal(first.nodes, second.nodes)
    assert np.array_equal(first.cells, second.cells)


def test_a_periodic_cell_without_mirror_symmetry_is_meshed():
    image = np.roll(_cell(5), (0, 17), axis=(0, 1))
    image[40:44, 10:80] = 1
    mesh, _ = meshing.mesh_cell(image, 0.014)
    x, y = mesh.nodes.T
    assert np.array_equal(np.sort(y[x == 0]), np.sort(y[x == 1]))


def test_different_left_and_right_sides_are_refused():
    with pytest.raises(meshing.MeshFailure, match="left and right sides of the cell differs"):
        meshing.mesh_polygons(shapely.box(0, 0, 0.5, 1), 0.05)
    shifted = shapely.Polygon([(0, 0.2), (1, 0.3), (1, 0.8), (0, 0.7)])
    with pytest.raises(meshing.MeshFailure, match="left and right sides of the cell differs"):
        meshing.mesh_polygons(shifted, 0.05)


def test_no_chord_closes_a_small_notch_in_a_side():
    notch = [(0.005 * (1 - t**2), 0.5 - 0.04 * t) for t in np.linspace(-1, 1, 9)]
    ring = outline.split(np.array([(0, 0.2), (1, 0.2), (1, 0.8), (0, 0.8), *notch]))
    ends = meshing._cut(ring, 0.04).ends
    middles = (ends + np.roll(ends, -1, axis=0)) / 2
    on_left = middles[(middles[:, 0] == 0), 1]
    assert len(on_left) > 4
    assert np.abs(on_left - 0.5).min() > 0.04


def test_different_top_and_bottom_sides_are_meshed():
    mesh = meshing.mesh_polygons(shapely.Polygon([(0.1, 0), (0.9, 0), (0.7, 1), (0.3, 1)]), 0.05)
    assert _areas(mesh).sum() == pytest.approx(0.6)


def test_several_parts_make_one_mesh():
    parts = shapely.MultiPolygon([shapely.box(0.1, 0, 0.3, 1), shapely.box(0.6, 0, 0.9, 1)])
    mesh = meshing.mesh_polygons(parts, 0.05)
    assert _areas(mesh).sum() == pytest.approx(0.5)


def test_quality_of_known_elements():
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    cells = np.array([[0, 1, 2, 3]])
    assert meshing.scaled_jacobian(square, cells) == pytest.approx(np.ones((1, 4)))
    assert meshing.scaled_jacobian(square, cells[:, ::-1]) == pytest.approx(-np.ones((1, 4)))
    assert meshing.shape(square, cells) == pytest.approx(1)
    assert meshing.shape(square * [1, 3], cells) == pytest.approx(0.6)
    assert meshing.shape(square, cells[:, ::-1]) == pytest.approx(-1)
    rhombus = np.array([[0.0, 0], [2, 0], [3, np.sqrt(3)], [1, np.sqrt(3)]])
    quality = meshing.quality(meshing.QuadMesh(rhombus, cells))
    assert quality["min_angle"] == pytest.approx(60)
    assert quality["min_scaled_jacobian"] == pytest.approx(np.sin(np.radians(60)))
    assert quality["mean_side"] == quality["min_side"] == pytest.approx(2)


# Fallbacks and files


def test_a_failed_mesh_is_tried_again_with_smaller_elements(monkeypatch):
    mesh_polygons, sizes = meshing.mesh_polygons, []

    def fails_twice(solid, h):
        sizes.append(h)
        if len(sizes) < 3:
            raise meshing.MeshFailure(f"reason {len(sizes)}")
        return mesh_polygons(solid, h)

    monkeypatch.setattr(meshing, "mesh_polygons", fails_twice)
    _, fallback = meshing.mesh_region(shapely.box(0, 0, 1, 1), 0.1)
    assert sizes == pytest.approx([0.1, 0.093, 0.086])
    assert fallback == "element size x 0.86: reason 1"


def test_a_design_that_cannot_be_meshed_has_its_first_reason(shard, tmp_path, monkeypatch):
    reasons = iter(f"reason {k}" for k in range(20))

    def refuse(solid, h):
        raise meshing.MeshFailure(next(reasons))

    monkeypatch.setattr(meshing, "mesh_polygons", refuse)
    meshing.mesh_shard(Config(), shard, tmp_path / "meshes")
    assert str(np.load(tmp_path / "meshes" / "000004.npz")["status"]) == "not meshable: reason 0"
    assert str(np.load(tmp_path / "meshes" / "000007.npz")["status"]) == "not meshable: reason 5"


def test_poor_elements_are_a_failure():
    sliver = shapely.Polygon([(0.1, 0.5), (0.9, 0.5), (0.5, 0.505)])
    with pytest.raises(meshing.MeshFailure):
        meshing.mesh_polygons(sliver, 0.05)


def test_a_shard_has_a_file_with_a_status_per_design(shard, tmp_path):
    out = tmp_path / "meshes"
    meshing.mesh_shard(Config(mesh={"element_size": 0.03}), shard, out)
    found = {path.name: np.load(path) for path in sorted(out.glob("*.npz"))}
    assert list(found) == ["000004.npz", "000005.npz", "000006.npz", "000007.npz"]
    status = [str(file["status"]) for file in found.values()]
    assert status[0] == status[3] == "ok"
    assert "disconnected" in status[1]
    assert status[2] == "not acceptable: no domain"
    assert found["000005.npz"]["nodes"].shape == (0, 2)
    mesh = meshing.QuadMesh(found["000004.npz"]["nodes"], found["000004.npz"]["cells"])
    assert (_areas(mesh) > 0).all()
    assert found["000004.npz"]["min_angle"] > 10


def test_a_shard_that_is_meshed_again_is_the_same_to_the_last_byte(shard, tmp_path):
    config, found = Config(mesh={"element_size": 0.03}), []
    for name in ("one", "other"):
        meshing.mesh_shard(config, shard, tmp_path / name)
        found.append(fingerprint((tmp_path / name).glob("*.npz")))
    assert found[0] == found[1]


def test_an_interrupted_shard_continues(shard, tmp_path, monkeypatch):
    config, out = Config(mesh={"element_size": 0.03}), tmp_path / "meshes"
    mesh_cell, done = meshing.mesh_cell, []

    def interrupted(cell, h):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return mesh_cell(cell, h)

    monkeypatch.setattr(meshing, "mesh_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        meshing.mesh_shard(config, shard, out)
    assert not out.exists()
    first = tmp_path / "meshes.partial" / "000004.npz"
    written = first.stat().st_mtime_ns
    monkeypatch.setattr(meshing, "mesh_cell", mesh_cell)
    meshing.mesh_shard(config, shard, out)
    assert len(list(out.glob("*.npz"))) == 4
    assert (out / first.name).stat().st_mtime_ns == written


def test_commands_sample_and_mesh(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "designs: {count: 3, shard_size: 2}\nmesh: {element_size: 0.03}\nevaluation: {held_out: 0}"
    )
    sampled, meshed = tmp_path / "0001.npz", tmp_path / "0001"
    common = ["--config", str(config), "--out"]
    assert cli.main(["sample", "--shard", "1", *common, str(sampled)]) == 0
    assert cli.main(["mesh", "--designs", str(sampled), *common, str(meshed)]) == 0
    assert [path.name for path in meshed.glob("*.npz")] == ["000002.npz"]
    assert cli.main(["mesh", "--designs", str(tmp_path / "none"), *common, str(meshed)]) == 1


def test_sigterm_stops_a_shard_with_one_sentence(tmp_path):
    sampled, meshed = tmp_path / "designs.npz", tmp_path / "meshes"
    designs.sample_shard(Config(designs={"count": 64}), 0, sampled)
    command = [sys.executable, "-m", "crumple", "mesh", "--designs", sampled, "--out", meshed]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        partial = tmp_path / "meshes.partial"
        while not list(partial.glob("0*.npz")):
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, messages = process.communicate()
    assert process.returncode == 1
    assert "crumple: error: stopped; run the same command again to continue" in messages
    assert not meshed.exists()
    assert 0 < len(list(partial.glob("0*.npz"))) < 64
    assert not list(partial.glob(".*"))
