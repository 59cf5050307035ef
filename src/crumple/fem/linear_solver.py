"""Sparse LDL^T with inertia: PARDISO (MKL) where it is installed, MUMPS through PETSc otherwise.

Matrices are given by their upper triangle in CSR with sorted columns and a full diagonal.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


class FactorisationError(RuntimeError):
    """The matrix could not be factorised."""


class Pardiso:
    """MKL PARDISO for real symmetric indefinite matrices."""

    def __init__(self) -> None:
        from pypardiso import PyPardisoSolver

        self.solver = PyPardisoSolver(mtype=-2)
        self.solver.libmkl.MKL_Set_Num_Threads(1)
        iparm = {1: 1, 2: 2, 8: 0, 10: 8, 11: 0, 13: 0, 21: 1, 24: 0}
        for key, value in iparm.items():
            self.solver.set_iparm(key, value)
        self.matrix: csr_matrix | None = None

    def analyse(self, indptr: np.ndarray, indices: np.ndarray) -> None:
        """Symbolic factorisation of a new sparsity pattern."""
        self.close()
        size = len(indptr) - 1
        self.matrix = csr_matrix((np.ones(len(indices)), indices, indptr), shape=(size, size))
        self._call(11, np.zeros(size))

    def factorise(self, data: np.ndarray) -> int:
        """Numeric factorisation; returns the number of negative pivots."""
        self.matrix.data = data
        self._call(22, np.zeros(self.matrix.shape[0]))
        return int(self.solver.get_iparm(23))

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """Solve with the last factorisation."""
        return self._call(33, rhs)

    def close(self) -> None:
        """Give the factor's memory back."""
        if self.matrix is not None:
            self._call(-1, np.zeros(self.matrix.shape[0]))
            self.matrix = None

    def _call(self, phase: int, rhs: np.ndarray) -> np.ndarray:
        from pypardiso.pardiso_wrapper import PyPardisoError

        self.solver.set_phase(phase)
        try:
            return self.solver._call_pardiso(self.matrix, rhs)
        except PyPardisoError as error:
            raise FactorisationError(str(error)) from error


class Mumps:
    """MUMPS LDL^T through PETSc, available wherever dolfinx is."""

    def __init__(self) -> None:
        self.matrix = None

    def analyse(self, indptr: np.ndarray, indices: np.ndarray) -> None:
        """Take a new sparsity pattern (analysed with the first factorisation)."""
        from petsc4py import PETSc

        self.close()
        self.pattern = indptr.astype(PETSc.IntType), indices.astype(PETSc.IntType)
        size = len(indptr) - 1
        self.matrix = PETSc.Mat().createSBAIJ(
            (size, size), 1, csr=(*self.pattern, np.zeros(len(indices))), comm=PETSc.COMM_SELF
        )
        self.matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        self.ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        self.ksp.setOperators(self.matrix)
        self.ksp.setType("preonly")
        self.pc = self.ksp.getPC()
        self.pc.setType("cholesky")
        self.pc.setFactorSolverType("mumps")
        self.rhs, self.solution = self.matrix.createVecs()

    def factorise(self, data: np.ndarray) -> int:
        """Numeric factorisation; returns the number of negative pivots."""
        self.matrix.setValuesCSR(*self.pattern, data)
        self.matrix.assemble()
        self.ksp.setUp()
        factor = self.pc.getFactorMatrix()
        if factor.getMumpsInfog(1) < 0:
            raise FactorisationError(f"MUMPS failed with INFOG(1) = {factor.getMumpsInfog(1)}")
        return factor.getMumpsInfog(12)

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """Solve with the last factorisation."""
        self.rhs.array[:] = rhs
        self.ksp.solve(self.rhs, self.solution)
        return self.solution.array.copy()

    def close(self) -> None:
        """Give the factor's memory back."""
        if self.matrix is not None:
            for thing in (self.ksp, self.matrix, self.rhs, self.solution):
                thing.destroy()
            self.matrix = None


def linear_solver() -> Pardiso | Mumps:
    """The fastest solver that is installed."""
    try:
        return Pardiso()
    except ImportError:
        return Mumps()
