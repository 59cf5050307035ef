"""The meshed cell as input of Abaqus and CalculiX: mesh, sets, surfaces, material, compression.

Lengths are in mm, stresses in MPa, so that forces are in N. The file holds what both codes
understand: quasi-static compression by the platens, without self-contact and without the damping
of the solver; it therefore agrees with ``crumple simulate-one`` where ``damping`` is 0 and until
struts touch. The keywords are those of Abaqus that CalculiX has as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from crumple.config import Config
from crumple.errors import UserError
from crumple.fem.cell import imperfection
from crumple.layout import CURVE_STRAIN
from crumple.meshing import QuadMesh
from crumple.outline import TOUCH

INCREMENT = float(CURVE_STRAIN[1])  # strain; both codes shorten it where they need to
MATCH = 1e-6  # cell sides between nodes that are at the same place of opposite sides
PER_LINE = 12  # numbers in a line of a set
HEAD = """\
** {title}
** made by crumple; mm, MPa, N. Plane strain, {thickness:g} mm thick, platens {platens}.
** Nodes include the imperfection of the simulations ({imperfection:g} of the cell's side).
** The stress of the curve is minus the total force on TOP in y over {area:g} mm2.
** Self-contact isn't included; the surface OUTLINE is what can touch, the friction is {friction:g}.
"""


def input_file(
    mesh: QuadMesh,
    config: Config,
    cell_size: float,
    thickness: float,
    title: str,
    strain: float = float(CURVE_STRAIN[-1]),
) -> str:
    """Write the compression of a cell as an input file.

    Node sets are ``ALL``, ``BOTTOM``, ``TOP``, ``LEFT``, ``RIGHT`` and, unless platens are bonded,
    ``ANCHOR``; element set ``SOLID``; surfaces ``OUTLINE`` (what can touch), ``BOTTOM_FACES`` and
    ``TOP_FACES``; the material is ``BASE``. The left and right sides move alike by equations.

    Parameters
    ----------
    mesh
        Of the unit cell, as :func:`crumple.meshing.mesh_cell` makes it.
    config
        ``material``, ``contact`` and ``loading`` count here.
    cell_size, thickness
        mm.
    title
        Of the file.
    strain
        At the end of the step, positive in compression.

    Raises
    ------
    UserError
        When nodes on opposite sides don't match.
    """
    sides = _sides(mesh.nodes)
    nodes = mesh.nodes + imperfection(mesh.nodes, config.loading.imperfection)
    material, loading = config.material, config.loading
    lines = HEAD.format(
        title=title,
        thickness=thickness,
        platens=loading.platens,
        imperfection=loading.imperfection,
        area=cell_size * thickness,
        friction=config.contact.friction,
    ).splitlines()
    lines += ["*NODE, NSET=ALL"]
    lines += [f"{k}, {x:.9g}, {y:.9g}, 0." for k, (x, y) in enumerate(cell_size * nodes, start=1)]
    lines += ["*ELEMENT, TYPE=CPE4, ELSET=SOLID"]
    lines += [f"{k}, {_numbers(cell + 1)}" for k, cell in enumerate(mesh.cells, start=1)]
    anchor = {"ANCHOR": sides["BOTTOM"][-1:]}  # never on the left, whose nodes follow others
    for name, members in (sides | anchor).items():
        lines += [f"*NSET, NSET={name}", *_set(members)]
    for name, faces in _faces(mesh, sides).items():
        lines += [f"*SURFACE, NAME={name}, TYPE=ELEMENT"]
        lines += [f"{cell + 1}, S{side + 1}" for cell, side in faces]
    lines += ["*MATERIAL, NAME=BASE", "*ELASTIC"]
    lines += [f"{material.youngs_modulus:g}, {material.poisson_ratio:g}", "*PLASTIC"]
    lines += [f"{stress:g}, {plastic:g}" for stress, plastic in material.hardening]
    lines += ["*SOLID SECTION, ELSET=SOLID, MATERIAL=BASE", f"{thickness:g}"]
    for component, node, other in _alike(mesh.nodes, sides, loading.platens):
        lines += ["*EQUATION", "2", f"{node + 1}, {component}, 1., {other + 1}, {component}, -1."]
    lines += ["*BOUNDARY", "BOTTOM, 2, 2"]
    lines += ["BOTTOM, 1, 1", "TOP, 1, 1"] if loading.platens == "bonded" else ["ANCHOR, 1, 1"]
    lines += ["*STEP, NLGEOM=YES, INC=10000", "*STATIC"]
    part = min(1.0, INCREMENT / strain)
    lines += [f"{part:.9g}, 1., 1e-6, {part:.9g}"]
    lines += ["*BOUNDARY", f"TOP, 2, 2, {-strain * cell_size:.9g}"]
    lines += ["*NODE PRINT, NSET=TOP, TOTALS=YES", "RF", "*NODE FILE", "U, RF"]
    lines += ["*EL FILE", "S, PEEQ", "*END STEP", ""]
    return "\n".join(lines)


def _sides(nodes: NDArray) -> dict[str, NDArray]:
    """Nodes on the four sides of the cell, along the side."""
    x, y = nodes.T
    on = {"LEFT": x < TOUCH, "RIGHT": x > 1 - TOUCH, "BOTTOM": y < TOUCH, "TOP": y > 1 - TOUCH}
    return {
        name: np.flatnonzero(there)[
            np.argsort((y if name in ("LEFT", "RIGHT") else x)[there], kind="stable")
        ]
        for name, there in on.items()
    }


def _pairs(nodes: NDArray, one: NDArray, other: NDArray, axis: int) -> dict[int, int]:
    """Nodes of one side, and those at the same place of the opposite side."""
    if len(one) != len(other) or np.abs(nodes[one, axis] - nodes[other, axis]).max() > MATCH:
        raise UserError(
            "nodes on opposite sides of the mesh don't match: leave inp out of --formats, or "
            "choose other platens"
        )
    return dict(zip(one.tolist(), other.tolist(), strict=True))


def _alike(nodes: NDArray, sides: dict[str, NDArray], platens: str) -> list[tuple[int, int, int]]:
    """Components of nodes that equal those of another: (component, node, other).

    The codes eliminate *node*: no component stands there twice, or as *other* as well, or is
    prescribed.
    """
    across = _pairs(nodes, sides["LEFT"], sides["RIGHT"], 1)
    down = _pairs(nodes, sides["TOP"], sides["BOTTOM"], 0) if platens == "tied" else {}
    prescribed = {*sides["BOTTOM"].tolist(), *sides["TOP"].tolist()}
    moves = [(2, node, other) for node, other in across.items() if node not in prescribed]
    for node in dict.fromkeys([*across, *down]):
        below = down.get(node, node)
        other = across.get(below, below)
        if other != node and not (platens == "bonded" and node in prescribed):
            moves.append((1, node, other))
    return moves


def _faces(mesh: QuadMesh, sides: dict[str, NDArray]) -> dict[str, list[tuple[int, int]]]:
    """Boundary faces (element, side) by surface; those on the left and right have none."""
    edges = np.stack([mesh.cells, np.roll(mesh.cells, -1, axis=1)], axis=-1)
    keys = np.sort(edges.reshape(-1, 2), axis=1)
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    found: dict[str, list[tuple[int, int]]] = {"OUTLINE": [], "BOTTOM_FACES": [], "TOP_FACES": []}
    for place in np.sort(first[counts == 1]):
        cell, side = divmod(int(place), 4)
        on = [name for name, nodes in sides.items() if np.isin(edges[cell, side], nodes).all()]
        name = f"{on[-1]}_FACES" if on else "OUTLINE"
        if name in found:
            found[name].append((cell, side))
    return found


def _set(members: Sequence[int] | NDArray) -> list[str]:
    """Lines of a set."""
    numbers = [int(node) + 1 for node in members]
    return [
        _numbers(numbers[k : k + PER_LINE]) + "," * (len(numbers) == 1)
        for k in range(0, len(numbers), PER_LINE)
    ]


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
