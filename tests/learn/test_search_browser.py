"""The page of a search in a real browser: nothing complains, bodies move, dots and rows answer."""

import json

import numpy as np
import pytest

import synthetic
from browsing import FILLED_ROWS, wait_for
from crumple.cli import main
from crumple.layout import CURVE_STRAIN

CURVE = synthetic.curve(0.5, 0.2, CURVE_STRAIN)
RESPONSE = [
    {"points": {"strain": CURVE_STRAIN[::10].tolist(), "stress": CURVE[::10].tolist()}},
    {"band": {"upper": "40 MPa"}},
    {"softening": {"from": "12 %", "to": "20 %", "ratio": 0.95}},
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    factors = [1.08, np.nan, 0.97, 1.0234, 1.004]
    arguments = synthetic.write_search(folder, json.dumps({"response": RESPONSE}), factors)
    assert main(arguments) == 0
    return folder / "index.html"


@pytest.fixture
def page(browser, written):
    browser.get(written.as_uri())
    yield browser
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1300, 420])
def test_nothing_is_wider_than_the_window(page, width):
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return innerWidth") == width
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_image_loads(page):
    sizes = page.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert sizes == [96] * 5  # winner, library, three of another shape


def test_the_winner_moves_in_two_colourings(page):
    """The slider moves the platen; the two pictures have one shape and other colours."""
    pane = "document.querySelector('#winner .candidate')"
    page.execute_script(f"{pane}.scrollIntoView({{behavior: 'instant'}})")
    value = f"Number({pane}.querySelector('input').value)"
    wait_for(page, f"{value} > 0.01 && {value} < 0.15")  # begins by itself

    def drawn(strain):
        page.execute_script(
            f"const slider = {pane}.querySelector('input'); slider.value = {strain};"
            "slider.dispatchEvent(new Event('input'));"
        )
        wait_for(page, f"{pane}.querySelector('canvas').dataset.drawn == '{strain}'")
        return page.execute_script(
            f"return [...{pane}.querySelectorAll('canvas')].map("
            "(canvas) => [filled(canvas), canvas.toDataURL()]);" + FILLED_ROWS
        )

    early, late = drawn(0.02), drawn(0.2)
    for rows, strain in ((early, 0.02), (late, 0.2)):
        for filled, _ in rows:
            assert filled == pytest.approx((1.0 - strain + 0.024) / 1.1, abs=0.02)
    assert late[0][1] != late[1][1]
    assert "20.0 %" in page.execute_script(f"return {pane}.querySelector('output').textContent")


def test_chips_show_other_shapes_which_move_too(page):
    section = "document.querySelector('#alternatives')"
    visible = f"[...{section}.querySelectorAll('.candidate')].map((pane) => !pane.hidden)"
    assert page.execute_script(f"return {visible}") == [True, False, False]
    page.execute_script(
        f"{section}.scrollIntoView({{behavior: 'instant'}});"
        f"{section}.querySelectorAll('.chips button')[2].click()"
    )
    assert page.execute_script(f"return {visible}") == [False, False, True]
    wait_for(page, f"{section}.querySelector('.candidate:not([hidden]) canvas').dataset.drawn > 0")


def test_a_dot_says_which_design_it_is(page):
    said = page.execute_script(
        "const dot = document.querySelector('#search .dot.failed');"
        "dot.scrollIntoView({behavior: 'instant', block: 'center'});"
        "const box = dot.getBoundingClientRect();"
        "dot.dispatchEvent(new PointerEvent('pointermove',"
        "  {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y}));"
        "return document.getElementById('tip').innerText"
    )
    assert said == "design 1, wave: not converged: at 12 % strain"


def test_a_row_lights_its_curve(page):
    lit = "[...document.querySelectorAll('.lit')].map((curve) => curve.dataset.name)"
    assert page.execute_script(f"return {lit}") == []
    page.execute_script("document.querySelectorAll('#sensitivity-table tbody tr')[2].focus()")
    assert page.execute_script(f"return {lit}") == ["lubricated platens"]
