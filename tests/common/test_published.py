"""The published layout: GIF files, shards from them and back, damage, interruption."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import synthetic
from crumple import cli, dataset, inspection, metrics
from crumple.config import Config, parse_config
from crumple.errors import UserError
from crumple.layout import CHANNELS, CURVE_STRAIN, FRAME_STRAIN
from crumple.published import export_published, exporting, files, import_published, importing

LEVEL = 1 / 255


def moving_square(count=11):
    """Frames of different grey squares."""
    grey = np.zeros((count, 96, 96), np.uint8)
    for k in range(count):
        grey[k, 10 : 50 + k, 20:60] = 255 - 20 * k
    return grey


def by_pillow(frames, **options):
    """What Pillow's own writer makes of frames."""
    images = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], **options)
    return file.getvalue()


# --- GIF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [moving_square(), np.repeat(moving_square(1), 11, axis=0)])
def test_every_reader_finds_eleven_frames(frames):
    content = files.write_gif(frames)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 11 and image.info["duration"] == files.DURATION
        for k, frame in enumerate(frames):
            image.seek(k)
            assert np.array_equal(np.asarray(image.convert("L")), frame)
    assert np.array_equal(files.read_gif(content, still=True), frames)


def test_all_grey_values_survive():
    frames = np.random.default_rng(0).integers(0, 256, (11, 96, 96), dtype=np.uint8)
    assert np.array_equal(files.read_gif(files.write_gif(frames)), frames)


@pytest.mark.parametrize("repeats", [[1, 3, 2, 5], [10, 1], [1] * 9 + [2]])
def test_frames_that_pillow_has_merged_come_back(repeats):
    frames = np.repeat(moving_square(len(repeats)), repeats, axis=0)
    content = by_pillow(frames, duration=200)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == len(repeats)  # control: they were merged
    assert np.array_equal(files.read_gif(content), frames)


def test_a_topology_that_pillow_has_merged_comes_back():
    content = by_pillow(np.repeat(moving_square(1), 11, axis=0), duration=200)
    assert files.read_gif(content, still=True).shape == (11, 96, 96)
    with pytest.raises(ValueError, match="1 of 11 frames"):
        files.read_gif(content)  # of a field, the rest of a file that was cut off


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (by_pillow(moving_square(12), duration=200), "more than 11"),
        (by_pillow(moving_square(7), duration=200), "7 of 11 frames"),
        (by_pillow(np.repeat(moving_square(4), [1, 3, 2, 5], axis=0)), "4 of 11 frames"),
        (by_pillow(moving_square()[:, :90], duration=200), "96x90, not 96x96"),
        (files.write_gif(moving_square())[:700], ""),
        (b"GIF89a", ""),
        (b"", ""),
    ],
)
def test_what_is_no_sequence_of_eleven_is_refused(content, words):
    with pytest.raises((ValueError, OSError, SyntaxError, IndexError), match=words or None):
        files.read_gif(content)


# --- shards and back -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Ten made-up designs in two shards; design 1 has failed."""
    return synthetic.write_dataset(tmp_path_factory.mktemp("data"), 10, 5, Config())


@pytest.fixture(scope="module")
def exported(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "lagrangian"
    export_published(manifest, out, processes=1)
    return out


@pytest.fixture
def layout(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "lagrangian")


def imported(layout, folder, processes=1):
    import_published(layout, folder / "shards", processes)
    return index(folder)


def index(folder):
    dataset.write_manifest(sorted((folder / "shards").iterdir()), Config(), folder / "dataset.json")
    return dataset.Dataset(folder / "dataset.json")


def by_part(manifest):
    """Places of a data set in the order of the samples of the published layout."""
    found = dataset.Dataset(manifest)
    return found, {
        part: found.split[split][np.lexsort(found.split[split].T[::-1])]
        for part, split in (("training", "train"), ("validation", "validation"))
    }


def test_the_layout_is_the_published_one(exported, manifest):
    found, places = by_part(manifest)
    for part, count in (("training", len(places["training"])), ("validation", 1)):
        for folder in ("topo", "u_1", "u_2", "s_mises", "s_22", "ener"):
            names = {path.name for path in (exported / part / "gifs" / folder).iterdir()}
            assert names == {f"{i}.gif" for i in range(count)}
        ranges = np.genfromtxt(exported / part / "frame_range_data.csv", delimiter=",", ndmin=2)
        curves = np.genfromtxt(exported / part / "stress_strain_data.csv", delimiter=",", ndmin=2)
        assert ranges.shape == (count, 8) and curves.shape == (count, 51)
        frames = found.read("frames", places[part]).astype(float)
        assert np.allclose(ranges[:, 5], frames[:, :, CHANNELS.index("s22")].min((1, 2, 3)))
        assert np.allclose(ranges[:, 4], frames[:, :, CHANNELS.index("mises")].max((1, 2, 3)))
        assert np.allclose(curves, found.read("curve_stress", places[part]))
    assert len(places["validation"]) == 1


def test_shards_come_back_to_half_a_grey_value(exported, manifest, tmp_path):
    found, places = by_part(manifest)
    back = imported(exported, tmp_path)
    assert len(back.manifest["valid"]) == 9 and back.manifest["failures"] == []
    for part, split in (("training", "train"), ("validation", "validation")):
        ours, theirs = places[part], back.split[split]
        assert np.array_equal(found.read("solid", ours), back.read("solid", theirs))
        assert np.array_equal(found.read("quarter", ours), back.read("quarter", theirs))
        assert np.array_equal(found.read("curve_stress", ours), back.read("curve_stress", theirs))
        before = found.read("frames", ours).astype(float)
        after = back.read("frames", theirs).astype(float)
        for k in range(4):
            step = np.ptp(before[:, :, k], axis=(1, 2, 3)) * LEVEL
            error = np.abs(after - before)[:, :, k].max(axis=(1, 2, 3))
            assert (error < 0.51 * step + 1e-3 * np.abs(before[:, :, k]).max((1, 2, 3))).all()
            assert (error > 0.2 * step).all()  # control: grey values do lose something
        stress = np.array(
            [np.interp(FRAME_STRAIN, CURVE_STRAIN, c) for c in found.read("curve_stress", ours)]
        )
        assert np.allclose(back.read("frame_stress", theirs), stress, rtol=1e-6)


def test_another_range_is_another_field(layout, manifest, tmp_path):
    """Control of the test before: the tables count."""
    table = layout / "training/frame_range_data.csv"
    lines = list(csv.reader(table.read_text().splitlines()))
    lines[0][5] = str(1.1 * float(lines[0][5]))
    table.write_text("\n".join(map(",".join, lines)))
    found, places = by_part(manifest)
    back = imported(layout, tmp_path)
    before = found.read("frames", places["training"][:2]).astype(float)[:, :, 2]
    after = back.read("frames", back.split["train"][:2]).astype(float)[:, :, 2]
    error = np.abs(after - before).max(axis=(1, 2, 3)) / np.ptp(before, axis=(1, 2, 3))
    assert error[0] > 0.05 > error[1]


def test_published_files_come_back_as_they_were(exported, tmp_path):
    """From the layout into shards and back: every grey value, and the tables to rounding."""
    back = imported(exported, tmp_path)
    export_published(back.path, tmp_path / "again", processes=1)
    for path in exported.rglob("*.gif"):
        other = tmp_path / "again" / path.relative_to(exported)
        one, two = (files.read_gif(p.read_bytes(), still=True) for p in (path, other))
        solid = files.read_gif((path.parents[1] / "topo" / path.name).read_bytes(), still=True) > 0
        assert np.array_equal(one[solid], two[solid]), path
    for path in exported.rglob("*_data.csv"):
        one, two = (
            np.genfromtxt(p, delimiter=",")
            for p in (path, tmp_path / "again" / path.relative_to(exported))
        )
        assert np.allclose(one, two, rtol=1e-3, atol=1e-6)


def test_the_loss_is_reported(exported, manifest, tmp_path, capsys):
    losses = json.loads((exported / "grey_values.json").read_text())
    assert losses["samples"] == 9
    found, places = by_part(manifest)
    back = imported(exported, tmp_path)
    splits = ("train", "validation")
    before = np.concatenate([found.read("frames", places[p]) for p in files.PARTS]).astype(float)
    after = np.concatenate([back.read("frames", back.split[s]) for s in splits]).astype(float)
    solid = np.concatenate([found.read("solid", places[p]) for p in files.PARTS]) > 0
    difference = (after - before).swapaxes(0, 2).swapaxes(1, 2)  # channels, samples, frames
    for channel, errors in zip(CHANNELS, difference, strict=True):
        mean = np.mean([(e[:, s] ** 2).mean() for e, s in zip(errors, solid, strict=True)])
        loss = losses["channels"][channel]
        assert loss["rms_error"] == pytest.approx(np.sqrt(mean), rel=0.05)  # and float16
        assert loss["relative_error_by_frame"][0] > loss["relative_error_by_frame"][-1] > 0
        assert loss["largest_error"] >= loss["rms_error"]
    text = exporting.describe(losses)
    assert "u1" in text and "MPa" in text and "median" in text


# --- data sets of imported shards ----------------------------------------------------------------


def test_the_split_is_the_published_one(exported, tmp_path):
    back = imported(exported, tmp_path)
    assert back.split["train"][:, 0].tolist() == [0] * 8
    assert back.split["validation"].tolist() == [[1, 0]]
    other = parse_config({"seed": 5, "dataset": {"validation_fraction": 0.0}})
    shards = sorted((tmp_path / "shards").iterdir())
    split = dataset.build_manifest(shards, other, tmp_path)["split"]
    assert {name: list(map(tuple, places)) for name, places in split.items()} == back.manifest[
        "split"
    ]


def test_the_record_says_published(exported, tmp_path):
    back = imported(exported, tmp_path)
    settings = back.manifest["made_by"]["settings"]
    assert settings["import-published"] == {"physics": "published"}
    assert "simulate" not in settings and set(settings["index"]) == {"seed", "dataset"}
    back.check_settings(parse_config({"contact": {"friction": 0.1}}))  # whatever the run's are


def test_imported_and_simulated_shards_do_not_mix(exported, manifest, tmp_path):
    imported(exported, tmp_path)
    foreign, own = tmp_path / "shards/0001.zarr", manifest.parent / "shards/0000.zarr"
    for shards in ([foreign, own], [own, foreign]):
        with pytest.raises(UserError, match="was made with other settings"):
            dataset.build_manifest(shards, Config(), tmp_path)


def test_pixels_and_curve_can_be_compared(exported, tmp_path):
    """In place of the mesh's mean stress, which isn't published, stands that of the pixels."""
    back = imported(exported, tmp_path)
    frames = back.read("frames", back.split["train"]).astype(float)
    solid = back.read("solid", back.split["train"])[:, None] > 0
    J = metrics.volume_change(frames[:, :, :2], solid)
    curves = metrics.predicted_curve(frames[:, :, 2], FRAME_STRAIN, J)
    assert np.allclose(back.read("virial_stress", back.split["train"]), curves, rtol=1e-5)
    facts = inspection.overview(back)
    assert 0 < np.median(facts.imbalance) < 0.2
    assert "acceptance       unknown" in inspection.describe(back, facts)


# --- damage, interruption, processes -------------------------------------------------------------


def test_damaged_files_are_failures_with_their_reasons(layout, tmp_path, capsys):
    gifs = layout / "training/gifs"
    (gifs / "u_1/0.gif").write_bytes(b"no GIF")
    (gifs / "s_22/1.gif").write_bytes((gifs / "s_22/1.gif").read_bytes()[:2000])
    (gifs / "topo/2.gif").unlink()
    frames = files.read_gif((gifs / "u_2/3.gif").read_bytes())
    (gifs / "u_2/3.gif").write_bytes(by_pillow(frames[:6], duration=200))
    (gifs / "topo/4.gif").write_bytes(files.write_gif(moving_square()))
    lines = (layout / "training/stress_strain_data.csv").read_text().splitlines()
    lines[5] = lines[5].replace(",", ",x", 1)
    lines[6] = "nan," + lines[6].partition(",")[2]
    (layout / "training/stress_strain_data.csv").write_text("\n".join(lines))
    back = imported(layout, tmp_path)
    reasons = {failure["index"]: failure["reason"] for failure in back.manifest["failures"]}
    assert all(reason.startswith("damaged file: training/") for reason in reasons.values())
    for sample, words in {
        0: "u_1/0.gif: it isn't a GIF",
        1: "s_22/1.gif: image file is truncated",
        2: "topo/2.gif: it is missing",
        3: "u_2/3.gif: it has 6 of 11 frames",
        4: "topo/4.gif: the solid isn't the same in all frames",
        5: "stress_strain_data.csv, line 6: could not convert",
        6: "stress_strain_data.csv, line 7: a value isn't a number",
    }.items():
        assert words in reasons.pop(sample)
    assert not reasons and len(back.manifest["valid"]) == 2
    printed = capsys.readouterr().out
    assert "2 of 9 samples are in 2 shards" in printed and printed.count("not imported") == 7
    assert not back.shard(0)["frames"][0].any() and np.isnan(back.shard(0)["curve_stress"][0]).all()


def test_a_replaced_file_is_read_and_the_rest_is_kept(layout, tmp_path, monkeypatch):
    path = layout / "training/gifs/u_1/0.gif"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert len(imported(layout, tmp_path).manifest["failures"]) == 1
    other = tmp_path / "shards/0001.zarr"
    before = other.stat().st_mtime_ns
    path.write_bytes(whole)
    assert imported(layout, tmp_path).manifest["failures"] == []
    assert other.stat().st_mtime_ns == before
    monkeypatch.setattr(importing, "read_sample", None)  # nothing is left to be read
    imported(layout, tmp_path)


def test_processes_change_nothing(exported, manifest, tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    one = imported(exported, tmp_path / "one").manifest["shards"]
    two = imported(exported, tmp_path / "two", processes=2).manifest["shards"]
    assert [s["sha256"] for s in one] == [s["sha256"] for s in two]
    export_published(manifest, tmp_path / "out", processes=2)
    sums = (tmp_path / "out/SHA256SUMS").read_text()
    assert sums == (exported / "SHA256SUMS").read_text()


def test_an_interrupted_export_continues(manifest, exported, tmp_path, monkeypatch):
    original, done = exporting.export_shard, []

    def stopped(job):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(job)
        original(job)

    monkeypatch.setattr(exporting, "export_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_published(manifest, tmp_path / "out", processes=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(exporting, "export_shard", lambda job: (done.append(job), original(job)))
    export_published(manifest, tmp_path / "out", processes=1)
    assert len(done) == 3 and len(set((job.part, job.shard) for job in done)) == 3
    assert (tmp_path / "out/SHA256SUMS").read_text() == (exported / "SHA256SUMS").read_text()


def failure(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_other_layouts_are_refused_in_one_sentence(layout, tmp_path, capsys):
    out = tmp_path / "shards"

    def refused():
        message = failure(capsys, "import-published", layout, "--out", out)
        assert message.count("\n") == 1 and not out.exists()
        return message

    lines = (layout / "training/frame_range_data.csv").read_text().splitlines()
    (layout / "training/frame_range_data.csv").write_text("\n".join(lines[:-1]))
    assert "7 lines and stress_strain_data.csv 8" in refused()
    eulerian = "\n".join(",".join(line.split(",")[:4]) for line in lines)
    (layout / "training/frame_range_data.csv").write_text(eulerian)
    assert "has lines of 4 values, not of 8" in refused()
    (layout / "training/frame_range_data.csv").write_text("")
    assert "it is empty" in refused()
    (layout / "training/frame_range_data.csv").unlink()
    assert "No such file" in refused()
    shutil.rmtree(layout / "training")
    shutil.rmtree(layout / "validation")
    assert "holds neither training nor validation" in refused()


def test_foreign_shards_are_not_replaced(exported, manifest, capsys):
    message = failure(capsys, "import-published", exported, "--out", manifest.parent / "shards")
    assert "`crumple import-published` hasn't made it" in message
    message = failure(capsys, "export-published", manifest, "--out", manifest.parent)
    assert "`crumple export-published` hasn't made it" in message
    message = failure(
        capsys,
        "export-published",
        manifest,
        "--out",
        manifest.parent.parent / "x",
        "--processes",
        "0",
    )
    assert "at least 1" in message


def test_a_run_on_imported_shards_can_be_checked(exported, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    imported(exported, run / "data")
    assert cli.main(["check", str(run)]) == 0
    assert "2 shards in data, 1 data set" in capsys.readouterr().out
