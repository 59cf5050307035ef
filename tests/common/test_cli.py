"""The command line: failures are one sentence on stderr and a non-zero exit."""

import os
import signal
import subprocess
import sys

import pytest

from crumple import cli
from crumple.config import default_yaml


def test_config_prints_the_default(capsys):
    assert cli.main(["config"]) == 0
    assert capsys.readouterr().out == default_yaml()


def test_a_bad_config_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("seed: -1")
    assert cli.main(["config", "--check", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("crumple: error: ") and captured.err.count("\n") == 1
    assert "'seed'" in captured.err and captured.out == ""


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    assert cli.main(["config", "--check", str(tmp_path / "absent.yaml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_command_exits_with_2():
    with pytest.raises(SystemExit) as caught:
        cli.main(["nonsense"])
    assert caught.value.code == 2


def test_sigterm_is_one_sentence_and_leaves_no_temporary_file(tmp_path):
    program = (
        "import pathlib, time\n"
        "from crumple import cli\n"
        "from crumple.atomic import atomic_path\n"
        "def handler(args):\n"
        f"    with atomic_path({str(tmp_path / 'out.txt')!r}) as p:\n"
        "        p.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
        "def add(commands):\n"
        "    commands.add_parser('wait').set_defaults(handler=handler)\n"
        "cli.COMMANDS = (add,)\n"
        "raise SystemExit(cli.main(['wait']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "crumple: error: stopped; run the same command again to continue\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["sample", "--shard", "0"], "--out"),
        (["targets", "--dataset", "none.json"], "--out"),
        (["index", "--shards", "none.zarr"], "--out"),
        (["extract", "none.zarr"], "--out"),
        (["inspect", "none.json"], "--sheet"),
        (["library", "none.zarr"], "--out"),
        (["lookup", "none.csv"], "--out"),
    ],
)
def test_a_file_of_the_user_is_not_replaced(tmp_path, capsys, command, option):
    """Refused before anything is read."""
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main([*command, option, str(tmp_path / "thesis.txt")]) == 1
    assert "thesis.txt is there already" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"
