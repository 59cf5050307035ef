"""What the documentation says of formats and messages is so; its equations need no network."""

import ast
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from crumple import candidates, dataset, designs, library

ROOT = Path(__file__).parents[2]


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "schema", [designs.DESIGNS, dataset.SHARD, candidates.STORE, library.LIBRARY]
)
def test_formats_name_every_array(schema):
    text = (ROOT / "docs/formats.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    assert {*schema.arrays, *schema.optional} <= named
    if schema.format:
        assert f"`{schema.format}`, version {schema.version}" in text


def test_manifest_keys_are_named():
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/formats.md").read_text()))
    assert set(dataset.Manifest.model_fields) - {"format", "version"} <= named


def messages():
    """All texts of the code, one per line, with ... for values."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_messages_are_quoted_as_they_are():
    text = " ".join((ROOT / "docs/troubleshooting.md").read_text().split())
    heads = re.findall(r"\*\*(.*?)\*\*", text)
    quoted = [quote for head in heads for quote in re.findall(r'"(.*?)"', head)]
    known = messages()
    assert len(quoted) > 5
    for quote in quoted:
        assert quote.removeprefix("...").removesuffix("...") in known, quote
    assert "... isn't a result of crumple" not in known  # control


def test_equations_become_mathml_and_code_stays():
    page = SimpleNamespace()
    code = "```\necho $HOME $PATH\n```\n`$x$` costs 3 $\n"
    text = "With $a_i^2$ and\n\n$$ b = \\frac{1}{2} $$\n\n" + code
    markdown = hooks().on_page_markdown(text, page)
    assert len(page.equations) == 2
    assert "echo $HOME $PATH" in markdown and "`$x$`" in markdown and "3 $" in markdown
    html = hooks().on_page_content(markdown, page)
    assert "<msubsup>" in html and "<mfrac>" in html and "\\frac" not in html


def test_the_reference_has_every_section():
    text = hooks().configuration()
    assert (
        "## contact" in text and "Read by: `simulate`, `index`, `train`, `train-designer`" in text
    )
    assert "barrier_stiffness: 20.0" in text
