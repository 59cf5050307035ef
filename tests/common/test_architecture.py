"""Data flows one way: what a module of the package may import, read from its source."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "crumple"
SHARED = 0  # what every stage may import
ORDER = {  # modules by the stage that they belong to; a package stands for all in it
    **dict.fromkeys(
        (
            "__init__",
            "atomic",
            "config",
            "errors",
            "layout",
            "metrics",
            "plotting",
            "processes",
            "progress",
            "provenance",
            "readers",
            "seeds",
        ),
        SHARED,
    ),
    "designs": 1,
    "outline": 2,
    "widths": 2,
    "meshing": 2,
    "fem": 3,
    "simulation": 4,
    "verification": 4,
    "dataset": 5,
    "fields": 6,
    "shards": 7,
    "inspection": 6,
    "library": 6,
    "targets": 7,
    "quantities": 7,
    "wishes": 7,
    "goals": 7,
    "goal_check": 7,
    "topology": 7,
    "candidates": 8,
    "published": 8,
    "lookup": 8,
    "exports": 8,
    "sensitivity": 8,
    "diffusion": 9,
    "refinement": 9,
    "results": 10,
    "evaluation": 11,
    "report": 12,
    "croissant": 12,
    "search": 13,
    "check": 14,
    "crate": 15,
    "cli": 16,
    "__main__": 17,
}
FOREIGN = {  # packages that only some modules know of
    "torch": {"diffusion", "refinement", "search"},
    "accelerate": {"diffusion"},
    "safetensors": {"diffusion"},
    "dolfinx": {"fem"},
    "petsc4py": {"fem"},
    "ipctk": {"fem"},
    "gmsh": {"meshing"},
    "jinja2": {"report", "search"},
    "mlcroissant": {"croissant"},
    "rocrate": {"crate"},
    "ezdxf": {"exports"},
    "trimesh": {"exports"},
}


def imports(source: str) -> set[str]:
    """Return the full names of all modules that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def stage(module: str) -> str:
    """Return the part of the package that ``crumple.x.y`` belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "__init__"


def violations(where: str, source: str) -> list[str]:
    """Return what the source of a part of the package imports and must not."""
    wrong = []
    for name in sorted(imports(source)):
        top = name.split(".")[0]
        if where not in FOREIGN.get(top, {where}):
            wrong.append(f"{where} imports {top}")
        if top == "crumple" and ORDER[stage(name)] > ORDER[where]:
            wrong.append(f"{where} imports {name}, which comes later")
    return wrong


SOURCES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_module_imports_a_later_stage(path):
    assert part(path) in ORDER, f"say in ORDER which stage {path.name} belongs to"
    assert violations(part(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("fem", "import torch"),
        ("diffusion", "from dolfinx import mesh"),
        ("fem", "from crumple.fields import von_mises"),
        ("diffusion", "def f():\n    from crumple.evaluation import nrmse"),
        ("verification", "from crumple import evaluation"),
        ("report", "import crumple.cli"),
    ],
)
def test_control_what_was_wrong_is_found(where, source):
    assert violations(where, source)
    assert not violations(where, "import numpy\nfrom crumple.errors import UserError")


def classes(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]


def test_no_two_classes_have_one_name():
    """A reader who finds a name finds one thing."""
    names = Counter(name for path in SOURCES for name in classes(path.read_text(encoding="utf-8")))
    assert [name for name, count in names.items() if count > 1] == []


def test_control_classes_are_found():
    assert classes("class A: pass\n@final\nclass B(A):\n    class C: pass") == ["A", "B"]
    assert "Dataset" in classes((PACKAGE / "dataset.py").read_text(encoding="utf-8"))
