"""How figures and names are written for people."""

from __future__ import annotations

from crumple.results import HELD_OUT

GAP = "\N{NO-BREAK SPACE}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}{GAP}%"


def title(name: str) -> str:
    """Return a target's name for people: ``b_stiffening_at_10`` is `b stiffening at 10`."""
    number = name.removeprefix(HELD_OUT)
    if number != name and number.isdecimal():
        return f"held-out design {int(number)}"
    return name.replace("_", " ")


def plural(count: int, noun: str) -> str:
    """Return a number of things."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
