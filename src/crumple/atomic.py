"""Write results whole or not at all: temporary name first, then rename."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def atomic_path(out: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``out``; it becomes ``out`` only when the block succeeds.

    The block may create a file or a folder there. What ``out`` held before is replaced. The
    temporary name keeps the suffix of ``out``, because writers such as :func:`numpy.savez` and
    matplotlib choose the format by it.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        yield temporary
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(temporary, out)
    except OSError as error:
        error.filename = error.filename or str(out)  # a full disk does not say which file
        raise
    finally:
        _remove(temporary)


def save_npz(out: str | Path, **arrays: Any) -> None:
    """Write a compressed npz file atomically."""
    buffer = io.BytesIO()  # a zip file that cannot be closed on a full disk complains on its own
    np.savez_compressed(buffer, **arrays)
    with atomic_path(out) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_text(out: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def resumable_folder(out: str | Path, key: Any) -> Iterator[Path]:
    """Yield the scratch folder ``<out>.partial`` of a shard; it becomes ``out`` on success.

    A job that is stopped leaves the folder, and the next run continues in it: whatever is there
    was written by :func:`save_npz` and is complete. The folder of a run with another ``key``
    (settings or inputs have changed since) is discarded.

    Parameters
    ----------
    out
        Folder that the finished shard becomes.
    key
        Everything that the content depends on, as JSON: settings and :func:`fingerprint`.
    """
    out = Path(out)
    partial = out.with_name(out.name + ".partial")
    key_file = partial / "key.json"
    text = json.dumps(key, sort_keys=True)
    if not key_file.exists() or key_file.read_text() != text:
        _remove(partial)
        partial.mkdir(parents=True)
        save_text(key_file, text)
    for leftover in partial.glob(".*"):  # half-written by a process that was killed
        _remove(leftover)
    yield partial
    key_file.unlink()
    _remove(out)
    os.replace(partial, out)


def fingerprint(paths: Iterable[str | Path]) -> str:
    """Return a checksum over the names and the content of files."""
    checksum = hashlib.sha256()
    for path in sorted(map(Path, paths)):
        checksum.update(path.name.encode())
        checksum.update(hashlib.sha256(path.read_bytes()).digest())
    return checksum.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
