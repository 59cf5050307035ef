"""Both linear solvers solve, and tell positive definite matrices from others, in any order."""

import numpy as np
import pytest
from scipy import sparse

from crumple.fem.linear_solver import Mumps, Pardiso


@pytest.fixture(params=[Mumps, Pardiso], ids=["MUMPS", "PARDISO"])
def solver(request):
    if request.param is Pardiso:
        pytest.importorskip("pypardiso")
    return request.param()


@pytest.fixture
def upper():
    half = sparse.random(300, 300, 0.02, random_state=np.random.RandomState(0))
    matrix = sparse.triu(half + half.T + 12 * sparse.eye(300), format="csr")
    matrix.sort_indices()
    return matrix


def full(upper):
    return upper + sparse.triu(upper, 1).T


def test_definiteness_is_told_again_for_every_matrix(solver, upper):
    indefinite = upper.data.copy()
    indefinite[upper.indptr[:40]] *= -1  # the first entry of a row is its diagonal
    barely = upper.data.copy()
    barely[upper.indptr[7]] = -1e-3
    solver.analyse(upper.indptr, upper.indices)
    for data, expected in (
        (indefinite, False),
        (upper.data, True),
        (barely, False),
        (0 * upper.data, False),
        (upper.data, True),
    ):
        matrix = full(sparse.csr_matrix((data, upper.indices, upper.indptr))).toarray()
        assert (np.linalg.eigvalsh(matrix).min() > 0) == expected
        assert solver.factorise(data.copy()) == expected


def test_solution_belongs_to_the_last_matrix(solver, upper):
    rhs = np.arange(300.0)
    solver.analyse(upper.indptr, upper.indices)
    for scale in (1.0, 3.0):
        assert solver.factorise(scale * upper.data)
        np.testing.assert_allclose(scale * full(upper) @ solver.solve(rhs), rhs, atol=1e-9)
