"""Wishes for a stress-strain curve, and how far a curve is from them.

How far is measured as the NRMSE measures it (paper eq. 6): by the norm of the change that would
fulfil the wish, over the norm of what is wished,

    error = |delta| / |sigma*|.                                                            (1)

For levels, *delta* is the distance of sigma outside the bounds low <= sigma <= high at the strains
that count, and sigma* their middle; a curve has low = high, and (1) is the NRMSE. For shapes,
sigma* is the curve itself, and

- a plateau without a level has delta = sigma - mean(sigma), and sigma* = mean(sigma);
- softening has delta = sigma - (its running minimum), and if the last stress s_n is more than
  ratio s_1, the line from 0 to s_n - ratio s_1 beside it;
- stiffening has delta = sigma - (the largest convex curve that is nowhere above it), and if s_n is
  less than ratio s_1, the line from 0 to ratio s_1 - s_n beside it;
- an energy W outside its bounds would need another stress by the factor W*/W, so that (1) is
  |W - W*| / W*.

Wishes are read from YAML or CSV (:mod:`crumple.goals`); units are resolved and files read at once,
so that a wish is a pure function afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from crumple.config import Section
from crumple.layout import CURVE_STRAIN
from crumple.quantities import (
    LAST,
    EnergyDensity,
    Strain,
    Stress,
    as_strain,
    as_stress,
    is_quantity,
    short,
)
from crumple.targets import TOLERANCE, checked_curve, read_curves, resample, unit_factor

GRID = float(CURVE_STRAIN[1])


class Bounds(NamedTuple):
    """Between what a curve should be, at the strains that count."""

    strain: NDArray  # (k,) rising
    low: NDArray  # (k,) MPa, -inf where there is no bound
    high: NDArray  # (k,) MPa, inf where there is no bound

    def middle(self) -> NDArray:
        """Mean of the bounds, or the only one (k,)."""
        low = np.where(np.isfinite(self.low), self.low, self.high)
        return 0.5 * (low + np.where(np.isfinite(self.high), self.high, low))


class Wish(Section):
    """What one wish has in common with others."""

    model_config = ConfigDict(populate_by_name=True)

    def bounds(self) -> Bounds | None:
        """Levels that are wished; None for a shape."""
        return None

    def error(self, stress: NDArray) -> NDArray:
        """Error (1) of curves (..., 51) in MPa, (...)."""
        bounds = self.bounds()
        assert bounds is not None  # shapes have their own
        at = stress_at(stress, bounds.strain)
        return _ratio(np.maximum(np.maximum(bounds.low - at, at - bounds.high), 0), bounds.middle())

    def words(self) -> str:
        """The wish as it was understood."""
        raise NotImplementedError


class Sampled(Wish):
    """Stresses at strains; read from a CSV or given as two lists."""

    strain: list[float] = Field(min_length=1, max_length=100_000)
    stress: list[float]

    @model_validator(mode="after")
    def _has_a_norm(self) -> Sampled:
        if len(self.strain) != len(self.stress):
            raise ValueError("strain and stress must have as many entries")
        if not np.any(self.stress):
            raise ValueError(f"no stress other than 0 is given at strains from 0 to {LAST:.0%}")
        return self

    def bounds(self) -> Bounds:
        stress = np.array(self.stress)
        return Bounds(np.array(self.strain), stress, stress)


class Curve(Sampled):
    """A curve with straight lines between its points, which counts at the strains of the grid."""

    def words(self) -> str:
        return f"the curve at {len(self.strain)} strains {span(self.strain)}, {_tops(self.stress)}"


class Points(Sampled):
    """Stresses at some strains; what lies between does not count."""

    def words(self) -> str:
        count = len(self.strain)
        return f"{count} point{'s' * (count > 1)} {span(self.strain)}, {_tops(self.stress)}"


def read_curve(value: Any, info: ValidationInfo) -> Any:
    """Read a curve and resample it to the strains of the grid that it covers."""
    if isinstance(value, Curve):
        return value
    stress, known = resample(*_given(value, info), CURVE_STRAIN)
    if not known.any():
        raise ValueError(f"it gives no stress at strains from 0 to {LAST:.0%}")
    return Curve(strain=CURVE_STRAIN[known].tolist(), stress=stress[known].tolist())


def read_points(value: Any, info: ValidationInfo) -> Any:
    """Read the points of a curve up to the last strain."""
    if isinstance(value, Points):
        return value
    strain, stress = _given(value, info)
    known = np.isfinite(stress) & (strain <= LAST + TOLERANCE)
    if not known.any():
        raise ValueError(f"it gives no stress at strains from 0 to {LAST:.0%}")
    return Points(strain=strain[known].tolist(), stress=stress[known].tolist())


def _given(value: Any, info: ValidationInfo) -> tuple[NDArray, NDArray]:
    """Return strains and stresses (points,) of a file, of a row of a file, or of two lists."""
    goal = (info.context or {}).get("path", Path("goal"))
    if isinstance(value, str):
        value = {"file": value}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{short(value)} is not a curve; name a CSV file, or give lists 'strain [%]' and "
            "'stress [MPa]'"
        )
    if "file" in value:
        return _from_file(goal, **_texts(value, ("file", "target")))
    columns = {}
    for heading, numbers in value.items():
        name = next((n for n in ("strain", "stress") if str(heading).lower().startswith(n)), None)
        if name is None or name in columns:
            raise ValueError(
                f"{short(heading)} is not one of file, target, 'strain [%]' and 'stress [MPa]'"
            )
        columns[name] = _column(numbers, str(heading)) * unit_factor(goal, str(heading))
    if set(columns) != {"strain", "stress"} or len({len(c) for c in columns.values()}) > 1:
        raise ValueError("it needs lists 'strain [%]' and 'stress [MPa]' of the same length")
    return checked_curve(goal, "given in it", columns["strain"], columns["stress"])


def _column(numbers: Any, heading: str) -> NDArray:
    if not isinstance(numbers, list | tuple) or not numbers:
        raise ValueError(f"{heading!r} is not a list of numbers")
    wrong = [n for n in numbers if isinstance(n, bool) or not isinstance(n, int | float)]
    if wrong:
        raise ValueError(f"{short(wrong[0])} in {heading!r} is not a number")
    try:
        return np.array([float(number) for number in numbers])
    except OverflowError as error:
        raise ValueError(f"a number in {heading!r} is too large") from error


def _texts(value: Mapping[Any, Any], keys: Sequence[str]) -> dict[str, str]:
    for key, text in value.items():
        if key not in keys or not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"{short(key)}: {short(text)} is not one of {', '.join(keys)}")
    return dict(value)


def _from_file(goal: Path, file: str, target: str | None = None) -> tuple[NDArray, NDArray]:
    """Return the only curve of a CSV beside the goal, or the one of that name."""
    path = goal.parent / file
    found = {name: (strain, stress) for name, strain, stress in read_curves(path)}
    if target is None and len(found) == 1:
        return next(iter(found.values()))
    if target not in found:
        listed = ", ".join(list(found)[:10])
        raise ValueError(f"{path} holds the targets {listed}; name one of them, as 'target'")
    return found[target]


class Band(Wish):
    """Bounds between which the curve should run; either may be left out."""

    lower: Curve | None = None
    upper: Curve | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_curves(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace files, lists and stresses by curves; from and to belong to stresses."""
        if not isinstance(value, Mapping):
            return value
        rest = dict(value)
        ends = [as_strain(rest.pop(key, default)) for key, default in (("from", 0), ("to", LAST))]
        for side in ("lower", "upper"):
            given = rest.get(side)
            if given is None:
                continue
            if is_quantity(given):
                strain, level = _grid(*ends), as_stress(given)
                rest[side] = Curve(strain=strain.tolist(), stress=[level] * len(strain))
            else:
                rest[side] = _within(read_curve(given, info), *ends)
        return rest

    @model_validator(mode="after")
    def _is_a_band(self) -> Band:
        if self.lower is None and self.upper is None:
            raise ValueError("a band needs lower or upper")
        bounds = self.bounds()
        crossed = bounds.low > bounds.high
        if crossed.any():
            raise ValueError(f"lower is above upper at a strain of {bounds.strain[crossed][0]:.1%}")
        if not np.any(bounds.middle()):
            raise ValueError("lower and upper cancel each other everywhere")
        return self

    def bounds(self) -> Bounds:
        low, high = np.full(len(CURVE_STRAIN), -np.inf), np.full(len(CURVE_STRAIN), np.inf)
        for values, side in ((low, self.lower), (high, self.upper)):
            if side is not None:
                values[np.rint(np.array(side.strain) / GRID).astype(int)] = side.stress
        asked = np.isfinite(low) | np.isfinite(high)
        return Bounds(CURVE_STRAIN[asked], low[asked], high[asked])

    def words(self) -> str:
        sides = {"at least": self.lower, "at most": self.upper}
        parts = [
            f"{how} {_range(side.stress)} {span(side.strain)}"
            for how, side in sides.items()
            if side is not None
        ]
        return "a stress of " + ", ".join(parts)


class Stretch(Wish):
    """A wish for the strains between two ends."""

    start: Strain = Field(0.0, alias="from")
    end: Strain = Field(LAST, alias="to")

    @model_validator(mode="after")
    def _has_strains(self) -> Stretch:
        if len(self.strains()) < 3:
            raise ValueError(f"from and to must be {2 * GRID:.1%} of strain apart, or more")
        return self

    def strains(self) -> NDArray:
        return _grid(self.start, self.end)

    def ends(self) -> str:
        return span([self.start, self.end])

    def part(self, stress: NDArray) -> NDArray:
        """Stress (..., k) at the strains of the stretch."""
        first = int(np.searchsorted(CURVE_STRAIN, self.strains()[0]))
        return np.asarray(stress, np.float64)[..., first : first + len(self.strains())]


class Plateau(Stretch):
    """A constant stress: the one given, or any."""

    stress: Stress | None = None

    def bounds(self) -> Bounds | None:
        if self.stress is None:
            return None
        level = np.full(len(self.strains()), self.stress)
        return Bounds(self.strains(), level, level)

    def error(self, stress: NDArray) -> NDArray:
        if self.stress is not None:
            return super().error(stress)
        part = self.part(stress)
        mean = np.broadcast_to(part.mean(axis=-1, keepdims=True), part.shape)
        return _ratio(part - mean, mean)

    def words(self) -> str:
        level = "" if self.stress is None else f" at {self.stress:g} MPa"
        return f"a plateau{level} {self.ends()}"


class Softening(Stretch):
    """A stress that never rises, and falls to a part of what it was."""

    ratio: float = Field(0.8, ge=0, lt=1)

    def error(self, stress: NDArray) -> NDArray:
        part = self.part(stress)
        rises = part - np.minimum.accumulate(part, axis=-1)
        return _with_line(rises, part[..., -1] - self.ratio * part[..., 0], part)

    def words(self) -> str:
        return f"softening {self.ends()}, to {self.ratio:g} of the stress or less"


class Stiffening(Stretch):
    """A stress that rises ever more steeply, and to a multiple of what it was."""

    ratio: float = Field(1.5, gt=1, le=1000)

    def error(self, stress: NDArray) -> NDArray:
        part = self.part(stress)
        bends = part - convex_minorant(part)
        return _with_line(bends, self.ratio * part[..., 0] - part[..., -1], part)

    def words(self) -> str:
        return f"stiffening {self.ends()}, to {self.ratio:g} times the stress or more"


class Energy(Wish):
    """Energy absorbed per volume of the cell: the area under the curve, in MJ/m3 = MPa."""

    up_to: Strain = LAST
    at_least: EnergyDensity | None = None
    at_most: EnergyDensity | None = None

    @model_validator(mode="after")
    def _has_bounds(self) -> Energy:
        check_bounds(self.at_least, self.at_most)
        if self.up_to < GRID:
            raise ValueError(f"up_to must be {GRID:.1%} or more")
        return self

    def error(self, stress: NDArray) -> NDArray:
        strain = np.append(CURVE_STRAIN[CURVE_STRAIN < self.up_to - TOLERANCE], self.up_to)
        at = stress_at(stress, strain)
        energy = (0.5 * (at[..., 1:] + at[..., :-1])) @ np.diff(strain)
        low, high = self.at_least or 0.0, self.at_most or np.inf
        wanted = np.clip(energy, low, high)
        return np.where(energy == wanted, 0.0, np.abs(energy - wanted) / np.abs(wanted))

    def words(self) -> str:
        return (
            f"an energy of {bounds_words(self.at_least, self.at_most, ' MJ/m3')} absorbed up to "
            f"{_per_cent(self.up_to)}"
        )


# --- helpers -------------------------------------------------------------------------------------


def _grid(start: float, end: float) -> NDArray:
    """Strains of the grid between two ends, both included."""
    return CURVE_STRAIN[(CURVE_STRAIN >= start - TOLERANCE) & (CURVE_STRAIN <= end + TOLERANCE)]


def _within(curve: Curve, start: float, end: float) -> Curve:
    """The part of a curve between two strains."""
    kept = [
        p
        for p in zip(curve.strain, curve.stress, strict=True)
        if start <= p[0] + TOLERANCE and p[0] <= end + TOLERANCE
    ]
    if not kept:
        raise ValueError("a bound gives no stress between from and to")
    return Curve(strain=[s for s, _ in kept], stress=[s for _, s in kept])


def stress_at(stress: NDArray, strain: NDArray) -> NDArray:
    """Curves (..., 51) at strains (k,), interpolated linearly, (..., k)."""
    stress = np.asarray(stress, np.float64)
    place = np.clip(strain / GRID, 0, len(CURVE_STRAIN) - 1)
    nearest = np.rint(place).astype(int)
    exact = np.abs(CURVE_STRAIN[nearest] - strain) <= TOLERANCE
    left = np.where(exact, nearest, np.floor(place)).astype(int)
    right = np.where(exact, nearest, left + 1).clip(max=len(CURVE_STRAIN) - 1)
    part = np.where(exact, 0.0, place - left)
    return stress[..., left] * (1 - part) + stress[..., right] * part


def _ratio(delta: NDArray, reference: NDArray) -> NDArray:
    """Norm of (..., k) over that of a reference; 1 where the reference is 0."""
    size = np.linalg.norm(reference, axis=-1)
    distance = np.linalg.norm(delta, axis=-1)
    return np.where(size == 0, 1.0, distance / np.where(size == 0, 1.0, size))


def _with_line(delta: NDArray, missing: NDArray, part: NDArray) -> NDArray:
    """Error of a shape: delta (..., k), and a line from 0 to what is missing at the end (...)."""
    line = np.linspace(0, 1, part.shape[-1]) * np.maximum(missing, 0)[..., None]
    return _ratio(np.hypot(delta, line), part)


def convex_minorant(values: NDArray) -> NDArray:
    """The largest convex curve that is nowhere above curves (..., k) at equal steps."""
    below = np.array(values, np.float64)
    count = below.shape[-1]
    for i in range(count):
        for j in range(i + 2, count):
            part = np.arange(1, j - i) / (j - i)
            chord = values[..., i, None] * (1 - part) + values[..., j, None] * part
            np.minimum(below[..., i + 1 : j], chord, out=below[..., i + 1 : j])
    return below


def check_bounds(low: float | None, high: float | None) -> None:
    if low is None and high is None:
        raise ValueError("at_least or at_most is needed")
    if low is not None and high is not None and low > high:
        raise ValueError(f"at_least {low:g} is more than at_most {high:g}")


def bounds_words(low: float | None, high: float | None, unit: str = "") -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}{unit}"
    return f"at least {low:g}{unit}" if high is None else f"at most {high:g}{unit}"


def _per_cent(strain: float) -> str:
    return f"{100 * strain:.4g} %"


def span(strain: Sequence[float] | NDArray) -> str:
    if len(strain) == 1:
        return f"at {_per_cent(strain[0])}"
    return f"from {_per_cent(strain[0])} to {_per_cent(strain[-1])}"


def _tops(stress: Sequence[float]) -> str:
    return f"up to {max(stress):.4g} MPa"


def _range(stress: Sequence[float]) -> str:
    low, high = min(stress), max(stress)
    return f"{low:.4g} MPa" if low == high else f"{low:.4g} to {high:.4g} MPa"
