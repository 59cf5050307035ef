"""Who assembles the bulk terms: our kernel's direct scatter, or dolfinx with the same kernel?

python benchmarks/assembly.py --count 3

The element kernel is wrapped as a numba cfunc and registered as a custom cell integral of dolfinx
forms (dolfinx 0.5), its history in quadrature coefficients. Then energy, gradient and Hessian of a
plastic state are assembled both ways, compared, timed, and the difference is put in relation to
the CPU time of the whole simulation.
"""

from __future__ import annotations

import argparse
import time

import dolfinx
import numba
import numpy as np
import ufl
from dolfinx import fem
from dolfinx.cpp import fem as cpp

from crumple import designs, meshing
from crumple.config import Config, parse_config
from crumple.fem import elements, potential
from crumple.fem.compression import Simulation, compress

REPEATS = 50
ROUND = np.array([0, 1, 3, 2])  # corners of dolfinx' tensor order, taken round the cell
POINTS = np.array([0, 3, 1, 2])  # our points in the order of basix
SIGNATURE = numba.types.void(
    *[numba.types.CPointer(numba.types.double)] * 4,
    numba.types.CPointer(numba.types.int32),
    numba.types.CPointer(numba.types.uint8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3)
    args = parser.parse_args()
    config = parse_config({"loading": {"imperfection": 0}})  # dolfinx' geometry has none
    print(f"{'design':>6} {'':10} {'direct, ms':>12} {'dolfinx, ms':>12} {'ratio':>7} {'calls':>7}")
    for index in range(args.count):
        design = designs.mirror(designs.sample(config.seed, index, config.designs).quarter)
        with meshing.gmsh_session():
            mesh, _ = meshing.mesh_cell(design, config.mesh.element_size)
        calls, seconds = whole_simulation(mesh, config)
        simulation = Simulation(mesh.nodes, mesh.cells, config)
        for strain in (0.02, 0.04, 0.06):
            simulation.advance(strain)
        simulation.z = simulation.z + simulation.last_increment  # else just at the yield stress
        extra = 0.0
        for name, (direct, assembled) in compare(simulation).items():
            extra += calls[name] * (assembled - direct)
            print(
                f"{index:6} {name:10} {1e3 * direct:12.3f} {1e3 * assembled:12.3f} "
                f"{assembled / direct:7.2f} {calls[name]:7}"
            )
        print(
            f"{index:6} simulation {seconds:.2f} CPU s, with dolfinx' assembly {extra:+.2f} s "
            f"({extra / seconds:+.0%})"
        )


def whole_simulation(mesh: meshing.QuadMesh, config: Config) -> tuple[dict[str, int], float]:
    """Return how often a simulation assembles what, and its CPU seconds."""
    calls = {"gradient": 0, "Hessian": 0}
    originals = elements.energy_and_gradient, elements.add_hessian

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    compress(mesh.nodes, mesh.cells, config)  # compiles
    potential.elements.energy_and_gradient = counted("gradient", originals[0])
    potential.elements.add_hessian = counted("Hessian", originals[1])
    result = compress(mesh.nodes, mesh.cells, config)
    elements.energy_and_gradient, elements.add_hessian = originals
    return calls, float(result["cpu_seconds"])


def compare(simulation: Simulation) -> dict[str, tuple[float, float]]:
    """Return CPU seconds (direct, dolfinx) per assembly, after checking that both agree."""
    cell, pattern, z = simulation.cell, simulation.potential.pattern, simulation.z
    rate = simulation.potential.rate
    arguments = z, cell.cell_dofs, cell.geometry, simulation.state, simulation.moduli, rate
    size = len(pattern.indices)

    def direct_gradient():
        gradient = np.zeros(len(z))
        return elements.energy_and_gradient(*arguments, gradient), gradient

    def direct_hessian():
        data = np.zeros(size)
        elements.add_hessian(*arguments, False, pattern.cell_places, data)
        return data

    forms = dolfinx_forms(simulation)
    vector, matrix = fem.petsc.create_vector(forms[1]), fem.petsc.create_matrix(forms[2])
    fem.petsc.assemble_matrix(matrix, forms[2])
    matrix.assemble()
    indptr, columns, _ = matrix.getValuesCSR()
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    dofs = cell.node_dofs.ravel()
    places = pattern._find(pattern._keys(dofs[rows], dofs[columns]))
    inside = places >= 0
    kept, places = np.flatnonzero(inside), places[inside]

    # The history changes once per load step only, so that it is packed beforehand.
    packed = cpp.pack_coefficients(forms[0])
    constants = cpp.pack_constants(forms[0])
    (block,) = packed.values()
    local = (2 * cell.space.dofmap.list.array.reshape(-1, 4, 1) + [0, 1]).reshape(-1, 8)

    def pack_displacement():
        block[:, :8] = z[dofs][local]

    def assembled_gradient():
        pack_displacement()
        energy = cpp.assemble_scalar(forms[0], constants, packed)
        with vector.localForm() as values:
            values.set(0)
        cpp.assemble_vector(vector.array_w, forms[1], constants, packed)
        return energy, np.bincount(dofs, vector.array_r, len(z))

    def assembled_hessian():
        pack_displacement()
        matrix.zeroEntries()
        cpp.petsc.assemble_matrix(matrix, forms[2], constants, packed, [])
        matrix.assemble()
        return np.bincount(places, matrix.getValuesCSR()[2][kept], size)

    ours, theirs = direct_gradient(), assembled_gradient()
    assert np.isclose(ours[0], theirs[0], rtol=1e-10)
    assert np.allclose(ours[1][: cell.size], theirs[1][: cell.size], atol=1e-9)
    reference = direct_hessian()
    assert np.allclose(reference, assembled_hessian(), atol=1e-9 * np.abs(reference).max())
    return {
        "gradient": (timed(direct_gradient), timed(assembled_gradient)),
        "Hessian": (timed(direct_hessian), timed(assembled_hessian)),
    }


def timed(function) -> float:
    """Return the smallest CPU seconds of three rounds of calls."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(REPEATS):
            function()
        seconds.append((time.process_time() - start) / REPEATS)
    return min(seconds)


def dolfinx_forms(simulation: Simulation) -> tuple:
    """Return energy, gradient and Hessian as dolfinx forms with the compiled kernel inside."""
    cell, state, moduli = simulation.cell, simulation.state, simulation.moduli
    mesh = cell.space.mesh
    u = fem.Function(cell.space)
    u.x.array[:] = simulation.z[cell.node_dofs].ravel()
    points = "Quadrature", mesh.ufl_cell(), 2
    scalar = ufl.FiniteElement(*points, quad_scheme="default")
    tensor = ufl.VectorElement(*points, dim=4, quad_scheme="default")
    pair = ufl.VectorElement("DG", mesh.ufl_cell(), 0, dim=2)
    coefficients = [u]
    for element, values in (
        (tensor, state.Fp_inverse[:, POINTS]),
        (tensor, state.Fn_inverse[:, POINTS]),
        (scalar, state.log_zz[:, POINTS]),
        (scalar, state.equivalent_plastic_strain[:, POINTS]),
        (scalar, state.weights[:, POINTS]),
        (pair, np.stack([state.volumes, state.log_j], axis=-1)),
    ):
        function = fem.Function(fem.FunctionSpace(mesh, element))
        places = function.function_space.dofmap.list.array
        function.x.array.reshape(len(places), -1)[places] = values.reshape(len(places), -1)
        coefficients.append(function)
    table = moduli.table
    constants = fem.Constant(
        mesh,
        np.concatenate([[moduli.bulk, moduli.shear, simulation.potential.rate], table.ravel()]),
    )
    kernels = compiled_kernels(len(table))
    space = cell.space._cpp_object
    forms = []
    for rank, kernel in enumerate(kernels):
        integrals = {cpp.IntegralType.cell: ([(-1, kernel.address)], None)}
        functions = [c._cpp_object for c in coefficients]
        form = cpp.Form_float64(
            [space] * rank, integrals, functions, [constants._cpp_object], False, mesh._mesh
        )
        forms.append(form)
    dolfinx_forms.alive = kernels, coefficients, constants  # addresses stay valid
    return tuple(forms)


def compiled_kernels(knots: int) -> tuple:
    """Return the element kernel as tabulate_tensor functions of rank 0, 1 and 2."""
    reference = elements.shape_gradients(elements.GAUSS_POINTS)[POINTS]
    local_dofs = np.arange(8, dtype=np.int64).reshape(1, 8)
    permutation = (2 * ROUND[:, None] + [0, 1]).ravel()
    upper = np.where(
        np.arange(8)[:, None] <= np.arange(8), np.arange(64).reshape(8, 8), -1
    ).reshape(1, 8, 8)
    energy_and_gradient, add_hessian = elements.energy_and_gradient, elements.add_hessian
    Geometry, State, Moduli = elements.Geometry, elements.State, elements.Moduli

    @numba.njit
    def unpack(w_, c_, x_):
        w = numba.carray(w_, 54)
        c = numba.carray(c_, 3 + 3 * knots)
        x = numba.carray(x_, (4, 3))
        z = np.empty(8)
        for k in range(8):
            z[k] = w[permutation[k]]
        gradients = np.empty((1, 4, 4, 2))
        weights = np.empty((1, 4))
        volume = 0.0
        for q in range(4):
            j00 = j01 = j10 = j11 = 0.0
            for a in range(4):
                px, py = x[ROUND[a], 0], x[ROUND[a], 1]
                j00 += px * reference[q, a, 0]
                j01 += px * reference[q, a, 1]
                j10 += py * reference[q, a, 0]
                j11 += py * reference[q, a, 1]
            det = j00 * j11 - j01 * j10
            weights[0, q] = det
            volume += det
            for a in range(4):
                rx, ry = reference[q, a, 0], reference[q, a, 1]
                gradients[0, q, a, 0] = (j11 * rx - j10 * ry) / det
                gradients[0, q, a, 1] = (j00 * ry - j01 * rx) / det
        geometry = Geometry(gradients, weights, np.array([volume]))
        state = State(
            w[8:24].reshape(1, 4, 4),
            w[40:44].reshape(1, 4),
            w[44:48].reshape(1, 4),
            w[24:40].reshape(1, 4, 4),
            w[48:52].reshape(1, 4),
            w[52:53],
            w[53:54],
        )
        moduli = Moduli(c[0], c[1], c[3:].reshape(knots, 3))
        return z, geometry, state, moduli, c[2]

    @numba.cfunc(SIGNATURE)
    def rank0(a_, w_, c_, x_, entity, permutation_data):
        z, geometry, state, moduli, rate = unpack(w_, c_, x_)
        a = numba.carray(a_, 1)
        a[0] += energy_and_gradient(z, local_dofs, geometry, state, moduli, rate, np.zeros(8))

    @numba.cfunc(SIGNATURE)
    def rank1(a_, w_, c_, x_, entity, permutation_data):
        z, geometry, state, moduli, rate = unpack(w_, c_, x_)
        gradient = np.zeros(8)
        energy_and_gradient(z, local_dofs, geometry, state, moduli, rate, gradient)
        a = numba.carray(a_, 8)
        for k in range(8):
            a[permutation[k]] += gradient[k]

    @numba.cfunc(SIGNATURE)
    def rank2(a_, w_, c_, x_, entity, permutation_data):
        z, geometry, state, moduli, rate = unpack(w_, c_, x_)
        data = np.zeros(64)
        add_hessian(z, local_dofs, geometry, state, moduli, rate, False, upper, data)
        a = numba.carray(a_, (8, 8))
        for i in range(8):
            for j in range(i, 8):
                value = data[8 * i + j]
                a[permutation[i], permutation[j]] += value
                if i != j:
                    a[permutation[j], permutation[i]] += value

    return rank0, rank1, rank2


if __name__ == "__main__":
    if not dolfinx.__version__.startswith("0.5"):
        raise SystemExit("benchmarks/assembly.py uses the custom kernels of dolfinx 0.5")
    main()
