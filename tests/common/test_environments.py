"""The dependencies: pyproject.toml lists them; constraints and conda files pin the same ones."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FROM_DEBIAN = {"scipy", "pyyaml"}  # .venv-fe sees the system's packages
CONDA_NAMES = {
    "pytorch": "torch",
    "python-gmsh": "gmsh",
    "matplotlib-base": "matplotlib",
}
CONDA_ONLY = {"python", "fenics-dolfinx", "mpich", "pip"}
WORKFLOW_ONLY = {"snakemake", "snakemake-executor-plugin-slurm"}
# conda-forge builds dolfinx against another NumPy and SciPy than Debian 12
ANOTHER_VERSION = {"numpy"} | FROM_DEBIAN


def required(*extras):
    """Return the requirements of the package with these extras, by name."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    requirements = {}
    for requirement in map(Requirement, lines):
        requirements.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return requirements


def constraints(name):
    """Return the pinned version of each package of a constraints file."""
    lines = (ROOT / f"envs/{name}.constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    assert not [pin for pin in pins if "+" in str(pin.specifier)]  # no local build such as +cpu
    assert len({pin.name for pin in pins}) == len(pins)
    return {canonicalize_name(p.name): str(p.specifier).removeprefix("==") for p in pins}


def conda(name):
    """Return the pinned version of each package of a conda file, by its name on PyPI."""
    listed = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"]
    lines = [line for line in listed if isinstance(line, str)]
    lines += [line for group in listed if isinstance(group, dict) for line in group["pip"]]
    pins = {}
    for line in lines:
        match = re.fullmatch(r"(\S+)(?: ==(\S+))?( ;.*)?", line)
        assert match, line
        pins[CONDA_NAMES.get(match[1], match[1])] = match[2]
    return pins


@pytest.mark.parametrize(
    "name, extras", [("fem", ["fem", "test"]), ("learn", ["learn", "share", "test", "dev", "docs"])]
)
def test_every_dependency_is_pinned(name, extras):
    pins = constraints(name)
    for package, requirements in required(*extras).items():
        if name == "fem" and package in FROM_DEBIAN:
            continue
        assert package in pins, f"{package} isn't in envs/{name}.constraints.txt"
        for requirement in requirements:
            assert pins[package] in requirement.specifier, f"{package} of {name}"


@pytest.mark.parametrize(
    "name, extras", [("fem", ["fem", "test"]), ("learn", ["learn", "test"]), ("workflow", [])]
)
def test_conda_files_hold_the_same_packages(name, extras):
    pins = conda(name)
    wanted = set(required(*extras)) - WORKFLOW_ONLY
    if name == "workflow":
        wanted |= WORKFLOW_ONLY
    assert set(pins) - CONDA_ONLY == wanted
    assert {package for package, version in pins.items() if version is None} <= {"mpich", "pip"}
    learn = constraints("learn")
    tested = constraints("fem") if name == "fem" else learn
    for package in wanted:
        where = learn if name == "fem" and package in ANOTHER_VERSION else tested
        assert pins[package] == where[package], f"{package} of envs/{name}.yaml"


def test_setup_installs_the_extras():
    setup = (ROOT / "setup.sh").read_text()
    for extra in PROJECT["optional-dependencies"]:
        assert re.search(rf"(learn|fem) \S*\b{extra}\b", setup), extra


@pytest.mark.skipif(not shutil.which("apt-get"), reason="setup.sh is for Debian and Ubuntu")
def test_setup_ends_where_there_is_no_python(tmp_path):
    """With one sentence, and without going on with the name of none."""
    for name in ("setup.sh", "pyproject.toml", "envs"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv-fe/bin/python"  # this environment is there already
    python.parent.mkdir(parents=True)
    python.write_text("")
    python.chmod(0o755)
    listed = [tmp_path / "envs/fem.constraints.txt", tmp_path / "pyproject.toml"]
    listed_hash = hashlib.sha256(b"".join(path.read_bytes() for path in listed)).hexdigest()
    (tmp_path / ".venv-fe/.up-to-date").write_text(f"{listed_hash}  - {tmp_path}")
    done = subprocess.run(
        ["bash", "setup.sh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": "/no/python"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: error: no Python >= 3.11")


def test_the_workflow_asks_for_the_snakemake_that_is_installed():
    asked = re.search(r'min_version\("(.*)"\)', (ROOT / "Snakefile").read_text())
    assert asked
    assert required("learn")["snakemake"][0].specifier == SpecifierSet(f">={asked[1]}")
