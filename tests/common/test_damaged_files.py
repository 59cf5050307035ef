"""Whatever a file holds, reading it works or gives one sentence: no traceback, hang or big memory.

Every reader gets files that were cut off, had bytes changed, inserted or repeated, JSON with values
exchanged, and npz files with other arrays; about 12,000 in all, the same ones in every run.
``CRUMPLE_EXAMPLES=10 pytest ...`` tries ten times as many others.
"""

import io
import json
import os
import resource
import zipfile
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import synthetic
from crumple import candidates, dataset, designs, evaluation, results, targets
from crumple.config import Config, load_config
from crumple.errors import UserError
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.library import read_library, write_library
from crumple.provenance import read_record
from crumple.published import files as published
from crumple.published import importing
from crumple.readers import read_json_lines, read_npz
from crumple.report.reading import LogLine

MORE = int(os.environ.get("CRUMPLE_EXAMPLES", "1"))
ROOT = Path(__file__).parents[2]
MEMORY = 400  # MB that no reader may need more than before


def tries(count):
    """So many generated inputs for one test."""
    return settings(
        max_examples=count * MORE,
        derandomize=MORE == 1,
        database=None,
        deadline=timedelta(seconds=20),  # a hang, not a slow machine
        suppress_health_check=list(HealthCheck),
    )


def works_or_one_sentence(read, *arguments):
    try:
        read(*arguments)
    except UserError as error:
        sentence = str(error)
        assert sentence and "\n" not in sentence and "Traceback" not in sentence
        assert len(sentence) < 1000


@pytest.fixture(autouse=True)
def little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY * 1000


# The readers are the same in both environments: the long ones are tried once, with torch.
once = pytest.mark.skipif(find_spec("torch") is None, reason="tried where torch is installed")


# --- damage --------------------------------------------------------------------------------------


@st.composite
def damaged(draw, content):
    """Bytes that were cut off, or changed, inserted or repeated at a few places."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "replace", "repeat"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "replace":
            new = draw(st.binary(min_size=1, max_size=8))
            content[at : at + len(new)] = new
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
    return bytes(content)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.sampled_from(["", "ok", "0.1", "nan", "\0", "ä", "\ud800", "a" * 1000, "../x", "/"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@st.composite
def edited(draw, text):
    """JSON with a few values exchanged, removed or repeated, or damaged as bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(text.encode()))
    values = json.loads(text)
    for _ in range(draw(st.integers(1, 2))):
        place, key = {"": values}, ""
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 4)):
            place = place[key]
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(keys))
        kind = draw(st.sampled_from(["value", "value", "near", "remove", "repeat"]))
        if kind == "near" and isinstance(place[key], int | float):
            place[key] += draw(st.sampled_from([-1, 1, 0.5, 1e-9]))
        elif kind == "remove" and key != "":
            del place[key]
        elif kind == "repeat" and isinstance(place, list):
            place.insert(key, place[key])
        else:
            place[key] = draw(VALUES)
        values = place[""] if "" in place and key == "" else values
        if not isinstance(values, dict | list):
            break
    return json.dumps(values).encode()


KINDS = ["<f8", "<f4", ">f8", "<i8", "<u1", "|b1", "<U5", "<c16", "|S3", "<M8[s]", "|O"]


@st.composite
def other_arrays(draw, content):
    """An npz file some of whose arrays have another type, shape or content, or are missing."""
    arrays = dict(np.load(io.BytesIO(content)))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        values = arrays[name]
        kind = draw(st.sampled_from(["dtype", "shape", "size", "value", "remove", "add", "header"]))
        if kind == "dtype":
            dtype = np.dtype(draw(st.sampled_from(KINDS)))
            arrays[name] = np.zeros(values.shape, dtype)
        elif kind == "shape":
            shape = draw(st.lists(st.integers(0, 4), max_size=4))
            arrays[name] = np.zeros(shape, values.dtype)
        elif kind == "size" and values.ndim:
            arrays[name] = np.concatenate([values, values[:1]])
        elif kind == "value" and values.size and values.dtype.kind in "iuf":
            number = draw(st.sampled_from([-1, 0, 1, 2, 10**6, np.nan, np.inf, -1e300]))
            changed = values.astype(float).ravel()
            changed[draw(st.integers(0, values.size - 1))] = number
            with np.errstate(all="ignore"):
                arrays[name] = changed.reshape(values.shape).astype(values.dtype)
        elif kind == "value" and values.dtype.kind == "U":
            arrays[name] = np.full(values.shape, draw(st.text(max_size=30)))
        elif kind == "remove" and len(arrays) > 1:
            del arrays[name]
        elif kind == "add":
            arrays[draw(st.text("abc", min_size=1, max_size=3))] = values
        elif kind == "header":
            return _with_header(arrays, name, draw(HEADERS))
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


HEADERS = st.one_of(
    st.fixed_dictionaries(
        {
            "descr": st.sampled_from([*KINDS, "<f2", "|V0", "<U0", "<U99999999", "x", ""]),
            "fortran_order": st.booleans(),
            "shape": st.lists(st.integers(-1, 10**19), max_size=4).map(tuple),
        }
    ).map(repr),
    st.text(max_size=40),
    st.just("(" * 5000),
)


def _with_header(arrays, name, header):
    """An npz file one of whose arrays says something else of itself."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values)
            if member == name:
                text = header.encode() + b"\n"
                size = len(text).to_bytes(2, "little")
                content = io.BytesIO(b"\x93NUMPY\x01\x00" + size + text + bytes(100))
            archive.writestr(member + ".npy", content.getvalue())
    return file.getvalue()


def damaged_npz(content):
    return damaged(content) | other_arrays(content)


# --- what is damaged -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


QUARTER = designs.sample(0, 1, Config().designs).quarter


def png():
    file = io.BytesIO()
    Image.fromarray(255 * (1 - QUARTER)).save(file, "PNG")
    return file.getvalue()


@once
@tries(1500)
@given(damaged(png()))
def test_pictures(folder, content):
    path = folder / "design.png"
    path.write_bytes(content)
    works_or_one_sentence(designs.read_design, path)


@once
@tries(1200)
@given(damaged_npz(npz(quarter=QUARTER)) | damaged_npz(npz(a=designs.mirror(QUARTER))))
def test_designs_of_users(folder, content):
    path = folder / "design.npz"
    path.write_bytes(content)
    works_or_one_sentence(designs.read_design, path)


@pytest.fixture(scope="module")
def written(folder):
    """Artefacts of every kind, as the stages write them."""
    manifest = synthetic.write_dataset(
        folder / "data", 3, 3, Config(dataset={"validation_fraction": 0.3})
    )
    synthetic.write_designs(folder / "designs.npz", range(3), [QUARTER] * 3)
    curves = {"a": synthetic.curve(0.5, 0.2, FRAME_STRAIN)}
    synthetic.write_generated(folder / "generated.zarr", curves, 2, manifest=manifest)
    write_library([manifest], None, folder / "library.npz")
    return {
        "manifest": manifest,
        "library": folder / "library.npz",
        "designs": folder / "designs.npz",
        "shard": folder / "data/shards/0000.zarr",
        "generated": folder / "generated.zarr",
    }


def read_designs(path):
    known = read_npz(path, designs.DESIGNS)
    read_record(known["made_by"], path, designs.DESIGNS.advice)


@once
@tries(1200)
@given(st.data())
def test_files_of_designs(folder, written, data):
    path = folder / "damaged.npz"
    path.write_bytes(data.draw(damaged_npz(written["designs"].read_bytes())))
    works_or_one_sentence(read_designs, path)


@once
@tries(1200)
@given(st.data())
def test_manifests(written, data):
    text = written["manifest"].read_text()
    path = written["manifest"].with_name("damaged.json")
    path.write_bytes(data.draw(edited(text)))
    works_or_one_sentence(lambda: dataset.Dataset(path).read("index", [(0, 0)]))


@once
@tries(600)
@given(st.data())
def test_libraries(folder, written, data):
    path = folder / "damaged.npz"
    path.write_bytes(data.draw(damaged_npz(written["library"].read_bytes())))
    works_or_one_sentence(lambda: read_library(path).seed)


@contextmanager
def one_damaged_file(data, folder):
    """Damage or delete one file of a folder for a while."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    metadata = [p for p in files if p.suffix == ".json"]
    victim = data.draw(st.sampled_from(data.draw(st.sampled_from([files, metadata]))))
    content = victim.read_bytes()
    try:
        if data.draw(st.integers(0, 9)) == 0:
            victim.unlink()
        elif victim in metadata:
            victim.write_bytes(data.draw(edited(content.decode())))
        else:
            victim.write_bytes(data.draw(damaged(content[:4000])) + content[4000:])
        yield
    finally:
        victim.write_bytes(content)


@once
@tries(150)
@given(st.data())
def test_shards(folder, written, data):
    """Through `index`, which also reads the values: what is accepted is undamaged."""
    manifest = dataset.read_manifest(written["manifest"])

    def index():
        found = dataset.build_manifest([written["shard"]], Config(), folder / "data")
        assert found["normalisation"] == manifest["normalisation"]
        assert found["split"] == json.loads(json.dumps(manifest["split"]))

    with one_damaged_file(data, written["shard"]):
        works_or_one_sentence(index)


@once
@tries(150)
@given(st.data())
def test_candidates(folder, written, data):
    config = Config(evaluation={"verify": 1})
    with one_damaged_file(data, written["generated"]):
        works_or_one_sentence(
            candidates.extract, written["generated"], config, 0, folder / "extracted.npz"
        )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The texts of an evaluation and of a training log."""
    folder = tmp_path_factory.mktemp("evaluated")
    paths = synthetic.write_chain(folder)
    inputs = paths["generated"], paths["dataset"], [paths["designs"]], [paths["shard"]]
    evaluation.evaluate(*inputs, folder / "evaluation")
    log = (paths["model"] / "stats.jsonl").read_text()
    return (folder / "evaluation/evaluation.json").read_text(), log


@once
@tries(600)
@given(st.data())
def test_evaluations(folder, evaluated, data):
    (folder / "evaluation.json").write_bytes(data.draw(edited(evaluated[0])))
    works_or_one_sentence(results.read_results, folder)


@once
@tries(600)
@given(st.data())
def test_training_logs(folder, evaluated, data):
    path = folder / "stats.jsonl"
    path.write_bytes(data.draw(damaged(evaluated[1].encode())))
    works_or_one_sentence(read_json_lines, path, LogLine, "train again")


CURVES = "target,0.002,0.02,0.1,0.2\nsoft,0.1,1,2,1\nstiff,2,20,60,\n"
PAIRS = "strain [%];stress [kPa]\n0;0\n10,5;3e4\n20;20000\n"
BARE = ",".join(f"{x:.3g}" for x in 100 * CURVE_STRAIN) + "\n"
CELLS = ["", " ", "1_0", "nan", "inf", "-1", "1e400", "0x1", "strain", '"', "#", "%", "٣", "\0"]


@once
@tries(2000)
@given(st.data())
def test_target_curves(folder, data):
    text = data.draw(st.sampled_from([CURVES, PAIRS, BARE]))
    if data.draw(st.booleans()):
        content = data.draw(damaged(text.encode()))
    else:
        cells = text.replace(";", ",").replace("\n", ",\n,").split(",")
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(cells) - 1))
            cells[at] = data.draw(st.sampled_from(CELLS) | st.text(max_size=5))
        content = ",".join(cells).encode(errors="surrogatepass")
    path = folder / "targets.csv"
    path.write_bytes(content)
    works_or_one_sentence(targets.read_targets, [path], FRAME_STRAIN)


PRESETS = [path.read_text() for path in sorted((ROOT / "workflow/presets").glob("*.yaml"))]


@once
@tries(900)
@given(st.data())
def test_yaml_configurations(folder, data):
    path = folder / "config.yaml"
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(PRESETS)).encode())))
    works_or_one_sentence(load_config, path)


@once
@tries(1200)
@given(edited(Config().model_dump_json()))
def test_json_configurations(content):
    text = content.decode(errors="replace")
    if text.lstrip().startswith("{"):
        works_or_one_sentence(load_config, text)


# --- of the finite elements, where they are installed --------------------------------------------


@pytest.fixture(scope="module")
def simulated(folder):
    pytest.importorskip("dolfinx")
    from crumple.meshing import mesh_shard
    from crumple.simulation import simulate_shard

    config = Config(mesh={"element_size": 0.05})
    synthetic.write_designs(folder / "one.npz", [0], [np.ones((48, 48), np.uint8)])
    mesh_shard(config, folder / "one.npz", folder / "meshes")
    simulate_shard(config, folder / "meshes", folder / "simulations")
    return {name: folder / name / "000000.npz" for name in ("meshes", "simulations")}


@tries(800)
@given(st.data())
def test_meshes(folder, simulated, data):
    from crumple.meshing import read_mesh

    path = folder / "mesh.npz"
    path.write_bytes(data.draw(damaged_npz(simulated["meshes"].read_bytes())))
    works_or_one_sentence(read_mesh, path)


@tries(800)
@given(st.data())
def test_simulations(folder, simulated, data):
    from crumple.simulation import read_simulation

    path = folder / "simulation.npz"
    path.write_bytes(data.draw(damaged_npz(simulated["simulations"].read_bytes())))
    works_or_one_sentence(read_simulation, path)


@tries(800)
@given(st.data())
def test_cases_of_other_codes(folder, simulated, data):
    from crumple.verification import case_config, read_case

    solved = np.load(simulated["simulations"])
    content = npz(
        nodes=solved["nodes"],
        cells=solved["cells"],
        strain=solved["curve_strain"],
        stress_mpa=solved["curve_stress"],
        frame_strain=solved["frame_strain"],
        u=solved["u"],
        boundary="bonded",
        friction=0.4,
    )
    path = folder / "case.npz"
    path.write_bytes(data.draw(damaged_npz(content)))
    works_or_one_sentence(lambda: case_config(read_case(path), Config()))


# --- of the model, where torch is installed ------------------------------------------------------


@pytest.fixture(scope="module")
def model(folder, written):
    torch = pytest.importorskip("torch")
    from crumple.diffusion import data
    from crumple.diffusion.model import build_network, save_model

    small = {"channels": [16], "depths": [1], "patch": 4, "embedding": 16, "head": 16}
    config = Config(model=small | {"spatial_attention": 0})
    data.build_cache(dataset.Dataset(written["manifest"]), config.model, folder / "cache")
    samples, _ = data.load_samples(folder / "cache", 2, torch.device("cpu"))
    network = build_network(config.model, samples.normalisation.layout, 11)
    (folder / "model").mkdir()
    save_model(
        folder / "model",
        network.state_dict(),
        config.model,
        samples.normalisation,
        0.0,
        {"step": 1},
    )
    return folder / "model"


@tries(400)
@given(st.data())
def test_models(model, data):
    from crumple.diffusion.model import load_model

    with one_damaged_file(data, model):
        works_or_one_sentence(load_model, model)


# --- the published layout ------------------------------------------------------------------------

MOVING = np.add.outer(np.arange(11), np.arange(96 * 96)).astype(np.uint8).reshape(11, 96, 96)
SOLID = published.write_gif(np.full_like(MOVING, 255))
TABLES = [["-1", "1", "-1", "1", "1", "-1", "1", "0"]], [["1"] * len(CURVE_STRAIN)]


@once
@tries(600)
@given(damaged(published.write_gif(MOVING)))
def test_gif(content):
    """A sample with a damaged GIF is read, or has a reason of one line."""
    part = importing.Part(Path("training"), *TABLES)
    files = dict.fromkeys(published.GIFS.values(), content)
    try:
        sample = importing.read_sample(part, 0, files | {"topo": SOLID})
    except importing.Unreadable as reason:
        assert "\n" not in str(reason) and len(str(reason)) < 400
    else:
        assert sample.frames.shape == (11, 4, 96, 96) and np.isfinite(sample.frames).all()
