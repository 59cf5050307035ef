"""Frictional self-contact by incremental potential contact (Li et al. 2020), through ipctk.

*Barrier.* Every active pair of a vertex and an edge at the distance d < dhat has the energy density
(per area of surface; ipctk's "physical" barrier, which is a pressure law whatever the mesh)

    B(d) = -kappa dhat (r^2 - 1)^2 ln r^2,     r = d / dhat,                                 (1)
    p(d) = -dB/dd = kappa [8 r (r^2 - 1) ln r + 2 (r^2 - 1)^2 / r],                          (2)

with kappa the ``barrier_stiffness`` (MPa). It grows without bound as d -> 0, and steps are bounded
by continuous collision detection, so that surfaces never cross. The weights are the areas of the
vertices, and what several pairs see is counted once (Li et al. 2023, "convergent" contact).

*Friction.* With contact normals and normal forces lambda of an earlier iterate (the lag), Coulomb's
law over the displacement increment u - u_n is the potential

    D(u) = sum_contacts mu lambda f0(|T (u - u_n)|),                                         (3)
    f0'(y) = 2 y / eps_u - (y / eps_u)^2 for y < eps_u, else 1,

with T the projection on the tangent and eps_u the slip at which friction is fully mobilised. The
lag is iterated (``newton.py``): a single one lets a block slide that should stick.

The collision mesh holds the boundary edges of the cell, one ghost copy of the cell's left part
shifted by the period (so that contact across the seam is seen once), and the two platens as
obstacle edges. Its vertices are an index map of the extended unknowns ``z``, like the cells'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ipctk
import numpy as np
from scipy.sparse import csc_matrix

from crumple.fem.cell import Cell

GHOST_REACH = 0.35
PLATEN_REACH = 1.5
INFLATION = 3e-3
CCD = ipctk.AdditiveCCD(100_000, 0.9)


def fortran(array: np.ndarray) -> np.ndarray:
    """ipctk takes column-major arrays only."""
    return np.asfortranarray(array)


@dataclass
class FrictionalContact:
    """Barrier and lagged friction potentials of one cell.

    Parameters
    ----------
    cell
        the constrained problem.
    mu, dhat, barrier_stiffness, eps_u
        Coulomb coefficient; distance at which the barrier begins (cell sides); its stiffness kappa
        (MPa); slip at which friction is fully mobilised (cell sides).
    platens
        whether the platens are obstacles and the neighbouring cells are seen; without them there is
        self-contact inside the cell only.
    """

    cell: Cell
    mu: float
    dhat: float
    barrier_stiffness: float
    eps_u: float
    platens: bool = True
    mesh: ipctk.CollisionMesh = field(init=False)
    rest_positions: np.ndarray = field(init=False)
    dofs: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        ipctk.set_num_threads(1)  # a shard is one process; many shards share a machine
        rest, dofs, edges, fixed, obstacle = _collision_surface(self.cell, self.platens)
        self.rest_positions, self.dofs = rest, dofs
        self.flat_dofs = dofs.ravel()
        self.mesh = ipctk.CollisionMesh(fortran(rest), fortran(edges.astype(np.int32)))
        patches = np.where(fixed, 0, 1 + np.arange(len(rest)))
        self.mesh.can_collide = ipctk.make_vertex_patches_filter(patches.astype(np.int32))
        self.friction_of_vertex = np.where(obstacle, 0.0, self.mu)
        self.barrier = ipctk.BarrierPotential(
            self.dhat, self.barrier_stiffness, use_physical_barrier=True
        )
        self.friction_potential = ipctk.FrictionPotential(self.eps_u)
        self.body_edges = edges[~obstacle[edges].any(axis=1)]
        self._candidates: Any = None  # ipctk.Candidates, once there is a broad phase
        self._built_at = rest

    def vertices(self, z: np.ndarray) -> np.ndarray:
        """Deformed positions (V, 2) of the collision vertices."""
        return fortran(self.rest_positions + z[self.dofs])

    # Candidates: one broad phase serves several steps. Two surfaces further apart than twice the
    # inflation when the set was built stay out of reach of the barrier while no vertex has moved by
    # more than `budget` relative to the affine compression that all of them share.

    def _movement(self, vertices: np.ndarray) -> float:
        moved = vertices - self._built_at
        height = self._built_at[:, 1]
        shrink = (height @ moved[:, 1]) / (height @ height)
        moved[:, 1] -= shrink * height
        return float(np.sqrt((moved * moved).sum(axis=1).max()))

    def _in_budget(self, vertices: np.ndarray) -> bool:
        budget = 0.95 * INFLATION - 0.5 * self.dhat
        return self._candidates is not None and self._movement(vertices) <= budget

    def refresh_candidates(self, vertices: np.ndarray) -> None:
        """Rebuild the broad phase at these positions when the cached one no longer serves them."""
        if not self._in_budget(vertices):
            self._candidates = ipctk.Candidates()
            self._candidates.build(self.mesh, vertices, INFLATION)
            self._built_at = np.array(vertices)

    def candidate_pairs(self) -> np.ndarray:
        """Vertices (P, 3) of the current edge-vertex candidates, to pre-fill the sparsity."""
        edges = self.mesh.edges
        pairs = [(*edges[c.edge_id], c.vertex_id) for c in self._candidates.ev_candidates]
        return np.array(pairs, np.int64).reshape(-1, 3)

    def collisions(self, vertices: np.ndarray) -> ipctk.NormalCollisions:
        """Active contacts at these positions."""
        self.refresh_candidates(vertices)
        collisions = ipctk.NormalCollisions()
        collisions.use_area_weighting = True
        collisions.collision_set_type = ipctk.NormalCollisions.IMPROVED_MAX_APPROX
        collisions.build(self._candidates, self.mesh, vertices, self.dhat)
        return collisions

    def collision_free_stepsize(self, vertices_t0: np.ndarray, vertices_t1: np.ndarray) -> float:
        """Largest part of the straight path between two positions without a collision."""
        if self._in_budget(vertices_t0) and self._in_budget(vertices_t1):
            candidates = self._candidates
        else:
            candidates = ipctk.Candidates()
            candidates.build(self.mesh, vertices_t0, vertices_t1, self.dhat)
        return candidates.compute_collision_free_stepsize(
            self.mesh, vertices_t0, vertices_t1, 0.0, CCD
        )

    def tangential_collisions(
        self, vertices: np.ndarray, collisions: ipctk.NormalCollisions
    ) -> ipctk.TangentialCollisions:
        """Friction lagged at these positions: contact bases and normal forces are frozen."""
        tangential = ipctk.TangentialCollisions()
        mu = self.friction_of_vertex
        if self.mu > 0:
            tangential.build(self.mesh, vertices, collisions, self.barrier, mu, mu, min)
        return tangential

    def energy(self, vertices, collisions) -> float:
        """Barrier potential (MPa x area)."""
        return 0.0 if collisions.empty() else self.barrier(collisions, self.mesh, vertices)

    def add_gradient(self, gradient: np.ndarray, vertices, collisions) -> None:
        """Add the barrier's gradient with respect to ``z``."""
        if not collisions.empty():
            self._scatter(gradient, self.barrier.gradient(collisions, self.mesh, vertices))

    def friction_energy(self, tangential, slip: np.ndarray) -> float:
        """Lagged friction potential of the displacement increment ``slip`` (V, 2)."""
        return 0.0 if tangential.empty() else self.friction_potential(tangential, self.mesh, slip)

    def add_friction_gradient(self, gradient: np.ndarray, tangential, slip) -> None:
        """Add the lagged friction force with respect to ``z``."""
        if not tangential.empty():
            self._scatter(gradient, self.friction_potential.gradient(tangential, self.mesh, slip))

    def hessian(self, vertices, collisions, tangential, slip):
        """Positive semi-definite contact and friction Hessian.

        Returns
        -------
        rows, columns, values
            triplets in indices of ``z``.
        """
        clamp = ipctk.PSDProjectionMethod.CLAMP
        parts = []
        if not collisions.empty():
            parts.append(self.barrier.hessian(collisions, self.mesh, vertices, clamp))
        if not tangential.empty():
            parts.append(self.friction_potential.hessian(tangential, self.mesh, slip, clamp))
        if not parts:
            empty = np.empty(0, np.int64)
            return empty, empty, np.empty(0)
        total: csc_matrix = sum(parts[1:], parts[0])
        columns = np.repeat(np.arange(total.shape[1]), np.diff(total.indptr))
        return self.flat_dofs[total.indices], self.flat_dofs[columns], total.data

    def minimum_gap(self, vertices, collisions) -> float:
        """Smallest distance of active contacts in cell sides, infinity without contact."""
        if collisions.empty():
            return np.inf
        return float(np.sqrt(collisions.compute_minimum_distance(self.mesh, vertices)))

    def has_intersections(self, vertices: np.ndarray) -> bool:
        """Whether the boundary of the cell crosses itself, its neighbour, or a platen."""
        body = ipctk.CollisionMesh(
            fortran(self.rest_positions), fortran(self.body_edges.astype(np.int32))
        )
        if ipctk.has_intersections(body, fortran(vertices)):
            return True
        if not self.platens:
            return False
        heights = vertices[:, 1]
        return bool(heights.min() < -1e-9 or heights.max() > heights[-1] + 1e-9)

    def _scatter(self, gradient: np.ndarray, values: np.ndarray) -> None:
        gradient += np.bincount(self.flat_dofs, values, len(gradient))


def _collision_surface(cell: Cell, platens: bool):
    """Vertices, their unknowns, edges, which are out of play together, which are obstacles."""
    edges = cell.edges
    if platens:
        edges = edges[~cell.attached[edges].all(axis=1)]
    nodes = np.unique(edges)
    index = np.full(len(cell.rest_positions), -1)
    index[nodes] = np.arange(len(nodes))
    rest, dofs, edges = cell.rest_positions[nodes], cell.node_dofs[nodes], index[edges]
    attached = cell.attached[nodes]
    if not platens:
        return rest, dofs, edges, np.zeros(len(nodes), bool), np.zeros(len(nodes), bool)

    # ghosts: a copy of the left part, one period to the right, sewn to the right side
    near = (rest[edges, 0] < GHOST_REACH).all(axis=1)
    copied = np.unique(edges[near])
    ghost = np.full(len(nodes), -1)
    seam = cell.left[nodes[copied]]
    ghost[copied[seam]] = index[cell.partner[nodes[copied[seam]]]]
    # a seam node whose partner has no free edge becomes an ordinary ghost
    loose = copied[ghost[copied] < 0]
    ghost[loose] = len(nodes) + np.arange(len(loose))
    end = len(nodes) + len(loose)
    n = cell.size
    left, right = -PLATEN_REACH, 1 + PLATEN_REACH
    rest = np.vstack(
        [rest, rest[loose] + [1.0, 0.0], [[left, 0], [right, 0], [left, 1], [right, 1]]]
    )
    dofs = np.vstack([dofs, dofs[loose], [[n + 1, n + 1]] * 2, [[n + 1, n]] * 2])
    edges = np.vstack([edges, ghost[edges[near]], [[end, end + 1], [end + 2, end + 3]]])
    obstacle = np.zeros(len(rest), bool)
    obstacle[end:] = True
    out_of_play = obstacle.copy()
    out_of_play[len(nodes) : end] = True
    out_of_play[: len(nodes)] = attached
    return rest, dofs, edges, out_of_play, obstacle
