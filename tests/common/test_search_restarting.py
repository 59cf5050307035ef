"""Every second round of a search that is stuck belongs to a start that is far from those before."""

import numpy as np
import pytest

from crumple.search.restarting import (
    GAIN,
    PATIENCE,
    PATIENCE_AFRESH,
    ROUNDS,
    fresh_start,
    stuck,
)

BATCH = 10


def rounds_of(score):
    return np.arange(len(score)) // BATCH


def asked(score, number):
    """What is said of a round, from what was simulated before it."""
    score = np.asarray(score, float)[: BATCH * number]
    return fresh_start(score, rounds_of(score), number)


@pytest.mark.parametrize("factor", [1 - 0.9 * GAIN, 1 - 1.1 * GAIN])
def test_stuck_is_a_search_that_has_hardly_come_nearer(factor):
    score = np.array([9.0, 4.0, 7.0, 4.0 * factor, 8.0])
    rounds = np.arange(5)
    assert stuck(score, rounds, 3) == (factor > 1 - GAIN)
    assert not stuck(score, rounds, 4)  # 4.0 is within the last four
    assert not stuck(score, rounds, 5)


def test_large_rounds_are_counted_as_rounds():
    score = np.append(np.full(64, 0.1), np.full(10 * 64, 0.2))
    rounds = np.arange(len(score)) // 64
    known = [rounds < count for count in range(1, 8)]
    found = [stuck(score[rows], rounds[rows], 30) for rows in known]
    assert found == [count > ROUNDS for count in range(1, 8)]


def test_designs_beyond_the_limits_are_no_progress_and_no_standstill():
    beyond = np.full(200, np.inf)
    assert not stuck(beyond, rounds_of(beyond), 100)  # nothing is known to begin elsewhere from
    met = np.append([0.1], beyond)
    assert stuck(met, rounds_of(met), 100)
    assert fresh_start(beyond, rounds_of(beyond), 20) is None


def test_a_search_that_comes_nearer_is_left_alone():
    score = 0.999 ** np.arange(400)  # 10 % in 100 simulations
    assert all(asked(score, number) is None for number in range(41))
    slow = 0.9999 ** np.arange(400)  # control: 1 %
    assert any(asked(slow, number) for number in range(41))


def test_every_second_round_of_a_stuck_search_begins_anew():
    score = np.full(300, 0.2)
    score[7] = 0.1
    first = PATIENCE // BATCH + 1  # the best is among the first ten: this round's end shows it
    found = {number: asked(score, number) for number in range(first + 4)}
    assert [number for number, fresh in found.items() if fresh] == [first, first + 2]
    assert found[first].left.tolist() == [7] and found[first].own.tolist() == []
    assert found[first + 2].own.tolist() == list(range(BATCH * first, BATCH * (first + 1)))
    assert found[first + 2].left.tolist() == [7]


def test_a_fresh_start_that_is_stuck_is_left_too():
    first = PATIENCE // BATCH + 1
    score = np.full(600, 0.2)
    score[0] = 0.1
    own_best = BATCH * (first + 2) + 4  # in the second round of the fresh start
    score[own_best] = 0.15
    # four more rounds of its own, of which the first three are its patience
    assert PATIENCE_AFRESH == 3 * BATCH
    before, after = first + 2 * 4, first + 2 * 5
    assert asked(score, before).left.tolist() == [0]
    assert asked(score, after).left.tolist() == [0, own_best]
    assert asked(score, after).own.tolist() == []
    # control: it goes on while it comes nearer, though the search as a whole does not
    score[BATCH * (first + 8)] = 0.14
    assert asked(score, after).left.tolist() == [0]
    assert len(asked(score, after).own) == 5 * BATCH


def test_rounds_may_be_of_any_size():
    rounds = np.repeat(np.arange(60), 3)
    score = np.full(len(rounds), 0.2)
    enough = 1 + -(-PATIENCE // 3)
    for number in (enough - 1, enough):
        before = rounds < number
        found = fresh_start(score[before], rounds[before], number)
        assert (found is not None) == (number == enough)
