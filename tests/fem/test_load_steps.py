"""A load step that fails is halved; the run goes on to its end, or says where it stopped."""

import pytest

from cells import frame
from crumple.config import Config
from crumple.fem import compression, newton
from crumple.fem.compression import Simulation
from crumple.fem.newton import NotConverged

STRAINS = (0.02, 0.04, 0.06)


def run(monkeypatch, strains=STRAINS):
    """The simulation, and the strains that its increments aimed at with their success."""
    tried = []
    increment = Simulation._increment

    def spy(self, strain, *wanted):
        tried.append([strain, False])
        result = increment(self, strain, *wanted)
        tried[-1][1] = True
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "_increment", spy)
        simulation = Simulation(*frame(), Config())
        for strain in strains:
            simulation.advance(strain)
    return simulation, tried


def test_a_step_that_fails_is_halved_and_the_run_reaches_the_end(monkeypatch):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 3)
    simulation, tried = run(monkeypatch)
    assert simulation.strain == STRAINS[-1] and simulation.cuts > 0
    failed = [strain for strain, success in tried if not success]
    reached = [strain for strain, success in tried if success]
    assert len(failed) == simulation.cuts and set(failed) <= set(STRAINS)
    assert set(STRAINS) < set(reached) and len(reached) == len(STRAINS) + simulation.cuts
    # the same as if the user had asked for these increments: a failure leaves nothing behind
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 60)
    other, _ = run(monkeypatch, reached)
    assert other.cuts == 0
    assert simulation.stress == pytest.approx(other.stress, rel=1e-9)
    # control: the whole increments give another answer
    whole, _ = run(monkeypatch)
    assert whole.cuts == 0 and whole.stress != pytest.approx(other.stress, rel=1e-6)


def test_halving_ends(monkeypatch):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 3)
    monkeypatch.setattr(compression, "SMALLEST_INCREMENT", 0.011)
    with pytest.raises(NotConverged, match="after 3 Newton iterations at a strain of 0.0"):
        run(monkeypatch)
