"""The load case: compress a meshed cell between platens and record curve, fields and energies.

The top platen moves down by u(t) = -eps_end a(t), with the smooth-step amplitude of Abaqus

    a(t) = t^3 (10 - 15 t + 6 t^2),     0 <= t <= 1,                                         (1)

in a pseudo-time of 1 s, which counts where there is damping (beta has the unit of time). An
increment to the strain eps therefore takes dt = a^-1(eps / eps_end) - t_n. The width of the cell
is 1, so that the effective nominal stress is the reaction of the platen, and its work is the
integral of stress over strain (by the trapezoidal rule):

    work = elastic + plastic + viscous + friction + kinetic + barrier + opening,             (2)

where plastic, viscous and friction are dissipated and add up. A failed increment is halved.

This is the solver's public face::

    from crumple.config import Config
    from crumple.fem.compression import compress
    result = compress(nodes, cells, Config())
    result["curve_stress"]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy.optimize import brentq

from crumple.config import Config
from crumple.fem import elements
from crumple.fem.cell import Cell, build_cell
from crumple.fem.contact import FrictionalContact
from crumple.fem.elements import Moduli
from crumple.fem.material import hardening_table
from crumple.fem.newton import Newton, NotConverged
from crumple.fem.potential import IncrementalPotential
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN

ENERGIES = (
    "work", "elastic", "plastic", "viscous", "friction", "kinetic", "barrier", "opening"
)  # fmt: skip
SMALLEST_INCREMENT = 0.004 / 64


def smooth_step_time(strain: float, final_strain: float) -> float:
    """Pseudo-time in [0, 1] at which Abaqus' smooth-step amplitude reaches ``strain``."""
    target = strain / final_strain
    if target >= 1.0:
        return 1.0
    return brentq(lambda t: t**3 * (10.0 - 15.0 * t + 6.0 * t * t) - target, 0.0, 1.0, xtol=1e-14)


class Simulation:
    """A cell under compression, advanced one strain increment at a time.

    Parameters
    ----------
    nodes, cells
        (N, 2) undeformed nodes and (M, 4) counter-clockwise quadrilaterals.
    config
        material, contact and loading are used.
    """

    def __init__(self, nodes: np.ndarray, cells: np.ndarray, config: Config) -> None:
        material, loading = config.material, config.loading
        self.cell: Cell = build_cell(nodes, cells, loading.platens, loading.imperfection)
        contact = config.contact
        self.contact = FrictionalContact(
            self.cell,
            contact.friction,
            contact.barrier_distance,
            contact.barrier_stiffness,
            contact.friction_slip,
            platens=loading.platens != "tied",
        )
        young, nu = material.youngs_modulus, material.poisson_ratio
        self.moduli = Moduli(
            young / (3 * (1 - 2 * nu)), young / (2 * (1 + nu)), hardening_table(material.hardening)
        )
        self.state = elements.initial_state(self.cell.geometry)
        areas = lumped_areas(self.cell)
        self.mass = material.density * areas
        self.potential = IncrementalPotential(
            self.cell, self.contact, self.moduli, self.state, self.mass, material.damping
        )
        self.newton = Newton(self.potential, areas[: self.cell.size])
        self.final_strain = loading.final_strain
        self.strain = 0.0
        self.z = np.zeros(self.cell.size + 2)
        self.velocity = np.zeros_like(self.z)
        self.last_increment = np.zeros_like(self.z)
        self.last_strain_increment = 0.0
        self.energies = dict.fromkeys(ENERGIES, 0.0)
        self.stress = 0.0
        self.minimum_gap = np.inf
        self.cuts = 0

    def advance(self, strain: float, with_stress: bool = False) -> np.ndarray:
        """Compress to ``strain``, halving the increment where Newton fails.

        Parameters
        ----------
        strain
            Of the cell, positive in compression.
        with_stress
            The stress in the cell is wanted: it comes from the state before the increment, which
            is gone after it.

        Returns
        -------
        ndarray (M, 4, 4)
            Cauchy stress s11, s22, s12, s33 (MPa) at the points, viscous part included, in the
            order of the mesh that was given; empty where it isn't wanted.

        Raises
        ------
        NotConverged
            When increments become too small.
        """
        targets = [strain]
        stress = np.empty(0)
        while targets:
            try:
                stress = self._increment(targets[-1], with_stress)
                targets.pop()
            except NotConverged as reason:
                middle = 0.5 * (self.strain + targets[-1])
                self.cuts += 1
                if middle - self.strain < SMALLEST_INCREMENT:
                    raise NotConverged(f"{reason} at a strain of {self.strain:.4f}") from None
                targets.append(middle)
        return stress

    def _increment(self, strain: float, with_stress: bool) -> np.ndarray:
        start, end = (smooth_step_time(s, self.final_strain) for s in (self.strain, strain))
        dt = end - start
        potential = self.potential
        potential.begin_step(self.z, self.velocity, dt)
        guess = self._first_guess(strain)
        if not np.isfinite(guess.energy):
            raise NotConverged("an element collapses")
        solution = self.newton.solve_step(guess)
        self._accept(solution, strain, dt)
        stress = self._cauchy_stress() if with_stress else np.empty(0)
        elastic, plastic, viscous, opening = elements.update(
            solution.z,
            self.cell.cell_dofs,
            self.cell.geometry,
            self.state,
            self.moduli,
            potential.rate,
        )
        self.energies["elastic"] = elastic
        self.energies["plastic"] += plastic
        self.energies["viscous"] += viscous
        self.energies["opening"] = opening
        return stress

    def _cauchy_stress(self) -> np.ndarray:
        """(M, 4, 4) of the new displacements and the state before them, in the given order."""
        stress = np.empty((len(self.cell.corners), 4, 4))
        elements.cauchy_stress(
            self.z,
            self.cell.cell_dofs,
            self.cell.geometry,
            self.state,
            self.moduli,
            self.potential.rate,
            stress,
        )
        ordered = np.empty_like(stress)
        ordered[self.cell.input_cells] = stress
        return ordered

    def _first_guess(self, strain: float):
        """The affine map of the last state, or the last increment repeated if that costs less."""
        n = self.cell.size
        heights = self.cell.rest_y
        ratio = (1.0 - strain) / (1.0 - self.strain)
        affine = self.z + (ratio - 1.0) * np.where(heights > 0, heights + self.z, 0.0)
        affine[n:] = -strain, 0.0
        guess = self.potential.evaluate(affine)
        if self.last_strain_increment == 0.0:
            return guess
        scale = (strain - self.strain) / self.last_strain_increment
        repeated = self.z + scale * self.last_increment
        repeated[n:] = -strain, 0.0
        bound = self.contact.collision_free_stepsize(
            guess.vertices, self.contact.vertices(repeated)
        )
        other = self.potential.evaluate(affine + bound * (repeated - affine))
        return min(guess, other, key=lambda at: at.energy)

    def _accept(self, solution, strain: float, dt: float) -> None:
        n = self.cell.size
        increment = strain - self.strain
        stress = -float(solution.gradient[n])
        energies = self.energies
        energies["work"] += 0.5 * (self.stress + stress) * increment
        energies["kinetic"] = 0.5 * float(self.mass @ ((solution.z - self.z) / dt) ** 2)
        energies["barrier"] = self.contact.energy(solution.vertices, solution.collisions)
        slip = np.asfortranarray(solution.vertices - self.potential.vertices_t0)
        tangential = self.potential.tangential_collisions
        if not tangential.empty():
            force = self.contact.friction_potential.gradient(tangential, self.contact.mesh, slip)
            energies["friction"] += float(force @ slip.ravel())
        self.minimum_gap = min(
            self.minimum_gap, self.contact.minimum_gap(solution.vertices, solution.collisions)
        )
        self.last_increment = solution.z - self.z
        self.last_strain_increment = increment
        self.velocity = self.last_increment / dt
        self.z = solution.z
        self.strain, self.stress = strain, stress

    def close(self) -> None:
        """Give back what the linear solver keeps outside Python."""
        self.newton.solver.close()

    def displacement(self) -> np.ndarray:
        """(N, 2) displacement in the order of the nodes that were given."""
        u = np.empty((self.cell.input_nodes.max() + 1, 2))
        u[self.cell.input_nodes] = self.z[self.cell.node_dofs]
        return u

    def equivalent_plastic_strain(self) -> np.ndarray:
        """(M, 4) at the points, in the order of the cells that were given."""
        alpha = np.empty_like(self.state.equivalent_plastic_strain)
        alpha[self.cell.input_cells] = self.state.equivalent_plastic_strain
        return alpha

    def inverted_corners(self) -> int:
        """Cells with a corner turned inside out (their points stay valid)."""
        x = (self.cell.rest_positions + self.z[self.cell.node_dofs])[self.cell.corners]
        before, after = x - np.roll(x, 1, axis=1), np.roll(x, -1, axis=1) - x
        cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
        return int((cross <= 0).any(axis=1).sum())


def lumped_areas(cell: Cell) -> np.ndarray:
    """(n + 2,) area of every unknown: each corner takes a quarter of its cells."""
    quarter = np.repeat(cell.geometry.volumes / 4.0, 8)
    areas = np.bincount(cell.cell_dofs.ravel(), quarter, cell.size + 2)
    areas[cell.size :] = 0.0
    return areas


def compress(nodes: np.ndarray, cells: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """Compress a cell to 20 % and return everything a data set needs.

    Parameters
    ----------
    nodes, cells
        (N, 2) undeformed nodes in the unit square and (M, 4) counter-clockwise quadrilaterals.
    config
        material, contact and loading.

    Returns
    -------
    dict
        ``status`` ('ok' or the reason of the failure) and, in the order of the given mesh,
        ``frame_strain`` (11), ``frame_stress`` (11), ``u`` (11, N, 2), ``cauchy`` (11, M, 4, 4)
        s11, s22, s12, s33 in MPa, ``equivalent_plastic_strain`` (11, M, 4), ``curve_strain`` (51),
        ``curve_stress`` (51) effective nominal stress in MPa, positive in compression,
        ``energies`` (51, 8) with ``energy_names``, and quality figures. After a failure the arrays
        hold NaN where nothing was computed.
    """
    cpu, wall = time.process_time(), time.perf_counter()
    simulation = Simulation(nodes, cells, config)
    frames = len(FRAME_STRAIN)
    result: dict[str, Any] = {
        "status": "ok",
        "nodes": nodes,
        "cells": cells,
        "frame_strain": FRAME_STRAIN,
        "frame_stress": np.full(frames, np.nan),
        "u": np.full((frames, len(nodes), 2), np.nan, np.float32),
        "cauchy": np.full((frames, len(cells), 4, 4), np.nan, np.float32),
        "equivalent_plastic_strain": np.full((frames, len(cells), 4), np.nan, np.float32),
        "curve_strain": CURVE_STRAIN,
        "curve_stress": np.full(len(CURVE_STRAIN), np.nan),
        "energies": np.full((len(CURVE_STRAIN), len(simulation.energies)), np.nan),
        "energy_names": np.array(list(simulation.energies)),
    }
    result["curve_stress"][0] = 0.0
    result["energies"][0] = 0.0
    steps = np.union1d(CURVE_STRAIN[1:], FRAME_STRAIN)
    for strain in steps:
        try:
            cauchy = simulation.advance(strain, strain in FRAME_STRAIN)
        except NotConverged as reason:
            result["status"] = f"not converged: {reason}"
            break
        if strain in FRAME_STRAIN:
            k = int(np.flatnonzero(strain == FRAME_STRAIN)[0])
            if simulation.contact.has_intersections(simulation.contact.vertices(simulation.z)):
                result["status"] = f"not converged: self-intersection at a strain of {strain:.4f}"
                break
            result["frame_stress"][k] = simulation.stress
            result["u"][k] = simulation.displacement()
            result["cauchy"][k] = cauchy
            result["equivalent_plastic_strain"][k] = simulation.equivalent_plastic_strain()
        if strain in CURVE_STRAIN:
            k = int(np.flatnonzero(strain == CURVE_STRAIN)[0])
            result["curve_stress"][k] = simulation.stress
            result["energies"][k] = list(simulation.energies.values())
    simulation.close()
    counters = simulation.newton.counters
    result.update(
        load_steps=len(steps) + simulation.cuts,
        step_cuts=simulation.cuts,
        unknowns=simulation.cell.size,
        newton_iterations=counters.iterations,
        factorisations=counters.factorisations,
        symbolic_factorisations=counters.symbolic,
        friction_lags=counters.lags,
        minimum_gap=simulation.minimum_gap,
        inverted_corners=simulation.inverted_corners(),
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
    )
    return result
