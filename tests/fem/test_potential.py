"""Gradient and Hessian of the incremental potential against finite differences."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cells import frame
from crumple.config import Config, parse_config
from crumple.fem import elements
from crumple.fem.compression import Simulation
from crumple.fem.material import hardening_table

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """A cell in the plastic range with history, its next step begun away from equilibrium."""
    config = Config()
    simulation = Simulation(*frame(), config)
    for strain in (0.01, 0.02, 0.03):
        simulation.advance(strain)
    simulation.potential.begin_step(simulation.z, simulation.velocity, 0.02)
    return simulation


def perturbed(simulation: Simulation, size: float = 2e-4) -> np.ndarray:
    n = simulation.cell.size
    z = simulation.z.copy()
    z[:n] += size * RANDOM.standard_normal(n)
    return z


def test_the_state_is_plastic(simulation):
    assert simulation.state.equivalent_plastic_strain.max() > 0.01


def test_gradient_is_the_derivative_of_the_energy(simulation):
    potential, n = simulation.potential, simulation.cell.size
    z = perturbed(simulation)
    at = potential.evaluate(z)
    for _ in range(5):
        direction = np.zeros(n + 2)
        direction[:n] = RANDOM.standard_normal(n)
        h = 1e-7
        plus, minus = (potential.evaluate(z + s * h * direction).energy for s in (1, -1))
        slope = at.gradient @ direction
        assert (plus - minus) / (2 * h) == pytest.approx(slope, rel=1e-6)
        # control: without the viscous part the same test fails
        rate, potential.rate = potential.rate, 0.0
        assert potential.evaluate(z).gradient @ direction != pytest.approx(slope, rel=1e-3)
        potential.rate = rate


def test_points_that_are_held_open_have_consistent_derivatives(simulation):
    potential, n = simulation.potential, simulation.cell.size
    noise = perturbed(simulation, 1.0) - simulation.z
    for size in np.arange(0.005, 0.03, 1e-5):
        z = simulation.z + size * noise
        deformed = z[simulation.cell.cell_dofs].reshape(-1, 4, 2)
        F = np.eye(2) + np.einsum("cai,cqaj->cqij", deformed, simulation.cell.geometry.gradients)
        if np.linalg.det(F).min() < 0.9 * elements.OPEN:
            break
    at = potential.evaluate(z)
    assert np.isfinite(at.energy) and 0 < np.linalg.det(F).min() < elements.OPEN
    direction = np.zeros(n + 2)
    direction[:n] = RANDOM.standard_normal(n)
    h = 1e-8
    plus, minus = (potential.evaluate(z + s * h * direction) for s in (1, -1))
    slope = at.gradient @ direction
    assert (plus.energy - minus.energy) / (2 * h) == pytest.approx(slope, rel=1e-5)
    hessian = full_matrix(potential.hessian(at, project=False), potential.pattern)
    expected = (plus.gradient[:n] - minus.gradient[:n]) / (2 * h)
    difference = hessian @ direction[:n] - expected
    assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("damping", [True, False])
def test_hessian_is_the_derivative_of_the_gradient(simulation, damping, monkeypatch):
    potential, n = simulation.potential, simulation.cell.size
    rate = potential.rate
    potential.rate = rate if damping else 0.0
    z = perturbed(simulation)
    at = potential.evaluate(z)
    pattern = potential.pattern
    hessian = full_matrix(potential.hessian(at, project=False), pattern)
    direction = np.zeros(n + 2)
    direction[:n] = RANDOM.standard_normal(n)
    h = 1e-7
    plus, minus = (potential.evaluate(z + s * h * direction).gradient[:n] for s in (1, -1))
    potential.rate = rate
    expected = (plus - minus) / (2 * h)
    difference = np.linalg.norm(hessian @ direction[:n] - expected) / np.linalg.norm(expected)
    assert difference < 1e-5
    # control: the tangent of the elastic material is far off
    elastic = potential.moduli._replace(table=hardening_table([(1e6, 0.0)]))
    monkeypatch.setattr(potential, "moduli", elastic)
    hessian = full_matrix(potential.hessian(at, project=False), pattern)
    assert np.linalg.norm(hessian @ direction[:n] - expected) > 0.02 * np.linalg.norm(expected)


def test_clamped_hessian_has_no_negative_curvature(simulation):
    potential = simulation.potential
    at = potential.evaluate(perturbed(simulation, 5e-3))
    exact, clamped = (
        np.linalg.eigvalsh(full_matrix(potential.hessian(at, project), potential.pattern).toarray())
        for project in (False, True)
    )
    assert exact[0] < -1e-3 * exact[-1]
    assert clamped[0] > -1e-10 * clamped[-1]


def test_cauchy_stress_is_consistent_with_the_gradient(simulation):
    """Virtual work: sum of w J sigma : grad(v) equals the bulk gradient times v."""
    cell, potential, n = simulation.cell, simulation.potential, simulation.cell.size
    z = perturbed(simulation)
    gradient = np.zeros(n + 2)
    bulk = (cell.cell_dofs, cell.geometry, simulation.state, simulation.moduli, potential.rate)
    elements.energy_and_gradient(z, *bulk, gradient)
    stress = np.empty((len(cell.corners), 4, 4))
    elements.cauchy_stress(z, *bulk, stress)
    sigma = stress[..., [0, 2, 2, 1]].reshape(*stress.shape[:2], 2, 2)
    u = z[cell.cell_dofs].reshape(-1, 4, 2)
    F = np.eye(2) + np.einsum("cai,cqaj->cqij", u, cell.geometry.gradients)
    virtual = RANDOM.standard_normal(n + 2)
    virtual[n:] = 0
    v = virtual[cell.cell_dofs].reshape(-1, 4, 2)
    grad_v = np.einsum("cai,cqaj->cqij", v, cell.geometry.gradients) @ np.linalg.inv(F)
    weights = cell.geometry.weights * np.linalg.det(F)
    # mean dilatation: the hydrostatic part works against the mean volume change of the cell, and
    # is constant in it, so that the pointwise sum is the same
    work = np.einsum("cq,cqij,cqij->", weights, sigma, grad_v)
    assert work == pytest.approx(gradient @ virtual, rel=1e-9)


def full_matrix(data: np.ndarray, pattern) -> csr_matrix:
    upper = csr_matrix((data, pattern.indices, pattern.indptr), shape=(pattern.size,) * 2)
    diagonal = csr_matrix((upper.diagonal(), (range(pattern.size),) * 2), shape=upper.shape)
    return (upper + upper.T - diagonal).tocsr()


def test_unknown_hardening_is_refused():
    from crumple.config import ConfigError

    with pytest.raises(ConfigError, match="hardening"):
        parse_config({"material": {"hardening": [[40.0, 0.0], [30.0, 0.1]]}})
