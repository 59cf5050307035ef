"""The library: what comes out is what was simulated; what doesn't belong together is refused."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import synthetic
from crumple import cli, dataset, designs
from crumple.atomic import save_npz
from crumple.config import Config, parse_config
from crumple.errors import UserError
from crumple.layout import FRAME_STRAIN
from crumple.library import (
    LIBRARY,
    Library,
    collect,
    packaged,
    read_library,
    require_package,
    save_library,
    write_library,
)
from crumple.metrics import nrmse

CONFIG = Config(dataset={"validation_fraction": 0.3})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A data set of six designs in two shards; design 1 has failed."""
    return synthetic.write_dataset(tmp_path_factory.mktemp("data"), 6, 3, CONFIG)


@pytest.fixture
def shards(manifest):
    return sorted((manifest.parent / "shards").iterdir())


def stored(shards, name):
    """An array of the valid designs of shards, as zarr has it."""
    groups = [dataset.open_shard(path) for path in shards]
    return np.concatenate([group[name][:][group["status"][:] == "ok"] for group in groups])


def test_it_holds_what_was_simulated(manifest, shards, tmp_path):
    write_library([manifest], None, tmp_path / "a.npz")
    library = read_library(tmp_path / "a.npz")
    assert library.index.tolist() == [0, 2, 3, 4, 5]
    assert np.array_equal(library.quarter, stored(shards, "quarter"))
    assert nrmse(library.curve_stress, stored(shards, "curve_stress")).max() < 5e-4
    assert np.array_equal(library.solid_fraction(), stored(shards, "solid_fraction"))
    assert library.seed == CONFIG.seed
    assert library.record["settings"]["simulate"]["contact"]["friction"] == CONFIG.contact.friction
    assert library.record["versions"]["crumple"] == [dataset.versions()["crumple"]]


def test_shards_in_any_order_give_the_same_file(manifest, shards, tmp_path):
    write_library([manifest], None, tmp_path / "a.npz")
    write_library(shards[::-1], None, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_extending_is_making_it_of_all(manifest, shards, tmp_path):
    write_library([manifest], None, tmp_path / "all.npz")
    write_library(shards[1:], None, tmp_path / "part.npz")
    write_library(shards[:1], tmp_path / "part.npz", tmp_path / "part.npz")  # in place
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "all.npz").read_bytes()
    write_library(shards, tmp_path / "part.npz", tmp_path / "part.npz")  # nothing is new
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "all.npz").read_bytes()


def some_library(curves):
    quarter = np.array([designs.sample(0, i, CONFIG.designs).quarter for i in range(len(curves))])
    record = synthetic.shard_record(CONFIG, range(len(curves)), quarter)
    record = record | {"stage": "library", "versions": {}}
    return Library(np.arange(len(curves)), quarter, np.asarray(curves, np.float32), record)


def test_soft_and_stiff_curves_survive_the_rounding(tmp_path):
    rng = np.random.default_rng(0)
    magnitude = 10.0 ** np.arange(-9, 9)[:, None]
    curves = magnitude * rng.normal(1, 0.5, (18, 51)) * np.linspace(0, 1, 51)
    save_library(tmp_path / "a.npz", some_library(np.vstack([curves, np.zeros(51)])))
    read = read_library(tmp_path / "a.npz").curve_stress
    assert nrmse(read[:-1], curves).max() < 5e-4
    assert not read[-1].any()
    with np.errstate(over="ignore"):  # control: as plain float16 the ends of the range are lost
        plain = nrmse(curves.astype(np.float16).astype(float), curves)
    assert plain[0] > 0.1 and not plain[-1] < 0.1
    save_library(tmp_path / "b.npz", read_library(tmp_path / "a.npz"))  # rounded once, not twice
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


# --- what is refused -----------------------------------------------------------------------------


def shard_of(path, index, config=CONFIG, factor=1.0, quarters=None, **more):
    if quarters is None:
        quarters = [designs.sample(config.seed, i, config.designs).quarter for i in index]
    stress = [factor * synthetic.curve(q.mean() ** 2, 0.3, FRAME_STRAIN) for q in quarters]
    synthetic.write_shard(path, quarters, stress, ["ok"] * len(index), index, config=config, **more)
    return path


@pytest.fixture
def base(tmp_path):
    write_library([shard_of(tmp_path / "base.zarr", range(3))], None, tmp_path / "base.npz")
    return tmp_path / "base.npz"


def test_the_same_design_with_another_result_is_refused(tmp_path, base):
    again = shard_of(tmp_path / "again.zarr", range(2, 5), factor=1 + 2e-4)
    assert len(write_library([again], base, tmp_path / "b.npz")) == 5
    library, before = read_library(tmp_path / "b.npz"), read_library(base)
    assert np.array_equal(library.curve_stress[:3], before.curve_stress)  # kept as it was
    other = shard_of(tmp_path / "other.zarr", range(2, 5), factor=1.01)
    with pytest.raises(UserError, match="design 2 of .*other.zarr isn't the one"):
        write_library([other], base, tmp_path / "c.npz")
    flipped = [designs.sample(0, i, CONFIG.designs).quarter[::-1] for i in range(3)]
    with pytest.raises(UserError, match="design 0 of .* isn't the one"):
        write_library(
            [shard_of(tmp_path / "flipped.zarr", range(3), quarters=flipped)],
            base,
            tmp_path / "c.npz",
        )
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"contact": {"friction": 0.1}}, "contact.friction 0.1 instead of 0.4"),
        ({"mesh": {"element_size": 0.02}}, "mesh.element_size 0.02 instead of 0.014"),
        ({"seed": 1}, "seed 1 instead of 0"),
        ({"designs": {"threshold_max": 0.5}}, "designs.threshold_max 0.5 instead of 0.6"),
    ],
)
def test_designs_of_other_settings_are_refused(tmp_path, base, change, reason):
    other = shard_of(tmp_path / "other.zarr", range(3, 6), config=parse_config(change))
    with pytest.raises(UserError, match=reason):
        write_library([other], base, tmp_path / "b.npz")
    assert len(write_library([other], None, tmp_path / "b.npz")) == 3  # alone it is a library


def test_the_size_of_the_run_may_differ(tmp_path, base):
    config = parse_config(
        {"designs": {"count": 500, "shard_size": 3}, "fields": {"eulerian": True}}
    )
    more = shard_of(tmp_path / "more.zarr", range(3, 6), config=config)
    assert len(write_library([more], base, tmp_path / "b.npz")) == 6


def test_generated_designs_are_refused(tmp_path):
    generated = {name: np.zeros(3, np.int64) for name in ("target", "candidate", "rank")}
    shard = shard_of(tmp_path / "a.zarr", range(3), **generated)
    with pytest.raises(UserError, match="a.zarr doesn't hold random designs"):
        write_library([shard], None, tmp_path / "a.npz")


def test_a_damaged_shard_is_refused(tmp_path, manifest, shards):
    copy = shutil.copytree(shards[0], tmp_path / "copy.zarr")
    assert len(write_library([copy], None, tmp_path / "a.npz")) == 2
    chunk = next(p for p in sorted((copy / "curve_stress").rglob("*")) if p.suffix != ".json")
    victim = chunk if chunk.is_file() else next(p for p in chunk.rglob("*") if p.is_file())
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="copy.zarr has changed since it was written"):
        write_library([copy], None, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_nothing_is_left(tmp_path):
    quarter = designs.sample(0, 0, CONFIG.designs).quarter
    synthetic.write_shard(tmp_path / "a.zarr", [quarter], [None], ["not meshable: x"], [0])
    with pytest.raises(UserError, match="no design with a result is left"):
        write_library([tmp_path / "a.zarr"], None, tmp_path / "a.npz")
    with pytest.raises(UserError, match="no design with a result is left"):
        collect([], None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a | {"index": a["index"][::-1]}, "its designs aren't in order"),
        (lambda a: {name: v if name == "made_by" else v[:0] for name, v in a.items()}, "in order"),
        (lambda a: a | {"quarter_bits": ~a["quarter_bits"]}, "doesn't belong to the designs"),
        (lambda a: a | {"curve_shape": np.nan * a["curve_shape"]}, "curve_shape must be at least"),
        (lambda a: a | {"made_by": "{}"}, "'stage' is missing"),
        (lambda a: a | {"made_by": str(a["made_by"]).replace('"seed": 0', '"seed": "0"')}, "seed"),
    ],
)
def test_a_damaged_library_is_refused(tmp_path, base, change, reason):
    with np.load(base) as file:
        save_npz(tmp_path / "bad.npz", **change(dict(file)))
    with pytest.raises(UserError, match=reason) as caught:
        read_library(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value) and "bad.npz" in str(caught.value)


def test_the_command_line(tmp_path, manifest, shards, capsys):
    out = tmp_path / "a.npz"
    assert cli.main(["library", str(manifest), "--out", str(out)]) == 0
    assert "5 designs" in capsys.readouterr().out
    assert cli.main(["library", str(shards[0]), "--extend", str(out), "--out", str(out)]) == 0
    assert cli.main(["library", str(tmp_path / "none.json"), "--out", str(out)]) == 1
    assert cli.main(["library", str(tmp_path / "none.zarr"), "--out", str(out)]) == 1
    assert capsys.readouterr().err.count("crumple: error: ") == 2
    assert len(read_library(out)) == 5


# --- the library of the package ------------------------------------------------------------------


def test_the_packaged_library_is_small_and_fast():
    path = Path(designs.__file__).parent / "data/library.npz"
    assert path.stat().st_size < 5e6
    read_library()
    start = time.process_time()
    library = read_library()
    assert time.process_time() - start < 0.5
    assert len(library) >= 512 and set(np.load(path)) == {*LIBRARY.arrays}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"seed": 7, "designs": {"count": 5, "shard_size": 2}, "generation": {"draws": 99}},
        {"training": {"steps": 3}, "designer_training": {"steps": 3}},
    ],
)
def test_a_run_of_the_same_physics_takes_the_package(change):
    require_package(parse_config({"models": "package"} | change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mesh": {"element_size": 0.02}}, r"the library .*element_size 0.014 instead of 0.02"),
        ({"loading": {"platens": "lubricated"}}, r'platens "bonded" instead of "lubricated"'),
        ({"contact": {"friction": 0.1}}, r"friction 0.4 instead of 0.1"),
        ({"designs": {"islands": "drop"}}, r'islands "reject" instead of "drop"'),
        ({"dataset": {"validation_fraction": 0.2}}, r"the designer .*fraction 0.1 instead of 0.2"),
        ({"evaluation": {"held_out": 10**5}}, r"holds \d+ out: ask for fewer"),
    ],
)
def test_a_run_that_the_package_does_not_fit_is_refused(change, reason):
    with pytest.raises(UserError, match=reason) as caught:
        require_package(parse_config({"models": "package"} | change))
    assert "\n" not in str(caught.value)


def test_models_of_another_library_are_refused(tmp_path, monkeypatch):
    """The library was extended, say, and one of the two not trained again."""
    package = shutil.copytree(packaged(""), tmp_path / "package")
    monkeypatch.setattr("crumple.library.packaged", lambda name: package / name)
    require_package(Config(models="package"))
    record = json.loads((package / "response/made_by.json").read_text())
    record["inputs"]["designs"] = "0" * 64
    (package / "response/made_by.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="the response of the package doesn't belong"):
        require_package(Config(models="package"))


def test_the_packaged_designs_are_those_of_their_seed():
    library = read_library()
    settings = parse_config({"designs": library.record["settings"]["sample"]["designs"]}).designs
    for row in np.linspace(0, len(library) - 1, 5).astype(int):
        design = designs.sample(library.seed, int(library.index[row]), settings)
        assert np.array_equal(design.quarter, library.quarter[row])
        other = designs.sample(library.seed + 1, int(library.index[row]), settings)
        assert not np.array_equal(other.quarter, library.quarter[row])


def test_the_packaged_curves_are_responses_of_the_default_physics():
    library = read_library()
    settings = Config().model_dump(mode="json")
    simulated = library.record["settings"]["simulate"]
    assert json.loads(json.dumps(simulated)) == {name: settings[name] for name in simulated}
    assert np.isfinite(library.curve_stress).all() and not library.curve_stress[:, 0].any()
    assert (library.curve_stress[:, 1:] > 0).mean() > 0.999
    # denser designs are stiffer
    ranks = [
        np.argsort(np.argsort(v)) for v in (library.solid_fraction(), library.curve_stress[:, 5])
    ]
    assert np.corrcoef(ranks)[0, 1] > 0.5
