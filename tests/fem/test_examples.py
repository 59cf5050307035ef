"""The examples run and show what they say."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_physical_setting_changes_the_curve():
    last = load("change_the_physics").main(element_size=0.03)
    paper = last.pop("as in the paper")
    for name, stress in last.items():
        assert stress < 0.99 * paper, name
    assert paper == pytest.approx(39.5, rel=0.02)
