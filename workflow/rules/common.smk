# The validated configuration, what a rule depends on, and how a rule calls crumple.

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from crumple.config import (
    cross_check,
    operation,
    parse_config,
    read_source,
    stage_settings,
)
from crumple.errors import UserError
from crumple.goals import file_name, read_goals
from crumple.library import packaged, require_package
from crumple.provenance import MODEL_FILES
from crumple.targets import read_targets

try:
    for path in workflow.configfiles:
        read_source(
            path
        )  # stricter than Snakemake, which takes the last of two equal keys
    CONFIG = parse_config(config)
    cross_check(CONFIG)
    if CONFIG.models == "package":
        require_package(CONFIG)
except UserError as error:
    raise WorkflowError(str(error))


pathvars:
    results=f"results/{CONFIG.run}",
    logs=f"results/{CONFIG.run}/logs",
    benchmarks=f"results/{CONFIG.run}/benchmarks",


wildcard_constraints:
    set="data|verified",
    shard=r"\d+",
    round=r"\d+",
    goal=r"[A-Za-z0-9_.-]+",


def settings(stage):
    """Return the settings that the result of a stage depends on, as JSON.

    They go into ``params``: when a value in them changes, Snakemake runs again what depends on it.
    """
    return json.dumps(stage_settings(CONFIG, stage))


def designs_of_shard(wildcards):
    """Return what the designs of one shard depend on.

    A larger data set adds shards and leaves the full ones alone, so ``count`` ends with the shard.
    """
    values = stage_settings(CONFIG, "sample")
    designs = values["designs"]
    end = (int(wildcards.shard) + 1) * designs["shard_size"]
    designs["count"] = min(designs["count"], end)
    return json.dumps(values)


def shards(count):
    """Return the names of the shards that hold ``count`` designs."""
    return [f"{k:04d}" for k in range(math.ceil(count / CONFIG.designs.shard_size))]


# Rounds of a search, and the shards of a round.
ROUNDS = [
    f"{k:03d}" for k in range(math.ceil(CONFIG.search.budget / CONFIG.search.batch))
]
ROUND_SHARDS = [
    f"{k:04d}" for k in range(math.ceil(CONFIG.search.batch / CONFIG.search.shard_size))
]
ROUND = "<results>/search/{goal}/rounds/{round}"


def folder_of_inputs(wildcards, input):
    """Return the folder of all inputs: thousands of names are longer than a command may be."""
    return os.path.dirname(input[0])


def folder_of_outputs(wildcards, output):
    """Return the folder of all outputs."""
    return os.path.dirname(output[0])


def options_of_models(wildcards, input):
    """Return the options that name the folders of the models."""
    folders = {
        name: os.path.dirname(input[name][0]) for name in MODELS if name in input.keys()
    }
    return [word for name in folders for word in (f"--{name}", folders[name])]


def file_of_targets(name):
    """Return a file of targets or goals: as given, or beside the workflow, as the default is."""
    given = Path(name)
    beside = Path(workflow.basedir) / given
    return beside if beside.exists() and not given.exists() else given


def verified_count():
    """Return how many generated designs are simulated at most."""
    try:
        given = read_targets(
            [file_of_targets(CONFIG.evaluation.targets)], np.linspace(0, 0.2, 11)
        ).names
    except (UserError, OSError) as error:
        raise WorkflowError(f"evaluation.targets: {error}")
    return (len(given) + CONFIG.evaluation.held_out) * CONFIG.evaluation.verify


def from_package(name):
    """Return the path of what comes with the package, from the working directory.

    A repository that moves as a whole, results and all, has the same inputs then.
    """
    return os.path.relpath(packaged(name))


def names_of_goals():
    """Return the names of the goals by what their folders are called."""
    try:
        return {
            file_name(goal.name): goal.name
            for goal in read_goals([file_of_targets(CONFIG.search.goals)])
        }
    except (UserError, OSError) as error:
        raise WorkflowError(f"search.goals: {error}")


def earlier_results(wildcards):
    """Return the results of all rounds before one."""
    earlier = ROUNDS[: int(wildcards.round)]
    place = "<results>/search/{goal}/rounds/{round}/results.npz"
    return expand(place, goal=wildcards.goal, round=earlier)


def name_of_goal(wildcards):
    """Return the name of a goal in its file."""
    return names_of_goals()[wildcards.goal]


def memory(megabytes):
    """Return a function that asks for twice the memory when a job is tried again.

    No more than that: a training has as many tries as time limits, and no node has the memory of
    the last.
    """

    def mem_mb(wildcards, attempt):
        return megabytes * min(attempt, 2)

    return mem_mb


def minutes(limit):
    """Return a function that gives a stage which begins anew more time with each try."""

    def runtime(wildcards, attempt):
        return limit * attempt

    return runtime


def minutes_per_shard(seconds_per_design):
    """Return the time limit of a job that works through one shard, in minutes."""
    return 5 + math.ceil(CONFIG.designs.shard_size * seconds_per_design / 60)


def interpreter(environment):
    """Return the Python of a virtual environment, or of conda's when Snakemake activates one."""
    if "conda" in {
        str(method).lower() for method in workflow.deployment_settings.deployment_method
    }:
        return "python"
    return str(Path(workflow.basedir) / environment / "bin" / "python")


# `fem` and `learn` in a shell command are crumple in its two environments, and $OPERATION holds the
# settings that change how a result is made and not the result, such as training.log_every. They are
# defined here, outside the rules, because another value is no reason to run anything again. They
# replace the shell (exec): it would end at once when Slurm announces the time limit, and Slurm would
# take that for the end of the job, while training still saves its checkpoint.
os.environ.update(
    OPERATION=json.dumps(operation(CONFIG)),
    FEM_PYTHON=interpreter(".venv-fe"),
    LEARN_PYTHON=interpreter(".venv"),
    PYTHONPATH=str(Path(workflow.basedir) / "src"),
)
shell.prefix(
    'fem() {{ exec "$FEM_PYTHON" -m crumple "$@"; }}; '
    'learn() {{ exec ${{launch-}} "$LEARN_PYTHON" -m crumple "$@"; }}; '
    "export NUMBA_NUM_THREADS=$OMP_NUM_THREADS; "
)
