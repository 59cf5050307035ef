"""Read-outs of a design: known designs in disturbed fields, and what they must not be fooled by."""

import numpy as np
import pytest

from crumple import designs, topology
from crumple.config import Designs


@pytest.fixture
def quarter():
    """A frame with a diagonal strut: touches all four sides, one domain, not symmetric."""
    design = np.zeros((48, 48), np.uint8)
    design[:5] = design[-6:] = 1
    design[:, :7] = design[:, -4:] = 1
    for i in range(48):
        design[i, max(0, i - 3) : i + 4] = 1
    return design


def whole(quarter):
    top = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return np.concatenate([top, top[::-1]], axis=0)


def test_mirror_average_of_a_symmetric_cell_is_its_quarter(quarter):
    assert np.array_equal(topology.mirror_average(whole(quarter).astype(float)), quarter)


def test_mirror_average_weighs_the_four_images_equally():
    cell = np.zeros((4, 4))
    cell[0, 0], cell[0, 3], cell[3, 0], cell[3, 3] = 1, 2, 4, 8
    average = topology.mirror_average(cell)
    assert average[0, 0] == 15 / 4 and average.sum() == 15 / 4


def test_largest_domain_is_four_connected():
    image = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    assert topology.largest_domain(image).tolist() == [
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert not topology.largest_domain(np.zeros((3, 3))).any()


def test_mask_read_out_survives_noise_that_one_image_alone_does_not(quarter):
    """Eleven frames and four images average 44 values; a single noisy value often flips."""
    rng = np.random.default_rng(0)
    noisy = whole(quarter) + rng.normal(0, 0.6, (11, 96, 96))
    assert np.array_equal(topology.design_from_mask(whole(quarter)), quarter)
    assert (topology.design_from_mask(noisy) != quarter).sum() <= 2  # sharp inner corners
    assert (topology.design_from_mask(noisy[0]) != quarter).mean() < 0.02
    assert np.mean((noisy[0, :48, :48] > 0.5) != quarter) > 0.1  # the control: noise matters


def test_mask_read_out_keeps_designs_and_walls_of_one_pixel():
    for index in range(20):
        design = designs.sample(0, index, Designs()).quarter
        assert np.mean(topology.design_from_mask(whole(design)) != design) < 1e-3
    line = np.zeros((48, 48))
    line[20] = 1
    for wall in (line, line.T, np.eye(48) + np.eye(48, k=1)):
        assert np.array_equal(topology.design_from_mask(whole(wall)), wall)


def test_mask_read_out_smooths_a_noisy_edge():
    half = np.zeros((48, 48))
    half[:24] = 1
    rough = half.copy()
    rough[24, 2::4], rough[23, 4::4] = 0.7, 0.4  # teeth and gaps of one pixel, across the level
    assert not np.array_equal(rough > topology.MASK_LEVEL, half)
    assert np.array_equal(topology.design_from_mask(whole(rough)), half)


def test_mask_read_out_drops_islands(quarter):
    mask = whole(quarter).astype(float)
    hole = np.argwhere(topology.largest_domain(1 - quarter))
    i, j = hole[len(hole) // 2]
    for row in (i, 95 - i):
        for column in (j, 95 - j):
            mask[row, column] = 1
    assert mask.sum() == whole(quarter).sum() + 4
    assert np.array_equal(topology.design_from_mask(mask), quarter)


def test_displacement_read_out_finds_the_solid(quarter):
    """An affine compression of the solid, the void disturbed by one per cent of the range."""
    strain = np.linspace(0.002, 0.2, 11)[:, None, None]
    y = 1 - (np.arange(96) + 0.5) / 96
    solid = whole(quarter)
    u2 = -strain * y[:, None] * solid
    noise = np.random.default_rng(1).uniform(-1, 1, u2.shape) * 0.01 * np.ptp(u2)
    fields = (u2 + noise * (1 - solid))[:, None]
    assert np.array_equal(topology.design_from_fields(fields), quarter)
    loud = (u2 + 10 * noise * (1 - solid))[:, None]
    assert topology.design_from_fields(loud).mean() > 0.99  # beyond the tolerance: all solid


def test_what_rests_in_one_field_is_found_in_another(quarter):
    """w2 of an affine compression is zero: the stress shows the solid, each in its own range."""
    solid = whole(quarter)
    s22 = -np.linspace(1, 70, 11)[:, None, None] * solid
    fields = np.stack([1e-4 * np.random.default_rng(1).uniform(-1, 1, s22.shape) * solid, s22], 1)
    assert np.array_equal(topology.design_from_fields(fields), quarter)
    assert np.array_equal(topology.design_from_fields(np.stack([0 * s22, s22], 1)), quarter)
    assert not topology.design_from_fields(0 * fields).any()


def test_acceptance_names_the_side_that_is_short(quarter):
    settings = Designs()
    assert topology.acceptance(quarter, settings) == "ok"
    assert "no solid" in topology.acceptance(np.zeros((48, 48)), settings)
    short = quarter.copy()
    short[0, 3:] = 0
    reason = topology.acceptance(short, settings)
    assert "4 solid pixels" in reason and "top" in reason and "left" not in reason


def test_read_designs_of_a_batch(quarter):
    masks = np.stack([whole(quarter), np.zeros((96, 96))])
    readout = topology.read_designs(masks, Designs())
    assert np.array_equal(readout.quarter[0], quarter)
    assert readout.status[0] == "ok" and "no solid" in readout.status[1]
