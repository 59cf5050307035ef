"""Designs changed pixel by pixel: the pixels that are tried, and the sets that are found."""

import numpy as np

from crumple.config import Designs
from crumple.designs import accept
from crumple.library import read_library
from crumple.refinement import flipping
from crumple.refinement.moves import level_set

LIBRARY = read_library()


def test_a_pursuit_finds_what_was_put_in():
    """Sums of five of eighty effects; for a vector that has nothing to do with them, it doesn't."""
    generator, left = np.random.default_rng(0), []
    for _ in range(20):
        effect = generator.standard_normal((80, 50))
        lack = effect[generator.choice(80, 5, replace=False)].sum(axis=0)
        other = generator.standard_normal(50) * np.linalg.norm(lack) / np.sqrt(50)
        for wanted in (lack, other):
            chosen = flipping.pursue(effect, wanted, np.random.default_rng(1))
            left.append(np.linalg.norm(wanted - effect[chosen].sum(axis=0)))
            left[-1] /= np.linalg.norm(wanted)
    found, control = np.array(left).reshape(-1, 2).T
    assert np.median(found) < 1e-12
    assert np.median(control) > 0.5


def test_a_pursuit_ends_where_nothing_helps_and_keeps_to_its_size():
    generator = np.random.default_rng(0)
    away = np.abs(generator.standard_normal((40, 10)))
    assert not flipping.pursue(away, -np.ones(10), generator).any()
    small = np.full((200, 1), 0.01)  # a hundred of them are lacking
    for _ in range(20):
        count = np.count_nonzero(flipping.pursue(small, np.ones(1), generator))
        assert flipping.LARGEST[0] <= count <= flipping.LARGEST[1]


def test_single_pixels_of_the_outline_change():
    quarter = LIBRARY.quarter[3]
    images = flipping.one_by_one(quarter, np.random.default_rng(0), Designs())
    assert 20 < len(images) <= flipping.PIXELS
    differing = images != quarter
    assert (differing.sum(axis=(1, 2)) == 1).all()
    assert (np.abs(level_set(quarter))[differing.any(axis=0)] < flipping.NEAR).all()
    assert len(np.unique(images, axis=0)) == len(images)
    for image in images:
        assert np.array_equal(accept(image, Designs()), image)
