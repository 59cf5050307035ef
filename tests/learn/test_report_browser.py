"""The report in a real browser: pictures load, nothing complains, sorting and animation work."""

import time

import pytest

import synthetic
from browsing import FILLED_ROWS, wait_for
from crumple.library import MODELS, packaged


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    paths = synthetic.write_chain(folder)
    return synthetic.write_run_report(paths, folder / "evaluation", folder / "report.html")


@pytest.fixture
def page(browser, report):
    browser.get(report.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def test_console_log_would_show_an_error(browser, report, tmp_path):
    """The negative control of every other test here."""
    broken = tmp_path / "broken.html"
    broken.write_text(report.read_text().replace('"use strict";', "missing.call();"))
    browser.get(broken.as_uri())
    assert any("missing" in entry["message"] for entry in browser.get_log("browser"))


def test_every_image_loads(page):
    loaded, total = page.execute_script(
        "const images = [...document.images];"
        "return [images.filter((i) => i.complete && i.naturalWidth === 96).length, images.length]"
    )
    quarter_tiles = 23 + 6 * 3 + 2  # gallery; three per candidate, four for the held-out target
    assert loaded == total == quarter_tiles


def test_nothing_is_wider_than_the_window(page):
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_tables_fit_into_the_page(page):
    room = (
        "[...document.querySelectorAll('.scroll')].map((box) => box.scrollWidth - box.clientWidth)"
    )
    assert page.execute_script(f"return {room}") == [0] * 4
    page.execute_script("document.querySelector('#targets-table').style.width = '3000px'")
    assert max(page.execute_script(f"return {room}")) > 0  # the control


def test_the_summary_has_both_conventions(page):
    """Of three first choices one failed: 10, 20 and 100 per cent, or 10 and 20."""
    rows = page.execute_script(
        "return [...document.querySelectorAll('#summary tbody')].map((body) =>"
        "[...body.rows].map((row) => [...row.cells].map((cell) => cell.innerText)))"
    )
    counted, left_out, others, prediction = rows
    assert counted[0] == ["simulated against target, failures count as 100 %"]
    assert counted[1][:2] == ["first choice", "20.0\N{NO-BREAK SPACE}% (15.0 – 60.0)"]
    assert left_out[1][:2] == ["first choice", "15.0\N{NO-BREAK SPACE}% (12.5 – 17.5)"]
    assert others[-1][1:] == ["2 of 3", "2 of 2", "0 of 1"]
    assert prediction[-1][1] == "89\N{NO-BREAK SPACE}% (8 of 9)"


def test_a_heading_sorts_its_table(page):
    column = 3  # best match
    values = (
        "[...document.querySelectorAll('#targets-table tbody tr')]"
        f".map((row) => Number(row.cells[{column}].dataset.value))"
    )
    before = page.execute_script(f"return {values}")
    head = f"document.querySelectorAll('#targets-table th')[{column}]"
    page.execute_script(f"{head}.querySelector('button').click()")
    assert page.execute_script(f"return {values}") == sorted(before) != before
    assert page.execute_script(f"return {head}.getAttribute('aria-sort')") == "ascending"
    page.execute_script(f"{head}.querySelector('button').click()")
    assert page.execute_script(f"return {values}") == sorted(before, reverse=True)


def test_missing_values_sort_last_either_way(page):
    cells = (
        "[...document.querySelectorAll('#candidates-table tbody tr')]"
        ".map((row) => row.cells[6].dataset.value)"
    )
    button = "document.querySelectorAll('#candidates-table th')[6].querySelector('button')"
    for _ in range(2):
        page.execute_script(f"{button}.click()")
        values = page.execute_script(f"return {cells}")
        assert values.index("") == 5 and values.count("") == 4


def test_the_animation_draws_both_bodies(page):
    """The slider moves the platen: rows over it are empty, more of them at 20 % than at 2 %."""
    page.execute_script(
        "document.querySelector('article.target').scrollIntoView({behavior: 'instant'})"
    )
    wait_for(page, "document.querySelectorAll('canvas[data-drawn]').length >= 2")
    pane = "document.querySelector('.candidate:has(canvas):not([hidden])')"

    def filled_rows(strain):
        page.execute_script(
            f"const slider = {pane}.querySelector('input'); slider.value = {strain};"
            "slider.dispatchEvent(new Event('input'));"
        )
        wait_for(page, f"{pane}.querySelector('canvas').dataset.drawn == '{strain}'")
        return page.execute_script(
            f"return [...{pane}.querySelectorAll('canvas')].map(filled);" + FILLED_ROWS
        )

    for early, late in zip(filled_rows(0.02), filled_rows(0.2), strict=True):
        assert early == pytest.approx((1.0 - 0.02 + 0.024) / 1.1, abs=0.02)
        assert late == pytest.approx((1.0 - 0.2 + 0.024) / 1.1, abs=0.02)
    caption = page.execute_script(f"return {pane}.querySelector('output').textContent")
    assert "20.0 %" in caption and "field error 0 %" in caption


def test_play_moves_the_slider_and_stops(page):
    pane = "document.querySelector('.candidate:has(canvas):not([hidden])')"
    page.execute_script(f"{pane}.scrollIntoView({{behavior: 'instant'}})")
    value = f"Number({pane}.querySelector('input').value)"
    wait_for(page, f"{value} > 0.01 && {value} < 0.15")  # begins by itself
    page.execute_script(f"{pane}.querySelector('.play').click()")
    stopped = page.execute_script(f"return {value}")
    time.sleep(0.3)
    assert page.execute_script(f"return {value}") == stopped


def test_chips_switch_between_candidates(page):
    visible = (
        "[...document.querySelectorAll('article.target')[1].querySelectorAll('.candidate')]"
        ".map((pane) => !pane.hidden)"
    )
    assert page.execute_script(f"return {visible}") == [False, True]
    page.execute_script(
        "document.querySelectorAll('article.target')[1].querySelector('.chips button').click()"
    )
    assert page.execute_script(f"return {visible}") == [True, False]
    failed = "document.querySelectorAll('article.target')[1].querySelector('.failed').innerText"
    assert "gmsh gave up" in page.execute_script(f"return {failed}")


def test_pointing_at_a_design_lights_its_curve(page):
    lit = "document.querySelectorAll('.gallery polyline.lit').length"
    assert page.execute_script(f"return {lit}") == 0
    # a headless window need not have the focus, without which focus() fires nothing
    for event, count in (("pointerenter", 1), ("pointerleave", 0), ("focus", 1), ("blur", 0)):
        tile = "document.querySelector('.tiles figure')"
        page.execute_script(f"{tile}.dispatchEvent(new Event('{event}'))")
        assert page.execute_script(f"return {lit}") == count


def test_the_page_of_a_library_is_whole(browser, tmp_path):
    """Its candidates have no predicted fields: pictures stand beside the one body that moves."""
    paths = synthetic.write_chain(tmp_path, library=True, fields_too=False)
    models = {name: packaged(name) for name in MODELS}
    report = synthetic.write_run_report(paths, tmp_path / "e", tmp_path / "r.html", **models)
    browser.get(report.as_uri())
    loaded = "[...document.images].every((i) => i.complete && i.naturalWidth === 96)"
    assert browser.execute_script(f"return {loaded}")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.execute_script(
        "document.querySelector('article.target').scrollIntoView({behavior: 'instant'})"
    )
    wait_for(browser, "document.querySelectorAll('canvas[data-drawn]').length >= 1")
    canvas, pictures = browser.execute_script(
        "const panels = document.querySelector('.candidate:not([hidden]) .panels');"
        "return ['canvas', '.design-row'].map((one) => {"
        "  const box = panels.querySelector(one).getBoundingClientRect();"
        "  return [box.left, box.right, box.top, box.bottom];});"
    )
    assert canvas[1] <= pictures[0] and canvas[2] == pytest.approx(pictures[2], abs=1)
    assert pictures[3] <= canvas[3] + 40  # four pictures and the text are no taller
    learners = "[...document.querySelectorAll('.learner')].map((one) => one.offsetTop)"
    tops = browser.execute_script(f"return {learners}")
    assert len(tops) == 2 and tops[0] == tops[1]  # side by side
    assert browser.get_log("browser") == []


def test_theme_button_changes_the_colours(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(f"return {colour}")
    page.execute_script("document.getElementById('theme').click()")
    assert page.execute_script(f"return {colour}") != before
