"""Shards, manifest, split, scaling and symmetries of the data set."""

import itertools
import json

import numpy as np
import pytest

from crumple import dataset, seeds
from crumple.config import parse_config
from crumple.designs import mirror
from crumple.errors import UserError
from crumple.inspection import describe, inspect, overview
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN


def shard(path, indices, level=1.0, failed=()):
    """Write a shard of blob-like designs whose stress is ``level`` times its index."""
    rng = np.random.default_rng(indices[0])
    n = len(indices)
    quarter = np.zeros((n, 48, 48), np.uint8)
    quarter[:, :, :20] = quarter[:, 10:30] = 1
    solid = np.array([mirror(q) for q in quarter])
    frames = rng.standard_normal((n, 11, 4, 96, 96)).astype(np.float32) * 0.01
    frames[:, :, 2] -= level * (np.array(indices)[:, None, None, None] + 1)
    frames = (frames * solid[:, None, None]).astype(np.float16)
    status = np.array(["ok"] * n, dtype="<U40")
    for row in failed:
        status[row], frames[row] = "not converged at a strain of 0.12", 0
    mean = -frames[:, :, 2].astype(float).mean(axis=(2, 3)) / (1 - FRAME_STRAIN)
    dataset.write_shard(
        path,
        {
            "index": np.array(indices),
            "status": status,
            "quarter": quarter,
            "tries": np.full(n, 10),
            "solid_fraction": quarter.mean(axis=(1, 2)),
            "solid": solid,
            "frames": frames,
            "frame_strain": FRAME_STRAIN,
            "frame_stress": (0.98 * mean).astype(np.float32),
            "virial_stress": (0.98 * 1.005 * mean).astype(np.float32),
            "curve_strain": CURVE_STRAIN,
            "curve_stress": np.ones((n, 51), np.float32) * np.array(indices)[:, None],
            "channel_statistics": np.array(
                [
                    dataset.channel_statistics(f, s > 0, FRAME_STRAIN)
                    for f, s in zip(frames, solid, strict=True)
                ]
            ),
            "energy_gate": np.arange(n) > 0,
            "newton_iterations": np.full(n, 100.0),
        },
        {"note": "test"},
    )
    return path


def config(fraction=0.3, seed=0):
    return parse_config({"seed": seed, "dataset": {"validation_fraction": fraction}})


@pytest.fixture
def shards(tmp_path):
    return [
        shard(tmp_path / "0000.zarr", range(0, 8), failed=[2]),
        shard(tmp_path / "0001.zarr", range(8, 14)),
    ]


@pytest.fixture
def manifest_path(tmp_path, shards):
    dataset.write_manifest(shards, config(), tmp_path / "dataset.json")
    return tmp_path / "dataset.json"


def test_shard_comes_back_as_it_was_written(shards):
    group = dataset.open_shard(shards[0])
    assert group["frames"].dtype == np.float16
    assert group["frames"].chunks == (1, 11, 4, 96, 96)
    assert [str(s) for s in group["status"][:3]] == ["ok"] * 2 + [
        "not converged at a strain of 0.12"
    ]
    assert group.attrs["channels"] == ["u1", "u2", "s22", "mises"]
    assert group.attrs["units"]["s22"] == "MPa" and group.attrs["note"] == "test"
    assert not group["frames"][2].any()
    with pytest.raises((ValueError, OSError)):
        group["frames"][0] = 1  # read only


def test_killed_writer_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "versions", stop)
    with pytest.raises(KeyboardInterrupt):
        shard(tmp_path / "0000.zarr", range(4))
    assert list(tmp_path.iterdir()) == []


def test_manifest_names_every_design_once(manifest_path):
    manifest = dataset.read_manifest(manifest_path)
    assert manifest["failures"] == [{"index": 2, "reason": "not converged at a strain of 0.12"}]
    assert manifest["valid"] == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert manifest["energy_gate_exceeded"] == [0, 8]
    places = manifest["split"]["train"] + manifest["split"]["validation"]
    assert sorted(map(tuple, places)) == [(0, r) for r in (0, 1, 3, 4, 5, 6, 7)] + [
        (1, r) for r in range(6)
    ]
    assert [entry["path"] for entry in manifest["shards"]] == ["0000.zarr", "0001.zarr"]
    assert manifest["config"]["dataset"]["validation_fraction"] == 0.3
    assert manifest["versions"]["zarr"]


def test_split_depends_on_seed_and_index_only(tmp_path, manifest_path):
    def held_out(path):
        data = dataset.Dataset(path)
        return [int(i) for i in data.read("index", data.split["validation"])]

    first = held_out(manifest_path)
    other = tmp_path / "other"
    files = [shard(other / f"{k}.zarr", range(2 * k, 2 * k + 2)) for k in range(7)]
    dataset.write_manifest(files[::-1], config(), other / "dataset.json")
    assert [i for i in held_out(other / "dataset.json") if i != 2] == first
    dataset.write_manifest(files, config(seed=1), other / "dataset.json")
    assert held_out(other / "dataset.json") != first
    fraction = np.mean([seeds.in_validation(5, i, 0.1)[0] for i in range(4000)])
    assert fraction == pytest.approx(0.1, abs=0.02)


def test_scaling_comes_from_the_training_designs_only(tmp_path, shards, manifest_path):
    data = dataset.Dataset(manifest_path)
    scale = data.manifest["normalisation"]
    solid = data.read("solid", data.split["train"]) > 0
    frames = data.read("frames", data.split["train"]).astype(float)
    w2 = frames[:, :, 1] + FRAME_STRAIN[:, None, None] * dataset.pixel_height()
    for name, values in (("u1", frames[:, :, 0]), ("w2", w2), ("s22", frames[:, :, 2])):
        inside = [v[:, s] for v, s in zip(values, solid, strict=True)]
        assert scale[name]["min"] == pytest.approx(np.min([v.min(1) for v in inside], axis=0))
        assert scale[name]["max"] == pytest.approx(np.max([v.max(1) for v in inside], axis=0))
        joined = np.concatenate(inside, axis=1)  # every design has the same number of pixels
        assert scale[name]["mean"] == pytest.approx(joined.mean(axis=1))
        assert scale[name]["std"] == pytest.approx(joined.std(axis=1))

    everything = np.concatenate([data.split["train"], data.split["validation"]])
    stress = data.read("curve_stress", everything)
    train_stress = data.read("curve_stress", data.split["train"])
    assert stress.mean() != pytest.approx(train_stress.mean())  # else the next line says nothing
    assert scale["curve_stress"]["mean"] == pytest.approx(train_stress.mean(axis=0))


def test_manifest_refuses_bad_shards(tmp_path, shards):
    twice = shard(tmp_path / "0002.zarr", range(5, 7))
    with pytest.raises(UserError, match="design 5 is both in"):
        dataset.build_manifest([*shards, twice], config(), tmp_path)
    with pytest.raises(UserError, match="not a readable shard"):
        dataset.build_manifest([tmp_path / "none.zarr"], config(), tmp_path)
    all_failed = shard(tmp_path / "0003.zarr", range(20, 22), failed=[0, 1])
    with pytest.raises(UserError, match="no design is left for training"):
        dataset.build_manifest([all_failed], config(), tmp_path)


def test_reading_a_manifest_says_what_is_wrong(tmp_path):
    path = tmp_path / "dataset.json"
    with pytest.raises(UserError, match="cannot read the data set"):
        dataset.read_manifest(path)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot read the data set"):
        dataset.read_manifest(path)
    path.write_text(json.dumps({"format": "else"}))
    with pytest.raises(UserError, match="crumple index"):
        dataset.read_manifest(path)


def test_inspect_counts_and_finds_damage(tmp_path, manifest_path, recwarn):
    (tmp_path / "0000.zarr/.snakemake_timestamp").touch()
    data = dataset.Dataset(manifest_path)
    text = describe(data, overview(data))
    assert "14 in 2 shards, 13 valid" in text
    assert "1 x not converged at a strain of #" in text
    assert "2 of 2 shards match" in text
    assert "11 of 13" in text  # energy gate
    assert "reaction to 0.50% (median)" in text
    assert "10.0%" in text  # 14 designs out of 140 fields

    assert not [w for w in recwarn if "Zarr" in str(w.category)]

    sheet = tmp_path / "sheet.png"
    inspect(manifest_path, sheet)
    assert sheet.stat().st_size > 20_000

    victim = next(p for p in (tmp_path / "0001.zarr/frames/c").rglob("*") if p.is_file())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError, match=r"0001\.zarr"):
        inspect(manifest_path, None)


# --- symmetries (against finite elements: tests/fem/test_fields.py) ------------------------------


@pytest.fixture
def fields():
    rng = np.random.default_rng(1)
    solid = rng.random((96, 96)) > 0.4
    return rng.standard_normal((11, 4, 96, 96)) * solid, solid


def apply(element, frames, solid):
    """Apply a word in H, V and S, from the right."""
    for name in reversed(element):
        if name == "H":
            frames, solid = dataset.mirror_x(frames), solid[:, ::-1]
        elif name == "V":
            frames, solid = dataset.mirror_y(frames, solid, FRAME_STRAIN), solid[::-1]
        else:
            frames, solid = dataset.shift_x(frames), np.roll(solid, 48, axis=1)
    return frames, solid


@pytest.mark.parametrize("word", ["HH", "VV", "SS", "HVHV", "HSHS", "VSVS"])
def test_symmetries_form_a_commuting_group_of_involutions(fields, word):
    frames, solid = apply(word, *fields)
    np.testing.assert_allclose(frames, fields[0], atol=1e-12)
    assert np.array_equal(solid, fields[1])


def test_the_eight_symmetries_differ_and_keep_the_curve(fields):
    words = ["".join(w) for k in range(4) for w in itertools.combinations("HVS", k)]
    results = [apply(word, *fields)[0] for word in words]
    for a, b in itertools.combinations(results, 2):
        assert not np.allclose(a, b)
    for result in results:
        assert np.allclose(result[:, 2].mean(axis=(1, 2)), fields[0][:, 2].mean(axis=(1, 2)))


def test_mirror_y_keeps_affine_compression(fields):
    solid = fields[1]
    affine = np.zeros((11, 4, 96, 96))
    affine[:, 1] = -FRAME_STRAIN[:, None, None] * dataset.pixel_height() * solid
    mirrored = dataset.mirror_y(affine, solid, FRAME_STRAIN)
    height = dataset.pixel_height() * solid[::-1]
    np.testing.assert_allclose(mirrored[:, 1], -FRAME_STRAIN[:, None, None] * height, atol=1e-12)
