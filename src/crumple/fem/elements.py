"""Bilinear quadrilaterals with 2x2 points and mean dilatation: the compiled element kernels.

One pass over the cells fuses kinematics, return mapping and assembly of the bulk potential of the
step from n to n + 1, a function of the displacements u alone:

    E(u) = sum_qp  w J_n [ W_dev(F Fp_n^-1) + r W_dev(F F_n^-1) ]                            (1)
         + sum_cells  V Jbar_n K/2 [ (ln Jbar)^2 + r (ln Jbar - ln Jbar_n)^2 ]               (2)
         + sum_qp  w J_n K/2 min(0, ln(J / J_open))^2,                                       (3)

*Kinematics.* F = 1 + sum_a u_a grad N_a at the Gauss points, with undeformed weights w (area) and
J = det F. V is the undeformed area of a cell.

*Elastoplasticity* is the first term of (1): the deviatoric Hencky energy after the radial return,
plus its plastic work (``material.py``). Fp_n is the plastic deformation gradient of the last step.

*Mean dilatation.* The volumetric energy (2) sees the average Jbar = sum_qp w J / V only, so that
incompressible plastic flow doesn't lock (Nagtegaal, Parks & Rice 1974; Abaqus' CPE4).

*Yield on Cauchy stress.* Energies per reference volume are weighted by J_n (Jbar_n) of the last
converged step. Then the stress is sigma = (J_n / J) (...) instead of Kirchhoff's, and the hardening
table acts on true stress, to the order of one step.

*Viscosity.* The second terms of (1) and (2), with r = beta / dt, are the Hencky energy of the
increment F F_n^-1: in the limit of small steps the viscous stress beta D_el : d of Abaqus'
``*DAMPING, BETA``, as a potential of the step (Radovitzky & Ortiz 1999).

*Held open.* The term (3) is artificial: mean dilatation and perfect plasticity let single points of
a cell in a shear band collapse at no cost, which ends the rate-independent simulation of 12 designs
in 16; held open below J_open, all 16 run on. With damping its energy is zero in the median design.

*Gradient.* With the first Piola stress P of (1) and (3) at the points and the pressure
p = V Jbar_n K [ln Jbar + r (ln Jbar - ln Jbar_n)] / (V Jbar) of the cell,

    dE = sum_qp (w P + p w cof F) : grad du,     cof F = dJ/dF.                              (4)

*Hessian.* d2E = sum_qp dF : (w dP/dF + p w d2J/dF2) : dF + (dp/dv) dv^2, with v = V Jbar the
volume of the cell: its last term is a matrix of rank one per cell.

Unknowns live in one extended vector ``z``: the free unknowns, then the vertical displacement of the
top platen, then a zero for everything held. ``cell_dofs`` (cells, 8) maps x and y of the four
corners (counter-clockwise) into ``z``, so that periodicity and platens are index maps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from crumple.fem.material import (
    JIT,
    SMALLEST_STRETCH,
    add_tangent,
    deviator,
    principal_return,
    principal_tangent,
    split,
    stress_factors,
)

ELASTOPLASTIC, VISCOUS = 0, 1  # the two deviatoric laws
OPEN = 0.05  # J_open: det F of a point below which it is held open

GAUSS_POINTS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / np.sqrt(3.0)
CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)


def shape_functions(points: np.ndarray) -> np.ndarray:
    """Bilinear shape functions (points, 4) at reference points (points, 2) in [-1, 1]^2."""
    return np.prod(1.0 + points[:, None, :] * CORNERS, axis=2) / 4.0


def shape_gradients(points: np.ndarray) -> np.ndarray:
    """Reference gradients (points, 4, 2) of the bilinear shape functions."""
    factors = 1.0 + points[:, None, :] * CORNERS
    return CORNERS * factors[:, :, ::-1] / 4.0


class Geometry(NamedTuple):
    """Undeformed cells: gradients (M, 4 points, 4 corners, 2), weights (M, 4), volumes (M)."""

    gradients: np.ndarray
    weights: np.ndarray
    volumes: np.ndarray


class State(NamedTuple):
    """History at the last converged step; all arrays are updated in place by :func:`update`.

    ``Fp_inverse`` (M, 4, 4) is the inverse of the plastic deformation gradient in the plane and
    ``log_zz`` (M, 4) the logarithm of its zz part, ``equivalent_plastic_strain`` is (M, 4),
    ``Fn_inverse`` (M, 4, 4) the inverse of the deformation gradient, ``weights`` (M, 4) is w J_n,
    ``volumes`` (M) is V Jbar_n and ``log_j`` (M) is ln Jbar_n.
    """

    Fp_inverse: np.ndarray
    log_zz: np.ndarray
    equivalent_plastic_strain: np.ndarray
    Fn_inverse: np.ndarray
    weights: np.ndarray
    volumes: np.ndarray
    log_j: np.ndarray

    def copy(self) -> State:
        """An independent copy, to go back to when a load step fails."""
        return State(*(field.copy() for field in self))


class Moduli(NamedTuple):
    """Bulk and shear modulus (MPa), hardening table (:func:`material.hardening_table`), J_open."""

    bulk: float
    shear: float
    table: np.ndarray
    open: float = OPEN


def volume_factors(corners: np.ndarray) -> np.ndarray:
    """Area (M, 4) that each Gauss point stands for, from corner coordinates (M, 4, 2)."""
    jacobian = np.einsum("eai,qaj->eqij", corners, shape_gradients(GAUSS_POINTS))
    return np.linalg.det(jacobian)


def build_geometry(corners: np.ndarray) -> Geometry:
    """Gradients and weights from corner coordinates (M, 4, 2), counter-clockwise."""
    reference = shape_gradients(GAUSS_POINTS)
    jacobian = np.einsum("eai,qaj->eqij", corners, reference)
    weights = volume_factors(corners)
    gradients = np.einsum("qaj,eqji->eqai", reference, np.linalg.inv(jacobian))
    return Geometry(np.ascontiguousarray(gradients), weights, weights.sum(axis=1))


def initial_state(geometry: Geometry) -> State:
    """Stress-free, undeformed history."""
    cells = len(geometry.volumes)
    identity = np.tile([1.0, 0.0, 0.0, 1.0], (cells, 4, 1))
    zeros = np.zeros((cells, 4))
    return State(
        identity,
        zeros,
        zeros.copy(),
        identity.copy(),
        geometry.weights.copy(),
        geometry.volumes.copy(),
        np.zeros(cells),
    )


@njit(**JIT)
def _deformation_gradient(z, dofs, grad):
    f11 = 1.0
    f12 = 0.0
    f21 = 0.0
    f22 = 1.0
    for a in range(4):
        ux = z[dofs[2 * a]]
        uy = z[dofs[2 * a + 1]]
        gx = grad[a, 0]
        gy = grad[a, 1]
        f11 += ux * gx
        f12 += ux * gy
        f21 += uy * gx
        f22 += uy * gy
    return f11, f12, f21, f22


@njit(**JIT, forceinline=True)
def _respond(law, f11, f12, f21, f22, c, p, state, moduli, rate):
    """Response of one deviatoric law at a point: 0 elastoplastic, 1 viscous.

    Returns
    -------
    weight, inverse
        weight of its energy (1); the tensor M = (m11, m12, m21, m22) in Fe = F M,
    e, h, f, g, rotation, reflection
        :func:`material.split` of Fe,
    s1, s2
        singular values of Fe,
    e1, e2, e3, theta, thetabar, da, work
        :func:`material.principal_return`.
    """
    # no views of rows: counting their references would cost a third of the time
    if law == ELASTOPLASTIC:
        m11 = state.Fp_inverse[c, p, 0]
        m12 = state.Fp_inverse[c, p, 1]
        m21 = state.Fp_inverse[c, p, 2]
        m22 = state.Fp_inverse[c, p, 3]
        log_zz = state.log_zz[c, p]
        weight = state.weights[c, p]
    else:
        m11 = state.Fn_inverse[c, p, 0]
        m12 = state.Fn_inverse[c, p, 1]
        m21 = state.Fn_inverse[c, p, 2]
        m22 = state.Fn_inverse[c, p, 3]
        log_zz = 0.0
        weight = rate * state.weights[c, p]
    e, h, f, g, rotation, reflection = split(
        f11 * m11 + f12 * m21,
        f11 * m12 + f12 * m22,
        f21 * m11 + f22 * m21,
        f21 * m12 + f22 * m22,
    )
    s1 = rotation + reflection
    s2 = rotation - reflection
    if law == ELASTOPLASTIC:
        e1, e2, e3, theta, thetabar, da, work = principal_return(
            s1, s2, log_zz, moduli.shear, state.equivalent_plastic_strain[c, p], moduli.table
        )
    else:
        e1, e2, e3 = deviator(s1, s2, 0.0)
        theta = 1.0
        thetabar = 0.0
        da = 0.0
        work = 0.0
    return (
        *(weight, (m11, m12, m21, m22), e, h, f, g, rotation, reflection, s1, s2),
        *(e1, e2, e3, theta, thetabar, da, work),
    )


@njit(**JIT)
def energy_and_gradient(z, cell_dofs, geometry, state, moduli, rate, gradient):
    """Bulk potential; its gradient with respect to ``z`` is added to ``gradient``.

    Returns
    -------
    float
        energy (MPa x area of the cell), infinity when a point is inverted.
    """
    shear = moduli.shear
    bulk = moduli.bulk
    energy = 0.0
    local = np.empty(8)
    f = np.empty((4, 4))
    for c in range(cell_dofs.shape[0]):
        dofs = cell_dofs[c]
        volume = 0.0
        for p in range(4):
            f11, f12, f21, f22 = _deformation_gradient(z, dofs, geometry.gradients[c, p])
            f[p, 0] = f11
            f[p, 1] = f12
            f[p, 2] = f21
            f[p, 3] = f22
            volume += geometry.weights[c, p] * (f11 * f22 - f12 * f21)
        jbar = volume / geometry.volumes[c]
        if jbar <= SMALLEST_STRETCH:
            return np.inf
        log_j = math.log(jbar)
        increment = log_j - state.log_j[c]
        stiffness = bulk * state.volumes[c]
        energy += 0.5 * stiffness * (log_j * log_j + rate * increment * increment)
        pressure = stiffness * (log_j + rate * increment) / volume
        local[:] = 0.0
        for p in range(4):
            f11 = f[p, 0]
            f12 = f[p, 1]
            f21 = f[p, 2]
            f22 = f[p, 3]
            wj = pressure * geometry.weights[c, p]
            det = f11 * f22 - f12 * f21
            if det < moduli.open:
                if det <= 0.0:
                    return np.inf
                log_ratio = math.log(det / moduli.open)
                energy += 0.5 * bulk * state.weights[c, p] * log_ratio * log_ratio
                wj += bulk * state.weights[c, p] * log_ratio / det
            p11 = wj * f22
            p12 = -wj * f21
            p21 = -wj * f12
            p22 = wj * f11
            for law in range(2):  # a constant, so that the compiler unrolls
                if law == VISCOUS and rate <= 0.0:
                    break
                weight, m, e, h, r, g, rot, refl, s1, s2, e1, e2, e3, theta, _, _, work = _respond(
                    law, f11, f12, f21, f22, c, p, state, moduli, rate
                )
                if s2 <= SMALLEST_STRETCH:
                    return np.inf
                energy += weight * (shear * theta * theta * (e1 * e1 + e2 * e2 + e3 * e3) + work)
                twist, flip = stress_factors(s1, s2, e1, e2, theta, shear, rot, refl)
                twist *= weight
                flip *= weight
                q11 = twist * e + flip * r
                q12 = flip * g - twist * h
                q21 = flip * g + twist * h
                q22 = twist * e - flip * r
                # P = Q M^T
                p11 += q11 * m[0] + q12 * m[1]
                p12 += q11 * m[2] + q12 * m[3]
                p21 += q21 * m[0] + q22 * m[1]
                p22 += q21 * m[2] + q22 * m[3]
            for a in range(4):
                gx = geometry.gradients[c, p, a, 0]
                gy = geometry.gradients[c, p, a, 1]
                local[2 * a] += p11 * gx + p12 * gy
                local[2 * a + 1] += p21 * gx + p22 * gy
        for k in range(8):
            gradient[dofs[k]] += local[k]
    return energy


@njit(**JIT)
def add_hessian(z, cell_dofs, geometry, state, moduli, rate, project, positions, data):
    """Add the bulk Hessian to the values ``data`` of the upper-triangular matrix.

    ``positions`` (M, 8, 8) is the index of every local pair in ``data``, -1 where the pair lies
    below the diagonal or touches a held unknown. ``project`` clamps negative curvature.
    """
    shear = moduli.shear
    bulk = moduli.bulk
    local = np.empty((8, 8))
    f = np.empty((4, 4))
    tangent = np.empty((4, 4))
    cofactor = np.empty(8)
    half = np.empty((4, 8))
    for c in range(cell_dofs.shape[0]):
        dofs = cell_dofs[c]
        volume = 0.0
        cofactor[:] = 0.0
        for p in range(4):
            f11, f12, f21, f22 = _deformation_gradient(z, dofs, geometry.gradients[c, p])
            f[p, 0] = f11
            f[p, 1] = f12
            f[p, 2] = f21
            f[p, 3] = f22
            w = geometry.weights[c, p]
            volume += w * (f11 * f22 - f12 * f21)
            for a in range(4):
                gx = w * geometry.gradients[c, p, a, 0]
                gy = w * geometry.gradients[c, p, a, 1]
                cofactor[2 * a] += f22 * gx - f21 * gy
                cofactor[2 * a + 1] += f11 * gy - f12 * gx
        log_j = math.log(volume / geometry.volumes[c])
        increment = log_j - state.log_j[c]
        stiffness = bulk * state.volumes[c]
        slope = log_j + rate * increment
        pressure = stiffness * slope / volume
        curvature = stiffness * (1.0 + rate - slope) / (volume * volume)
        if project:
            curvature = max(curvature, 0.0)
        for i in range(8):
            ci = curvature * cofactor[i]
            for j in range(i, 8):
                local[i, j] = ci * cofactor[j]
        for p in range(4):
            tangent[:] = 0.0
            # second variation of det F: 2 (dE^2 + dH^2 - dF^2 - dG^2)
            wj = pressure * geometry.weights[c, p]
            f11 = f[p, 0]
            f12 = f[p, 1]
            f21 = f[p, 2]
            f22 = f[p, 3]
            det = f11 * f22 - f12 * f21
            open_slope = 0.0
            if det < moduli.open:
                log_ratio = math.log(det / moduli.open)
                wj += bulk * state.weights[c, p] * log_ratio / det
                open_slope = bulk * state.weights[c, p] * (1.0 - log_ratio) / (det * det)
            if project:
                # keep the positive half: (dF11 +- dF22)^2 / 2 and (dF12 -+ dF21)^2 / 2
                positive = 0.5 * abs(wj)
                sign = 1.0 if wj > 0.0 else -1.0
                tangent[0, 0] = positive
                tangent[3, 3] = positive
                tangent[0, 3] = sign * positive
                tangent[1, 1] = positive
                tangent[2, 2] = positive
                tangent[1, 2] = -sign * positive
            else:
                tangent[0, 3] = wj
                tangent[1, 2] = -wj
            if open_slope > 0.0:
                flat = (f22, -f21, -f12, f11)
                for i in range(4):
                    for j in range(i, 4):
                        tangent[i, j] += open_slope * flat[i] * flat[j]
            for law in range(2):  # a constant, so that the compiler unrolls
                if law == VISCOUS and rate <= 0.0:
                    break
                weight, m, e, h, r, g, rot, refl, s1, s2, e1, e2, e3, theta, thetabar, _, _ = (
                    _respond(law, f11, f12, f21, f22, c, p, state, moduli, rate)
                )
                twist, flip = stress_factors(s1, s2, e1, e2, theta, shear, rot, refl)
                d11, d22, d12 = principal_tangent(s1, s2, e1, e2, e3, theta, thetabar, shear)
                add_tangent(
                    tangent,
                    weight,
                    e,
                    h,
                    r,
                    g,
                    rot,
                    refl,
                    d11,
                    d22,
                    d12,
                    twist,
                    flip,
                    project,
                    m,
                )
            t00 = tangent[0, 0]
            t01 = tangent[0, 1]
            t02 = tangent[0, 2]
            t03 = tangent[0, 3]
            t11 = tangent[1, 1]
            t12 = tangent[1, 2]
            t13 = tangent[1, 3]
            t22 = tangent[2, 2]
            t23 = tangent[2, 3]
            t33 = tangent[3, 3]
            grad = geometry.gradients[c, p]
            for a in range(4):
                gx = grad[a, 0]
                gy = grad[a, 1]
                half[0, 2 * a] = t00 * gx + t01 * gy
                half[1, 2 * a] = t01 * gx + t11 * gy
                half[2, 2 * a] = t02 * gx + t12 * gy
                half[3, 2 * a] = t03 * gx + t13 * gy
                half[0, 2 * a + 1] = t02 * gx + t03 * gy
                half[1, 2 * a + 1] = t12 * gx + t13 * gy
                half[2, 2 * a + 1] = t22 * gx + t23 * gy
                half[3, 2 * a + 1] = t23 * gx + t33 * gy
            for a in range(4):
                gx = grad[a, 0]
                gy = grad[a, 1]
                i = 2 * a
                for j in range(i, 8):
                    local[i, j] += gx * half[0, j] + gy * half[1, j]
                for j in range(i + 1, 8):
                    local[i + 1, j] += gx * half[2, j] + gy * half[3, j]
        for i in range(8):
            for j in range(8):
                k = positions[c, i, j]
                if k >= 0:
                    data[k] += local[i, j] if i <= j else local[j, i]


@njit(**JIT)
def update(z, cell_dofs, geometry, state, moduli, rate):
    """Accept the step: plastic flow, F_n and J_n move on.

    Returns
    -------
    elastic, plastic, viscous, opening
        stored elastic energy; plastic and viscous dissipation of the step; energy that holds points
        open (MPa x area).
    """
    opening = 0.0
    elastic = 0.0
    plastic = 0.0
    viscous = 0.0
    shear = moduli.shear
    for c in range(cell_dofs.shape[0]):
        volume = 0.0
        for p in range(4):
            f11, f12, f21, f22 = _deformation_gradient(z, cell_dofs[c], geometry.gradients[c, p])
            det = f11 * f22 - f12 * f21
            w = geometry.weights[c, p]
            volume += w * det
            if det < moduli.open:
                opening += (
                    0.5 * moduli.bulk * state.weights[c, p] * math.log(det / moduli.open) ** 2
                )
            weight, _, e, h, r, g, rot, refl, s1, s2, e1, e2, e3, theta, _, da, work = _respond(
                ELASTOPLASTIC, f11, f12, f21, f22, c, p, state, moduli, rate
            )
            elastic += weight * shear * theta * theta * (e1 * e1 + e2 * e2 + e3 * e3)
            plastic += weight * work
            weight, _, _, _, _, _, _, _, _, _, d1, d2, d3, _, _, _, _ = _respond(
                VISCOUS, f11, f12, f21, f22, c, p, state, moduli, rate
            )
            viscous += 2.0 * shear * weight * (d1 * d1 + d2 * d2 + d3 * d3)
            inv = 1.0 / det
            if da > 0.0:
                mean = math.log(s1) - e1
                s1 = math.exp(mean + theta * e1)
                s2 = math.exp(mean + theta * e2)
                state.log_zz[c, p] = mean + theta * e3
                state.equivalent_plastic_strain[c, p] += da
                turn = 0.5 * (s1 + s2) / rot
                mirror = 0.5 * (s1 - s2) / refl if refl > 0.0 else 0.0
                b11 = turn * e + mirror * r
                b12 = mirror * g - turn * h
                b21 = mirror * g + turn * h
                b22 = turn * e - mirror * r
                m = state.Fp_inverse[c, p]
                m[0] = inv * (f22 * b11 - f12 * b21)
                m[1] = inv * (f22 * b12 - f12 * b22)
                m[2] = inv * (f11 * b21 - f21 * b11)
                m[3] = inv * (f11 * b22 - f21 * b12)
            n = state.Fn_inverse[c, p]
            n[0] = inv * f22
            n[1] = -inv * f12
            n[2] = -inv * f21
            n[3] = inv * f11
            state.weights[c, p] = w * det
        jbar = volume / geometry.volumes[c]
        log_j = math.log(jbar)
        elastic += 0.5 * moduli.bulk * state.volumes[c] * log_j * log_j
        increment = log_j - state.log_j[c]
        viscous += rate * moduli.bulk * state.volumes[c] * increment * increment
        state.log_j[c] = log_j
        state.volumes[c] = volume
    return elastic, plastic, viscous, opening


@njit(**JIT)
def cauchy_stress(z, cell_dofs, geometry, state, moduli, rate, out):
    """Cauchy stress with its viscous part, before :func:`update` is called for the step.

    ``out`` (M, 4, 4) receives s11, s22, s12, s33 in MPa at the four points.
    """
    bulk = moduli.bulk
    shear = moduli.shear
    floor = moduli.open
    f = np.empty((4, 4))
    for c in range(cell_dofs.shape[0]):
        volume = 0.0
        for p in range(4):
            f11, f12, f21, f22 = _deformation_gradient(z, cell_dofs[c], geometry.gradients[c, p])
            f[p, 0] = f11
            f[p, 1] = f12
            f[p, 2] = f21
            f[p, 3] = f22
            volume += geometry.weights[c, p] * (f11 * f22 - f12 * f21)
        log_j = math.log(volume / geometry.volumes[c])
        hydrostatic = bulk * state.volumes[c] * (log_j + rate * (log_j - state.log_j[c])) / volume
        for p in range(4):
            det = f[p, 0] * f[p, 3] - f[p, 1] * f[p, 2]
            mean_stress = hydrostatic
            if det < floor:
                ratio = state.weights[c, p] / (geometry.weights[c, p] * det)
                mean_stress += bulk * ratio * math.log(det / floor)
            s11 = mean_stress
            s22 = mean_stress
            s33 = mean_stress
            s12 = 0.0
            volume = geometry.weights[c, p] * det
            for law in range(2):  # a constant, so that the compiler unrolls
                if law == VISCOUS and rate <= 0.0:
                    continue
                weight, _, e, h, r, g, rot, refl, s1, s2, e1, e2, e3, theta, _, _, _ = _respond(
                    law, f[p, 0], f[p, 1], f[p, 2], f[p, 3], c, p, state, moduli, rate
                )
                scale = 2.0 * shear * weight / volume
                # left principal axes: U diag(tau) U^T, the direction of e + f products
                mean = 0.5 * (e1 + e2)
                diff = 0.5 * (e1 - e2)
                c2 = 1.0
                s2t = 0.0
                if refl > 0.0:
                    c2 = (e * r - h * g) / (rot * refl)
                    s2t = (e * g + h * r) / (rot * refl)
                s11 += scale * theta * (mean + diff * c2)
                s22 += scale * theta * (mean - diff * c2)
                s12 += scale * theta * diff * s2t
                s33 += scale * theta * e3
            out[c, p, 0] = s11
            out[c, p, 1] = s22
            out[c, p, 2] = s12
            out[c, p, 3] = s33
