"""Exports: areas, closed outlines, periodicity, what other programs read, and CalculiX's answer."""

import io
import shutil
import subprocess
from xml.etree import ElementTree

import ezdxf
import numpy as np
import pytest
import shapely
import shapely.affinity
import trimesh
from PIL import Image

from crumple import designs, outline
from crumple.cli import main
from crumple.config import Config
from crumple.errors import UserError
from crumple.exports.abaqus import _alike, _sides, input_file
from crumple.exports.drawings import dxf, svg
from crumple.exports.regions import Region, Tiles, outlines, tile
from crumple.exports.solids import stl
from crumple.fem.compression import Simulation
from crumple.meshing import gmsh_session, mesh_cell

SIZE, THICKNESS = 12.5, 4.0
QUARTER = designs.sample(0, 3, Config().designs).quarter
CELL = designs.mirror(QUARTER)


@pytest.fixture(scope="module")
def region():
    return tile(CELL, Tiles(3, 2), SIZE)


# --- regions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4))
def test_tiles_become_one_closed_region(index):
    cell = designs.mirror(designs.sample(0, index, Config().designs).quarter)
    single = outline.from_image(cell)
    region = tile(cell, Tiles(3, 2), SIZE)
    assert len(region.solid.geoms) == 1  # the design is connected, and so are its tiles
    assert region.solid.is_valid
    assert region.solid.area == pytest.approx(6 * SIZE**2 * single.area, rel=1e-5)
    assert region.solid.bounds == pytest.approx((0, 0, 3 * SIZE, 2 * SIZE), abs=1e-9)
    for column in range(3):
        for row in range(2):
            box = shapely.box(column * SIZE, row * SIZE, (column + 1) * SIZE, (row + 1) * SIZE)
            part = shapely.affinity.translate(
                region.solid.intersection(box), -column * SIZE, -row * SIZE
            )
            expected = shapely.affinity.scale(single, SIZE, SIZE, origin=(0, 0))
            assert part.symmetric_difference(expected).area < 3e-4 * expected.area


def test_no_outline_runs_along_a_seam(region):
    seams = shapely.linestrings([[(k * SIZE, 0), (k * SIZE, 2 * SIZE)] for k in (1, 2)])
    along = region.solid.boundary.intersection(shapely.union_all(seams).buffer(1e-5 * SIZE))
    crossings = len(shapely.get_parts(along))
    assert along.length < 1e-4 * SIZE * crossings
    # control: tiles that are only put side by side have their sides there
    tiles = [shapely.affinity.translate(outline.from_image(CELL), column, 0) for column in range(3)]
    loose = shapely.affinity.scale(
        shapely.MultiPolygon([part for one in tiles for part in one.geoms]),
        SIZE,
        SIZE,
        origin=(0, 0),
    )
    lengths = [shapely.length(part.boundary.intersection(seams[0])) for part in loose.geoms]
    assert sum(lengths) > 0.2 * SIZE


def test_a_cell_without_symmetry_can_be_put_side_by_side_only():
    cell = CELL.copy()
    cell[10:14, 20:24] ^= 1
    assert len(tile(cell, Tiles(2, 1), 1).solid.geoms) >= 1
    with pytest.raises(UserError, match="export one row, --tiles 2x1"):
        tile(cell, Tiles(2, 3), 1)


# --- drawings ------------------------------------------------------------------------------------


def test_svg_is_read_back(region):
    root = ElementTree.fromstring(svg(region, "mine & <yours>"))
    space = "{http://www.w3.org/2000/svg}"
    assert (root.get("width"), root.get("height")) == ("37.5mm", "25mm")
    assert root.get("viewBox") == "0 0 37.5 25"
    assert root.find(f"{space}title").text == "mine & <yours>"
    path = root.find(f"{space}path")
    assert path.get("fill-rule") == "evenodd"
    pieces = path.get("d").split("M")[1:]
    assert len(pieces) == sum(1 for _ in outlines(region))
    drawn = shapely.Polygon()
    for piece in pieces:
        assert piece.strip().endswith("Z")  # closed
        points = [tuple(map(float, p.split())) for p in piece.strip()[:-1].split("L")]
        drawn = drawn.symmetric_difference(shapely.Polygon(points))  # even-odd
    upright = shapely.affinity.scale(drawn, 1, -1, origin=(0, region.height / 2))
    assert upright.symmetric_difference(region.solid).area < 1e-4 * region.solid.area
    assert drawn.symmetric_difference(region.solid).area < 1e-3 * region.solid.area  # mirror image


def test_svg_of_a_cell_without_symmetry_is_not_upside_down():
    cell = np.ones((96, 96), np.uint8)
    cell[5:25, 30:60] = 0  # near the top
    text = svg(tile(cell, Tiles(1, 1), 96.0), "")
    holes = [p for p in text.split('d="')[1].split("M") if p.startswith(("3", "4", "5", "6"))]
    heights = [float(p.split()[1]) for p in holes[0].split("Z")[0].split("L")]
    assert 4 < min(heights) < 6 and 24 < max(heights) < 26  # SVG's y is down


def test_dxf_is_read_back(region, tmp_path):
    (tmp_path / "cells.dxf").write_text(dxf(region), encoding="utf-8")
    document = ezdxf.readfile(tmp_path / "cells.dxf")
    assert not document.audit().has_errors
    assert document.units == ezdxf.units.MM
    lines = list(document.modelspace())
    assert {line.dxftype() for line in lines} == {"LWPOLYLINE"}
    assert all(line.closed for line in lines)
    area = dict.fromkeys(("OUTLINE", "HOLES", "CELLS"), 0.0)
    for line in lines:
        area[line.dxf.layer] += shapely.Polygon([p[:2] for p in line.get_points()]).area
    assert area["OUTLINE"] - area["HOLES"] == pytest.approx(region.solid.area)
    assert area["CELLS"] == pytest.approx(6 * SIZE**2)
    assert area["HOLES"] > 0.05 * area["OUTLINE"]


# --- solids --------------------------------------------------------------------------------------


def test_stl_is_watertight_and_has_the_volume(region):
    body = trimesh.load_mesh(io.BytesIO(stl(region, THICKNESS)), file_type="stl")
    assert body.is_watertight and body.is_winding_consistent
    assert body.volume == pytest.approx(region.solid.area * THICKNESS, rel=1e-5)
    assert body.extents == pytest.approx((3 * SIZE, 2 * SIZE, THICKNESS), rel=1e-6)
    body.update_faces(np.arange(len(body.faces)) != 7)
    assert not body.is_watertight  # control


def test_solids_that_touch_in_a_point_are_refused():
    squares = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(1, 1, 2, 2)])
    with pytest.raises(UserError, match="touch in a point"):
        stl(Region(squares, Tiles(1, 1), 2.0), 1.0)
    apart = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(1.1, 1, 2, 2)])
    assert stl(Region(apart, Tiles(1, 1), 2.0), 1.0)


# --- Abaqus and CalculiX -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh():
    with gmsh_session():
        return mesh_cell(CELL, 0.014)[0]


def blocks(text):
    """Keyword lines and the numbers below them."""
    found = []
    for line in text.splitlines():
        if line.startswith("*") and not line.startswith("**"):
            found.append((line, []))
        elif not line.startswith("**") and line:
            found[-1][1].append([part.strip() for part in line.split(",") if part.strip()])
    return found


def settings(platens="bonded", **material):
    return Config(material={"damping": 0.0} | material, loading={"platens": platens})


def test_input_holds_mesh_sets_and_surfaces(mesh):
    found = blocks(input_file(mesh, settings(), SIZE, THICKNESS, "mine"))
    named = {line: rows for line, rows in found}
    nodes = np.array([row[1:3] for row in named["*NODE, NSET=ALL"]], float) / SIZE
    assert nodes == pytest.approx(mesh.nodes, abs=2e-3)  # moved by the imperfection
    assert np.abs(nodes - mesh.nodes).max() > 1e-4
    cells = np.array([row[1:] for row in named["*ELEMENT, TYPE=CPE4, ELSET=SOLID"]], int) - 1
    np.testing.assert_array_equal(cells, mesh.cells)
    for name, axis, side in (("LEFT", 0, 0), ("RIGHT", 0, 1), ("BOTTOM", 1, 0), ("TOP", 1, 1)):
        members = np.concatenate(named[f"*NSET, NSET={name}"]).astype(int) - 1
        assert set(members) == set(np.flatnonzero(mesh.nodes[:, axis] == side))
    lengths = {}
    for name in ("OUTLINE", "TOP_FACES", "BOTTOM_FACES"):
        rows = named[f"*SURFACE, NAME={name}, TYPE=ELEMENT"]
        faces = np.array([(int(c) - 1, int(s.removeprefix("S")) - 1) for c, s in rows])
        corners = np.stack([faces[:, 1], (faces[:, 1] + 1) % 4])
        ends = mesh.nodes[mesh.cells[faces[:, 0], corners]]
        lengths[name] = np.hypot(*(ends[1] - ends[0]).T).sum()
    solid = outline.from_image(CELL)
    on_sides = [
        solid.intersection(shapely.LineString(side)).length
        for side in ([(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0), (1, 0)], [(0, 1), (1, 1)])
    ]
    assert lengths["BOTTOM_FACES"] == pytest.approx(on_sides[2], rel=1e-3)
    assert lengths["TOP_FACES"] == pytest.approx(on_sides[3], rel=1e-3)
    assert lengths["OUTLINE"] == pytest.approx(solid.length - sum(on_sides), rel=0.01)
    assert np.array(named["*PLASTIC"], float) == pytest.approx(
        np.array(Config().material.hardening)
    )


@pytest.mark.parametrize("platens", ["bonded", "lubricated", "tied"])
def test_equations_can_be_eliminated_one_by_one(mesh, platens):
    sides = _sides(mesh.nodes)
    moves = _alike(mesh.nodes, sides, platens)
    eliminated = [(component, node) for component, node, _ in moves]
    kept = {(component, other) for component, _, other in moves}
    assert len(set(eliminated)) == len(eliminated) and not kept & set(eliminated)
    held = {*sides["BOTTOM"], *sides["TOP"]}
    prescribed = {(2, node) for node in held}
    prescribed |= {(1, node) for node in (held if platens == "bonded" else sides["BOTTOM"][-1:])}
    assert not prescribed & set(eliminated)
    x, y = mesh.nodes.T
    for component, node, other in moves:
        across = x[node] == 0 and x[other] == 1 and y[node] == pytest.approx(y[other])
        down = component == 1 and y[node] == 1 and y[other] == 0
        assert across or (down and platens == "tied")
    count = {c: sum(move[0] == c for move in moves) for c in (1, 2)}
    corners = sum(y[node] in (0, 1) for node in sides["LEFT"])
    assert count[2] == len(sides["LEFT"]) - corners
    extra = {"bonded": -corners, "lubricated": 0, "tied": 0}[platens]
    tops = len(sides["TOP"]) - sum(x[node] == 0 for node in sides["TOP"])
    assert count[1] == len(sides["LEFT"]) + extra + (tops if platens == "tied" else 0)


def run_calculix(folder, text):
    """Strains and stresses that CalculiX prints for an input file."""
    (folder / "cell.inp").write_text(text)
    subprocess.run(["ccx", "cell"], cwd=folder, check=True, capture_output=True, timeout=300)
    lines = (folder / "cell.dat").read_text().splitlines()
    heads = [k for k, line in enumerate(lines) if "total force" in line]
    time = np.array([float(lines[k].split()[-1]) for k in heads])
    force = -np.array([float(lines[k + 2].split()[1]) for k in heads])
    return time, force / (SIZE * THICKNESS)


def our_curve(mesh, config, strains):
    simulation = Simulation(mesh.nodes, mesh.cells, config)
    stress = []
    for strain in strains:
        simulation.advance(strain)
        stress.append(simulation.stress)
    assert simulation.energies["barrier"] == 0  # nothing touches
    simulation.close()
    return np.array(stress)


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.skipif(shutil.which("ccx") is None, reason="CalculiX (ccx) is not installed")
def test_calculix_agrees_until_struts_touch(mesh, tmp_path):
    text = input_file(mesh, settings(), SIZE, THICKNESS, "mine", strain=0.04)
    time, stress = run_calculix(tmp_path, text)
    assert len(time) == 10 and stress[-1] > 15  # well into the plastic range, at 11 to begin with
    ours = our_curve(mesh, settings(), 0.04 * time)
    assert error(stress, ours) < 0.02
    assert error(our_curve(mesh, settings(youngs_modulus=2600.0), 0.04 * time), ours) > 0.04


@pytest.mark.skipif(shutil.which("ccx") is None, reason="CalculiX (ccx) is not installed")
@pytest.mark.parametrize("platens", ["lubricated", "tied"])
def test_calculix_understands_the_other_platens(mesh, tmp_path, platens):
    text = input_file(mesh, settings(platens), SIZE, THICKNESS, "mine", strain=0.004)
    time, stress = run_calculix(tmp_path, text)
    assert stress == pytest.approx(our_curve(mesh, settings(platens), 0.004 * time), rel=0.006)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
    Image.fromarray((255 * (1 - QUARTER)).astype(np.uint8)).save(tmp_path / "mine.png")
    return tmp_path / "mine.png"


def test_the_command_writes_what_is_asked_for(picture, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export", str(picture), "--out", str(out), "--cell-size", "10 mm"]
    assert main([*command, "--tiles", "2x2", "--thickness", "0.5 cm"]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("mine.svg", "mine.dxf", "mine.stl", "mine.inp", "made_by.json")
    }
    said = capsys.readouterr().out
    assert "2 x 2 cells of 10 mm: 20 x 20 x 5 mm, 51." in said and "narrowest strut 0.2 mm" in said
    coarse = ["--config", '{"mesh": {"element_size": 0.03}}', "--formats", "vtu"]
    assert main([*command, *coarse]) == 0  # replaces what was there
    names = {path.name for path in out.iterdir()}
    assert {"deformation.pvd", "deformation_10.vtu", "curve.csv"} <= names
    assert "mine.svg" not in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell-size", "-3"], "--cell-size: '-3' is not from"),
        (["--cell-size", "3 px"], "write a size as 10 mm"),
        (["--cell-size", "10", "--thickness", "thin"], "--thickness: 'thin'"),
        (["--cell-size", "10", "--tiles", "4"], "write columns x rows, as 4x3"),
        (["--cell-size", "10", "--tiles", "0x3"], "write columns x rows, as 4x3"),
        (["--cell-size", "10", "--tiles", "900x900"], "of at most 1000 cells"),
        (["--cell-size", "10", "--formats", "svg,step"], "'step' is none of svg, dxf, stl"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    picture, tmp_path, capsys, options, message
):
    out = tmp_path / "out"
    assert main(["export", str(picture), "--out", str(out), *options]) == 1
    sentence = capsys.readouterr().err
    assert message in sentence and sentence.count("\n") == 1
    assert not out.exists()


def test_a_failure_leaves_what_was_there(picture, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export", "--out", str(out), "--cell-size", "10", "--formats", "svg"]
    assert main([*command, str(picture)]) == 0
    before = (out / "mine.svg").read_text()
    lopsided = CELL.copy()
    lopsided[10:14, 20:24] ^= 1
    np.savez(tmp_path / "lopsided.npz", cell=lopsided)
    assert main([*command, str(tmp_path / "lopsided.npz"), "--tiles", "1x2"]) == 1
    assert (out / "mine.svg").read_text() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    command[2] = str(tmp_path / "mine")
    assert main([*command, str(picture)]) == 1
    assert "is there already" in capsys.readouterr().err
