"""Best matches: against brute force, with exact copies, for curves that are given in part."""

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crumple import cli, lookup
from crumple.designs import DESIGNS, mirror, read_design
from crumple.errors import UserError
from crumple.goal_check import SAMPLE, spacing
from crumple.goals import Goal, measure, read_goals
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.library import read_library
from crumple.provenance import hash_designs
from crumple.readers import read_npz

PAPER = Path(__file__).parents[2] / "workflow/targets/paper.csv"


@pytest.fixture(scope="module")
def library():
    return read_library()


@pytest.fixture
def goal_of(tmp_path):
    """Write a curve as CSV and read it as a goal."""

    def write(strain, stress):
        path = tmp_path / "mine.csv"
        lines = [f"{e:.17g},{s:.17g}" for e, s in zip(strain, stress, strict=True)]
        path.write_text("\n".join(["strain,stress", *lines]).replace("nan", ""))
        return read_goals([path])[0]

    return write


def brute_force(library, strain, stress):
    """NRMSE of every design at the points of a target, one by one."""
    errors = []
    for response in library.curve_stress.astype(float):
        at = [np.interp(e, CURVE_STRAIN, response) for e in strain]
        square = sum((a - b) ** 2 for a, b in zip(at, stress, strict=True))
        errors.append(np.sqrt(square / sum(b**2 for b in stress)))
    return np.array(errors)


def response(library, row, strain):
    return np.interp(strain, CURVE_STRAIN, library.curve_stress[row].astype(float))


@pytest.mark.parametrize(
    "strain", [FRAME_STRAIN, CURVE_STRAIN, [0.03, 0.1], [0.013, 0.05, 0.0777, 0.199]]
)
def test_the_nearest_are_those_of_brute_force(library, goal_of, strain):
    stress = 40 * np.tanh(np.asarray(strain) / 0.04)
    found = lookup.match(library, goal_of(strain, stress), 8)
    errors = brute_force(library, strain, stress)
    order = np.argsort(errors)[:8]
    assert np.array_equal(found.row, order)
    np.testing.assert_allclose(found.error, errors[order], rtol=1e-9)
    np.testing.assert_allclose(found.typical, np.median(errors), rtol=1e-9)


@pytest.mark.parametrize("strain", [FRAME_STRAIN, CURVE_STRAIN])
def test_an_exact_copy_is_found(library, goal_of, strain):
    for row in (0, len(library) // 2, len(library) - 1):
        copy = response(library, row, strain)
        found = lookup.match(library, goal_of(strain, copy), 3)
        assert found.row[0] == row and found.error[0] < 1e-7 < found.error[1]
        changed = lookup.match(library, goal_of(strain, 1.01 * copy), 3)
        assert changed.error[0] > 1e-5


def test_only_the_named_points_count(library, goal_of):
    stress = response(library, 7, FRAME_STRAIN)
    stress[4:] = np.nan
    part = lookup.match(library, goal_of(FRAME_STRAIN, stress), 1)
    assert part.row[0] == 7 and part.error[0] < 1e-7
    stress[4:] = 500  # control: what is named counts
    assert lookup.match(library, goal_of(FRAME_STRAIN, stress), 1).error[0] > 0.5


def test_more_matches_than_designs(library, goal_of):
    assert len(lookup.match(library, goal_of([0.1, 0.2], [10, 12]), 10**6).row) == len(library)


def goal(**limits):
    plateau = {"plateau": {"stress": "15 MPa", "from": "3 %", "to": "15 %"}}
    return Goal.model_validate({"name": "bumper", "response": [plateau], "limits": limits})


def test_matches_keep_to_the_limits(library):
    free = lookup.match(library, goal(), 20)
    dense = library.solid_fraction()[free.row] > 0.46
    assert dense.any() and not dense.all()
    light = lookup.match(library, goal(solid_fraction={"at_most": 0.46}), 20)
    assert light.row[: (~dense).sum()].tolist() == free.row[~dense].tolist()
    assert (library.solid_fraction()[light.row] <= 0.46).all() and len(light.row) == 20
    widths = [measure(mirror(library.quarter[row])).strut for row in free.row[:4]]
    least = float(np.sort(widths)[-2:].mean())  # the widest of them keeps to it alone
    sturdy = lookup.match(library, goal(strut={"at_least": f"{least:.3f} px"}), 1)
    assert sturdy.row.tolist() == [free.row[int(np.argmax(widths))]]


def test_limits_that_no_design_keeps_to(library, monkeypatch):
    monkeypatch.setattr(lookup, "MEASURED", 2)
    for limits, reason in (
        ({"solid_fraction": {"at_least": 0.98}}, "solid fraction is 0.*at least 0.98 is wanted"),
        ({"strut": {"at_least": "20 px"}}, "narrowest strut is"),
    ):
        with pytest.raises(UserError, match=f"bumper: no design .*{reason}.*loosen them"):
            lookup.match(library, goal(**limits), 3)


def test_the_spacing_is_that_of_brute_force(library):
    found = spacing(library.curve_stress)
    rows = np.unique(np.linspace(0, len(library) - 1, SAMPLE).astype(int))
    for place in (0, len(rows) // 3, len(rows) - 1):
        stress = library.curve_stress[rows[place]].astype(float)
        errors = brute_force(library, CURVE_STRAIN, stress)
        errors[rows[place]] = np.inf
        np.testing.assert_allclose(found[place], errors.min(), rtol=1e-6)


def test_the_verdict(library, goal_of):
    near = spacing(library.curve_stress)
    copy = lookup.match(library, goal_of(FRAME_STRAIN, response(library, 5, FRAME_STRAIN)), 1)
    assert "Best match 0.00 % off: the library covers this" in lookup.judge(library, copy, near)
    edge = copy._replace(error=np.quantile(near, [0.9]))
    text = lookup.judge(library, edge, near)
    assert "at the edge" in text and "90 % of its own designs have a nearer neighbour" in text
    far = lookup.match(library, goal_of([0.01, 0.2], [200, 90]), 1)
    text = lookup.judge(library, far, near)
    assert "doesn't cover this target, which asks for more stress than any of them" in text
    assert "no other design" in lookup.judge(library, copy, np.empty(0))


ODD = """
name: "odd $name"
response: [{plateau: {stress: 15 MPa, from: 3 %, to: 15 %}}, {stiffening: {from: 15 %}}]
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `crumple lookup` writes for the targets of the paper and a goal."""
    folder = tmp_path_factory.mktemp("lookup")
    (folder / "odd.yaml").write_text(ODD)
    program = (
        "import sys\nfrom crumple import cli\n"
        f"code = cli.main(['lookup', {str(PAPER)!r}, 'odd.yaml', '--out', 'found'])\n"
        "print([name for name in ('torch', 'zarr', 'dolfinx', 'pandas') if name in sys.modules])\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    return folder / "found", done.stdout


def test_the_printed_tables(found, library):
    folder, printed = found
    assert printed.splitlines()[-1] == "[]"  # nothing heavy was loaded
    tables = printed.split("\n\n")
    assert tables[0].startswith("a_stiff_hardening\n  11 points from 0.2 % to 20 %, up to 86.1 MPa")
    assert tables[4].startswith("odd $name\n  a plateau at 15 MPa from 3 % to 15 %\n  stiffening")
    assert all(table.count("MPa\n") >= 8 and "Best match" in table for table in tables[:5])
    with (folder / "matches.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and [row["rank"] for row in rows[:8]] == list("12345678")
    best = rows[0]
    row = library.index.tolist().index(int(best["design"]))
    assert f"{best['design']:>7}" in tables[0].splitlines()[3]
    assert float(best["solid_fraction"]) == pytest.approx(library.quarter[row].mean(), rel=1e-5)
    assert float(best["stress_at_20_percent"]) == pytest.approx(
        library.curve_stress[row, -1], rel=1e-5
    )


def test_the_designs_can_be_used_again(found, library):
    folder, _ = found
    designs = read_npz(folder / "designs.npz", DESIGNS)
    with (folder / "matches.csv").open() as file:
        named = {int(row["design"]) for row in csv.DictReader(file)}
    assert designs["index"].tolist() == sorted(named)
    record = json.loads(str(designs["made_by"]))
    assert record["inputs"]["designs"] == hash_designs(designs["index"], designs["quarter"])
    assert record["settings"]["sample"] == library.record["settings"]["sample"]
    assert {int(p.stem) for p in (folder / "designs").iterdir()} == named
    for index, quarter in zip(designs["index"], designs["quarter"], strict=True):
        assert np.array_equal(library.quarter[library.index == index][0], quarter)
        assert np.array_equal(read_design(folder / f"designs/{index:06d}.png"), mirror(quarter))


def test_the_pictures(found):
    folder, _ = found
    pictures = sorted(folder.glob("*.png"))
    assert [p.name for p in pictures][3:] == ["04_d_softening.png", "05_odd_name.png"]
    accent, ink = (0xD1, 0x49, 0x5B), (0x1D, 0x2A, 0x3A)
    for path in pictures:
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        curves, tiles = np.split(image, [int(0.44 * image.shape[1])], axis=1)
        near = [(np.abs(part - accent).max(axis=-1) < 8).sum() for part in (curves, tiles)]
        assert near[0] > 300 and near[1] == 0  # the target is drawn on the left only
        dark = (np.abs(tiles - ink).max(axis=-1) < 8).mean()
        assert 0.01 < dark < 0.2  # the middle cells of 8 designs


def test_it_takes_little_time(tmp_path):
    """Less than 3 s on a free core, of which half goes into importing matplotlib and SciPy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    (tmp_path / "mine.csv").write_text("strain,stress\n0.05,12\n0.1,15\n0.2,16\n")
    command = [sys.executable, "-m", "crumple", "lookup", "mine.csv"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_running_it_again_replaces_its_own_result_only(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["lookup", str(PAPER), "--count", "1"]) == 0
    assert (tmp_path / "paper_matches/matches.csv").read_text().count("\n") == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    assert cli.main(["lookup", str(PAPER), "--out", "mine"]) == 1
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"
    assert cli.main(["lookup", str(PAPER), "--count", "0"]) == 1
    assert cli.main(["lookup", str(PAPER), "--library", "none.npz"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("crumple: error: ") for line in errors)
    assert "ask for at least 1 match" in errors[1] and "none.npz" in errors[2]
