"""Numbers with units, as people write them in YAML: ``3 %``, ``15 MPa``, ``0.8 mm``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from crumple.config import NUMBER
from crumple.layout import CELL, CURVE_STRAIN
from crumple.targets import FACTORS, MOST_STRESS, TOLERANCE

LAST = float(CURVE_STRAIN[-1])  # strain to which designs are compressed

# Factors to fractions, MPa, MJ/m3 (the same as MPa) and mm.
STRAIN = {"": 1.0, "%": FACTORS["%"]}
STRESS = {"": 1.0} | {unit: FACTORS[unit.lower()] for unit in ("Pa", "kPa", "MPa", "GPa")}
ENERGY = {"": 1.0, "MJ/m3": 1.0, "kJ/m3": 1e-3, "J/cm3": 1.0, "mJ/mm3": 1.0, "MPa": 1.0}
LENGTH = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3, "µm": 1e-3}
PIXEL = dict.fromkeys(("px", "pixel", "pixels"), 1.0)
QUANTITY = re.compile(rf"({NUMBER.pattern})(.*)")


@dataclass(frozen=True)
class Length:
    """A length in pixels (1/96 of a cell side), or in mm of a cell whose size is known."""

    value: float
    unit: str  # px or mm

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


def short(value: Any) -> str:
    """Return a value for a message: a nested or a huge one is cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits have no text
        text = f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:40] + " ..."


def quantity(
    value: Any, units: Mapping[str, float], example: str, low: float = 0.0, high: float = math.inf
) -> float:
    """Return a quantity in the unit whose factor is 1.

    Parameters
    ----------
    value
        A number, or a number and a unit as text.
    units
        Factors by unit; with ``""`` a number alone will do.
    example
        How it is written, for messages.
    low, high
        Least and largest value.

    Raises
    ------
    ValueError
        When it isn't a quantity in one of these units, or out of range.
    """
    number, unit = value, ""
    if isinstance(value, str) and (match := QUANTITY.fullmatch(value.strip())):
        number, unit = float(match[1]), match.groups()[-1].strip()
    unit = unit.replace("^", "").replace("³", "3")
    if isinstance(number, bool) or not isinstance(number, int | float) or unit not in units:
        raise ValueError(f"{short(value)} is not a quantity that fits: write {example}")
    try:
        number = float(number) * units[unit]
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not low <= number <= high:
        raise ValueError(f"{short(value)} is not from {low:g} to {high:g}: write {example}")
    return number


def is_quantity(value: Any) -> bool:
    """Return whether a value is meant as a quantity: a number, or a text that begins with one."""
    return isinstance(value, int | float) or (
        isinstance(value, str) and QUANTITY.fullmatch(value.strip()) is not None
    )


def as_strain(value: Any) -> float:
    """Return a strain from 0 to that to which designs are compressed."""
    return min(quantity(value, STRAIN, "a strain as 3 % or 0.03", 0, LAST + TOLERANCE), LAST)


def as_stress(value: Any) -> float:
    """Return a stress in MPa."""
    return quantity(value, STRESS, "a stress as 15 MPa", 1e-6, MOST_STRESS)


def _energy(value: Any) -> float:
    return quantity(value, ENERGY, "an energy per volume as 2 MJ/m3", 1e-6, MOST_STRESS)


def _length(value: Any) -> Length:
    if isinstance(value, Length):
        return value
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.endswith(tuple(PIXEL)):
        return Length(
            quantity(text, PIXEL, f"a length as 3 px, of {CELL} per cell", 1e-3, CELL), "px"
        )
    return Length(quantity(text, LENGTH, "a length as 0.8 mm or 3 px", 1e-6, 1e5), "mm")


def as_millimetres(value: Any) -> float:
    """Return a size in mm, from a micrometre to a hundred metres."""
    return quantity(value, {"": 1.0} | LENGTH, "a size as 10 mm", 1e-3, 1e5)


Strain = Annotated[float, BeforeValidator(as_strain)]
Stress = Annotated[float, BeforeValidator(as_stress)]
EnergyDensity = Annotated[float, BeforeValidator(_energy)]
Pixels = Annotated[
    Length, BeforeValidator(_length), PlainSerializer(lambda x: f"{x.value!r} {x.unit}")
]
Millimetres = Annotated[float, BeforeValidator(as_millimetres)]
