"""What is expected of designs: the mean curve counts in full, the scatter in part."""

import numpy as np
import pytest

from crumple.goals import read_goals
from crumple.layout import CURVE_STRAIN
from crumple.refinement.pool import EMPTY
from crumple.search import judging
from crumple.search.judging import Judge, Simulated

QUARTER = np.zeros((3, 48, 48), np.uint8)
WANTED = 10 + 20 * CURVE_STRAIN


class Screen:
    """Says 5 % too much with a scatter of 0, 2 and 40 %."""

    def raw(self, quarter, keep=False):
        return quarter

    def fit(self, raw, stress, score):
        return self

    def curves(self, raw, draws):
        scatter = np.resize([0, 0.02, 0.4], len(raw))[:, None]
        sign = np.resize([-1, 1], len(draws))
        factor = 1.05 + scatter * sign
        return factor[..., None] * WANTED


@pytest.fixture
def judge(tmp_path):
    path = tmp_path / "mine.csv"
    rows = zip(CURVE_STRAIN, WANTED, strict=True)
    path.write_text("strain,stress\n" + "".join(f"{x:.4f},{y:.8f}\n" for x, y in rows))
    known = Simulated(QUARTER[:1], WANTED[None], np.zeros(1))
    return Judge(read_goals([path])[0], known, Screen(), np.random.default_rng(0))


def test_merit_is_the_error_of_the_mean_with_a_part_of_the_scatter(judge):
    pool = judge(QUARTER, "wave")
    scatter = np.array([0, 0.02, 0.4])
    assert pool.curve_stress == pytest.approx(np.tile(1.05 * WANTED, (3, 1)))
    assert pool.expected_error == pytest.approx(np.hypot(0.05, scatter), rel=1e-2)
    assert pool.merit == pytest.approx(np.hypot(0.05, judging.DOUBT * scatter), rel=1e-2)
    assert list(pool.source) == ["wave"] * 3


def test_pools_are_put_together(judge):
    assert judge(QUARTER[:0], "aim") is EMPTY
    both = judge(QUARTER[:1], "aim") + EMPTY + judge(QUARTER, np.array(["dent", "wave", "graft"]))
    assert list(both.source) == ["aim", "dent", "wave", "graft"]
    assert all(len(part) == 4 for part in both)
