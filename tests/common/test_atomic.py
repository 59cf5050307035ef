"""Results are whole or absent, and a stopped shard continues only with the same inputs."""

import subprocess
import sys

import numpy as np
import pytest

from crumple.atomic import atomic_path, fingerprint, resumable_folder, save_npz, save_text


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


def _stop_half_way(out, key):
    with pytest.raises(KeyboardInterrupt), resumable_folder(out, key) as folder:
        save_text(folder / "0.txt", "done")
        (folder / ".123.1.txt").write_text("killed while writing")
        raise KeyboardInterrupt
    assert not out.exists()


def test_a_stopped_shard_continues(tmp_path):
    out = tmp_path / "shard"
    _stop_half_way(out, {"friction": 0.4})
    with resumable_folder(out, {"friction": 0.4}) as folder:
        assert sorted(p.name for p in folder.iterdir()) == ["0.txt", "key.json"]
    assert [p.name for p in out.iterdir()] == ["0.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]


def test_a_stopped_shard_starts_over_when_the_settings_changed(tmp_path):
    out = tmp_path / "shard"
    _stop_half_way(out, {"friction": 0.4})
    with resumable_folder(out, {"friction": 0.3}) as folder:
        assert [p.name for p in folder.iterdir()] == ["key.json"]


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
