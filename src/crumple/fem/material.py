"""Finite-strain J2 elastoplasticity at one point, compiled: kinematics, return mapping, tangent.

The deformation gradient is split into F = Fe Fp (Lee 1969). With the singular value decomposition
Fe = U diag(s1, s2) V^T in the plane, s3 = exp(log_zz) out of it, and the logarithmic strains
l_i = ln s_i, the Hencky energy per reference volume is (Simo 1992)

    W = K/2 (l_1 + l_2 + l_3)^2 + G sum_i e_i^2,     e_i = l_i - (l_1 + l_2 + l_3) / 3.      (1)

Only the second, deviatoric term is here; the volumetric one is averaged over the element
(``elements.py``). The Kirchhoff stress has the deviator dev tau_i = 2 G e_i and the equivalent
stress of von Mises

    q = sqrt(3/2) |dev tau| = sqrt(6 sum_i e_i^2) G.                                         (2)

*Return mapping.* The trial state keeps Fp of the last step. Where q_trial > sigma_y(alpha), the
increment da of the equivalent plastic strain alpha solves

    q_trial - 3 G da = sigma_y(alpha + da),                                                  (3)

exactly, since sigma_y is piecewise linear, and the deviator shrinks along itself,

    e_i = theta e_i,trial,     theta = 1 - 3 G da / q_trial.                                 (4)

where e_i on the right, and below, is the trial strain. The step as a whole minimises
G theta^2 sum_i e_i^2 + (integral of sigma_y over da), a function of F alone: plasticity is a
potential of the step (Ortiz & Stainier 1999).

*First Piola stress.* By (1) and (4), P_i = dW/ds_i = 2 G theta e_i / s_i in principal axes, and
P = U diag(P_1, P_2) V^T.

*Tangent.* In principal axes c_ij = d(dev tau_i)/d(l_j) and A_ij = dP_i/ds_j are

    c_ij = 2 G [theta (delta_ij - 1/3) - thetabar n_i n_j],     n_i = e_i / |e|,
    thetabar = 3 G / (3 G + H) - 3 G da / q_trial,                                           (5)
    A_ij = (c_ij - delta_ij dev tau_i) / (s_i s_j),

with H the slope of sigma_y (the consistent tangent of Simo & Taylor 1985).

*Without trigonometry.* Every planar tensor is the sum of a scaled rotation [[E, -H], [H, E]] and a
scaled reflection [[F, G], [G, -F]]. The singular values are s = |(E, H)| +- |(F, G)|, and stress
and tangent need the two unit vectors only:

    P = twist [[E, -H], [H, E]] + flip [[F, G], [G, -F]],
    twist = (P_1 + P_2) / (s_1 + s_2),     flip = (P_1 - P_2) / (s_1 - s_2),                 (6)
    d2W = A_11 ds_1^2 + 2 A_12 ds_1 ds_2 + A_22 ds_2^2 + 2 twist dH'^2 + 2 flip dG'^2,

where dE', dH' (dF', dG') are dFe's components along and across the unit vector of the rotation
(reflection), ds_1 = dE' + dF', ds_2 = dE' - dF'. Clamping the 2x2 matrix A, twist and flip at zero
clamps d2W (the analytic eigensystem of Smith, de Goes & Kim 2019).

The point functions are numba functions that the element kernels inline; all take and return
scalars. ``table`` is (n, 3): yield stress at the knot (MPa), equivalent plastic strain at the knot,
slope of the segment that starts there.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

JIT = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
SMALLEST_STRETCH = 1e-6


def hardening_table(points: list[tuple[float, float]]) -> np.ndarray:
    """Knots and slopes of the hardening curve.

    Parameters
    ----------
    points
        (yield stress in MPa, equivalent plastic strain), increasing; perfectly plastic beyond.

    Returns
    -------
    ndarray (n, 3)
        stress, strain, slope to the next knot (0 after the last one).
    """
    stress, strain = np.asarray(points, float).T
    slope = np.append(np.diff(stress) / np.diff(strain), 0.0)
    return np.ascontiguousarray(np.column_stack([stress, strain, slope]))


@njit(**JIT)
def split(a11, a12, a21, a22):
    """Rotation part (E, H), reflection part (F, G), their lengths Q, R, of a 2x2 tensor."""
    e = 0.5 * (a11 + a22)
    h = 0.5 * (a21 - a12)
    f = 0.5 * (a11 - a22)
    g = 0.5 * (a12 + a21)
    return e, h, f, g, math.sqrt(e * e + h * h), math.sqrt(f * f + g * g)


@njit(**JIT)
def plastic_increment(q, shear, alpha, table):
    """Solve q - 3G da = sigma_y(alpha + da) by walking the segments of the table.

    Returns
    -------
    da, slope, work
        plastic increment, hardening slope at its end, integral of sigma_y over the increment.
    """
    last = table.shape[0] - 1
    k = 0
    while k < last and alpha >= table[k + 1, 1]:
        k += 1
    yield_stress = table[k, 0] + table[k, 2] * (alpha - table[k, 1])
    if q <= yield_stress:
        return 0.0, 0.0, 0.0
    walked = 0.0
    work = 0.0
    while True:
        slope = table[k, 2]
        da = (q - 3.0 * shear * walked - yield_stress) / (3.0 * shear + slope)
        if k == last or alpha + walked + da <= table[k + 1, 1]:
            work += da * (yield_stress + 0.5 * slope * da)
            return walked + da, slope, work
        length = table[k + 1, 1] - alpha - walked
        work += length * (yield_stress + 0.5 * slope * length)
        walked += length
        yield_stress = table[k + 1, 0]
        k += 1


@njit(**JIT)
def deviator(s1, s2, log_zz):
    """Deviatoric logarithmic strains e1, e2, e3 of the stretches s1, s2, exp(log_zz)."""
    l1 = math.log(s1)
    l2 = math.log(s2)
    mean = (l1 + l2 + log_zz) / 3.0
    return l1 - mean, l2 - mean, log_zz - mean


@njit(**JIT)
def principal_return(s1, s2, log_zz, shear, alpha, table):
    """Radial return in principal axes.

    Returns
    -------
    e1, e2, e3
        deviatoric trial strains,
    theta, thetabar
        stress factor and tangent factor (1, 0 when elastic),
    da, work
        plastic increment and its plastic work (MPa).
    """
    e1, e2, e3 = deviator(s1, s2, log_zz)
    q = math.sqrt(6.0 * (e1 * e1 + e2 * e2 + e3 * e3)) * shear
    da, slope, work = plastic_increment(q, shear, alpha, table)
    theta = 1.0
    thetabar = 0.0
    if da > 0.0:
        ratio = 3.0 * shear * da / q
        theta = 1.0 - ratio
        thetabar = 3.0 * shear / (3.0 * shear + slope) - ratio
    return e1, e2, e3, theta, thetabar, da, work


@njit(**JIT)
def stress_factors(s1, s2, e1, e2, theta, shear, rotation, reflection):
    """Coefficients (twist, flip) of P = twist [[E,-H],[H,E]] + flip [[F,G],[G,-F]] (MPa)."""
    p1 = 2.0 * shear * theta * e1 / s1
    p2 = 2.0 * shear * theta * e2 / s2
    twist = 0.5 * (p1 + p2) / rotation
    if reflection > 1e-7 * rotation:
        flip = 0.5 * (p1 - p2) / reflection
    else:
        # limit s1 = s2: dP1/ds1 - dP1/ds2 of the elastic or plastic law at equal stretches
        flip = (2.0 * shear * theta - 2.0 * shear * theta * 0.5 * (e1 + e2)) / (s1 * s2)
    return twist, flip


@njit(**JIT)
def principal_tangent(s1, s2, e1, e2, e3, theta, thetabar, shear):
    """A_ij = dP_i/ds_j in principal axes, deviatoric part (MPa)."""
    two_g = 2.0 * shear
    c11 = two_g * theta * (2.0 / 3.0)
    c22 = c11
    c12 = -two_g * theta / 3.0
    if thetabar > 0.0:
        scale = two_g * thetabar / (e1 * e1 + e2 * e2 + e3 * e3)
        c11 -= scale * e1 * e1
        c22 -= scale * e2 * e2
        c12 -= scale * e1 * e2
    a11 = (c11 - two_g * theta * e1) / (s1 * s1)
    a22 = (c22 - two_g * theta * e2) / (s2 * s2)
    a12 = c12 / (s1 * s2)
    return a11, a22, a12


@njit(**JIT)
def add_tangent(tangent, scale, e, h, f, g, rot, refl, a11, a22, a12, twist, flip, project, m):
    """Add ``scale * dP/dF`` (4x4, components 11, 12, 21, 22) for ``Fe = F M``, M = (m11..m22).

    With unit vectors of rotation (ce, ch) and reflection (cf, cg), d s1 = dE' + dF' and
    d s2 = dE' - dF', and the second variation is
    A11 ds1^2 + 2 A12 ds1 ds2 + A22 ds2^2 + 2 twist dH'^2 + 2 flip dG'^2.
    """
    if project:
        twist = max(twist, 0.0)
        flip = max(flip, 0.0)
        mean = 0.5 * (a11 + a22)
        half = 0.5 * (a11 - a22)
        radius = math.sqrt(half * half + a12 * a12)
        low = mean - radius
        high = mean + radius
        if low < 0.0:
            high = max(high, 0.0)
            # keep the eigenvector of `high`, drop the negative part: A = high v v^T
            if radius > 0.0:
                cos2 = half / radius
                sin2 = a12 / radius
            else:
                cos2 = 1.0
                sin2 = 0.0
            a11 = 0.5 * high * (1.0 + cos2)
            a22 = 0.5 * high * (1.0 - cos2)
            a12 = 0.5 * high * sin2
    ce = e / rot
    ch = h / rot
    if refl > 0.0:
        cf = f / refl
        cg = g / refl
    else:
        cf = 1.0
        cg = 0.0
    a_ee = scale * (a11 + 2.0 * a12 + a22)
    a_ff = scale * (a11 - 2.0 * a12 + a22)
    a_ef = scale * (a11 - a22)
    two_twist = 2.0 * scale * twist
    two_flip = 2.0 * scale * flip
    m11, m12, m21, m22 = m
    # projections of dFe = dF M: q(dFe) = dF : (Q M^T)
    qe = (
        0.5 * (ce * m11 - ch * m12),
        0.5 * (ce * m21 - ch * m22),
        0.5 * (ch * m11 + ce * m12),
        0.5 * (ch * m21 + ce * m22),
    )
    qh = (
        0.5 * (-ch * m11 - ce * m12),
        0.5 * (-ch * m21 - ce * m22),
        0.5 * (ce * m11 - ch * m12),
        0.5 * (ce * m21 - ch * m22),
    )
    qf = (
        0.5 * (cf * m11 + cg * m12),
        0.5 * (cf * m21 + cg * m22),
        0.5 * (cg * m11 - cf * m12),
        0.5 * (cg * m21 - cf * m22),
    )
    qg = (
        0.5 * (-cg * m11 + cf * m12),
        0.5 * (-cg * m21 + cf * m22),
        0.5 * (cf * m11 + cg * m12),
        0.5 * (cf * m21 + cg * m22),
    )
    for i in range(4):
        x = a_ee * qe[i] + a_ef * qf[i]
        y = a_ef * qe[i] + a_ff * qf[i]
        z = two_twist * qh[i]
        w = two_flip * qg[i]
        for j in range(i, 4):
            tangent[i, j] += x * qe[j] + y * qf[j] + z * qh[j] + w * qg[j]


def von_mises(cauchy: NDArray) -> NDArray:
    """Return the von Mises stress (...) of plane-strain stresses (..., 4) = s11, s22, s12, s33."""
    s11, s22, s12, s33 = np.moveaxis(np.asarray(cauchy, np.float64), -1, 0)
    return np.sqrt(((s11 - s22) ** 2 + (s22 - s33) ** 2 + (s33 - s11) ** 2) / 2 + 3 * s12**2)
