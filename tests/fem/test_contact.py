"""Contact and friction against closed forms: gap, friction on slopes, periodic images, platens."""

from pathlib import Path

import numpy as np
import pytest

from cells import grid, join
from crumple import designs
from crumple.config import Config, load_config, parse_config
from crumple.fem import contact as contact_module
from crumple.fem import newton
from crumple.fem.compression import Simulation, compress
from crumple.meshing import gmsh_session, mesh_cell

ELASTIC = {"hardening": [[1e6, 0.0]], "damping": 0.0}
PRESETS = sorted((Path(__file__).parents[2] / "workflow" / "presets").glob("*.yaml"))
DHAT = Config().contact.barrier_distance


def settings(platens="lubricated", **contact):
    return parse_config(
        {
            "loading": {"platens": platens, "imperfection": 0.0},
            "material": ELASTIC,
            "contact": contact,
        }
    )


def column(interface, cells, gap, width=0.5):
    """Two stacked blocks; ``interface(x)`` is the height of the gap's lower side."""
    nx, ny_low, ny_high = cells
    left = 0.5 - width / 2
    blocks = []
    for ny, low in ((ny_low, True), (ny_high, False)):
        nodes, quads = grid(nx, ny, width=width, origin=(left, 0.0))
        meeting = interface(nodes[:, 0])
        share = nodes[:, 1]
        if low:
            nodes[:, 1] = share * meeting
        else:
            nodes[:, 1] = meeting + gap + share * (1 - meeting - gap)
        nodes[share == 1, 1] = nodes[share == 1, 1] if low else 1.0
        blocks.append((nodes, quads))
    return join(*blocks)


def gap_between(simulation):
    vertices = simulation.contact.vertices(simulation.z)
    collisions = simulation.contact.collisions(vertices)
    return simulation.contact.minimum_gap(vertices, collisions)


@pytest.mark.parametrize("cells", [(8, 4, 4), (16, 8, 8)])
def test_gap_follows_the_pressure_law_whatever_the_mesh(cells):
    """p(d) = -dB/dd with B = -kappa dhat (r^2 - 1)^2 ln r^2, r = d / dhat (Li et al. 2020)."""
    simulation = Simulation(*column(lambda x: 0.5 + 0 * x, cells, 1.5 * DHAT), settings())
    for strain in (0.002, 0.004, 0.006):
        simulation.advance(strain)
    pressure = simulation.stress / 0.5
    gap = gap_between(simulation)
    r = gap / DHAT
    law = 8 * r * (r**2 - 1) * np.log(r) + 2 * (r**2 - 1) ** 2 / r
    law *= Config().contact.barrier_stiffness
    assert pressure > 1.0
    assert pressure == pytest.approx(law, rel=0.03)
    # control: counted once per side instead of once the law would be off by a factor of two
    assert pressure != pytest.approx(2 * law, rel=0.3)


def slope(angle, friction, **contact):
    """Reactions while a column cut by a slope is compressed to 2 %, free to slide sideways."""
    tangent = np.tan(np.radians(angle))
    gap = 0.9 * DHAT / np.cos(np.radians(angle))
    mesh = column(lambda x: 0.5 + (x - 0.5) * tangent, (12, 6, 6), gap)
    simulation = Simulation(*mesh, settings(friction=friction, **contact))
    stress = []
    for strain in np.arange(1, 11) * 0.002:
        simulation.advance(strain)
        stress.append(simulation.stress)
    return np.array(stress)


def sticks(stress):
    return stress[-1] > 20.0  # MPa; 26 without the slope


def slides(stress):
    return stress[-1] < 0.3


def test_friction_on_slopes_about_the_critical_angle():
    """A block sticks while tan(angle) < mu: up to 21.80 degrees for mu = 0.4."""
    assert sticks(slope(20.5, 0.4))
    assert slides(slope(23.5, 0.4))
    assert slides(slope(20.5, 0.0))  # control


def test_friction_with_the_presets_own_tolerance(monkeypatch):
    """At the presets' slip and number of lags the critical angle is met within a degree."""
    for preset in PRESETS:
        assert load_config(preset).contact == Config().contact
    assert sticks(slope(20.9, 0.4))
    assert slides(slope(22.6, 0.4))
    # controls: a slip a hundred times larger creeps below the angle, and so does a single lag
    loose = {"friction_slip": 100 * Config().contact.friction_slip}
    assert not sticks(slope(20.9, 0.4, **loose))
    monkeypatch.setattr(newton, "MAX_FRICTION_LAGS", 1)
    assert not sticks(slope(20.9, 0.4))


def test_critical_angle_when_friction_is_iterated_to_the_end(monkeypatch):
    """As tightly as the lag allows; one lag per step would slide at 20 degrees."""
    monkeypatch.setattr(newton, "GRADIENT_TOLERANCE", 2e-4)
    monkeypatch.setattr(newton, "MAX_FRICTION_LAGS", 60)
    assert sticks(slope(21.5, 0.4))
    assert slides(slope(22.1, 0.4))
    monkeypatch.setattr(newton, "MAX_FRICTION_LAGS", 1)
    assert not sticks(slope(20.5, 0.4))  # control


def wedge(friction):
    """Ratio of push to side thrust of a block pressed down along a steep wedge, tan a = 0.1."""
    left, right = grid(6, 18), grid(6, 18)
    x, y = left[0].T.copy()
    y = 0.1 + 0.9 * y
    end = 0.5 + 0.1 * (y - 0.5)
    left[0][:] = np.column_stack([0.05 + x * (end - 0.05), y])
    x, y = right[0].T.copy()
    y = 0.9 * y
    start = 0.5 + 0.1 * (y - 0.5) + 0.9 * DHAT
    right[0][:] = np.column_stack([start + x * (0.95 - start), y])
    simulation = Simulation(*join(left, right), settings("bonded", friction=friction))
    for strain in (0.002, 0.004, 0.006, 0.008):
        simulation.advance(strain)
    # forces on the block that hangs from the top platen
    contact, potential = simulation.contact, simulation.potential
    vertices = contact.vertices(simulation.z)
    collisions = contact.collisions(vertices)
    force = contact.barrier.gradient(collisions, contact.mesh, vertices)
    # the potential still holds the friction of the last step
    if not potential.tangential_collisions.empty():
        slip = np.asfortranarray(vertices - potential.vertices_t0)
        force = force + contact.friction_potential.gradient(
            potential.tangential_collisions, contact.mesh, slip
        )
    hanging = (
        contact.rest_positions[:, 0] < 0.5 + 0.1 * (contact.rest_positions[:, 1] - 0.5) + 0.3 * DHAT
    )
    hanging[contact.rest_positions[:, 0] < 0] = False
    side, push = -force.reshape(-1, 2)[hanging].sum(axis=0)
    assert abs(push) == pytest.approx(simulation.stress, rel=0.02)
    return abs(push / side)


def test_wedge_with_friction():
    """NAFEMS CGS-4: F/G = (tan a + mu) / (1 - mu tan a) = 0.412371 for mu = 0.3."""
    assert wedge(0.3) == pytest.approx(0.412371, rel=0.01)
    assert wedge(0.0) == pytest.approx(0.1, rel=0.01)  # control


def test_free_surface_stops_at_the_platen():
    """A hanging block that meets the lower platen carries load from there on."""
    pillar = grid(4, 20, width=0.2, origin=(0.05, 0.0))
    hanging = grid(8, 19, width=0.4, height=0.99, origin=(0.3, 0.01))
    simulation = Simulation(*join(pillar, hanging), settings())
    stress = {}
    for strain in np.arange(1, 9) * 0.0025:
        simulation.advance(strain)
        stress[round(strain, 4)] = simulation.stress
    stiffness = (stress[0.0075] - stress[0.005]) / 0.0025
    after = (stress[0.02] - stress[0.0175]) / 0.0025
    # widths 0.2 before and 0.2 + 0.4 after the contact
    assert after == pytest.approx(3 * stiffness, rel=0.05)
    assert not simulation.contact.has_intersections(simulation.contact.vertices(simulation.z))


def columns(shift):
    """Two columns a small gap apart, which barrel into each other; the cell rolled by ``shift``."""
    nodes, cells = join(
        grid(10, 24, width=0.42, origin=(0.005, 0.0)), grid(10, 24, width=0.42, origin=(0.575, 0.0))
    )
    centre = nodes[cells].mean(axis=1)
    right = np.isin(np.arange(len(nodes)), cells[centre[:, 0] > 0.5])
    nodes[right, 0] += shift - 1.0 if shift else 0.0
    nodes[~right, 0] += shift
    return nodes, cells


def test_rolled_cell_gives_the_same_curve(monkeypatch):
    """Contact across the seam (columns 0.01 apart there) against the same contact inside."""
    config = parse_config({"loading": {"imperfection": 0.0}})
    across, inside = (compress(*columns(shift), config) for shift in (0.0, 0.45))
    assert across["status"] == inside["status"] == "ok"
    assert inside["minimum_gap"] < DHAT
    across, inside = across["curve_stress"][1:], inside["curve_stress"][1:]
    assert across == pytest.approx(inside, rel=2e-3)
    # control: without the ghosts the columns pass through each other across the seam
    monkeypatch.setattr(contact_module, "GHOST_REACH", -1.0)
    blind = compress(*columns(0.0), config)["curve_stress"][1:]
    assert abs(blind[-1] / inside[-1] - 1) > 0.05


def test_energy_balance_closes():
    """Platen work = stored + dissipated energy, through plastic flow, contact and friction."""
    cell = designs.mirror(designs.sample(0, 14, Config().designs).quarter)
    with gmsh_session():
        mesh, _ = mesh_cell(cell, 0.02)
    result = compress(*mesh, Config())
    assert result["status"] == "ok"
    energy = dict(zip(result["energy_names"], result["energies"][-1], strict=True))
    spent = sum(value for name, value in energy.items() if name != "work")
    assert spent == pytest.approx(energy["work"], rel=5e-3)
    # control: every part that matters is needed
    for name in ("elastic", "plastic", "viscous"):
        assert spent - energy[name] != pytest.approx(energy["work"], rel=5e-2)
    internal = energy["elastic"] + energy["plastic"]
    assert energy["kinetic"] < 0.01 * internal
    assert 0 < energy["barrier"] < 0.01 * internal
    assert 0 <= energy["opening"] < 0.01 * internal
