"""The page: templates filled with what the sections say.

``templates/page.html`` is the frame, a template per section stands beside it, and ``macros.html``
has what they share. Another package can have sections of its own for another page: its templates
come first. Everything that is put into a template is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crumple.report.words import percent

STOPS = [  # compression, unloaded, tension: blue to sand to red
    (16, 44, 87),
    (38, 96, 150),
    (124, 172, 200),
    (222, 216, 203),
    (224, 160, 112),
    (188, 76, 42),
    (116, 22, 20),
]


@cache
def environment(package: str = "crumple.report") -> Environment:
    """Return the templates of a page: those of a package, and the report's."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("crumple.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    templates.filters["percent"] = percent
    templates.globals["asset"] = asset
    templates.globals["gradient"] = gradient
    return templates


def asset(name: str) -> Markup:
    """Return a file of ``assets/``, to be put into the page as it is."""
    text = (resources.files("crumple.report") / "assets" / name).read_text(encoding="utf-8")
    return Markup(text)


def gradient(stops: Sequence[tuple[int, int, int]] = STOPS) -> str:
    """Return a colour scale as CSS has it."""
    return "linear-gradient(90deg," + ",".join(f"rgb{stop}" for stop in stops) + ")"


def render(package: str = "crumple.report", **content: Any) -> str:
    """Return the page of a package as HTML."""
    return environment(package).get_template("page.html").render(**content)
