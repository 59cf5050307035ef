"""The example that reads a data set: it learns where there is something to learn."""

import importlib.util
from pathlib import Path

import numpy as np

import synthetic
from crumple.config import Config

EXAMPLE = Path(__file__).parents[2] / "examples/train_another_model.py"


def test_a_regression_on_the_data_set(tmp_path):
    manifest = synthetic.write_dataset(tmp_path, 24, 12, Config())
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert 0 < example.main(str(manifest)) < 1
    # control: a penalty that leaves nothing but zero
    assert np.isclose(example.main(str(manifest), ridge=1e12), 1)
