"""Error measures and baselines against values worked out by hand or by enumeration."""

from itertools import combinations

import numpy as np
import pytest

from crumple import evaluation


def test_nrmse_by_hand():
    assert evaluation.nrmse(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == pytest.approx(0.2)
    assert evaluation.nrmse(np.array([3.0, 4.0]), np.array([3.0, 5.0])) == pytest.approx(
        1 / np.sqrt(34)
    )  # the reference is the second argument


def test_nrmse_broadcasts_a_target_over_a_population():
    curves = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    assert evaluation.nrmse(curves, curves[0]).tolist() == [0, 1, 1]


def test_field_error_is_per_step():
    reference = np.ones((3, 4, 4))
    field = reference * np.array([1.0, 1.5, 0.0])[:, None, None]
    assert evaluation.field_error(field, reference).tolist() == [0, 0.5, 1]


def test_predicted_curve_of_a_uniform_stress():
    """Nominal stress c * strain: Cauchy stress -c * strain (1 - strain) when full and uniform."""
    strain = np.array([0.002, 0.02, 0.1, 0.2])
    cauchy = -50.0 * strain * (1 - strain)
    s22 = np.broadcast_to(cauchy[:, None, None], (4, 8, 8))
    assert evaluation.predicted_curve(s22, strain) == pytest.approx(50 * strain)


def test_predicted_curve_takes_out_the_offset_only():
    strain = np.array([0.002, 0.02, 0.1, 0.2])
    nominal = np.array([1.0, 10.0, 30.0, 25.0])
    s22 = -(nominal * (1 - strain))[:, None, None] * np.ones((4, 6, 6))
    offset = s22 - (1 - strain)[:, None, None] * 3.0
    curve = evaluation.predicted_curve(offset, strain)
    assert curve == pytest.approx(nominal)
    assert curve[0] / strain[0] == pytest.approx(curve[1] / strain[1])


def test_predicted_curve_counts_the_void():
    strain = np.array([0.002, 0.02])
    s22 = np.zeros((2, 4, 4))
    s22[:, :, 0] = (-100 * strain * (1 - strain))[:, None]
    assert evaluation.predicted_curve(s22, strain) == pytest.approx(25 * strain)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_expected_best_of_matches_enumeration(k):
    errors = np.array([0.3, 0.1, 0.9, 0.4, 0.4, 0.7])
    draws = list(combinations(errors, min(k, len(errors))))
    assert evaluation.expected_best_of(errors, k) == pytest.approx(np.mean([min(d) for d in draws]))
