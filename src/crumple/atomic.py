"""Write results whole or not at all: temporary name first, then rename.

What stands at the place of a result is replaced only if it is such a result too: a folder says in
``made_by.json`` (a zarr store in its attributes) which stage made it, a file in its first bytes
that it is ours. Long work is done in ``<out>.partial`` and continued there after an interruption;
a lock keeps two processes from working on one result.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from crumple.errors import UserError
from crumple.provenance import RECORD, differences, hash_file

SUMS = "SHA256SUMS"  # of the files of a finished folder, as `sha256sum --check` reads them
HEAD = 4096  # bytes of a file in which it says that it is ours
MARKS = (  # JSON, HTML, PNG; npz; CSV of target curves, of the designs of a data set
    b"crumple",
    b"made_by.npy",
    b"target,",
    b"design,shard,row",
)
BEAT = 20.0  # seconds between two signs of life of the owner of a lock
PATIENCE = 90.0  # seconds without one after which it counts as dead; NFS may hide 60 of them


# --- what may be replaced ------------------------------------------------------------------------


def claim(out: str | Path, stage: str, folder: bool = False) -> Path:
    """Return the real place of a result, if a stage may write there.

    Stages that write at their end call this before their work begins.

    Parameters
    ----------
    out
        Where the result goes; a symbolic link stands for the place that it names.
    stage
        The command that writes it.
    folder
        Whether the result is a folder.

    Raises
    ------
    UserError
        When something stands there that this stage hasn't made, or a file system begins there.
    """
    out = Path(os.path.realpath(out))
    if os.path.ismount(out):
        raise UserError(f"{out} is a mount point and cannot be replaced: name a folder inside it")
    if not out.exists():
        return out
    if out.is_dir():
        ours = folder and (_made_by(out) == stage or not any(out.iterdir()))
    else:
        with out.open("rb") as file:
            head = file.read(HEAD)
        ours = not folder and (not head or any(mark in head for mark in MARKS))
    if not ours:
        raise UserError(
            f"{out} is there already and `crumple {stage}` hasn't made it: name another place "
            "with --out, or remove it"
        )
    return out


def _made_by(folder: Path) -> str | None:
    """Return the stage that made a folder, or None for a folder that isn't ours."""
    for name, keys in ((RECORD, ()), ("zarr.json", ("attributes", "made_by"))):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in keys:
                record = record[key]
            return str(record["stage"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


# --- results that are written at once ------------------------------------------------------------


@contextmanager
def atomic_path(out: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``out``; it becomes ``out`` only when the block succeeds.

    The block may create a file or a folder there. What ``out`` held before is replaced; see
    :func:`claim`. The temporary name keeps the suffix of ``out``, because writers such as
    :func:`numpy.savez` and matplotlib choose the format by it.
    """
    out = Path(os.path.realpath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for left in out.parent.glob(f".{host}.*.{out.name}"):  # by processes that were killed
        if _process(left.name.removeprefix(f".{host}.").partition(".")[0]) is None:
            _remove(left)
    temporary = out.with_name(f".{host}.{os.getpid()}.{out.name}")
    try:
        yield temporary
        _put(temporary, out)
    except OSError as error:
        error.filename = error.filename or str(out)  # a full disk does not say which file
        raise
    finally:
        _remove(temporary)


def save_npz(out: str | Path, **arrays: Any) -> None:
    """Write a compressed npz file atomically."""
    _save(out, np.savez_compressed, arrays)


def save_npz_uncompressed(out: str | Path, **arrays: Any) -> None:
    """Write an npz file atomically: floats are a fifth larger so, and written at once."""
    _save(out, np.savez, arrays)


def _save(out: str | Path, savez: Callable[..., None], arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()  # a zip file that cannot be closed on a full disk complains on its own
    savez(buffer, **arrays)
    with atomic_path(out) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_text(out: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write into a folder of ours what made it; :func:`claim` reads the ``stage`` of it."""
    save_text(folder / RECORD, json.dumps(record, sort_keys=True, indent=1) + "\n")


def save_sums(folder: Path) -> None:
    """Write the checksums of all files of a folder into it, hidden files left out.

    ``crumple check`` compares them, and so does ``sha256sum --check SHA256SUMS``.
    """
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path != folder / SUMS
    )
    save_text(folder / SUMS, "".join(f"{hash_file(folder / name)}  {name}\n" for name in files))


def reserve(path: str | Path) -> None:
    """Reserve the space of a file on the disk.

    A file that is mapped into memory has holes where nothing was written yet; when the disk is
    full, filling one kills the process (SIGBUS). This fails instead, in one sentence.
    """
    path = Path(path)
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            error.filename = str(path)
            raise


def _put(new: Path, out: Path) -> None:
    """Rename a finished result; a folder in its place steps aside until that is done."""
    aside = out.with_name(f".{out.name}.old")
    if out.is_dir():
        _remove(aside)
        os.replace(out, aside)
    os.replace(new, out)
    _remove(aside)


# --- results of long work ------------------------------------------------------------------------


@contextmanager
def resumable_folder(
    out: str | Path,
    record: Mapping[str, Any],
    keep: bool = False,
    ignored: Collection[str] = (),
) -> Iterator[Path]:
    """Yield the scratch folder ``<out>.partial`` of a stage; it becomes ``out`` on success.

    A job that is stopped leaves the folder, and the next run continues in it: whatever is there
    was written by :func:`atomic_path` and is complete. ``made_by.json`` in it, which stays in
    ``out``, is the record of what made it. The folder of a run with another record (settings or
    inputs have changed since) is discarded. A finished folder has the checksums of its files
    (:func:`save_sums`).

    Parameters
    ----------
    out
        Folder that the result becomes.
    record
        Everything that the content depends on, as JSON: ``stage`` and what
        :mod:`crumple.provenance` says.
    keep
        Refuse to discard unfinished work of another record: it was expensive. A finished result
        is replaced when the new one has been finished too.
    ignored
        Names of settings with which unfinished work is continued whatever they were, as
        ``settings.train.training.steps``.

    Raises
    ------
    UserError
        When ``out`` isn't ours to replace (see :func:`claim`), when another process writes it, or
        when ``keep`` forbids to discard what is there.
    """
    out = claim(out, record["stage"], folder=True)
    partial = claim(scratch(out), record["stage"], folder=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out) as check:
        changed = _changes(partial, record, ignored)
        if keep and changed:
            raise UserError(
                f"{partial} is unfinished work of other settings or inputs ({changed}): name "
                "another place with --out, or remove it"
            )
        if changed != "":
            _remove(partial)
            partial.mkdir()
        if _changes(partial, record) != "":
            save_record(partial, record)
        for leftover in partial.glob(".*"):  # half-written by a process that was killed
            _remove(leftover)
        yield partial
        save_sums(partial)
        check()
        _put(partial, out)


def scratch(out: str | Path) -> Path:
    """Return the folder in which :func:`resumable_folder` works."""
    out = Path(os.path.realpath(out))
    return out.with_name(out.name + ".partial")


def is_finished(out: str | Path, record: Mapping[str, Any], ignored: Collection[str] = ()) -> bool:
    """Return whether a folder is the result of :func:`resumable_folder` for this record."""
    return _changes(Path(os.path.realpath(out)), record, ignored) == ""


def _changes(folder: Path, record: Mapping[str, Any], ignored: Collection[str] = ()) -> str | None:
    """Return what differs between the record of a folder and another; None: it has no record."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return differences(found, json.loads(json.dumps(record)), ignored)


# --- one process at a time -----------------------------------------------------------------------
# The lock is a file that only one process can create, on network file systems too, where locks of
# the operating system are missing or outlive the machine that held them. Its owner touches it every
# BEAT seconds. It is stale when its owner was a process of this machine that is gone, when it was
# this Slurm job before it was started again, or when PATIENCE seconds pass without a sign of life;
# clocks of different machines are never compared.


@contextmanager
def locked(out: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock on a result; yield a function that raises when the lock was lost.

    Raises
    ------
    UserError
        When another process holds it.
    """
    path = out.with_name(f".{out.name}.lock")
    owner = {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }
    while not _create(path, owner):
        _bury(path, out, owner)

    def check() -> None:
        if _read(path) != owner:
            raise UserError(
                f"another process has taken over {out}, because this one gave no sign of life; "
                "what is done so far is kept"
            )

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(OSError):  # a network file system may be away for a moment
                if _read(path) == owner:
                    os.utime(path)

    done = threading.Event()
    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield check
    finally:
        done.set()
        heart.join()
        if _read(path) == owner:
            path.unlink(missing_ok=True)


def _create(path: Path, owner: Mapping[str, Any]) -> bool:
    """Create a lock if there is none."""
    try:
        with path.open("x") as file:
            json.dump(owner, file)
    except FileExistsError:
        return False
    return True


def _bury(path: Path, out: Path, me: Mapping[str, Any]) -> None:
    """Remove a lock whose owner is dead; raise as soon as its owner is seen to live."""
    owner, beat = _read(path), _beat(path)
    job, run = (owner.get("job"), owner.get("restarts")), (me["job"], me["restarts"])
    if me["job"] and job[0] == run[0] and job[1] != run[1]:
        alive = False  # Slurm has started this job again
    elif owner.get("host") == me["host"]:
        alive = owner.get("process") == _process(owner.get("pid"))
    else:
        seen = time.monotonic()
        while beat == _beat(path) and time.monotonic() - seen < PATIENCE:
            time.sleep(min(1.0, BEAT))
        alive = beat != _beat(path)
    if alive and path.exists():
        raise UserError(
            f"{out} is being written by process {owner.get('pid')} on {owner.get('host')}, since "
            f"{owner.get('since')}: wait until it has finished, or stop it"
        )
    stale = path.with_name(f"{path.name}.{me['token']}")
    with suppress(FileNotFoundError):
        os.replace(path, stale)
        if _read(stale) == owner:
            stale.unlink()
        else:  # another process was faster, and this is its lock
            os.replace(stale, path)


def _read(path: Path) -> dict[str, Any]:
    """Return the owner of a lock; empty where there is none or none is readable."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _beat(path: Path) -> tuple[int, int] | None:
    """Return what changes with every sign of life; opening the file gets past NFS's cache."""
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _process(pid: Any) -> str | None:
    """Return what tells a living process of this machine from others that had its number."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        pass
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return str(pid)
    return None if state == "Z" else f"{pid} {rest[18]}"  # the time at which it was started


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
