"""Deformed pixels and choice of what to show."""

import numpy as np
import pytest

from crumple import plotting


def area(polygons):
    x, y = np.moveaxis(polygons, -1, 0)
    return 0.5 * np.sum(x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1), axis=1)


@pytest.fixture
def solid():
    return np.random.default_rng(0).random((96, 96)) > 0.4


def centres():
    i, j = np.mgrid[:96, :96]
    return (j + 0.5) / 96, 1 - (i + 0.5) / 96


def test_undeformed_pixels_are_squares_at_their_places(solid):
    polygons = plotting.deformed_pixels(solid, np.zeros((2, 96, 96)))
    np.testing.assert_allclose(area(polygons), 1 / 96**2)
    x, y = centres()
    np.testing.assert_allclose(polygons.mean(axis=1), np.stack([x[solid], y[solid]], axis=-1))


def test_affine_compression_moves_pixels_with_it():
    solid = np.ones((96, 96), bool)
    _, y = centres()
    polygons = plotting.deformed_pixels(solid, np.stack([0 * y, -0.2 * y]))
    inner = polygons[(polygons[..., 1].min(axis=1) > 0.01) & (polygons[..., 1].max(axis=1) < 0.79)]
    np.testing.assert_allclose(area(inner), 0.8 / 96**2)


def test_neighbours_stay_joined_across_the_seam():
    solid = np.ones((96, 96), bool)
    x, _ = centres()
    wave = np.stack([0.03 * np.sin(2 * np.pi * x), 0.02 * np.cos(2 * np.pi * x)])
    polygons = plotting.deformed_pixels(solid, wave).reshape(96, 96, 4, 2)
    lower_left, lower_right = polygons[:, 0, 0], polygons[:, -1, 1]
    np.testing.assert_allclose(lower_right - lower_left, np.tile([1, 0], (96, 1)), atol=1e-12)
    alone = solid & (x > 0.1)  # nothing to the left of the seam: each side moves by itself
    right = plotting.deformed_pixels(alone, wave)[-1, 1]
    assert np.abs(right - lower_right[-1]).max() > 1e-4


def test_spread_covers_the_range():
    values = np.array([5.0, 1, 4, 2, 3])
    assert list(plotting.choose_spread(values, 3)) == [1, 4, 0]
    assert len(plotting.choose_spread(values, 9)) == 5
