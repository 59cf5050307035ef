"""Hooks of the documentation site: equations as MathML, the reference of the configuration.

``$...$`` and ``$$...$$`` in a page are LaTeX. They are translated when the site is built, so that
a reader needs neither a network nor a script. ``<!-- configuration -->`` becomes the list of all
settings, from ``crumple.config``.
"""

import re

from latex2mathml.converter import convert

from crumple.config import STAGE_SECTIONS, default_yaml

FENCE = re.compile(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"\$(?=\S)([^$\n]+?)(?<=\S)\$")
TOKEN = "equation{:04d}here"


def on_page_markdown(markdown, page, **kwargs):
    """Put a token in the place of every equation, which Markdown leaves alone."""
    page.equations = []

    def keep(display):
        def token(match):
            page.equations.append(convert(match[1].strip(), display=display))
            return TOKEN.format(len(page.equations) - 1)

        return token

    parts = FENCE.split(markdown)
    for k in range(0, len(parts), 2):  # the others are code
        parts[k] = DISPLAY.sub(keep("block"), parts[k])
        parts[k] = INLINE.sub(keep("inline"), parts[k])
    return "".join(parts).replace("<!-- configuration -->", configuration())


def on_page_content(html, page, **kwargs):
    """Put the equations back."""
    for number, equation in enumerate(page.equations):
        html = html.replace(TOKEN.format(number), equation)
    return html


def configuration():
    """Return every setting by section, with the stages that a change runs again, as Markdown."""
    _, *sections = default_yaml().split("\n\n")
    lines = []
    for section in sections:
        name = re.search(r"^(\w+):", section, re.MULTILINE)[1]
        stages = [
            stage
            for stage, parts in STAGE_SECTIONS.items()
            if any(part.split(".")[0] == name for part in parts)
        ]
        lines += [f"## {name}", f"Read by: {', '.join(f'`{stage}`' for stage in stages)}."]
        lines += [f"```yaml\n{section.strip()}\n```"]
    return "\n\n".join(lines)
