"""Narrowest struts and gaps: bars of known width in every direction, and what must not count."""

import numpy as np
import pytest

from crumple import designs, widths
from crumple.config import Config

X, Y = np.meshgrid(np.arange(96), np.arange(96))
RESOLUTION = 0.04  # pixels


def bar(width, period=48, slope=0):
    """Bars along y (slope 0) or a diagonal (slope 1), ``width`` pixels wide along x."""
    return ((X - slope * Y) % period < width).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "slope"), [(1, 0), (2, 0), (3, 0), (8, 0), (15, 0), (2, 1), (3, 1), (8, 1), (15, 1)]
)
def test_bars_and_the_gaps_between_them_have_their_width(width, slope):
    across = np.sqrt(1 + slope**2)
    assert widths.narrowest(bar(width, slope=slope)).strut == pytest.approx(
        width / across, abs=RESOLUTION
    )
    gap = widths.narrowest(1 - bar(width, slope=slope)).gap
    assert gap == pytest.approx(width / across, abs=RESOLUTION)


def test_a_bar_on_the_boundary_of_the_cell_is_measured_whole():
    cell = bar(8)
    cell[:2] = 1  # with its mirror image 4 pixels
    assert widths.narrowest(cell).strut == pytest.approx(4, abs=RESOLUTION)
    for shift in (0, 3, 47):  # bars that the side of the cell cuts, or touches
        assert widths.narrowest(np.roll(bar(5), shift, axis=1)).strut == pytest.approx(5, abs=0.04)


def test_a_round_hole_and_a_slot_are_gaps():
    cell = np.ones((96, 96), np.uint8)
    cell[(X - 40.5) ** 2 + (Y - 40.5) ** 2 < 9.5**2] = 0  # 18 pixels across
    assert widths.narrowest(cell) == pytest.approx((widths.WIDEST, 18), abs=0.1)
    cell[70:73, 20:60] = 0
    assert widths.narrowest(cell).gap == pytest.approx(3, abs=RESOLUTION)


def test_a_neck_counts_and_corners_and_free_ends_do_not():
    """The control: largest inscribed circles along the outline would find the tips."""
    cell = bar(14)
    spike = (Y > 40) & (Y < 40 + (30 - X) // 3) & (X >= 13) & (X < 30)
    cell[spike] = 1  # tapers to nothing
    assert widths.narrowest(cell).strut == pytest.approx(14, abs=0.1)
    cell[60:70, 3:9] = 0  # leaves 3 and 5 pixels
    assert widths.narrowest(cell).strut == pytest.approx(3, abs=0.1)


def test_a_full_cell_has_neither():
    assert widths.narrowest(np.ones((96, 96))) == (widths.WIDEST, widths.WIDEST)


@pytest.mark.parametrize("index", range(4))
def test_symmetries_and_complement(index):
    """The same for mirror images, and for a shift by half a cell, where the design is mirrored."""
    cell = designs.mirror(designs.sample(0, index, Config().designs).quarter)
    found = widths.narrowest(cell)
    assert all(0.3 < width <= widths.WIDEST for width in found)
    for other in (cell[::-1], cell[:, ::-1], np.roll(cell, 48, axis=1), np.roll(cell, 48, axis=0)):
        assert widths.narrowest(other) == pytest.approx(found, abs=RESOLUTION)
    assert widths.narrowest(np.roll(cell, 17, axis=1)) == pytest.approx(found, abs=RESOLUTION)
    assert widths.narrowest(1 - cell) == pytest.approx(found[::-1], abs=0.15)
