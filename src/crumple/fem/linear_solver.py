"""Sparse Cholesky: PARDISO (MKL) where it is installed, MUMPS through PETSc otherwise.

Matrices are given by their upper triangle in CSR with sorted columns and a full diagonal. Both
tell whether the matrix is positive definite, which is all that Newton's method needs to know of
its inertia (and a third faster than LDL^T with PARDISO).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

NOT_POSITIVE_DEFINITE = -4  # PARDISO's error code


class Pardiso:
    """MKL PARDISO for real symmetric positive definite matrices."""

    def __init__(self) -> None:
        from pypardiso import PyPardisoSolver

        self.solver = PyPardisoSolver(mtype=2)
        # the search for the library takes 0.4 s: spare the next one
        os.environ["PYPARDISO_MKL_RT"] = self.solver.libmkl._name
        self.solver.libmkl.MKL_Set_Num_Threads(1)
        # own settings (1), nested dissection (2), no scaling (11) nor matching (13), two-level (24)
        for key, value in {1: 1, 2: 2, 11: 0, 13: 0, 24: 1}.items():
            self.solver.set_iparm(key, value)
        self.matrix: Any = None  # csr_matrix, once there is a pattern

    def analyse(self, indptr: np.ndarray, indices: np.ndarray) -> None:
        """Symbolic factorisation of a new sparsity pattern."""
        self.close()
        size = len(indptr) - 1
        self.matrix = csr_matrix((np.ones(len(indices)), indices, indptr), shape=(size, size))
        self._call(11, np.zeros(size))

    def factorise(self, data: np.ndarray) -> bool:
        """Numeric factorisation; False when the matrix is not positive definite."""
        from pypardiso.pardiso_wrapper import PyPardisoError

        self.matrix.data = data
        try:
            self._call(22, np.zeros(self.matrix.shape[0]))
        except PyPardisoError as error:
            if error.value == NOT_POSITIVE_DEFINITE:
                return False
            raise
        return True

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """Solve with the last factorisation."""
        return self._call(33, rhs)

    def close(self) -> None:
        """Give the factor's memory back."""
        if self.matrix is not None:
            self._call(-1, np.zeros(self.matrix.shape[0]))
            self.matrix = None

    def _call(self, phase: int, rhs: np.ndarray) -> np.ndarray:
        self.solver.set_phase(phase)
        return self.solver._call_pardiso(self.matrix, rhs)


class Mumps:
    """MUMPS through PETSc, available wherever dolfinx is."""

    def __init__(self) -> None:
        self.matrix: Any = None  # PETSc.Mat, once there is a pattern

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

    def factorise(self, data: np.ndarray) -> bool:
        """Numeric factorisation; False when the matrix is not positive definite."""
        self.matrix.setValuesCSR(*self.pattern, data)
        self.matrix.assemble()
        self.pc.setUp()  # KSP.setUp would skip a factorisation whose pattern is known
        factor = self.pc.getFactorMatrix()
        if factor.getMumpsInfog(1) < 0:  # delayed pivots ran out of memory: far from definite
            self.analyse(*self.pattern)  # a factor that has failed once fails for ever
            return False
        return factor.getMumpsInfog(12) == 0

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
