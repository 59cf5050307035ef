"""Homogeneous deformation against closed forms, patch test, and the rate of convergence."""

import numpy as np
import pytest
from scipy.optimize import brentq

from cells import grid
from crumple.config import Config, parse_config
from crumple.fem.compression import Simulation

MATERIAL = Config().material
SHEAR = MATERIAL.youngs_modulus / (2 * (1 + MATERIAL.poisson_ratio))
BULK = MATERIAL.youngs_modulus / (3 * (1 - 2 * MATERIAL.poisson_ratio))


def settings(**material):
    return parse_config(
        {
            "loading": {"platens": "lubricated", "imperfection": 0.0},
            "material": {"damping": 0.0, **material},
        }
    )


def yield_stress(alpha):
    stress, strain = np.array(MATERIAL.hardening).T
    return np.interp(alpha, strain, stress)


def test_confined_block_follows_the_closed_form():
    """A full cell cannot widen: F = diag(1, 1 - eps), a proportional path with one unknown.

    q = 2 G |ln(1 - eps)| - 3 G alpha = sigma_y(alpha), sigma_22 = K ln J - 2/3 q.
    """
    simulation = Simulation(*grid(4, 4), settings())
    for strain in np.linspace(0.002, 0.1, 50):
        simulation.advance(strain)
        log = -np.log(1 - strain)
        alpha = 0.0
        if 2 * SHEAR * log > yield_stress(0.0):
            alpha = brentq(
                lambda a, log=log: 2 * SHEAR * log - 3 * SHEAR * a - yield_stress(a), 0, 1
            )
        stress = BULK * log + 2 / 3 * (2 * SHEAR * log - 3 * SHEAR * alpha)
        # J_n of the last step stands for J: exact in the limit of small increments
        assert simulation.stress == pytest.approx(stress, rel=2.5e-3)
        assert simulation.state.equivalent_plastic_strain == pytest.approx(alpha, abs=1e-6)


def uniaxial(strain, true_stress=True, steps=4000):
    """Plane-strain column free to widen, integrated from the rate equations with tiny steps.

    Principal axes are fixed, so that logarithmic strains add up: with the elastic strains e and
    the flow direction n = 3/2 s / q, de_22 = deps - n_22 da, de_33 = -n_33 da, and de_11 follows
    from sigma_11 = 0. Nominal stress is sigma_22 times the current width.
    """
    lame = BULK - 2 * SHEAR / 3
    e = np.zeros(3)  # 11, 22, 33
    alpha, widening, result, total = 0.0, 0.0, [], np.log(1 - np.array(strain))
    fine = np.linspace(0, total[-1], steps + 1)
    for step in np.diff(fine):
        trial = e.copy()
        trial[1] += step
        trial[0] = -lame * (trial[1] + trial[2]) / (lame + 2 * SHEAR)
        s = 2 * SHEAR * (trial - trial.mean())
        q = np.sqrt(1.5 * s @ s)
        da = 0.0
        if q > yield_stress(alpha):
            # explicit: the increment that brings q back, flow along the mean of old and new n
            def excess(da, trial=trial, s=s, q=q, alpha=alpha):
                x = trial.copy()
                x[1:] -= 1.5 * s[1:] / q * da
                x[0] = -lame * (x[1] + x[2]) / (lame + 2 * SHEAR)
                t = 2 * SHEAR * (x - x.mean())
                return np.sqrt(1.5 * t @ t) - yield_stress(alpha + da), x

            da = brentq(lambda a: excess(a)[0], 0, 5 * abs(step))
            new = excess(da)[1]
            widening += new[0] - e[0] + 1.5 * s[0] / q * da
            e = new
            alpha += da
        else:
            widening += trial[0] - e[0]
            e = trial
        sigma = lame * e.sum() + 2 * SHEAR * e[1]
        if not true_stress:
            sigma /= np.exp(e.sum())
        result.append(-sigma * np.exp(widening))
    return np.interp(-total, -fine[1:], result), alpha


def test_free_column_follows_the_rate_equations():
    nodes, cells = grid(4, 8, width=0.5, origin=(0.25, 0.0))
    simulation = Simulation(nodes, cells, settings())
    # beyond, the column begins to neck
    strains = np.linspace(0.002, 0.08, 40)
    stress = []
    for strain in strains:
        simulation.advance(strain)
        stress.append(simulation.stress)
    expected, alpha = uniaxial(strains)
    stress, expected = np.array(stress), 0.5 * expected
    assert stress == pytest.approx(expected, rel=3e-3)
    assert simulation.state.equivalent_plastic_strain.mean() == pytest.approx(alpha, rel=3e-3)
    # limit of a rigid-plastic column: 2/sqrt(3) of the flow stress on the widened section
    flow = 2 / np.sqrt(3) * yield_stress(alpha) * 0.5 / (1 - 0.08)
    assert stress[-1] == pytest.approx(flow, rel=0.02)
    # control: yield on Kirchhoff instead of Cauchy stress is seen
    kirchhoff = 0.5 * uniaxial(strains, true_stress=False)[0]
    assert np.abs(stress / kirchhoff - 1)[-1] > 8e-3


def test_patch_of_distorted_cells_deforms_homogeneously():
    nodes, cells = grid(5, 10, width=0.5, origin=(0.25, 0.0))
    inner = (np.abs(nodes[:, 0] - 0.5) < 0.24) & (np.abs(nodes[:, 1] - 0.5) < 0.49)
    nodes[inner] += np.random.default_rng(1).uniform(-0.025, 0.025, (inner.sum(), 2))
    simulation = Simulation(nodes, cells, settings())
    for strain in (0.002, 0.01, 0.02):
        stress = simulation.advance(strain, with_stress=True)
    u = simulation.displacement()
    basis = np.column_stack([np.ones(len(nodes)), nodes])
    fit, *_ = np.linalg.lstsq(basis, u, rcond=None)
    # Newton stops at a residual of 2e-3 of the platen force
    assert np.abs(u - basis @ fit).max() < 3e-5
    assert np.ptp(stress, axis=(0, 1)) == pytest.approx(0, abs=0.3)
    # control: bonded platens make the same block barrel
    bonded = settings().model_copy(update={"loading": Config().loading})
    simulation = Simulation(nodes, cells, bonded)
    simulation.advance(0.02)
    u = simulation.displacement()
    fit, *_ = np.linalg.lstsq(basis, u, rcond=None)
    assert np.abs(u - basis @ fit).max() > 1e-3


def round_hole(n):
    """A cell with a round hole, 8 n cells around it and 2 n in depth."""
    s = np.linspace(0, 1, 2 * n + 1)[:, None, None]
    side = np.linspace(-0.5, 0.5, 2 * n + 1)[:-1]
    ones = np.full_like(side, 0.5)
    square = np.concatenate(
        [
            np.column_stack(pair)
            for pair in ((side, -ones), (ones, side), (-side, ones), (-ones, -side))
        ]
    )
    circle = 0.25 * square / np.linalg.norm(square, axis=1)[:, None]
    nodes = 0.5 + ((1 - s) * circle + s * square).reshape(-1, 2)
    ring = len(square)
    i, j = np.meshgrid(np.arange(2 * n), np.arange(ring), indexing="ij")
    inner, outer = i * ring, (i + 1) * ring
    following = (j + 1) % ring
    cells = np.stack([inner + j, outer + j, outer + following, inner + following], axis=-1)
    return nodes, cells.reshape(-1, 4)


def test_reaction_converges_at_second_order():
    """Elastic cell with a round hole: bilinear elements give a rate of 2 in energy."""
    stress = []
    for n in (3, 6, 12, 24):
        simulation = Simulation(*round_hole(n), settings(hardening=[[1e6, 0.0]]))
        simulation.advance(0.002)
        stress.append(simulation.stress)
    rates = np.log2(np.abs(np.diff(stress)[:-1] / np.diff(stress)[1:]))
    assert rates == pytest.approx(2.0, abs=0.25)
