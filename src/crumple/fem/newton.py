"""Newton's method with a line search on the incremental potential of a load step.

Each iteration solves H p = -g for the free unknowns and moves to z + s p, where

- H is the exact Hessian of the bulk plus the clamped one of contact and friction. Where it isn't
  positive definite, which the Cholesky factorisation tells, H + sigma A is tried with growing sigma
  (A: lumped areas), and at last the clamped Hessian of the bulk as well;
- s starts at the largest step without a collision, and without a displacement over
  ``LARGEST_STEP``, and is halved until E(z + s p) <= E(z) + 1e-4 s g.p (Armijo's rule; Nocedal &
  Wright 2006, section 3.1).

It ends when |g| is small against the force of the platen, or p is.

*Friction lag.* The minimiser for frozen contact forces defines new ones (Li et al. 2020, section
5.4). Both alternate until the gradient with the new ones is small too, at most
``MAX_FRICTION_LAGS`` times, since the fixed point can cycle at first contact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crumple.fem.linear_solver import linear_solver
from crumple.fem.potential import IncrementalPotential, Iterate

GRADIENT_TOLERANCE = 2e-3
STEP_TOLERANCE = 1e-6
LARGEST_STEP = 0.1
MAX_ITERATIONS = 60
MAX_FRICTION_LAGS = 6
FIRST_SHIFT = 1.0
LARGEST_SHIFT = 1e5
SUFFICIENT_DECREASE = 1e-4


class NotConverged(RuntimeError):
    """A load step has no solution within the iteration limits; the message says why."""


@dataclass
class Counters:
    """Work done so far."""

    iterations: int = 0
    factorisations: int = 0
    symbolic: int = 0
    lags: int = 0


class Newton:
    """Minimises incremental potentials that share one sparsity pattern.

    Parameters
    ----------
    potential
        the potential; ``begin_step`` must have been called.
    areas
        (n,) lumped area of every free unknown: the metric of the shift that makes the Hessian
        positive definite.
    """

    def __init__(self, potential: IncrementalPotential, areas: np.ndarray) -> None:
        self.potential = potential
        self.areas = areas
        self.solver = linear_solver()
        self.analysed = 0
        self.counters = Counters()

    def solve_step(self, at: Iterate) -> Iterate:
        """Minimise from ``at``, repeating with friction lagged at the minimiser until it stays.

        Raises
        ------
        NotConverged
            When the iteration limit is reached or no descent is possible.
        """
        for _ in range(MAX_FRICTION_LAGS):
            at = self.minimise(at)
            if at.collisions.empty() and self.potential.tangential_collisions.empty():
                return at
            self.counters.lags += 1
            at = self.potential.lag_friction(at)
            if self.converged(at):
                return at
        return self.minimise(at)

    def converged(self, at: Iterate) -> bool:
        """Whether the residual is small against the platen force."""
        n = self.potential.cell.size
        force = abs(at.gradient[n])
        residual = np.linalg.norm(at.gradient[:n])
        return residual <= GRADIENT_TOLERANCE * max(force, 0.01)

    def minimise(self, at: Iterate) -> Iterate:
        """Newton iterations with friction frozen."""
        for _ in range(MAX_ITERATIONS):
            if self.converged(at):
                return at
            direction = self.descent_direction(at)
            self.counters.iterations += 1
            step = float(np.abs(direction).max())
            at = self.line_search(at, direction * min(1.0, LARGEST_STEP / step))
            if step < STEP_TOLERANCE:
                return at
        raise NotConverged(f"no equilibrium after {MAX_ITERATIONS} Newton iterations")

    def descent_direction(self, at: Iterate) -> np.ndarray:
        """-H^-1 g with the exact Hessian if it is positive definite, else shifted, else clamped."""
        pattern = self.potential.pattern
        n = pattern.size
        for project in (False, True):
            data = self.potential.hessian(at, project)
            if self.analysed != pattern.version:
                self.solver.analyse(pattern.indptr, pattern.indices)
                self.analysed = pattern.version
                self.counters.symbolic += 1
            shift = 0.0
            while shift <= LARGEST_SHIFT:
                shifted = data
                if shift > 0:
                    shifted = data.copy()
                    shifted[pattern.diagonal] += shift * self.areas
                self.counters.factorisations += 1
                if self.solver.factorise(shifted):
                    direction = np.zeros(n + 2)
                    direction[:n] = -self.solver.solve(at.gradient[:n])
                    if direction[:n] @ at.gradient[:n] < 0:
                        return direction
                shift = max(4.0 * shift, FIRST_SHIFT)
        raise NotConverged("the Hessian has no positive definite shift")

    def line_search(self, at: Iterate, direction: np.ndarray) -> Iterate:
        """Halve from the largest collision-free step until the energy decreases enough."""
        contact = self.potential.contact
        slope = float(direction @ at.gradient)
        scale = contact.collision_free_stepsize(at.vertices, contact.vertices(at.z + direction))
        while scale > 1e-10:
            trial = self.potential.evaluate(at.z + scale * direction)
            if trial.energy <= at.energy + SUFFICIENT_DECREASE * scale * slope + self.noise(at):
                return trial
            scale *= 0.5
        raise NotConverged("the line search found no decrease")

    @staticmethod
    def noise(at: Iterate) -> float:
        """Rounding of the energy, below which a decrease cannot be seen."""
        return 1e-13 * abs(at.energy)
