"""The incremental potential of one load step, its gradient and its Hessian.

A step of pseudo-time dt from z_n with the velocity v_n is the minimisation of

    E(z) = bulk(z; state_n, beta / dt)              elastoplastic and viscous; ``elements.py``
         + 1/(2 dt^2) (z - zhat)^T M (z - zhat),    zhat = z_n + dt v_n
         + barrier(z) + friction(z - z_n; lag)      ``contact.py``

subject to the prescribed displacement of the top platen. grad E = 0 is the backward Euler step of

    M a + f_int(u, history) + f_visc(u, v) = f_contact + f_friction,

since plastic flow, viscosity and lagged friction each have a potential over a step (Ortiz &
Stainier 1999; Radovitzky & Ortiz 1999; Li et al. 2020). The derivative with respect to the platen's
displacement is its reaction.
"""

from __future__ import annotations

from dataclasses import dataclass

import ipctk
import numpy as np

from crumple.fem import elements
from crumple.fem.cell import Cell
from crumple.fem.contact import FrictionalContact
from crumple.fem.elements import Moduli, State


@dataclass
class Iterate:
    """Value and gradient of the potential at ``z``, with the contacts found there.

    ``frictionless`` is (energy, gradient) without friction, which depends on its lag as well.
    """

    z: np.ndarray
    vertices: np.ndarray
    collisions: ipctk.NormalCollisions
    frictionless: tuple[float, np.ndarray]
    energy: float
    gradient: np.ndarray


class IncrementalPotential:
    """Potential of the step from the state at ``z_n`` over the pseudo-time ``dt``.

    Parameters
    ----------
    cell, contact, moduli, state
        the constrained problem and its history.
    mass
        (n + 2,) lumped mass of every unknown; divided by the density it is an area.
    damping
        beta, the stiffness-proportional damping.
    """

    def __init__(
        self, cell: Cell, contact: FrictionalContact, moduli: Moduli, state: State, mass, damping
    ):
        self.cell, self.contact, self.moduli, self.state = cell, contact, moduli, state
        self.mass, self.damping = mass, damping
        self.pattern = Pattern(cell)

    def begin_step(self, z_n: np.ndarray, velocity: np.ndarray, dt: float) -> None:
        """Set the start of the step; friction acts from :meth:`lag_friction` on."""
        self.rate = self.damping / dt
        self.inertia = self.mass / dt**2
        self.predictor = z_n + dt * velocity
        self.vertices_t0 = self.contact.vertices(z_n)
        self.tangential_collisions = self.contact.tangential_collisions(
            self.vertices_t0, self.contact.collisions(self.vertices_t0)
        )

    def lag_friction(self, at: Iterate) -> Iterate:
        """Freeze contact normals and normal forces of friction at this state; evaluate again."""
        self.tangential_collisions = self.contact.tangential_collisions(at.vertices, at.collisions)
        return self._with_friction(at.z, at.vertices, at.collisions, at.frictionless)

    def evaluate(self, z: np.ndarray) -> Iterate:
        """Energy and gradient; the gradient's entry n is the reaction of the top platen."""
        gradient = np.zeros(len(z))
        energy = elements.energy_and_gradient(
            z, self.cell.cell_dofs, self.cell.geometry, self.state, self.moduli, self.rate, gradient
        )
        vertices = self.contact.vertices(z)
        if not np.isfinite(energy):
            return Iterate(z, vertices, None, (np.inf, gradient), np.inf, gradient)
        collisions = self.contact.collisions(vertices)
        offset = z - self.predictor
        energy += 0.5 * float(offset @ (self.inertia * offset))
        energy += self.contact.energy(vertices, collisions)
        gradient += self.inertia * offset
        self.contact.add_gradient(gradient, vertices, collisions)
        return self._with_friction(z, vertices, collisions, (energy, gradient))

    def _with_friction(self, z, vertices, collisions, frictionless) -> Iterate:
        energy, gradient = frictionless
        if not self.tangential_collisions.empty():
            slip = np.asfortranarray(vertices - self.vertices_t0)
            gradient = gradient.copy()
            energy += self.contact.friction_energy(self.tangential_collisions, slip)
            self.contact.add_friction_gradient(gradient, self.tangential_collisions, slip)
        return Iterate(z, vertices, collisions, frictionless, energy, gradient)

    def hessian(self, at: Iterate, project: bool) -> np.ndarray:
        """Values of the upper triangle on :attr:`pattern`.

        Bulk exact (or clamped when ``project``), contact and friction always clamped.
        """
        slip = np.asfortranarray(at.vertices - self.vertices_t0)
        triplets = self.contact.hessian(
            at.vertices, at.collisions, self.tangential_collisions, slip
        )
        rows, columns = triplets[:2]
        places = self.pattern.places(rows, columns, self.contact)
        data = np.zeros(len(self.pattern.indices))
        elements.add_hessian(
            at.z,
            self.cell.cell_dofs,
            self.cell.geometry,
            self.state,
            self.moduli,
            self.rate,
            project,
            self.pattern.cell_places,
            data,
        )
        data[self.pattern.diagonal] += self.inertia[: self.cell.size]
        inside = places >= 0
        data += np.bincount(places[inside], triplets[2][inside], len(data))
        return data


class Pattern:
    """Sparsity of the upper triangle: cells, plus the contact pairs met so far.

    ``version`` grows when the pattern does, so that the solver repeats its symbolic factorisation.
    """

    def __init__(self, cell: Cell) -> None:
        self.size = cell.size
        self.cell_dofs = cell.cell_dofs
        self.version = 0
        rows = np.repeat(cell.cell_dofs, 8, axis=1).ravel()
        columns = np.tile(cell.cell_dofs, (1, 8)).ravel()
        diagonal = np.arange(self.size)
        self._set(np.concatenate([self._keys(rows, columns), diagonal * (self.size + 1)]))

    def _keys(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """One number per entry of the upper triangle, -1 for all others."""
        inside = (rows <= columns) & (columns < self.size)
        return np.where(inside, rows * self.size + columns, -1)

    def _set(self, keys: np.ndarray) -> None:
        keys = np.unique(keys)
        self.keys = keys[keys >= 0]
        rows, self.indices = (part.astype(np.int32) for part in divmod(self.keys, self.size))
        self.indptr = np.searchsorted(rows, np.arange(self.size + 1)).astype(np.int32)
        self.diagonal = np.searchsorted(self.keys, np.arange(self.size) * (self.size + 1))
        rows = np.repeat(self.cell_dofs, 8, axis=1).ravel()
        columns = np.tile(self.cell_dofs, (1, 8)).ravel()
        places = self._find(self._keys(rows, columns))
        self.cell_places = places.reshape(-1, 8, 8).astype(np.int32)
        self.version += 1

    def _find(self, keys: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self.keys, keys)
        places[keys < 0] = -1
        return places

    def places(
        self, rows: np.ndarray, columns: np.ndarray, contact: FrictionalContact
    ) -> np.ndarray:
        """Positions of contact entries, -1 outside; the pattern grows when one is new."""
        keys = self._keys(rows, columns)
        known = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        if np.any((self.keys[known] != keys) & (keys >= 0)):
            self._set(np.concatenate([self.keys, keys, self._candidate_keys(contact)]))
        return self._find(keys)

    def _candidate_keys(self, contact: FrictionalContact) -> np.ndarray:
        """Entries that the current candidates may need, so that the pattern seldom grows."""
        dofs = contact.dofs[contact.candidate_pairs()].reshape(-1, 6)
        rows = np.repeat(dofs, 6, axis=1).ravel()
        columns = np.tile(dofs, (1, 6)).ravel()
        return self._keys(rows, columns)
