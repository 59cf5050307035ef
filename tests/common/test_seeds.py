"""Random streams depend on (seed, stage, index) and on nothing else."""

from crumple.seeds import rng


def test_same_key_same_stream():
    assert rng(1, "designs", 7).random() == rng(1, "designs", 7).random()


def test_streams_differ_in_every_part_of_the_key():
    draws = {
        rng(*key).random()
        for key in [(1, "designs", 7), (2, "designs", 7), (1, "training", 7), (1, "designs", 8)]
    }
    assert len(draws) == 4
