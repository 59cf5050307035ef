"""The few calls that differ between dolfinx 0.5, 0.9 and 0.11, in one place.

Other modules take ``dolfinx`` from here, so that MPI starts as it must.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def _without_launcher() -> Iterator[None]:
    """Hide from MPI, while it starts, that a launcher has started this process.

    A simulation is one process. In a Slurm job, Open MPI takes itself for one of many ranks and
    aborts where it was not built for that Slurm.
    """
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "PMI_", "PMIX_"))
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


with _without_launcher():
    import dolfinx
    from mpi4py import MPI  # whichever is imported first starts it

__all__ = ["cell_table", "create_quadrilateral_mesh", "displacement_space", "dolfinx"]


def create_quadrilateral_mesh(nodes: np.ndarray, cells: np.ndarray) -> dolfinx.mesh.Mesh:
    """A dolfinx mesh of bilinear quadrilaterals; corners of ``cells`` (M, 4) counter-clockwise."""
    tensor_order = np.ascontiguousarray(cells[:, [0, 1, 3, 2]], dtype=np.int64)
    nodes = np.ascontiguousarray(nodes, dtype=np.float64)
    create = dolfinx.mesh.create_mesh
    if hasattr(dolfinx.fem, "VectorFunctionSpace"):
        import ufl

        element = ufl.Mesh(ufl.VectorElement("Lagrange", "quadrilateral", 1))
    else:
        import basix.ufl

        element = basix.ufl.element("Lagrange", "quadrilateral", 1, shape=(2,))
    if list(inspect.signature(create).parameters)[2] == "x":
        return create(MPI.COMM_SELF, tensor_order, nodes, element)
    return create(MPI.COMM_SELF, tensor_order, element, nodes)


def displacement_space(mesh: dolfinx.mesh.Mesh) -> dolfinx.fem.FunctionSpace:
    """Continuous bilinear vector fields on the mesh."""
    if hasattr(dolfinx.fem, "VectorFunctionSpace"):
        return dolfinx.fem.VectorFunctionSpace(mesh, ("Lagrange", 1))
    return dolfinx.fem.functionspace(mesh, ("Lagrange", 1, (2,)))


def cell_table(dofmap: object, columns: int) -> np.ndarray:
    """A dofmap as an array (M, columns), whether dolfinx gives an adjacency list or an array."""
    array = getattr(dofmap, "array", dofmap)
    return np.asarray(array).reshape(-1, columns)
