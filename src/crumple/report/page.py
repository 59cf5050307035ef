"""The page: templates filled with what the sections say.

``templates/page.html`` is the frame, a template per section stands beside it, and ``macros.html``
has what they share. Everything that is put into a template is escaped.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
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
def environment() -> Environment:
    """Return the templates of the page."""
    templates = Environment(
        loader=PackageLoader("crumple.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    templates.filters["percent"] = percent
    templates.globals["asset"] = asset
    templates.globals["colour_scale"] = (
        "linear-gradient(90deg," + ",".join(f"rgb{stop}" for stop in STOPS) + ")"
    )
    return templates


def asset(name: str) -> Markup:
    """Return a file of ``assets/``, to be put into the page as it is."""
    text = (resources.files("crumple.report") / "assets" / name).read_text(encoding="utf-8")
    return Markup(text)


def render(**content: Any) -> str:
    """Return the page as HTML."""
    return environment().get_template("page.html").render(**content)
