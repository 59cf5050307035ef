"""The launcher: what becomes of the others when one process dies, and who says so."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crumple.diffusion import launch
from crumple.errors import UserError


def children(process: subprocess.Popen) -> dict[int, int]:
    """Process ids by rank of the processes that a launcher has started."""
    found = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks = [int(e[5:]) for e in environment if e.startswith(b"RANK=")]
            found |= {rank: int(child) for rank in ranks}
    return found


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_and_is_named(settings, manifest, tmp_path, rank):
    long = settings.training.model_copy(update={"steps": 10_000, "checkpoint_minutes": 60.0})
    config = settings.model_copy(update={"training": long}).model_dump_json()
    command = [sys.executable, "-m", "crumple", "train", "--config", config, "--processes", "2"]
    command += ["--dataset", str(manifest), "--out", str(tmp_path / "model")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "train: 1/" in line:
            break
    pids = children(process)
    assert sorted(pids) == [0, 1]
    os.kill(pids[rank], signal.SIGKILL)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"crumple: error: process {rank} of 2 was ended by SIGKILL" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert not any(alive(pid) for pid in pids.values())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("rank", "waits"), [(0, False), (1, True)])
def test_the_first_process_speaks_for_all_and_another_one_if_it_does_not(monkeypatch, rank, waits):
    def work():
        raise UserError("what is wrong")

    slept = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(launch.time, "sleep", slept.append)
    with pytest.raises(UserError, match="what is wrong"):
        launch.run(2, work)
    assert slept == [launch.SILENCE] * waits


def test_errors_of_the_program_stay_what_they_are():
    def work():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        launch.run(1, work)


def test_wrong_settings_are_said_once(settings, manifest, tmp_path):
    odd = settings.training.model_copy(update={"batch": 3})
    config = settings.model_copy(update={"training": odd}).model_dump_json()
    command = [sys.executable, "-m", "crumple", "train", "--config", config, "--processes", "2"]
    command += ["--dataset", str(manifest), "--out", str(tmp_path / "model")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("training.batch 3 can't be split over 2 processes") == 1


SRUN = {
    "SLURM_JOB_ID": "70123",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
}


@pytest.mark.parametrize(("gpus", "local"), [(0, "0"), (1, "0"), (2, "1")])
def test_srun_has_started_the_others(gpus, local):
    assert launch.slurm_world(SRUN, gpus) == {
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "15123",
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": local,
    }


def test_a_batch_script_and_a_task_that_is_alone_are_no_world():
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert launch.slurm_world({}, 2) == launch.slurm_world(batch, 0) == {}
    assert launch.slurm_world(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, 0) == {}


def test_what_torchrun_says_comes_before_slurm(monkeypatch):
    seen = []
    for name, value in (SRUN | {"WORLD_SIZE": "2", "RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    launch.run(1, lambda: seen.append((os.environ["WORLD_SIZE"], os.environ["RANK"])))
    assert seen == [("2", "1")]
