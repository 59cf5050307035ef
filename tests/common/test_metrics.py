"""Error measures and the curve of a field against values worked out by hand."""

import numpy as np
import pytest

from crumple import metrics


def test_nrmse_by_hand():
    assert metrics.nrmse(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == pytest.approx(0.2)
    assert metrics.nrmse(np.array([3.0, 4.0]), np.array([3.0, 5.0])) == pytest.approx(
        1 / np.sqrt(34)
    )  # the reference is the second argument


def test_nrmse_broadcasts_a_target_over_a_population():
    curves = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    assert metrics.nrmse(curves, curves[0]).tolist() == [0, 1, 1]


def test_field_error_is_per_step():
    reference = np.ones((3, 4, 4))
    field = reference * np.array([1.0, 1.5, 0.0])[:, None, None]
    assert metrics.field_error(field, reference).tolist() == [0, 0.5, 1]


def test_predicted_curve_of_a_uniform_stress():
    """Nominal stress c * strain: Cauchy stress -c * strain (1 - strain) when full and uniform."""
    strain = np.array([0.002, 0.02, 0.1, 0.2])
    cauchy = -50.0 * strain * (1 - strain)
    s22 = np.broadcast_to(cauchy[:, None, None], (4, 8, 8))
    assert metrics.predicted_curve(s22, strain) == pytest.approx(50 * strain)


def test_an_offset_of_the_field_stays_in_the_curve():
    """It isn't known to be wrong: taking it out makes perfect fields of soft designs worse."""
    strain = np.array([0.002, 0.02, 0.1])
    s22 = -(1 - strain)[:, None, None] * np.ones((3, 6, 6))
    assert metrics.predicted_curve(s22, strain) == pytest.approx([1, 1, 1])
    assert metrics.predicted_curve(s22[:1], strain[:1]) == pytest.approx([1])


def test_predicted_curve_counts_the_void():
    strain = np.array([0.002, 0.02])
    s22 = np.zeros((2, 4, 4))
    s22[:, :, 0] = (-100 * strain * (1 - strain))[:, None]
    assert metrics.predicted_curve(s22, strain) == pytest.approx(25 * strain)


def test_unknown_steps_of_a_target_do_not_count():
    target = np.array([3.0, np.nan, 4.0])
    assert metrics.nrmse(np.array([3.0, 99.0, 5.0]), target) == pytest.approx(0.2)
    assert np.isnan(metrics.nrmse(np.array([3.0, 99.0, np.nan]), target))


def affine(F, n=96):
    """Displacement (2, n, n) of a cell under a uniform deformation gradient."""
    x, y = (np.arange(n) + 0.5) / n, 1 - (np.arange(n)[:, None] + 0.5) / n
    G = np.asarray(F) - np.eye(2)
    return np.stack(np.broadcast_arrays(G[0, 0] * x + G[0, 1] * y, G[1, 0] * x + G[1, 1] * y))


@pytest.mark.parametrize(
    "F", [[[1.0, 0.3], [0.0, 0.9]], [[1.05, 0.1], [0.2, 0.98]], [[0.0, -1.0], [1.1, 0.0]]]
)
def test_volume_change_of_a_uniform_deformation(F):
    """Compression, shear and a turn by 90 degrees, on any domain whose pixels have neighbours."""
    solid = np.zeros((96, 96), bool)
    solid[:5, 1:95] = solid[20:22, 1:95] = solid[5:, 30:32] = solid[-3:, 1:95] = True
    J = metrics.volume_change(affine(F), solid)
    assert J[solid] == pytest.approx(np.linalg.det(F))
    assert (J[~solid] == 1).all()


def test_volume_change_is_periodic_sideways_only():
    x, y = (np.arange(96) + 0.5) / 96, 1 - (np.arange(96)[:, None] + 0.5) / 96
    u = np.stack([0.01 * np.sin(2 * np.pi * x) + 0 * y, -0.1 * y + 0 * x])
    exact = (1 + 0.02 * np.pi * np.cos(2 * np.pi * x)) * 0.9 * np.ones((96, 1))
    assert metrics.volume_change(u, np.ones((96, 96))) == pytest.approx(exact, rel=1e-4)


def test_volume_change_of_what_cannot_be_is_one():
    """A pixel alone has no neighbours to tell by; a jump of half a cell is another body."""
    solid = np.zeros((96, 96), bool)
    solid[40, 40] = True
    assert (metrics.volume_change(affine([[1, 0], [0, 0.9]]), solid) == 1).all()
    u = affine([[1, 0], [0, 0.9]])
    u[0, :, 48:] += 0.5
    J = metrics.volume_change(u, np.ones((96, 96)))
    assert (J[:, [0, 47, 48, 95]] == 1).all() and J[:, 1:47] == pytest.approx(0.9)


def test_volume_change_of_many_frames_at_once():
    solid = np.random.default_rng(0).random((2, 1, 96, 96)) < 0.7
    u = np.stack([affine([[1, 0.1 * k], [0, 1 - 0.02 * k]]) for k in range(3)])
    together = metrics.volume_change(np.stack([u, 0.5 * u]), solid)
    assert together.shape == (2, 3, 96, 96)
    assert np.array_equal(together[1, 2], metrics.volume_change(0.5 * u[2], solid[1, 0]))


def test_the_error_to_expect_counts_the_spread_three_times():
    goal = np.array([3.0, 4.0, np.nan])
    spread = np.array([[0.0, 0.0, 9.0], [0.03, 0.04, 9.0], [np.nan, np.nan, np.nan]])
    expected = metrics.expected_nrmse(np.full(3, 0.04), spread, goal)
    assert expected == pytest.approx([0.04, 0.05, 0.04])
