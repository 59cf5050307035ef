"""Files that are damaged, foreign or made to do harm are refused in one sentence."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import zarr
from pydantic import BaseModel, ConfigDict

from crumple import readers
from crumple.errors import UserError
from crumple.readers import Array, Schema, open_store, read_json, read_npz

ADVICE = "run `crumple sample` again"
ARRAYS = {
    "index": Array("iu", ("n",), low=0),
    "quarter": Array("iu", ("n", 4, 4), low=0, high=1),
    "status": Array("U", ("n",)),
}
SCHEMA = Schema(ADVICE, ARRAYS, optional={"seed": Array("iu", ("n",))})
STORE = Schema(ADVICE, ARRAYS, others=Array("f", ("n",)), format="things", version=2)


def arrays(n=3):
    return {
        "index": np.arange(n),
        "quarter": np.ones((n, 4, 4), np.uint8),
        "status": np.array(["ok"] * n),
    }


def npz(path, **values):
    np.savez_compressed(path, **values)
    return path


def refusal(read, *args):
    """The sentence with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read(*args)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(args[0]) in sentence
    return sentence


def test_an_npz_file_comes_back(tmp_path):
    path = npz(tmp_path / "a.npz", **arrays(), seed=np.arange(3))
    read = read_npz(path, SCHEMA)
    assert set(read) == {"index", "quarter", "status", "seed"}
    for name, values in arrays().items():
        assert np.array_equal(read[name], values) and read[name].dtype == values.dtype
    text = str(npz(tmp_path / "f.npz", **arrays() | {"quarter": np.zeros((3, 4, 4), "u1", "F")}))
    assert not read_npz(text, SCHEMA)["quarter"].any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"index": None}, "it lacks the array index"),
        ({"other": np.ones(3)}, "unknown array 'other'"),
        ({"quarter": np.ones((3, 4, 4))}, "quarter holds numbers, not integers"),
        ({"quarter": np.ones((2, 4, 4), int)}, "quarter is 2 x 4 x 4, not 3 x 4 x 4"),
        ({"quarter": np.ones((3, 4, 5), int)}, "quarter is 3 x 4 x 5, not 3 x 4 x 4"),
        ({"quarter": np.full((3, 4, 4), 2)}, "quarter must be at most 1 everywhere"),
        ({"index": np.array([0, -1, 2])}, "index must be at least 0 everywhere"),
        ({"index": np.array(3)}, "index is a single value, not n"),
        ({"status": np.array([None] * 3)}, "status holds other things, not text"),
    ],
)
def test_other_arrays_are_refused(tmp_path, change, reason):
    values = {k: v for k, v in (arrays() | change).items() if v is not None}
    sentence = refusal(read_npz, npz(tmp_path / "a.npz", **values), SCHEMA)
    assert reason in sentence and sentence.endswith(ADVICE)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    content = npz(tmp_path / "a.npz", **arrays()).read_bytes()
    for name, damaged in {
        "cut": content[:-100],
        "empty": b"",
        "text": b"hello",
        "npy": io.BytesIO(b"\x93NUMPY").getvalue(),
    }.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(damaged)
        refusal(read_npz, path, SCHEMA)
    assert "No such file" in refusal(read_npz, tmp_path / "none.npz", SCHEMA)
    assert "not a file" in refusal(read_npz, tmp_path, SCHEMA)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    assert "not a file" in refusal(read_npz, tmp_path / "pipe", SCHEMA)


def test_a_flipped_bit_of_the_content_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays())  # not compressed: only the checksum can tell
    content = bytearray(path.read_bytes())
    at = content.index(b"\x01" * 48)
    content[at + 20] = 0
    path.write_bytes(content)
    assert "CRC" in refusal(read_npz, path, SCHEMA)


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path):
    path = tmp_path / "a.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
    )
    for size in (0, 10**6):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("index.npy", header.getvalue() + bytes(size))
        assert "index is cut off" in refusal(
            read_npz, path, Schema(ADVICE, {"index": Array("i", ("n",))})
        )


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_NPZ", 10**7)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("index.npy", "w", force_zip64=True) as file:
            file.write(bytes(5 * 10**7))
    assert path.stat().st_size < 10**5
    sentence = refusal(read_npz, path, Schema(ADVICE, {"index": Array("i", ("n",))}))
    assert "at most" in sentence


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int
    share: float = 0.5
    names: list[str] = []


def test_json_comes_back(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"count": 3, "share": 1, "names": ["ä"]}', encoding="utf-8")
    assert read_json(path, Thing, ADVICE) == Thing(count=3, share=1.0, names=["ä"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ('{"count": 1, "count": 2}', "the key 'count' stands there twice"),
        ('{"count": 1, "share": NaN}', "NaN is not a finite number"),
        ('{"count": 1, "share": 1e999}', "1e999 is not a finite number"),
        ('{"count": "3"}', "'count' = '3'"),
        ('{"count": true}', "'count' = True"),
        ('{"share": 0.1}', "'count' is missing"),
        ('{"count": 1, "size": 2}', "'size' is unknown"),
        ("[1]", "object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"count": ' + "9" * 5000 + "}", "4300"),
    ],
)
def test_other_json_is_refused(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    sentence = refusal(read_json, path, Thing, ADVICE)
    assert reason in sentence and sentence.endswith(ADVICE)


def test_text_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe{}")
    refusal(read_json, path, Thing, ADVICE)
    refusal(read_json, tmp_path / "none.json", Thing, ADVICE)


def store(path, values, **attributes):
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    for name, value in values.items():
        if value.dtype.kind == "U":
            array = group.create_array(name, shape=value.shape, dtype=str)
            array[:] = value.astype(object)
        else:
            group.create_array(name, data=value)
    group.attrs.update({"format": "things", "version": 2} | attributes)
    return path


def test_a_store_is_opened(tmp_path):
    path = store(tmp_path / "a.zarr", arrays() | {"figure": np.ones(3)})
    (path / ".snakemake_timestamp").touch()
    group = open_store(path, STORE)
    assert np.array_equal(group["quarter"][:], arrays()["quarter"])


def test_other_stores_are_refused(tmp_path):
    path = tmp_path / "a.zarr"
    assert "no such folder" in refusal(open_store, path, STORE)
    path.mkdir()
    refusal(open_store, path, STORE)
    for values, attributes, reason in [
        (arrays(), {"version": 1}, "it is not a things of version 2"),
        (arrays() | {"figure": np.ones(2)}, {}, "figure is 2, not 3"),
        (arrays() | {"figure": np.ones((3, 1))}, {}, "figure is 3 x 1, not 3"),
        ({"index": np.arange(3)}, {}, "it lacks the arrays quarter, status"),
        (arrays() | {"status": np.arange(3)}, {}, "status holds integers, not text"),
    ]:
        store(path, values, **attributes)
        assert reason in refusal(open_store, path, STORE)


def test_a_store_that_promises_too_much_is_refused(tmp_path):
    path = store(tmp_path / "a.zarr", arrays())
    for name in arrays():
        file = path / name / "zarr.json"
        metadata = json.loads(file.read_text())
        metadata["shape"][0] = 10**13
        file.write_text(json.dumps(metadata))
    assert "at most" in refusal(open_store, path, STORE)
    store(path, arrays())
    file = path / "index" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**13]
    file.write_text(json.dumps(metadata))
    assert "chunks of index" in refusal(open_store, path, STORE)
