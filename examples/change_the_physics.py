"""Compress one random design with other materials, contact and platens.

    .venv-fe/bin/python examples/change_the_physics.py

A configuration holds everything that the solver needs; ``compress`` takes any mesh of
counter-clockwise quadrilaterals in the unit square.
"""

from crumple import designs, meshing
from crumple.config import parse_config
from crumple.fem.compression import compress

VARIANTS = {
    "as in the paper": {},
    "half as stiff": {"material": {"youngs_modulus": 1153.0}},
    "no hardening": {"material": {"hardening": [(40.62, 0.0)]}},
    "half the damping": {"material": {"damping": 0.0025}},
    "frictionless contact": {"contact": {"friction": 0.0}},
    "lubricated platens": {"loading": {"platens": "lubricated"}},
}


def main(element_size: float = 0.02) -> dict[str, float]:
    """Return the effective stress in MPa at 20 % strain of each variant."""
    config = parse_config({"seed": 0})
    design = designs.sample(config.seed, index=6, settings=config.designs)
    with meshing.gmsh_session():
        mesh, _ = meshing.mesh_cell(designs.mirror(design.quarter), element_size)
    stress = {}
    for name, changes in VARIANTS.items():
        result = compress(mesh.nodes, mesh.cells, parse_config(changes))
        stress[name] = float(result["curve_stress"][-1])
        print(f"{name:22s} {result['status']:4s} {stress[name]:6.2f} MPa")
    return stress


if __name__ == "__main__":
    main()
