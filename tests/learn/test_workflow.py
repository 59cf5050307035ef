"""What Snakemake runs again after a change, with stand-ins for the two interpreters.

The stand-in only writes what ``--out`` (or ``--sheet``) names, so a whole run takes seconds and the
rules' inputs, outputs and params are the real ones.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from crumple.config import STAGE_SECTIONS, load_config, operation, stage_settings

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
STAND_IN = """#!/usr/bin/env bash
set -eu
root=$(dirname "$0")/../..
stage=$3 configs=()
echo "$stage" >> "$root/commands.txt"
cat "/proc/$PPID/comm" >> "$root/parents.txt"
printf '%s\n' "$@" > "$root/arguments-$stage.txt"
while [ $# -gt 1 ]; do
  case $1 in
    --out | --sheet) out=$2 ;;
    --config) configs+=("$2") ;;
  esac
  shift
done
printf '%s\n' "${configs[@]}" > "$root/given-$stage.jsonl"
case $stage in
  train) files="model.safetensors config.json normalisation.json" ;;
  train-*) files="${stage#train-}.safetensors ${stage#train-}.json" ;;
esac
[ -z "${files-}" ] || { mkdir -p "$out"; cd "$out"; date +%N >> checkpoint.pt
  for file in $files; do date +%N > $file; done; exit; }
[ "$stage" != propose ] || { mkdir -p "$out"; cd "$out"; date +%N > proposals.npz
  date +%N > 0000.npz; exit; }
case $out in
  *.npz | *.json | *.csv | *.html | *.png) date +%N > "$out" ;;
  *) mkdir -p "$out"; date +%N > "$out/content" ;;
esac
"""
DATA = {"sample", "mesh", "simulate", "rasterise", "index", "inspect", "library"}
MODEL = {"train", "train-designer", "train-response", "targets", "generate"}
LOOP = {"extract", "mesh", "simulate", "rasterise", "evaluate", "report"}
ALL = DATA | MODEL | LOOP
SEARCH = {"propose", "shard", "collect", "winner", "design-page"}
PACKAGE = {"targets", "generate"} | LOOP  # with the models of the package


def make_copy(folder: Path) -> Path:
    """Copy the workflow to ``folder`` and put stand-ins for the interpreters beside it."""
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    shutil.copytree(ROOT / "src/crumple", folder / "src/crumple")
    shutil.copytree(ROOT / "envs", folder / "envs")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for environment in (".venv", ".venv-fe"):
        python = folder / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN)
        python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a copy of the repository in which the toy run is complete."""
    folder = make_copy(tmp_path_factory.mktemp("finished"))
    snakemake(folder)
    assert set((folder / "commands.txt").read_text().split()) == ALL
    return folder


@pytest.fixture(scope="module")
def searched(finished, tmp_path_factory):
    """Return a copy in which the search for the paper's targets is complete too."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("searched") / "run")
    (folder / "commands.txt").unlink()
    snakemake(folder, "--", "search")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """Return a fresh copy of the finished run, times of change included."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Return a copy of the repository in which the run of the preset quick is complete."""
    folder = make_copy(tmp_path_factory.mktemp("quick"))
    snakemake(folder, preset="quick")
    return folder


def snakemake(folder, *arguments, check=True, preset="toy"):
    path = f"workflow/presets/{preset}.yaml"
    command = [SNAKEMAKE, "--cores", "2", "--configfile", path, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def planned(folder, *changes, targets=("all",), preset="toy"):
    """Return the jobs per rule that a dry run plans after these changes of the configuration."""
    changes = ["--config", *changes] if changes else []
    output = snakemake(folder, "--dry-run", *changes, "--", *targets, preset=preset).stdout
    if "Nothing to be done" in output:
        return {}
    table = output[output.index("Job stats") :].splitlines()[3:]
    rows = [line.split() for line in table[: table.index("")]]
    jobs = {rule.replace("_", "-"): int(count) for rule, count in rows}
    return {rule: count for rule, count in jobs.items() if rule not in ("all", "total")}


def test_no_try_asks_for_more_than_twice_the_memory():
    source = (ROOT / "workflow/rules/common.smk").read_text()
    names: dict = {}
    exec(source[source.index("def memory(") : source.index("def minutes(")], names)
    asked = [names["memory"](1000)(None, attempt) for attempt in (1, 2, 3, 20)]
    assert asked == [1000, 2000, 2000, 2000]


def test_running_again_does_nothing(run):
    assert planned(run) == {}


def test_no_shell_stands_between_snakemake_and_a_stage(finished):
    # A shell dies of the signal that announces a time limit; the stage may have to save its work.
    assert not {"bash", "sh"} & set((finished / "parents.txt").read_text().split())


def test_the_profile_says_what_starts_the_processes_of_a_rule(run):
    launcher = run / "launcher"
    launcher.write_text('#!/usr/bin/env bash\necho "$4" >> launched.txt\nexec "$@"\n')
    launcher.chmod(0o755)
    snakemake(run, "--set-resources", f"train:launch='{launcher}'", "--forcerun", "train")
    assert (run / "launched.txt").read_text().split() == ["train"]
    assert planned(run) == {}  # nor is another launcher a reason to train again


def test_a_search_is_rounds_of_proposals_and_simulations(searched):
    done = (searched / "commands.txt").read_text().split()
    goals, rounds = 4, 2  # four simulations in rounds of two
    assert {name: done.count(name) for name in set(done)} == {
        **{name: goals * rounds for name in ("propose", "shard", "collect")},
        **{name: goals for name in ("winner", "design-page")},
    }
    assert planned(searched, targets=["search"]) == {}


def test_a_larger_budget_adds_rounds_to_a_search(searched):
    more = planned(searched, "search={budget: 6}", targets=["search"])
    assert more == {"search": 1} | {name: 4 for name in SEARCH}


def test_another_friction_searches_again(searched):
    again = planned(searched, "contact={friction: 0.1}", targets=["search"])
    assert again["propose"] == again["shard"] == again["collect"] == 8


def test_snakemake_reports_the_results_with_their_captions(run):
    (run / "results/toy/evaluation/targets.csv").write_text("target,error\nstiff,0.1\n")
    snakemake(run, "--report", "provenance.html")
    page = " ".join((run / "provenance.html").read_text().split())
    for name in ("contact_sheet.png", "report.html", "targets.csv"):
        assert name in page
    captions = sorted((ROOT / "workflow/report").glob("*.rst"))
    assert len(captions) == 3
    for caption in captions:
        assert caption.read_text().split(".")[0].split("\n")[0] in page


def test_a_stage_that_begins_anew_gets_more_time_with_each_try():
    """Those that go on where they were need no more than they had."""
    goes_on = {"mesh", "simulate", "train", "train_designer", "train_response", "generate"}
    goes_on |= {"shard", "winner"}
    limits = {}
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"(?m)^rule ", path.read_text())[1:]:
            if "shell:" in rule:  # the rule search only names what it wants
                limits[rule.partition(":")[0]] = re.search(r"runtime=(.*),", rule)[1]
    assert goes_on < set(limits)
    grows = {rule for rule, limit in limits.items() if limit.startswith("minutes(")}
    assert grows == set(limits) - goes_on


def test_simulations_are_not_kept(run):
    assert not any((run / "results/toy").glob("*/simulations/*"))


@pytest.mark.parametrize(
    "change",
    [
        "training={log_every: 1, validate_every: 1, validation_samples: 3}",
        "training={micro_batch: 2, compile: 'no', checkpoint_minutes: 1}",
        "generation={batch: 1}",
    ],
)
def test_how_a_stage_works_reaches_it_and_runs_nothing_again(run, change):
    assert planned(run, change) == {}
    snakemake(run, "--config", change, "--forcerun", "train", "--until", "generate")
    section, _, values = change.partition("=")
    config = given_config(run, {"training": "train", "generation": "generate"}[section])
    for name, value in yaml.safe_load(values).items():
        assert getattr(getattr(config, section), name) == value


def given_config(run, stage):
    """Return what the rule of a stage gave it, which must be every setting of the stage."""
    given = (run / f"given-{stage}.jsonl").read_text().split("\n")
    return load_config(*filter(None, given), stage=stage)


@pytest.mark.parametrize("stage", [name for name in STAGE_SECTIONS if STAGE_SECTIONS[name]])
def test_a_rule_gives_its_stage_every_setting(finished, searched, stage):
    given = given_config(searched if stage in SEARCH else finished, stage)
    count = (
        given.designs.count if stage == "sample" else 8
    )  # a shard knows the designs up to its end
    toy = finished / "workflow/presets/toy.yaml"
    wanted = load_config(toy, json.dumps({"designs": {"count": count}}))
    assert stage_settings(given, stage) == stage_settings(wanted, stage)
    if stage in MODEL - {"targets"}:
        assert operation(given) == operation(wanted)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=1", ALL),
        ("designs={threshold_max: 0.5}", ALL),
        ("mesh={element_size: 0.03}", ALL - {"sample"}),
        ("contact={friction: 0.1}", ALL - {"sample"}),
        ("material={damping: 0.0}", ALL - {"sample"}),
        ("loading={platens: lubricated}", ALL - {"sample"}),
        ("dataset={validation_fraction: 0.5}", {"index", "inspect", "library"} | MODEL | LOOP),
        ("training={learning_rate: 0.001}", {"train", "generate"} | LOOP),
        ("generation={guidance: 3.0}", {"generate"} | LOOP),
        ("fields={eulerian: true}", ALL - {"sample"}),
        ("evaluation={held_out: 2}", {"targets", "generate"} | LOOP),
        ("evaluation={verify: 2}", LOOP),
    ],
)
def test_a_change_runs_what_depends_on_it_and_nothing_else(run, change, expected):
    assert set(planned(run, change)) == expected


def test_a_longer_training_finds_what_the_shorter_one_has_left(run):
    """Snakemake removes outputs before it makes them again; the checkpoint must not be one."""
    model = run / "results/toy/model"
    before = (model / "checkpoint.pt").read_text()
    weights = (model / "model.safetensors").read_text()
    snakemake(run, "--config", "training={steps: 16}", "--until", "train")
    assert (model / "checkpoint.pt").read_text().startswith(before)
    assert len((model / "checkpoint.pt").read_text().split()) == 2
    assert (model / "model.safetensors").read_text() != weights


def test_friction_leaves_the_meshes_of_the_data_set_alone(run):
    jobs = planned(run, "contact={friction: 0.1}")
    data_shards = verified_shards = 2
    assert jobs["mesh"] == verified_shards
    assert jobs["simulate"] == data_shards + verified_shards


def test_more_designs_add_shards_and_keep_the_full_ones(run):
    jobs = planned(run, "designs={count: 12}")
    assert jobs["sample"] == 1


def test_the_name_of_the_run_starts_a_new_one(run):
    assert set(planned(run, "run=other")) == ALL


def test_another_place_of_the_interpreter_runs_nothing(run):
    moved = run.rename(run.with_name("moved"))
    assert planned(moved) == {}


def test_a_single_result_can_be_asked_for(run):
    shard = "results/toy/data/shards/0001.zarr"
    shutil.rmtree(run / shard)
    assert planned(run, targets=[shard]) == {"simulate": 1, "rasterise": 1}


def test_names_of_targets_may_hold_spaces(run):
    name = "my own/two curves.csv"
    path = run / name
    path.parent.mkdir()
    shutil.copy(ROOT / "workflow/targets/paper.csv", path)
    (run / "commands.txt").unlink()
    snakemake(run, "--config", f"evaluation={{targets: '{name}'}}", "--", "results/toy/report.html")
    assert "generate" in (run / "commands.txt").read_text()
    assert name in (run / "arguments-generate.txt").read_text().splitlines()


def test_the_workflow_can_be_started_from_elsewhere(run, tmp_path):
    """With the targets that come with it; results go to the folder of the start."""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    preset = run / "workflow/presets/toy.yaml"
    command = [SNAKEMAKE, "-c2", "-s", run / "Snakefile", "--configfile", preset]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "results/toy/report.html").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("contact={friction: -1}", "'contact.friction' = -1 is not possible"),
        ("evaluation={verify: 3}", "evaluation.verify (3) is more than"),
        ("training={learning_rate: 1e999}", "finite"),
        ("evaluation={targets: absent.csv}", "absent.csv"),
        ("run={shard}", "'run'"),
        ("evaluation={targets: '{shard}.csv'}", "'evaluation.targets'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(run, change, words):
    done = snakemake(run, "--dry-run", "--config", change, check=False)
    assert_one_sentence(done, words)


def test_a_key_that_stands_twice_in_a_preset_is_one_sentence(run):
    with (run / "workflow/presets/toy.yaml").open("a") as file:
        file.write("seed: 1\nseed: 2\n")
    assert_one_sentence(snakemake(run, "--dry-run", check=False), "'seed' stands there twice")


def assert_one_sentence(done, words):
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in output
    assert len([line for line in output.splitlines() if words in line]) == 1, output


def test_the_models_of_the_package_need_no_data_and_no_training(quick):
    assert set((quick / "commands.txt").read_text().split()) == PACKAGE
    assert not (quick / "results/quick/data").exists()
    known = "--dataset src/crumple/data/library.npz"
    models = [f"--{name} src/crumple/data/{name}" for name in ("designer", "response")]
    for stage, words in {
        "targets": [known],
        "generate": models,
        "evaluate": [known],
        "report": [known, *models],
    }.items():
        given = " ".join((quick / f"arguments-{stage}.txt").read_text().splitlines())
        assert all(word in given for word in words) and "--model " not in given
    assert planned(quick, preset="quick") == {}


@pytest.mark.parametrize("file", ["designer/designer.safetensors", "response/response.json"])
def test_other_models_of_the_package_generate_again(quick, tmp_path, file):
    run = shutil.copytree(quick, tmp_path / "run")
    with (run / "src/crumple/data" / file).open("a") as model:
        model.write("\n")
    assert set(planned(run, preset="quick")) == PACKAGE - {"targets"}


def test_a_run_turns_to_models_of_its_own(quick):
    assert set(planned(quick, "models=train", preset="quick")) == ALL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("mesh={element_size: 0.02}", "element_size 0.014 instead of 0.02): set models to train"),
        ("loading={platens: lubricated}", 'loading.platens "bonded" instead of "lubricated"'),
        ("dataset={validation_fraction: 0.3}", "validation_fraction 0.1 instead of 0.3"),
        ("evaluation={held_out: 100000}", "evaluation.held_out asks for 100000"),
        ("generation={method: joint}", "needs a space-time model, which the package doesn't have"),
    ],
)
def test_a_run_that_the_package_does_not_fit_is_one_sentence(quick, change, words):
    done = snakemake(quick, "--dry-run", "--config", change, check=False, preset="quick")
    assert_one_sentence(done, words)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_half_written_and_continues(tmp_path, stop):
    folder = make_copy(tmp_path)
    fem = folder / ".venv-fe/bin/python"
    slow = STAND_IN.replace("set -eu\n", "set -eu\n[ $3 != mesh ] || sleep 60\n")
    fem.write_text(slow)
    process = subprocess.Popen(
        [SNAKEMAKE, "--cores", "2", "--configfile", "workflow/presets/toy.yaml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell starts background jobs, such as this test may be in, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob("results/toy/logs/mesh/data/*"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, stop)  # as a terminal and a batch system do
    assert process.wait(60) != 0
    assert not any(folder.glob("results/toy/data/meshes/*"))
    fem.write_text(STAND_IN)
    commands = folder / "commands.txt"
    commands.unlink()
    snakemake(folder)
    assert "sample" not in commands.read_text().split()
