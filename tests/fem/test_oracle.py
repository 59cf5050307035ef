"""The compiled element kernels against the same potential written in UFL, assembled by dolfinx.

The oracle is the three-field form (displacement, pressure p and volume ratio Theta constant in each
cell; Simo, Taylor & Pister 1985), differentiated by UFL and condensed here:

    Pi = int J_n [ W_dev(F Fp^-1) + r W_dev(F F_n^-1) ] + p (det F - Theta)
             + Jbar_n K/2 [ (ln Theta)^2 + r (ln Theta - ln Jbar_n)^2 ].

Energy, gradient and Hessian have to agree at a random deformation with a random plastic history.
"""

import numpy as np
import pytest
import ufl
from dolfinx import fem
from dolfinx.fem import petsc

from crumple.fem import elements
from crumple.fem.cell import build_cell
from crumple.fem.material import hardening_table

MODULI = elements.Moduli(2500.0, 850.0, hardening_table([(40.0, 0.0), (55.0, 0.01), (70.0, 0.06)]))
RATE = 0.4  # beta / dt
SIDE = 3  # cells along a side


@pytest.fixture(scope="module")
def problem():
    """Mesh, numbering and a random state, for both sides."""
    rng = np.random.default_rng(7)
    i, j = np.mgrid[: SIDE + 1, : SIDE + 1]
    nodes = np.stack([j, i], axis=-1).reshape(-1, 2) / SIDE
    inner = ((nodes > 0) & (nodes < 1)).all(axis=1)
    nodes[inner] += rng.uniform(-0.08, 0.08, (inner.sum(), 2))
    corner = (np.arange(SIDE)[:, None] * (SIDE + 1) + np.arange(SIDE)).ravel()
    cells = np.stack([corner, corner + 1, corner + SIDE + 2, corner + SIDE + 1], axis=1)
    cell = build_cell(nodes, cells, "bonded", 0.0)

    state = elements.initial_state(cell.geometry)
    shape = state.equivalent_plastic_strain.shape
    state.Fp_inverse[:] = [1, 0, 0, 1] + rng.uniform(-0.03, 0.03, (*shape, 4))
    state.Fn_inverse[:] = [1, 0, 0, 1] + rng.uniform(-0.05, 0.05, (*shape, 4))
    state.log_zz[:] = rng.uniform(-0.02, 0.02, shape)
    state.equivalent_plastic_strain[:] = rng.uniform(
        0, 0.08, shape
    )  # in all three segments of the table
    state.weights[:] = cell.geometry.weights * rng.uniform(0.95, 1.05, shape)
    state.volumes[:] = cell.geometry.volumes * rng.uniform(0.95, 1.05, len(cells))
    state.log_j[:] = rng.uniform(-0.03, 0.03, len(cells))
    u = rng.uniform(-0.012, 0.012, 2 * len(nodes))
    return cell, state, u


def stored(mesh, values):
    """A dolfinx function with given values: (M,) per cell, (M, 4) or (M, 4, k) per point."""
    values = np.asarray(values)
    space = fem.FunctionSpace if hasattr(fem, "VectorFunctionSpace") else fem.functionspace
    if values.ndim == 1:
        function = fem.Function(space(mesh, ("DG", 0)))
    else:
        function = fem.Function(space(mesh, point_element(mesh, values.shape[2:])))
    if values.ndim > 1:
        values = values[:, [0, 3, 1, 2]]  # basix goes through the points in columns, we go round
    dofmap = function.function_space.dofmap.list
    places = np.asarray(getattr(dofmap, "array", dofmap)).ravel()
    function.x.array.reshape(len(places), -1)[places] = values.reshape(len(places), -1)
    return function


def point_element(mesh, shape):
    """The element of values at the 2x2 Gauss points, scalars or vectors."""
    if hasattr(fem, "VectorFunctionSpace"):  # dolfinx 0.5
        points = ("Quadrature", mesh.ufl_cell(), 2)
        if shape:
            return ufl.VectorElement(*points, dim=shape[0], quad_scheme="default")
        return ufl.FiniteElement(*points, quad_scheme="default")
    import basix.ufl

    return basix.ufl.quadrature_element("quadrilateral", value_shape=shape, degree=2)


def log_stretches(F):
    """Principal logarithmic stretches of a 2x2 tensor."""
    C = F.T * F
    mean = ufl.tr(C) / 2
    radius = ufl.sqrt((C[0, 0] - C[1, 1]) ** 2 / 4 + C[0, 1] ** 2)
    return ufl.ln(mean + radius) / 2, ufl.ln(mean - radius) / 2


def deviatoric_energy(F, log_zz, alpha, yield_stress):
    """Elastic energy and plastic work of the radial return, as a function of the trial stress q.

    Its derivative is (q - 3G da(q)) / 3G. In x = q + 3G alpha the plastic strain after the step is
    piecewise linear, so that its integral is a sum of squares of max(x - knot, 0).
    """
    shear, (stress, strain, hardening) = MODULI.shear, MODULI.table.T
    strains = [*log_stretches(F), log_zz]
    mean = sum(strains) / 3
    q = ufl.sqrt(6 * sum((e - mean) ** 2 for e in strains)) * shear
    x, x_yield = q + 3 * shear * alpha, yield_stress + 3 * shear * alpha
    jumps = np.diff(1 / (3 * shear + hardening), prepend=0)

    def integral(x):
        above = [x - knot for knot in stress + 3 * shear * strain]
        parts = [ufl.conditional(ufl.gt(a, 0), a**2, 0) for a in above]
        return sum(jump / 2 * part for jump, part in zip(jumps, parts, strict=True))

    saved = integral(x) - integral(x_yield) - alpha * (x - x_yield)
    return q**2 / (6 * shear) - ufl.conditional(ufl.gt(q, yield_stress), saved, 0)


@pytest.fixture(scope="module")
def oracle(problem):
    """Energy, gradient and condensed Hessian from dolfinx, in its numbering."""
    cell, state, values = problem
    mesh = cell.space.mesh
    zero = np.zeros(len(cell.corners))
    u, p, theta = (fem.Function(cell.space), stored(mesh, zero), stored(mesh, zero))
    u.x.array[:] = values
    measure = cell.geometry
    alpha = stored(mesh, state.equivalent_plastic_strain)
    table = MODULI.table
    yield_stress = stored(
        mesh, np.interp(state.equivalent_plastic_strain, table[:, 1], table[:, 0])
    )
    plastic, previous = stored(mesh, state.Fp_inverse), stored(mesh, state.Fn_inverse)
    weight = stored(mesh, state.weights / measure.weights)
    mean_weight = stored(mesh, state.volumes / measure.volumes)

    dx = ufl.dx(domain=mesh, metadata={"quadrature_degree": 2})
    F = ufl.Identity(2) + ufl.grad(u)
    Fe = F * ufl.as_matrix([[plastic[0], plastic[1]], [plastic[2], plastic[3]]])
    first, second = log_stretches(
        F * ufl.as_matrix([[previous[0], previous[1]], [previous[2], previous[3]]])
    )
    trace = first + second
    norm2 = (first - trace / 3) ** 2 + (second - trace / 3) ** 2 + (trace / 3) ** 2
    viscous = RATE * MODULI.shear * norm2
    deviatoric = deviatoric_energy(Fe, stored(mesh, state.log_zz), alpha, yield_stress)
    start = stored(mesh, state.log_j)
    increment = ufl.ln(theta) - start
    potential = (
        weight * (deviatoric + viscous)
        + p * (ufl.det(F) - theta)
        + mean_weight * MODULI.bulk / 2 * (ufl.ln(theta) ** 2 + RATE * increment**2)
    ) * dx

    constant = ufl.TestFunction(theta.function_space)
    volume = petsc.assemble_vector(fem.form(ufl.det(F) * constant * dx)).array
    undeformed = petsc.assemble_vector(fem.form(constant * dx)).array
    theta.x.array[:] = volume / undeformed
    log_theta = np.log(theta.x.array)
    strain = log_theta + RATE * (log_theta - start.x.array)
    p.x.array[:] = mean_weight.x.array * MODULI.bulk * strain / theta.x.array

    fields = u, p, theta
    forms = [ufl.derivative(potential, field) for field in fields]
    gradient, *rest = [petsc.assemble_vector(fem.form(form)).array for form in forms]
    assert max(np.abs(r).max() for r in rest) < 1e-12  # p and Theta are stationary
    blocks = [[dense(ufl.derivative(form, field)) for field in fields] for form in forms]
    inner = np.block([row[1:] for row in blocks[1:]])
    coupling = np.hstack(blocks[0][1:])
    hessian = blocks[0][0] - coupling @ np.linalg.solve(inner, coupling.T)
    energy = fem.assemble_scalar(fem.form(potential))
    return energy, gradient, hessian


def dense(form):
    """Assemble a bilinear form; an empty one, which UFL drops, is an error of the test."""
    matrix = petsc.assemble_matrix(fem.form(form))
    matrix.assemble()
    return matrix[:, :]


def kernels(problem, rate):
    """Energy, gradient and Hessian from the compiled kernels, without constraints."""
    cell, state, values = problem
    dofs = (2 * cell.corners[:, :, None] + [0, 1]).reshape(len(cell.corners), 8)
    arguments = values, dofs, cell.geometry, state, MODULI, rate
    gradient = np.zeros(len(values))
    energy = elements.energy_and_gradient(*arguments, gradient)
    rows, columns = dofs[:, :, None], dofs[:, None, :]
    places = np.where(rows <= columns, rows * len(values) + columns, -1)
    upper = np.zeros(len(values) ** 2)
    elements.add_hessian(*arguments, False, places, upper)
    upper = upper.reshape(len(values), -1)
    return energy, gradient, upper + np.triu(upper, 1).T


def test_some_points_flow_and_some_do_not(problem):
    cell, state, values = problem
    after = state.copy()
    dofs = (2 * cell.corners[:, :, None] + [0, 1]).reshape(len(cell.corners), 8)
    elements.update(values, dofs, cell.geometry, after, MODULI, RATE)
    flowing = (after.equivalent_plastic_strain > state.equivalent_plastic_strain).mean()
    assert 0.2 < flowing < 0.9


def test_kernels_agree_with_dolfinx(problem, oracle):
    energy, gradient, hessian = oracle
    found = kernels(problem, RATE)
    assert found[0] == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(found[1], gradient, atol=1e-9 * np.abs(gradient).max())
    np.testing.assert_allclose(found[2], hessian, atol=1e-8 * np.abs(hessian).max())


def test_the_comparison_would_see_a_wrong_kernel(problem, oracle):
    without_viscosity = kernels(problem, 0.0)
    for found, expected in zip(without_viscosity, oracle, strict=True):
        assert np.abs(found - expected).max() > 1e-3 * np.abs(expected).max()
    cell, state, values = problem
    softer = state._replace(equivalent_plastic_strain=state.equivalent_plastic_strain * 0.9)
    for found, expected in zip(kernels((cell, softer, values), RATE), oracle, strict=True):
        assert np.abs(found - expected).max() > 1e-5 * np.abs(expected).max()
