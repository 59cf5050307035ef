"""Results are whole or absent, and a stopped shard continues only with the same inputs."""

import itertools
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from crumple import atomic
from crumple.atomic import (
    SUMS,
    atomic_path,
    claim,
    is_finished,
    reserve,
    resumable_folder,
    save_npz,
    save_text,
)
from crumple.errors import UserError
from crumple.provenance import RECORD, fingerprint


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    out = tmp_path / "a" / "x.txt"
    save_text(out, "old")
    with pytest.raises(RuntimeError), atomic_path(out) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in out.parent.iterdir()] == ["x.txt"]
    assert out.read_text() == "old"


def test_npz_keeps_its_name(tmp_path):
    save_npz(tmp_path / "x.npz", a=np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    assert np.load(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


def test_a_folder_replaces_a_folder(tmp_path):
    for name in ("first", "second"):
        with atomic_path(tmp_path / "store") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["second"]


def record(stage="mesh", **settings):
    return {"stage": stage, "settings": {"mesh": {"mesh": settings}}, "inputs": {}}


def _stop_half_way(out, record):
    with pytest.raises(KeyboardInterrupt), resumable_folder(out, record) as folder:
        save_text(folder / "0.txt", "done")
        (folder / ".123.1.txt").write_text("killed while writing")
        raise KeyboardInterrupt
    assert not out.exists()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_stopped_shard_continues(tmp_path):
    out = tmp_path / "shard"
    _stop_half_way(out, record(h=0.4))
    assert not is_finished(out, record(h=0.4))
    with resumable_folder(out, record(h=0.4)) as folder:
        assert names(folder) == ["0.txt", RECORD]
    assert names(out) == ["0.txt", SUMS, RECORD]
    assert names(tmp_path) == ["shard"]
    assert is_finished(out, record(h=0.4)) and not is_finished(out, record(h=0.3))


def test_a_stopped_shard_starts_over_when_the_settings_changed(tmp_path):
    out = tmp_path / "shard"
    _stop_half_way(out, record(h=0.4))
    with resumable_folder(out, record(h=0.3)) as folder:
        assert names(folder) == [RECORD]


def test_a_finished_folder_can_be_checked_by_others(tmp_path):
    out = tmp_path / "shard"
    with resumable_folder(out, record()) as folder:
        (folder / "a").mkdir()
        save_text(folder / "a/0.txt", "done")
    command = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert len((out / SUMS).read_text().splitlines()) == 2
    subprocess.run(command, cwd=out, check=True)
    (out / "a/0.txt").write_text("dome")
    assert subprocess.run(command, cwd=out, capture_output=True).returncode == 1


def test_expensive_work_is_not_discarded(tmp_path):
    out = tmp_path / "model"
    _stop_half_way(out, record(h=0.4))
    with pytest.raises(UserError, match=r"model\.partial .*\(mesh\.h 0\.4 instead of 0\.3"):
        with resumable_folder(out, record(h=0.3), keep=True):
            pass
    with resumable_folder(out, record(h=0.4), keep=True) as folder:
        assert "0.txt" in names(folder)
    assert names(tmp_path) == ["model"]
    with pytest.raises(KeyboardInterrupt):
        with resumable_folder(out, record(h=0.3), keep=True):
            raise KeyboardInterrupt
    assert "0.txt" in names(out)  # until another one has been finished
    with resumable_folder(out, record(h=0.3), keep=True):
        pass
    assert "0.txt" not in names(out)


def test_settings_that_are_ignored_continue_and_are_recorded(tmp_path):
    out, ignored = tmp_path / "model", ["settings.mesh.mesh.h"]
    _stop_half_way(out, record(h=0.4))
    with resumable_folder(out, record(h=0.3), keep=True, ignored=ignored) as folder:
        assert "0.txt" in names(folder)
    assert is_finished(out, record(h=0.3)) and not is_finished(out, record(h=0.4))
    assert is_finished(out, record(h=0.4), ignored)


# --- what may be replaced ------------------------------------------------------------------------


def test_a_folder_that_is_not_ours_is_kept(tmp_path):
    """`train --out RUNFOLDER` must not delete the run."""
    (tmp_path / "run/data").mkdir(parents=True)
    (tmp_path / "run/data/dataset.json").write_text("precious")
    started = False
    with pytest.raises(UserError, match=r"run is there already"):
        with resumable_folder(tmp_path / "run", record()):
            started = True
    assert not started and names(tmp_path) == ["run"]
    assert (tmp_path / "run/data/dataset.json").read_text() == "precious"


def test_the_output_of_another_stage_is_kept(tmp_path):
    """`simulate --meshes X --out X` must not replace its input."""
    with resumable_folder(tmp_path / "x", record("mesh")) as folder:
        save_text(folder / "0.txt", "a mesh")
    with pytest.raises(UserError, match="x is there already and `crumple simulate`"):
        with resumable_folder(tmp_path / "x", record("simulate")):
            pass
    assert names(tmp_path / "x") == ["0.txt", SUMS, RECORD]
    with resumable_folder(tmp_path / "x", record("mesh")):
        pass
    assert names(tmp_path / "x") == [SUMS, RECORD]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "x").mkdir()
    with resumable_folder(tmp_path / "x", record()):
        pass
    assert names(tmp_path) == ["x"]


def test_files_that_are_not_ours_are_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt is there already"):
        claim(tmp_path / "notes.txt", "report")
    with pytest.raises(
        UserError, match="notes.txt is there already"
    ):  # `mesh --out X`, X its input
        with resumable_folder(tmp_path / "notes.txt", record()):
            pass
    with pytest.raises(UserError, match="is there already"):
        claim(tmp_path, "report")
    save_npz(tmp_path / "designs.npz", made_by="{}", index=np.arange(3))
    assert claim(tmp_path / "designs.npz", "sample") == tmp_path / "designs.npz"


def test_the_place_that_a_link_names_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk/model")
    for text in ("first", "second"):
        with resumable_folder(tmp_path / "out", record()) as folder:
            save_text(folder / "0.txt", text)
        assert (tmp_path / "out").is_symlink()
        assert (tmp_path / "disk/model/0.txt").read_text() == text
    assert names(tmp_path) == ["disk", "out"] and names(tmp_path / "disk") == ["model"]
    with atomic_path(tmp_path / "out") as temporary:
        temporary.mkdir()
    assert (tmp_path / "out").is_symlink() and names(tmp_path / "disk/model") == []


def test_a_mount_point_is_refused_at_the_start():
    with pytest.raises(UserError, match="/proc is a mount point"):
        with resumable_folder("/proc", record()):
            pass


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_kill_while_finished_work_is_renamed_loses_nothing(tmp_path, finished_before):
    """Stop before each system call of the last step in turn; the next run must find the work."""
    for stop in itertools.count():
        out = tmp_path / str(stop) / "shard"
        if finished_before:
            with resumable_folder(out, record(h=0.4)) as folder:
                save_text(folder / "0.txt", "old")
        if not _killed_while_renaming(out, stop):
            break
        finished = (out / "0.txt").exists() and (out / "0.txt").read_text() == "new"
        with resumable_folder(out, record(h=0.3)) as folder:
            assert finished or (folder / "0.txt").read_text() == "new"
        assert names(out.parent) == ["shard"]
    assert stop > 1


def _killed_while_renaming(out, stop):
    """Finish a shard in a process that dies before call number ``stop`` to the file system."""
    code = f"""
import os, pathlib, shutil
from crumple import atomic
left = {stop}
def dying(call):
    def one(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return call(*args, **kwargs)
    return one
with atomic.resumable_folder({str(out)!r}, {record(h=0.3)!r}) as folder:
    atomic.save_text(folder / "0.txt", "new")
    os.replace, shutil.rmtree = dying(os.replace), dying(shutil.rmtree)
    pathlib.Path.unlink = dying(pathlib.Path.unlink)
"""
    return subprocess.run([sys.executable, "-c", code]).returncode == 9


# --- one process at a time -----------------------------------------------------------------------

HERE = socket.gethostname()
HOLD = """
import os, socket, sys, time
from crumple import atomic
atomic.BEAT = {beat}
socket.gethostname = lambda: {host!r}
with atomic.resumable_folder({out!r}, {record!r}) as folder:
    atomic.save_text(folder / "0.txt", "of the first")
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that works on an output; returns it, and the output."""
    started = []

    def start(host=HERE, beat=0.05, **environment):
        out = tmp_path / "shard"
        code = HOLD.format(out=str(out), record=record(h=0.4), host=host, beat=beat)
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )
        started.append(process)
        assert process.stdout.readline() == b"holding\n"
        return process, out

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("host", [HERE, "another-node"])
def test_two_processes_on_one_output_do_not_destroy_each_other(holder, host):
    first, out = holder(host)
    sentence = f"shard is being written by process {first.pid} on {host}"
    with pytest.raises(UserError, match=sentence), resumable_folder(out, record(h=0.3)):
        pass
    first.communicate()
    assert first.returncode == 0 and names(out) == ["0.txt", SUMS, RECORD]
    assert names(out.parent) == ["shard"]


def test_the_lock_of_a_killed_process_does_not_hold(holder):
    first, out = holder()
    first.kill()
    first.wait()
    with resumable_folder(out, record(h=0.4)) as folder:
        assert "0.txt" in names(folder)
    assert names(out.parent) == ["shard"]


def test_the_lock_of_a_node_that_died_does_not_hold(holder, monkeypatch):
    monkeypatch.setattr(atomic, "BEAT", 0.05)
    monkeypatch.setattr(atomic, "PATIENCE", 0.3)
    first, out = holder("another-node")
    first.kill()
    first.wait()
    with resumable_folder(out, record(h=0.4)) as folder:
        assert "0.txt" in names(folder)


def test_a_job_that_slurm_starts_again_on_another_node_takes_its_lock(holder, monkeypatch):
    first, out = holder("another-node", beat=1e9, SLURM_JOB_ID="17", SLURM_RESTART_COUNT="0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with resumable_folder(out, record(h=0.4)) as folder:  # at once
        assert "0.txt" in names(folder)
    _, message = first.communicate()
    assert first.returncode == 1  # it was not dead: it notices, and leaves the result alone
    assert names(out) == ["0.txt", SUMS, RECORD]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    code = (
        "import os; from crumple.atomic import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'x.txt')!r}) as p: p.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert len(names(tmp_path)) == 1
    save_text(tmp_path / "x.txt", "whole")
    assert names(tmp_path) == ["x.txt"]


def test_fingerprint_sees_content_and_names(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    one = fingerprint([tmp_path / "a"])
    assert one == fingerprint([tmp_path / "a"]) != fingerprint([tmp_path / "b"])
    (tmp_path / "a").write_text("2")
    assert one != fingerprint([tmp_path / "a"])


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk: writing fails half-way."""
    code = (
        "import resource, signal, sys; from crumple.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        f"sys.exit(main(['sample', '--shard', '0', '--out', {str(tmp_path / 'out.npz')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"crumple: error: File too large: {tmp_path}/out.npz"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_noticed_before_a_mapped_file_is_filled(tmp_path):
    """Filling a hole of a mapped file on a full disk is a SIGBUS; /dev/full stands for the disk."""
    path = tmp_path / "samples.npy"
    np.lib.format.open_memmap(path, "w+", np.float16, (1000, 1000))
    assert path.stat().st_blocks * 512 < 10**6  # holes
    reserve(path)
    assert path.stat().st_blocks * 512 >= 2 * 10**6
