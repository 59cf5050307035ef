"""Targets that people have: wishes for the curve of a design, and limits that it must keep to.

A :class:`Goal` is pure: reading it, from YAML or from a CSV of target curves, resolves all files
and units. Its wishes and their errors are in :mod:`crumple.wishes`; several of them together have
the error sqrt(sum_i w_i e_i^2 / sum_i w_i) with their weights w_i. The vocabulary is described in
``docs/targets.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from crumple.config import Section
from crumple.errors import UserError
from crumple.layout import CELL, CURVE_STRAIN
from crumple.metrics import largest_plastic_strain
from crumple.quantities import LAST, Length, Millimetres, Pixels
from crumple.readers import read_yaml
from crumple.targets import TOLERANCE, read_curves, resample
from crumple.widths import WIDEST, narrowest
from crumple.wishes import (
    GRID,
    Band,
    Curve,
    Energy,
    Plateau,
    Points,
    Softening,
    Stiffening,
    Wish,
    bounds_words,
    check_bounds,
    read_curve,
    read_points,
)

ADVICE = "docs/targets.md describes what a goal may hold"
YAML = (".yaml", ".yml")
KINDS = ("curve", "points", "band", "plateau", "softening", "stiffening", "energy")


class Item(Section):
    """One entry of a response: exactly one kind of wish, and its weight."""

    weight: float = Field(1.0, gt=0, le=1e6)
    curve: Annotated[Curve | None, BeforeValidator(read_curve)] = None
    points: Annotated[Points | None, BeforeValidator(read_points)] = None
    band: Band | None = None
    plateau: Plateau | None = None
    softening: Softening | None = None
    stiffening: Stiffening | None = None
    energy: Energy | None = None

    @model_validator(mode="after")
    def _is_one_wish(self) -> Item:
        if len(self.model_fields_set & set(KINDS)) != 1 or self._wishes() == []:
            raise ValueError(f"an entry of a response is one of {', '.join(KINDS)}")
        return self

    def _wishes(self) -> list[Wish]:
        return [wish for kind in KINDS if (wish := getattr(self, kind)) is not None]

    def wish(self) -> Wish:
        """The one wish."""
        return self._wishes()[0]


# --- limits for the design -----------------------------------------------------------------------


class Fraction(Section):
    """Limits of the part of the cell that is solid."""

    at_least: float | None = Field(None, gt=0, lt=1)
    at_most: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _has_bounds(self) -> Fraction:
        check_bounds(self.at_least, self.at_most)
        return self


class Least(Section):
    """A length that must not be less."""

    at_least: Pixels


class Most(Section):
    """A number that must not be more."""

    at_most: float = Field(gt=0, le=10)


class Limits(Section):
    """What a design must keep to, whatever its curve."""

    solid_fraction: Fraction | None = None
    strut: Least | None = None
    gap: Least | None = None
    plastic_strain: Most | None = None


class Measures(NamedTuple):
    """What limits are about."""

    solid_fraction: float  # pixels of the design that are solid, as in the data set
    strut: float  # pixels; crumple.widths
    gap: float  # pixels
    plastic_strain: float | None = None  # largest_plastic_strain; None: not simulated


def measure(cell: NDArray, simulation: Mapping[str, NDArray] | None = None) -> Measures:
    """Measure a design.

    Parameters
    ----------
    cell
        (96, 96), 1 solid, row 0 = top.
    simulation
        ``nodes``, ``cells`` and ``equivalent_plastic_strain`` of its simulation
        (:func:`crumple.fem.compression.compress`), if there is one.
    """
    widths = narrowest(cell)
    plastic = None if simulation is None else largest_plastic_strain(simulation)
    return Measures(float(np.mean(cell)), widths.strut, widths.gap, plastic)


# --- goals ---------------------------------------------------------------------------------------


def _name(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError(f"{text!r} is not a name")
    return text


class Goal(Section):
    """What one design should be: wishes for its curve and limits.

    Attributes
    ----------
    name
        By default that of the file.
    cell_size
        mm; for limits in mm.
    response
        Wishes, at least one.
    limits
        By default none.
    """

    name: Annotated[str, AfterValidator(_name)] = Field("goal", max_length=100)
    cell_size: Millimetres | None = None
    response: list[Item] = Field(min_length=1, max_length=100)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _lengths_can_be_measured(self) -> Goal:
        for name in ("strut", "gap"):
            limit = getattr(self.limits, name)
            if limit is None:
                continue
            if limit.at_least.unit == "mm" and self.cell_size is None:
                raise ValueError(
                    f"limits.{name} is in mm: say how large a cell is (cell_size: 10 mm), or give "
                    "it in px"
                )
            if self.pixels(limit.at_least) > WIDEST:
                raise ValueError(
                    f"limits.{name}: {limit.at_least} are {self.pixels(limit.at_least):.1f} of the "
                    f"{CELL} pixels of a cell; at most {WIDEST:g} can be asked for"
                )
        return self

    def pixels(self, length: Length) -> float:
        """A length in pixels, 1/96 of a cell side."""
        if length.unit == "px":
            return length.value
        assert self.cell_size is not None  # looked at when the goal was read
        return length.value / self.cell_size * CELL

    def error(self, stress: NDArray) -> NDArray:
        """Distance of curves from the goal, a fraction like the NRMSE.

        Parameters
        ----------
        stress
            (..., 51) effective stress at ``CURVE_STRAIN``, MPa, positive in compression.

        Returns
        -------
        ndarray
            (...); infinite where stress that counts is NaN, because a simulation ended early.
        """
        weight = np.array([item.weight for item in self.response])
        errors = np.stack(
            [item.wish().error(np.asarray(stress)) for item in self.response], axis=-1
        )
        total = np.sqrt(errors**2 @ weight / weight.sum())
        return np.where(np.isfinite(total), total, np.inf)

    def violations(self, measures: Measures) -> list[str]:
        """Sentences about the limits that a design exceeds; none where it keeps to all."""
        limits, found = self.limits, []
        fraction = measures.solid_fraction
        if limits.solid_fraction is not None:
            low, high = limits.solid_fraction.at_least, limits.solid_fraction.at_most
            if (low is not None and fraction < low) or (high is not None and fraction > high):
                found.append(
                    f"the solid fraction is {fraction:.3f}, {bounds_words(low, high)} is wanted"
                )
        for name, width in (("strut", measures.strut), ("gap", measures.gap)):
            limit = getattr(limits, name)
            if limit is not None and width < self.pixels(limit.at_least):
                size = Length(width, "px")
                if limit.at_least.unit == "mm":
                    size = Length(width * (self.cell_size or 0) / CELL, "mm")
                found.append(
                    f"the narrowest {name} is {size.value:.2f} {size.unit}, at least "
                    f"{limit.at_least} is wanted"
                )
        largest = measures.plastic_strain
        if limits.plastic_strain is not None and largest is not None:
            at_most = limits.plastic_strain.at_most
            value = f"{largest:.3f}" if np.isfinite(largest) else "unknown (compressed in part)"
            if not largest <= at_most:
                found.append(
                    f"the equivalent plastic strain is {value}, at most {at_most:g} is wanted"
                )
        return found

    def representative(self, strain: NDArray = CURVE_STRAIN) -> tuple[NDArray, NDArray]:
        """A curve that fulfils the goal where it names levels, for models that learn from curves.

        Parameters
        ----------
        strain
            (steps,) where the curve is wanted.

        Returns
        -------
        stress : ndarray
            (steps,) MPa, 0 where unknown: the middle of bounds that have two sides.
        known : ndarray
            (steps,) bool; false at strains that no wish names a level for. Earlier wishes come
            first where two do.
        """
        stress, known = np.zeros(len(strain)), np.zeros(len(strain), bool)
        for item in self.response:
            wish = item.wish()
            bounds = wish.bounds()
            if bounds is None:
                continue
            both = np.isfinite(bounds.low) & np.isfinite(bounds.high)
            at = bounds.strain[both]
            if not len(at):
                continue
            reach = GRID / 4 if isinstance(wish, Points) else GRID / 2
            near = np.abs(np.asarray(strain)[:, None] - at).min(axis=1) <= reach + TOLERANCE
            new = near & ~known
            stress[new] = np.interp(strain[new], at, bounds.middle()[both])
            known |= near
        return stress, known

    def words(self) -> list[str]:
        """The goal as it was understood, one line per wish and limit."""
        lines = []
        for item in self.response:
            weight = "" if item.weight == 1 else f" (weight {item.weight:g})"
            lines.append(item.wish().words() + weight)
        limits = self.limits
        if limits.solid_fraction is not None:
            low, high = limits.solid_fraction.at_least, limits.solid_fraction.at_most
            lines.append(f"a solid fraction of {bounds_words(low, high)}")
        for name in ("strut", "gap"):
            limit = getattr(limits, name)
            if limit is not None:
                size = limit.at_least
                pixels = f" ({self.pixels(size):.2f} px)" if size.unit == "mm" else ""
                lines.append(f"no {name} narrower than {size}{pixels}")
        if limits.plastic_strain is not None:
            at_most = limits.plastic_strain.at_most
            lines.append(f"an equivalent plastic strain of at most {at_most:g}")
        return lines


def file_name(name: str) -> str:
    """Return the name of a goal as far as a file can be called that."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:60]


# --- reading -------------------------------------------------------------------------------------


def read_goals(paths: Sequence[str | Path]) -> list[Goal]:
    """Read goals: one from each YAML file, one per curve from each CSV file.

    A curve of a CSV counts at the strains that the file gives where these are fewer than those of
    the grid (0, 0.4 % ... 20 %) between its ends, because what lies between them isn't known, and
    at the strains of the grid where they are not.

    Raises
    ------
    UserError
        One sentence with the file and what is wrong, or when two goals have the same name.
    """
    goals: list[Goal] = []
    for path in map(Path, paths):
        new = [_read_goal(path)] if path.suffix.lower() in YAML else _goals_of_csv(path)
        for goal in new:
            if goal.name in {other.name for other in goals}:
                raise UserError(f"{path}: two goals are called {goal.name}; names must differ")
            goals.append(goal)
    return goals


def _read_goal(path: Path) -> Goal:
    goal = read_yaml(path, Goal, ADVICE, {"path": path})
    if "name" in goal.model_fields_set:
        return goal
    return goal.model_copy(update={"name": path.stem})


def _goals_of_csv(path: Path) -> list[Goal]:
    goals = []
    for name, strain, stress in read_curves(path):
        values, on_grid = resample(strain, stress, CURVE_STRAIN)
        given = np.isfinite(stress) & (strain <= LAST + TOLERANCE)
        if given.sum() < 2:
            raise UserError(
                f"{path}: target {name} gives stress at {given.sum()} strains between 0 and "
                f"{LAST:.0%}; at least 2 are needed"
            )
        if not np.any(stress[given]):
            raise UserError(f"{path}: target {name} has no stress other than 0")
        if given.sum() < on_grid.sum():
            item = Item(points=Points(strain=strain[given].tolist(), stress=stress[given].tolist()))
        else:
            item = Item(
                curve=Curve(strain=CURVE_STRAIN[on_grid].tolist(), stress=values[on_grid].tolist())
            )
        goals.append(Goal(name=name, response=[item]))
    return goals
