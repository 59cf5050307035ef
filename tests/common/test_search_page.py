"""The page of a search: what it says when the goal is met, not met, or a limit is exceeded."""

import html
import json
import re

import numpy as np
import pytest

import synthetic
from crumple import provenance
from crumple.cli import main
from crumple.goals import Goal, Measures
from crumple.layout import CURVE_STRAIN
from crumple.report.charts import LEFT, TOP
from crumple.search import drawing, page
from crumple.search.history import read_history

GAP = "\N{NO-BREAK SPACE}"
CURVE = synthetic.curve(0.5, 0.2, CURVE_STRAIN)
WISH = {"curve": {"strain": CURVE_STRAIN.tolist(), "stress": np.round(CURVE, 6).tolist()}}
FACTORS = [1.08, np.nan, 0.97, 1.0234, 1.004, 1.03, 1.002]


def goal_text(**more) -> str:
    return json.dumps({"response": [WISH]} | more)  # JSON is YAML


def written(folder, capsys, text=None, factors=FACTORS, options=(), **columns):
    """Write a page; return it as text without gaps, and what was printed."""
    arguments = synthetic.write_search(folder, text or goal_text(), factors, **columns)
    assert main([*arguments, *options]) == 0
    text = html.unescape((folder / "index.html").read_text())
    return " ".join(text.replace(GAP, " ").split()), capsys.readouterr().out


def lede(text):
    return re.sub("<[^>]*>", "", re.search(r'<p class="lede">(.*?)</p>', text)[1]).strip()


def test_a_goal_that_is_met(tmp_path, capsys):
    text, said = written(tmp_path, capsys)
    assert said == f"mine: met; {tmp_path / 'index.html'}\n"
    assert lede(text) == (
        "The winner misses the goal by 0.20 %, within the tolerance of 1.00 %, which was "
        "reached after 5 simulations. The nearest design of the library misses it by 6.70 %. On a "
        "finer mesh the winner misses it by 0.80 %."
    )
    assert '<span class="tag good">goal met</span>' in text
    assert text.count('<button type="button" role="tab"') == 4 == text.count('role="tabpanel"')
    assert text.count("<canvas") == 2 * 5 == text.count('"data":"')
    assert "Design 6 of the search, from dent." in text
    assert "1 had no result." in text
    assert "No result: outline -0.25 px." in text and "a strut of 0.4 px is lost" in text
    assert "2 x 3 cells of 10 mm" in text


def test_a_goal_that_is_not_met(tmp_path, capsys):
    text, said = written(tmp_path, capsys, options=["--tolerance", "0.001"])
    assert said.startswith("mine: not met;")
    assert lede(text).startswith(
        "The goal is not met: the winner of 7 simulated designs misses it by 0.20 %, the tolerance "
        "is 0.10 %."
    )
    assert '<span class="tag bad">goal not met</span>' in text and "goal met</span>" not in text


def test_a_limit_that_is_exceeded(tmp_path, capsys):
    """The curve is near enough, and yet the goal isn't met."""
    limits = {"plastic_strain": {"at_most": 0.5}, "gap": {"at_least": "0.4 mm"}}
    text = goal_text(limits=limits, cell_size="10 mm")
    violation = np.full(len(FACTORS), "too much plastic strain")
    text, said = written(tmp_path, capsys, text, violation=violation)
    assert said.startswith("mine: not met;")
    assert "The goal is not met: none of 7 simulated designs keeps to the limits" in lede(text)
    assert "the equivalent plastic strain is 0.800, at most 0.5 is wanted" in lede(text)
    assert '4.1 px (0.43 mm) <span class="good">✓ limit kept' in text
    assert '0.800 <span class="bad">✗ limit exceeded' in text
    assert "6 exceeded a limit and don’t count as best." in text


def test_one_design_has_no_runners_up(tmp_path, capsys):
    text, _ = written(tmp_path, capsys, factors=[1.002])
    assert "No simulated design that differs" in text and 'role="tab"' not in text


def test_links_lead_to_the_files(tmp_path, capsys):
    text, _ = written(tmp_path, capsys)
    links = re.findall(r'<a href="(best[^"]*)"', text)
    assert "best%20of%20it/exports/design.svg" in links and len(links) == 8
    for link in links:
        assert (tmp_path / link.replace("%20", " ")).is_file()
    assert not re.search(r'(src|href)="(https?:)?//', text)


def test_the_page_says_what_made_it(tmp_path, capsys):
    written(tmp_path, capsys)
    record = provenance.page_record(tmp_path / "index.html", "")
    assert record["stage"] == "design-page" and "mesh" in record["settings"]
    assert set(record["inputs"]) == {"rounds", "goal", "library"}


def test_pages_of_other_searches_are_refused(tmp_path, capsys):
    arguments = synthetic.write_search(tmp_path, goal_text(), FACTORS)
    assert main(arguments[:-1]) == 1
    assert "doesn't belong to the rounds given here" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(json.dumps({"response": [{"plateau": {"from": "3 %"}}]}))
    assert main(arguments) == 1
    assert "doesn't belong to the goal given here" in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("winner/fields.npz", b"", "fields.npz"),
        ("sensitivity/sensitivity.csv", b"variant\na\nb\n", "it lacks nrmse_nominal"),
        ("sensitivity/curves.csv", b"nominal\n1\n2\n", "it lacks finer mesh, h = 0.01"),
        ("made_by.json", b"{}", "made_by.json"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, capsys, name, content, reason):
    arguments = synthetic.write_search(tmp_path, goal_text(), FACTORS)
    (tmp_path / "best of it" / name).write_bytes(content)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert reason in said and "make it again with `crumple winner`" in said
    assert said.count("\n") == 1


def test_names_are_text(tmp_path, capsys):
    text = goal_text(name="<script>alert(1)</script>\"'&")
    arguments = synthetic.write_search(tmp_path, text, FACTORS)
    assert main(arguments) == 0
    assert "<script>alert" not in (tmp_path / "index.html").read_text()


# --- charts and tables ---------------------------------------------------------------------------


def goal_of(*wishes):
    return Goal(name="mine", response=list(wishes))


def test_a_goal_is_drawn_as_what_it_asks_for():
    band = {"band": {"upper": "20 MPa", "from": "0 %", "to": "10 %"}}
    points = {"points": {"strain": [0.02, 0.1], "stress": [8, 15]}}
    softening = {"softening": {"from": "8 %", "to": "15 %"}}
    layers = drawing.goal_layers(goal_of(WISH, band, points, softening), top=50)
    kinds = [line.kind for line in layers.lines]
    assert kinds == ["target", "bounds", "edge", "asked", "shape"]
    assert [entry.kind for entry in layers.legend] == ["target", "bounds", "target", "shape"]
    bounds, edge = layers.lines[1], layers.lines[2]
    assert (bounds.y + bounds.spread == 20).all() and (bounds.y - bounds.spread == 0).all()
    assert (edge.y == 20).all() and edge.x[-1] == pytest.approx(0.1)
    (dots,) = layers.dots
    assert list(dots.x) == [0.02, 0.1] and list(dots.y) == [8, 15]
    shape = layers.lines[-1]
    assert shape.x == [0.08, 0.15] and shape.y[0] + shape.spread[0] == 50


@pytest.fixture
def history(tmp_path):
    quarters = np.zeros((len(FACTORS), 48, 48), np.uint8)
    violation = np.array([""] * 6 + ["too thin"])
    curves = [CURVE * factor for factor in FACTORS]
    paths = synthetic.write_rounds(tmp_path, goal_of(WISH), quarters, curves, violation=violation)
    return read_history(paths)


def test_the_course_of_the_search(history):
    drawn, legend = drawing.search_chart(history, 0.01, 0.09, best=4)
    labels = {dot.label.split("\n")[0]: dot for dot in drawn.dots}
    kinds = [dot.kind for dot in drawn.dots]
    assert kinds == ["tried"] * 5 + ["outside", "failed", "best"]
    failed = labels["design 1, wave: not converged: at 12 % strain"]
    assert failed.y == pytest.approx(TOP)  # at the upper edge
    order = [labels[f"design {k}, {s}"].y for k, s in ((0, "dent"), (3, "wave"), (4, "dent"))]
    assert order == sorted(order)  # lower errors lie lower
    width = drawn.plot[2]
    assert drawn.dots[-1].x == pytest.approx(LEFT + width * 5 / 7, abs=0.1)
    least = next(line for line in drawn.data["lines"] if line["label"] == "best so far")
    assert least["x"][0] == 1 and least["x"][-1] == 7
    assert least["y"][0] == pytest.approx(8) and least["y"][-1] == pytest.approx(0.4)
    assert [entry.error for entry in legend[:3]] == [f"{e}{GAP}%" for e in ("1.00", "9.00", "0.40")]


def test_when_an_error_was_reached(history):
    found = [page.reached(history, error) for error in (0.1, 0.05, 0.0235, 0.005, 0.003)]
    assert found == [1, 3, 4, 5, None]  # the last design is nearer, but too thin


def test_marks_end_with_the_first_that_was_missed(history):
    assert page.marks(history)[2:] == [
        (0.1, 1),
        (0.05, 3),
        (0.02, 5),
        (0.01, 5),
        (0.005, 5),
        (0.002, None),
    ]


def test_where_designs_came_from(history):
    rows = [[cell.text for cell in row] for row in page.source_table(history).rows]
    assert [[row[0], row[1], row[4]] for row in rows] == [["dent", "4", "3"], ["wave", "3", "1"]]
    assert rows[1][2:4] == [f"2.67{GAP}%", f"2.34{GAP}%"]  # of three one has failed


def test_each_limit_is_compared_alone():
    limits = {"strut": {"at_least": "3 px"}, "gap": {"at_least": "5 px"}}
    goal = Goal(name="mine", response=[WISH], limits=limits)
    found = page.quantities(goal, Measures(0.4, 3.5, 4.0, 0.7))
    assert [quantity.kept for quantity in found] == [None, True, False, None]
    assert found[0].value == f"40.0{GAP}%" and found[1].value == f"3.5{GAP}px"


def test_bodies_share_their_scales():
    mesh = synthetic.pixel_mesh(np.ones((4, 4)), CURVE)
    strong = mesh | {"vertical_stress": 2 * mesh["vertical_stress"]}
    ends = drawing.scales([mesh, strong])
    assert ends.stress >= 0.99 * np.abs(strong["vertical_stress"]).max()
    assert ends.strain == pytest.approx(0.8)  # largest plastic strain, at the top
    stress, strain = drawing.moving_bodies(mesh, ends)
    assert (stress["colour"], strain["colour"]) == ("stress", "strain")
    assert stress["triangles"] == 32 and stress["edges"] == 0  # a full cell has no outline
