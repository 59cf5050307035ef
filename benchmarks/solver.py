"""What one design costs: CPU seconds, Newton iterations, and where the time goes.

    python benchmarks/solver.py [--designs 100] [--config FILE] [--profile 10]

Run with one thread (OMP_NUM_THREADS=1). CPU seconds depend on the machine and on what else runs
there; iterations do not.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import time

import numpy as np

from crumple.config import Config, load_config
from crumple.designs import mirror, sample
from crumple.fem.compression import compress
from crumple.meshing import gmsh_session, mesh_cell

PARTS = {
    "symbolic factorisation": "analyse",
    "numeric factorisation": "factorise",
    "solves": "solve:linear_solver",
    "bulk energy and gradient": "energy_and_gradient",
    "bulk Hessian": "add_hessian",
    "contact Hessian": "hessian:contact",
    "sparsity of contact": "places",
    "collision sets and broad phase": "collisions",
    "continuous collision detection": "collision_free_stepsize",
    "barrier and friction gradients": "_scatter",
    "state update": "update",
    "stress output": "cauchy_stress",
    "self-intersection check": "has_intersections",
    "set-up of the dolfinx problem": "build_cell",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", type=int, default=100)
    parser.add_argument("--profile", type=int, default=10, help="designs to profile, 0 for none")
    parser.add_argument("--config", default="{}")
    args = parser.parse_args()
    config = load_config(args.config)
    with gmsh_session():
        start = time.process_time()
        meshes = [
            mesh_cell(
                mirror(sample(config.seed, i, config.designs).quarter), config.mesh.element_size
            )[0]
            for i in range(args.designs)
        ]
        meshing = time.process_time() - start
    compress(*meshes[0], config)  # load the compiled kernels
    results = [figures_only(compress(*mesh, config)) for mesh in meshes]
    report(results, meshing / args.designs)
    if args.profile:
        profile(meshes[: args.profile], config)


def figures_only(result: dict) -> dict:
    """Drop the fields, which would add up in memory."""
    return {name: value for name, value in result.items() if np.ndim(value) == 0}


def report(results: list[dict], meshing: float) -> None:
    def figures(name: str) -> np.ndarray:
        return np.array([result[name] for result in results], float)

    failed = [r["status"] for r in results if r["status"] != "ok"]
    steps = figures("load_steps")
    rows = {
        "CPU s per design, sampling and meshing": np.array([meshing]),
        "CPU s per design, solve with set-up": figures("cpu_seconds"),
        "unknowns": figures("unknowns"),
        "load steps": steps,
        "Newton iterations": figures("newton_iterations"),
        "Newton iterations per step": figures("newton_iterations") / steps,
        "factorisations": figures("factorisations"),
        "symbolic factorisations": figures("symbolic_factorisations"),
        "friction lags": figures("friction_lags"),
        "step cuts": figures("step_cuts"),
    }
    print(f"{len(results)} designs, {len(failed)} failed {failed or ''}")
    print(f"{'':<40}{'mean':>9}{'median':>9}{'max':>9}")
    for name, values in rows.items():
        print(f"{name:<40}{values.mean():9.2f}{np.median(values):9.2f}{values.max():9.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB")


def profile(meshes: list, config: Config) -> None:
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    for mesh in meshes:
        compress(*mesh, config)
    profiler.disable()
    stats = pstats.Stats(profiler)
    total = stats.total_tt
    print(f"\nwhere the time goes ({len(meshes)} designs, {total / len(meshes):.2f} CPU s each)")
    rest = total
    for label, name in PARTS.items():
        function, _, module = name.partition(":")
        seconds = sum(
            entry[3]
            for (file, _, found), entry in stats.stats.items()
            if found == function and module in file and "numpy" not in file
        )
        if seconds:
            rest -= seconds
            print(f"  {label:<34}{seconds / len(meshes):7.3f} s {seconds / total:6.1%}")
    print(f"  {'everything else':<34}{rest / len(meshes):7.3f} s {rest / total:6.1%}")


if __name__ == "__main__":
    main()
