"""Shards, manifest, split, scaling and symmetries of the data set."""

import itertools
import json
import shutil

import numpy as np
import pytest
import zarr

import synthetic
from crumple import cli, dataset, provenance, seeds
from crumple.config import parse_config
from crumple.designs import mirror
from crumple.errors import UserError
from crumple.inspection import describe, inspect, overview
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN


def shard(path, indices, level=1.0, failed=(), settings=None):
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
    record = synthetic.shard_record(settings or config(), indices, quarter)
    dataset.write_shard(
        path,
        {
            "index": np.array(indices),
            "seed": np.zeros(n, np.int64),
            "threshold": np.full(n, 0.3),
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
        {"note": "test", "made_by": record},
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
    settings = manifest["made_by"]["settings"]
    assert settings["index"]["dataset"]["validation_fraction"] == 0.3
    assert settings["simulate"]["contact"]["friction"] == 0.4
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
    files = [
        shard(other / f"{k}.zarr", range(2 * k, 2 * k + 2), settings=config(seed=1))
        for k in range(7)
    ]
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


def test_scales_are_those_of_all_shards_and_keep_none_of_their_rows():
    random = np.random.default_rng(0)
    shapes = {"channel_statistics": (3, 11, 4), "curve_stress": (51,), "frame_stress": (11,)}
    rows = {name: random.random((12, *shape)) for name, shape in shapes.items()}
    together, apart = dataset.ScaleSums(), dataset.ScaleSums()
    together.add(rows)
    for first, end in ((0, 1), (1, 1), (1, 8), (8, 12)):
        apart.add({name: values[first:end] for name, values in rows.items()})
    wanted, found = together.constants(), apart.constants()
    assert wanted.keys() == found.keys() == {"u1", "w2", "s22", "curve_stress", "frame_stress"}
    for name, constants in wanted.items():
        for what, values in constants.items():
            assert found[name][what] == pytest.approx(values, rel=1e-12)
    stress = rows["frame_stress"]
    assert wanted["frame_stress"]["std"] == pytest.approx(stress.std(axis=0))
    kept = [array.size for totals in apart._totals.values() for array in totals]
    assert sum(kept) == 4 * (3 * 11 + 51 + 11)


def test_manifest_refuses_bad_shards(tmp_path, shards):
    twice = shard(tmp_path / "0002.zarr", range(5, 7))
    with pytest.raises(UserError, match="design 5 is both in"):
        dataset.build_manifest([*shards, twice], config(), tmp_path)
    with pytest.raises(
        UserError, match="none.zarr: there is no such folder; make this shard again"
    ):
        dataset.build_manifest([tmp_path / "none.zarr"], config(), tmp_path)
    all_failed = shard(tmp_path / "0003.zarr", range(20, 22), failed=[0, 1])
    with pytest.raises(UserError, match="no design is left for training"):
        dataset.build_manifest([all_failed], config(), tmp_path)


def test_reading_a_manifest_says_what_is_wrong(tmp_path):
    path = tmp_path / "dataset.json"
    with pytest.raises(UserError, match="cannot read .*dataset.json: No such file"):
        dataset.read_manifest(path)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot read .*dataset.json"):
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
    for _ in range(2):  # the second one replaces the first
        inspect(manifest_path, sheet)
        assert sheet.stat().st_size > 20_000

    victim = next(p for p in (tmp_path / "0001.zarr/frames/c").rglob("*") if p.is_file())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError, match=r"0001\.zarr"):
        inspect(manifest_path, None)


# --- what is refused -----------------------------------------------------------------------------


def chunks(path):
    """Files of a shard that hold values."""
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json")


def damage(path, how):
    if how == "missing":  # zarr reads zeros instead
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_a_damaged_shard_is_not_indexed(tmp_path, shards, how):
    """Whatever file is damaged; formerly the damaged shard got a valid checksum."""
    for k, chunk in enumerate(chunks(shards[1])[::5]):
        copy = shutil.copytree(shards[1], tmp_path / f"{k}" / "0001.zarr")
        damage(copy / chunk.relative_to(shards[1]), how)
        with pytest.raises(UserError, match=r"0001.zarr has changed .* make this shard again"):
            dataset.build_manifest([shards[0], copy], config(), tmp_path)
    assert k > 1


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_a_shard_that_was_damaged_later_is_not_read(manifest_path, shards, how):
    damage(chunks(shards[1])[-1], how)
    data = dataset.Dataset(manifest_path)
    assert data.read("index", [(0, 1)]) == [1]
    with pytest.raises(UserError, match=r"0001.zarr has changed .* make this shard again"):
        data.read("index", [(1, 1)])
    shutil.rmtree(shards[0])
    with pytest.raises(UserError, match=r"0000.zarr is missing: make it again"):
        dataset.Dataset(manifest_path).shard(0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"contact": {"friction": 0.1}}, "contact.friction 0.4 instead of 0.1"),
        ({"mesh": {"element_size": 0.02}}, "mesh.element_size 0.014 instead of 0.02"),
        ({"designs": {"threshold_max": 0.5}}, "designs.threshold_max 0.6 instead of 0.5"),
        ({"seed": 3}, "seed 0 instead of 3"),
    ],
)
def test_shards_of_other_settings_are_not_indexed(tmp_path, shards, changed, reason):
    now = parse_config(changed | {"dataset": {"validation_fraction": 0.3}})
    with pytest.raises(UserError, match=f"0000.zarr was made with other settings .{reason}"):
        dataset.write_manifest(shards, now, tmp_path / "dataset.json")
    assert not (tmp_path / "dataset.json").exists()
    other = shard(tmp_path / "0002.zarr", range(14, 18), settings=now)
    with pytest.raises(UserError, match="0002.zarr was made with other settings"):
        dataset.build_manifest([*shards, other], config(), tmp_path)


def test_the_number_of_designs_may_grow(tmp_path, shards):
    more = parse_config({"designs": {"count": 10_000, "shard_size": 50}})
    assert dataset.build_manifest(shards, more, tmp_path)["valid"]


def test_a_shard_whose_designs_were_exchanged_is_not_indexed(tmp_path):
    path = shard(tmp_path / "0000.zarr", range(4))
    group = zarr.open_group(path, mode="a")
    group["quarter"][0] = 1 - group["quarter"][0]
    group.attrs["checksum"] = provenance.hash_arrays(path)
    with pytest.raises(UserError, match="0000.zarr doesn't belong to the designs"):
        dataset.build_manifest([path], config(), tmp_path)


def change(manifest, path, value):
    """Set one value of a nested structure; ``...`` deletes it."""
    *way, last = path
    for key in way:
        manifest = manifest[key]
    if value is ...:
        del manifest[last]
    else:
        manifest[last] = value(manifest[last]) if callable(value) else value


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["frame_strain"], lambda s: [100 * x for x in s], "frame_strain isn't that of this"),
        (["curve_strain"], lambda s: s[:-1], "curve_strain isn't that of this program"),
        (["split", "validation", 0], [0, -1], "greater than or equal to 0"),
        (["split", "train", 0], [0, 99], "a row that no shard has"),
        (["split", "train", 0], [9, 0], "a row that no shard has"),
        (["split", "train", 0], [0, 2], "the split isn't made of the valid designs"),
        (["split", "train", 0], [0, 1.5], "valid integer"),
        (["split", "train"], [], "at least 1 item"),
        (["split", "train"], lambda s: [*s, s[0]], "twice in the split"),
        (["shards", 0, "indices", 0], 13, "in two rows"),
        (["shards", 0, "indices"], lambda s: s[:-1], "a row that no shard has"),
        (["shards", 0, "sha256"], "abc", "should match pattern"),
        (["valid", 0], True, "valid integer"),
        (["failures"], [], "valid and failed designs aren't those of the shards"),
        (["normalisation", "u1", "mean", 0], "0", "valid number"),
        (["channels"], ["u2", "u1", "s22", "mises"], "channels isn't that of this program"),
        (["units", "s22"], "Pa", "units isn't that of this program"),
        (["version"], 1, "'version' = 1"),
        (["split"], ..., "'split' is missing"),
        (["extra"], 1, "'extra' is unknown"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(manifest_path, path, value, reason):
    manifest = json.loads(manifest_path.read_text())
    if path == ["extra"]:
        manifest["extra"] = 0
    change(manifest, path, value)
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=reason) as caught:
        dataset.Dataset(manifest_path)
    assert str(caught.value).endswith("make it with `crumple index`")


def test_training_designs_are_not_validated_on(manifest_path):
    manifest = json.loads(manifest_path.read_text())
    manifest["split"]["validation"] = manifest["split"]["train"]
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="twice in the split"):
        dataset.Dataset(manifest_path)


def test_index_takes_the_folder_of_all_shards(tmp_path):
    """The names of thousands of shards are longer than a command may be."""
    settings = tmp_path / "config.yaml"
    settings.write_text("designs: {count: 10, shard_size: 4}\nevaluation: {held_out: 0}")
    for k in range(4):  # the last one is left from a larger data set
        shard(tmp_path / f"shards/{k:04d}.zarr", range(4 * k, 4 * k + 4 - 2 * (k == 2)))
    out = tmp_path / "dataset.json"
    command = ["index", "--config", str(settings), "--shards", str(tmp_path / "shards")]
    assert cli.main([*command, "--out", str(out)]) == 0
    manifest = dataset.read_manifest(out)
    assert [entry["path"] for entry in manifest["shards"]] == [
        f"shards/{k:04d}.zarr" for k in range(3)
    ]
    shutil.rmtree(tmp_path / "shards/0001.zarr")
    assert cli.main([*command, "--out", str(out)]) == 1


def test_xarray_opens_a_shard(shards):
    xarray = pytest.importorskip("xarray")
    opened = xarray.open_zarr(shards[0], consolidated=False)
    assert opened["frames"].dims == ("design", "frame", "channel", "row", "column")
    assert opened["curve_stress"].dims == ("design", "point")
    assert dict(opened.sizes)["design"] == 8
    assert opened["frames"][3].isel(channel=2).values.max() <= 0


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
