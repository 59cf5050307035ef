"""What these tests share: a made-up data set, a very small model, and a browser."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

import browsing
import synthetic
from crumple.config import Config

SHORT = {"steps": 4, "batch": 2, "micro_batch": 2, "validation_samples": 2, "precision": "fp32"}
SETTINGS = {
    "model": {"channels": [16, 32], "depths": [1, 1], "patch": 4, "embedding": 32, "head": 16}
    | {"spatial_attention": 12},
    "training": {
        "steps": 6,
        "batch": 4,
        "micro_batch": 2,
        "warmup": 2,
        "log_every": 1,
        "validate_every": 3,
        "validation_samples": 2,
        "precision": "fp32",
        "compile": "no",  # takes minutes where there is a GPU
        "checkpoint_minutes": 1e-6,
    },
    "designer": {"channels": [16, 32], "depths": [1, 1], "embedding": 32},
    "designer_training": SHORT,
    "response_training": SHORT,
    "response": {"members": 2, "channels": [16, 32], "depths": [1, 1]},
    "generation": {"candidates": 2, "draws": 7, "refinements": 1, "batch": 3, "steps": 3},
}


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """``dataset.json`` of 12 designs in two shards."""
    folder = tmp_path_factory.mktemp("data")
    return synthetic.write_dataset(folder, 12, 6, Config())


@pytest.fixture(scope="session")
def settings() -> Config:
    """Settings of a run that takes seconds."""
    return Config.model_validate(SETTINGS)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless browser; see :mod:`browsing`."""
    driver = browsing.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def another_precision_in_the_same_process():
    """Forget what Accelerate keeps of a training: a command trains once, these tests many times."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
