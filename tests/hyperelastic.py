"""A small compressed cell solved with dolfinx and UFL, in the layout of a simulation file.

Neo-Hookean bilinear quadrilaterals between bonded platens, periodic in x: no plasticity, contact
or dynamics, and not a line of the production solver.
"""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.fem import petsc
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from crumple.fem.compat import create_quadrilateral_mesh, displacement_space

YOUNGS_MODULUS, POISSON_RATIO = 2306.0, 0.35
SHEAR_MODULUS = YOUNGS_MODULUS / (2 * (1 + POISSON_RATIO))
LAME = YOUNGS_MODULUS * POISSON_RATIO / ((1 + POISSON_RATIO) * (1 - 2 * POISSON_RATIO))
GAUSS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / np.sqrt(3)


def compress(nodes, cells, strains):
    """Solve the cell at each nominal strain; the first one from the undeformed state."""
    mesh = create_quadrilateral_mesh(nodes, cells)
    space = displacement_space(mesh)
    u, v, du = fem.Function(space), ufl.TestFunction(space), ufl.TrialFunction(space)
    F = ufl.variable(ufl.Identity(2) + ufl.grad(u))
    log_J = ufl.ln(ufl.det(F))
    W = SHEAR_MODULUS / 2 * (ufl.inner(F, F) - 2 - 2 * log_J) + LAME / 2 * log_J**2
    dx = ufl.dx(domain=mesh, metadata={"quadrature_degree": 2})
    balance = ufl.inner(ufl.diff(W, F), ufl.grad(v)) * dx
    residual, tangent = fem.form(balance), fem.form(ufl.derivative(balance, u, du))

    numbering = cKDTree(nodes).query(space.tabulate_dof_coordinates()[:, :2])[1]
    x, order = nodes[numbering], np.argsort(numbering)
    T, top = _free_unknowns(x)
    states, stresses = [], []
    reached = 0.0
    for strain in strains:
        u.x.array[1::2] -= (strain - reached) * x[:, 1]  # the affine guess
        reached = strain
        for _ in range(30):
            r = petsc.assemble_vector(residual).array
            K = petsc.assemble_matrix(tangent)
            K.assemble()
            indptr, columns, values = K.getValuesCSR()
            K = sparse.csr_matrix((values, columns, indptr))
            step = T @ splu((T.T @ K @ T).tocsc()).solve(-(T.T @ r))
            u.x.array[:] += step
            if np.abs(step).max() < 1e-13:
                break
        else:
            raise RuntimeError(f"no equilibrium at strain {strain}")
        stresses.append(-petsc.assemble_vector(residual).array[2 * top + 1].sum())
        states.append(u.x.array.reshape(-1, 2)[order])
    return {
        "status": "ok",
        "nodes": nodes,
        "cells": cells,
        "frame_strain": np.array(strains),
        "frame_stress": np.array(stresses),
        "u": np.array(states),
        "cauchy": np.array([_cauchy(nodes, cells, state) for state in states]),
        "equivalent_plastic_strain": np.zeros((len(strains), len(cells), 4)),
    }


def _free_unknowns(x):
    """Return the matrix from free unknowns to all, and the nodes of the top edge.

    Top and bottom nodes are held, right nodes follow the left nodes at the same height.
    """
    master = np.arange(len(x))
    left, right = np.flatnonzero(x[:, 0] == 0), np.flatnonzero(x[:, 0] == 1)
    master[right] = left[cKDTree(x[left, 1:]).query(x[right, 1:])[1]]
    held = (x[:, 1] == 0) | (x[:, 1] == 1)
    number = np.full(len(x), -1)
    kept = np.flatnonzero(~held & (master == np.arange(len(x))))
    number[kept] = np.arange(len(kept))
    rows = np.flatnonzero(~held)
    T = sparse.csr_matrix((np.ones(len(rows)), (rows, number[master[rows]])), (len(x), len(kept)))
    return sparse.kron(T, sparse.identity(2), "csr"), np.flatnonzero(x[:, 1] == 1)


def _cauchy(nodes, cells, u):
    """Return s11, s22, s12, s33 (M, 4, 4) at the Gauss points, from the displacement."""
    xi, eta = GAUSS.T
    signs = GAUSS * np.sqrt(3)
    dN = (
        np.stack(
            [
                signs[:, 0] * (1 + eta[:, None] * signs[:, 1]),
                signs[:, 1] * (1 + xi[:, None] * signs[:, 0]),
            ],
            axis=1,
        )
        / 4
    )  # (point, direction, node)
    jacobian = np.einsum("gdn,cni->cgid", dN, nodes[cells])
    F = np.eye(2) + np.einsum("gdn,cni->cgid", dN, u[cells]) @ np.linalg.inv(jacobian)
    J = np.linalg.det(F)
    b = F @ F.swapaxes(-1, -2)
    pressure_like = LAME * np.log(J)
    s11 = (SHEAR_MODULUS * (b[..., 0, 0] - 1) + pressure_like) / J
    s22 = (SHEAR_MODULUS * (b[..., 1, 1] - 1) + pressure_like) / J
    return np.stack([s11, s22, SHEAR_MODULUS * b[..., 0, 1] / J, pressure_like / J], axis=-1)


def unsymmetric_cell(n=40):
    """Return nodes and cells of a distorted n x n grid with two holes and no symmetry.

    The lines x = 0, 1/2 and 1 stay straight, so that the cell can be cut there and shifted.
    """
    i, j = np.mgrid[: n + 1, : n + 1]
    x, y = j / n, i / n
    bump = 0.008 * np.sin(2 * np.pi * x) ** 2 * np.sin(np.pi * y) ** 2
    nodes = np.stack([x + bump * np.sin(5 * y), y + bump * np.cos(7 * x)], axis=-1).reshape(-1, 2)
    corner = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    cells = np.stack([corner, corner + 1, corner + n + 2, corner + n + 1], axis=1)
    cx, cy = nodes[cells].mean(axis=1).T
    hole = ((cx - 0.35) ** 2 / 0.22**2 + (cy - 0.62) ** 2 / 0.16**2 < 1) | (
        (np.abs((cx - 0.85 + 0.5) % 1 - 0.5) < 0.2) & (np.abs(cy - 0.25) < 0.1)
    )
    return _without_unused(nodes, cells[~hole])


def shifted_cell(nodes, cells):
    """Return the cell cut at x = 1/2 and put together again half a period further."""
    right = nodes[cells].mean(axis=1)[:, 0] > 0.5
    left_part, right_part = nodes + (0.5, 0), nodes - (0.5, 0)
    both = np.concatenate([left_part, right_part])
    both[np.abs(both) < 1e-12] = 0
    both[np.abs(both - 1) < 1e-12] = 1
    joined = np.where(right[:, None], cells + len(nodes), cells)
    both, joined = _without_unused(both, joined)
    first = np.arange(len(both))
    for a, b in cKDTree(both).query_pairs(1e-10):
        first[max(a, b)] = min(a, b)
    return _without_unused(both, first[joined])


def _without_unused(nodes, cells):
    used, renumbered = np.unique(cells, return_inverse=True)
    return nodes[used], renumbered.reshape(cells.shape).astype(np.int32)
