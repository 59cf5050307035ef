"""A run as RO-Crate and its data set in Croissant: both are valid and say what is there."""

import copy
import json
import shutil
import sys
from importlib import resources
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

from crumple import cli, dataset
from crumple.layout import CURVE_STRAIN
from crumple.provenance import hash_file
from small_run import make

mlcroissant = pytest.importorskip("mlcroissant")
rocrate = pytest.importorskip("rocrate.rocrate")
rdflib = pytest.importorskip("rdflib")

METADATA = "ro-crate-metadata.json"
AUTHORS = ["--author", "Ada Lovelace", "--author", "Sophie Germain"]


@pytest.fixture(scope="module")
def described(settings, tmp_path_factory):
    run = make(settings, tmp_path_factory.mktemp("results") / "small", contact={"friction": 0.3})
    assert cli.main(["crate", str(run), *AUTHORS]) == 0
    return run


@pytest.fixture
def run(described, tmp_path):
    return shutil.copytree(described, tmp_path / "small")


@pytest.fixture
def crate(described):
    return json.loads((described / METADATA).read_text())


# --- RO-Crate ------------------------------------------------------------------------------------


def validate(crate: dict, folder: Path) -> None:
    """Raise AssertionError where a crate breaks a MUST of RO-Crate 1.1 or of Process Run Crate 0.5.

    The same rules, among others, as those of roc-validator, which needs a network for them.
    """
    address, extra = crate["@context"]
    assert address == "https://w3id.org/ro/crate/1.1/context"
    context = json.loads((resources.files("rocrate") / "data/ro-crate.jsonld").read_text())
    terms = set(context["@context"]) | set(extra)
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"]), "an entity stands there twice"
    for entity in entities.values():
        for name, value in entity.items():
            assert name in terms or name in ("@id", "@type"), f"{name} is no term"
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict):
                    assert set(item) == {"@id"}, "the graph isn't flat"
                    known = item["@id"] in entities
                    assert known or urlparse(item["@id"]).scheme, f"{item['@id']} isn't described"
        for kind in np.atleast_1d(entity["@type"]):
            assert kind in terms, f"{kind} is no type"

    descriptor, root = entities[METADATA], entities["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"]["@id"].startswith("https://w3id.org/ro/crate/1.1")
    assert root["@type"] == "Dataset"
    for name in ("name", "description", "license", "datePublished"):
        assert root.get(name), f"the root has no {name}"
    parts = {part["@id"] for entity in entities.values() for part in as_list(entity, "hasPart")}
    for name, entity in entities.items():
        if entity["@type"] in ("File", "Dataset") and name != "./":
            path = folder / name
            assert name in parts, f"{name} isn't part of the crate"
            assert path.is_dir() if entity["@type"] == "Dataset" else path.is_file(), name
            assert name.endswith("/") == (entity["@type"] == "Dataset")
            if "sha256" in entity:
                assert hash_file(path) == entity["sha256"], name
    actions = [e for e in entities.values() if e["@type"] == "CreateAction"]
    assert actions and root["conformsTo"]["@id"] == "https://w3id.org/ro/wfrun/process/0.5"
    for action in actions:
        tool = entities[action["instrument"]["@id"]]
        assert tool["@type"] == "SoftwareApplication" and action["result"]
        assert {"@id": action["@id"]} in as_list(root, "mentions")

    inline = crate | {"@context": [context["@context"], extra]}
    graph = rdflib.Graph().parse(data=json.dumps(inline), format="json-ld", publicID="http://x/")
    kept = {str(subject) for subject in graph.subjects()}
    assert all(any(s.endswith(name.removeprefix("./")) for s in kept) for name in entities)


def as_list(entity: dict, name: str) -> list:
    value = entity.get(name, [])
    return value if isinstance(value, list) else [value]


def test_the_crate_is_valid(crate, described):
    validate(crate, described)
    read = rocrate.ROCrate(described)  # the library reads back what it has written
    assert read.name == "Run small of crumple"
    assert {author["name"] for author in read.root_dataset["author"]} == {
        "Ada Lovelace",
        "Sophie Germain",
    }
    assert len(read.get_by_type("CreateAction")) == len(crate_actions(crate))


@pytest.mark.parametrize(
    "damage",
    [
        lambda graph: graph["./"].pop("license"),
        lambda graph: graph["./"].update(heaviness=3),
        lambda graph: graph["data/dataset.json"].update(sha256="0" * 64),
        lambda graph: graph["#model"].update(instrument={"@id": "#nobody"}),
        lambda graph: graph["./"]["hasPart"].remove({"@id": "report.html"}),
        lambda graph: graph["model/"].update({"@type": "Folder"}),
        lambda graph: graph["./"]["mentions"].remove({"@id": "#model"}),
    ],
)
def test_control_what_breaks_the_rules_is_found(crate, described, damage):
    broken = copy.deepcopy(crate)
    damage({entity["@id"]: entity for entity in broken["@graph"]})
    with pytest.raises((AssertionError, KeyError)):
        validate(broken, described)


def crate_actions(crate):
    return {e["@id"]: e for e in crate["@graph"] if e["@type"] == "CreateAction"}


def test_every_result_has_its_action_with_sources_and_settings(crate, described):
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    actions = crate_actions(crate)
    assert set(actions) == {
        "#data-designs",
        "#data-shards",
        "#data-dataset.json",
        "#data-library.npz",
        "#designer",
        "#response",
        "#model",
        "#held_out.csv",
        "#generated.zarr",
        "#verified-designs",
        "#verified-shards",
        "#evaluation",
        "#report.html",
    }
    sources = {item["@id"] for item in as_list(actions["#model"], "object")}
    assert {"data/dataset.json", "#train-training", "#train-model"} <= sources
    assert actions["#model"]["result"] == {"@id": "model/"}
    sources = {item["@id"] for item in as_list(actions["#designer"], "object")}
    assert {"data/library.npz", "#train-designer-designer_training"} <= sources
    sources = {item["@id"] for item in as_list(actions["#generated.zarr"], "object")}
    assert {"designer/", "response/", "model/"} <= sources
    contact = entities["#simulate-contact"]
    assert json.loads(contact["value"])["friction"] == 0.3
    assert {"@id": "#simulate-contact"} in actions["#data-shards"]["object"]
    recorded = json.loads((described / "model/made_by.json").read_text())["settings"]["train"]
    assert json.loads(entities["#train-training"]["value"]) == recorded["training"]
    numpy = entities["https://pypi.org/project/numpy/"]
    versions = dataset.read_manifest(described / "data/dataset.json")["versions"]
    assert numpy["softwareVersion"] == ", ".join(versions["numpy"])


def test_a_crate_is_made_again_after_a_change_which_check_notices(run, capsys):
    assert cli.main(["check", str(run)]) == 0
    assert "1 description of the run" in capsys.readouterr().out
    (run / "held_out.csv").write_text((run / "held_out.csv").read_text() + "\n")
    assert cli.main(["check", str(run)]) == 1
    assert "held_out.csv isn't as" in capsys.readouterr().out
    assert cli.main(["crate", str(run)]) == 0 and cli.main(["check", str(run)]) == 0
    validate(json.loads((run / METADATA).read_text()), run)


def test_an_unfinished_run_can_be_described(run):
    for part in ("report.html", METADATA):
        (run / part).unlink()
    for part in ("evaluation", "verified", "generated.zarr", "model"):
        shutil.rmtree(run / part)
    assert cli.main(["crate", str(run)]) == 0
    crate = json.loads((run / METADATA).read_text())
    validate(crate, run)
    assert "#model" not in crate_actions(crate) and "#data-shards" in crate_actions(crate)


def test_what_cannot_be_described_is_refused_in_one_sentence(run, tmp_path, capsys, monkeypatch):
    def refused(folder):
        assert cli.main(["crate", str(folder)]) == 1
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("crumple: error:")
        return message

    assert "has no results" in refused(tmp_path)
    before = (run / METADATA).read_text()
    (run / "model/model.safetensors").write_bytes(b"")
    assert "problems, so it is not described: see `crumple check" in refused(run)
    assert (run / METADATA).read_text() == before
    (run / METADATA).write_text("{}")
    assert "hasn't made it" in refused(run)
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    monkeypatch.delitem(sys.modules, "crumple.crate")
    assert "pip install 'crumple[share]'" in refused(run)


# --- Croissant -----------------------------------------------------------------------------------


def test_the_data_set_is_valid_croissant_and_its_records_are_the_designs(described):
    found = mlcroissant.Dataset(jsonld=str(described / "data/croissant.json"))
    assert found.metadata.name == "Data set of the run small"
    assert [person.name for person in found.metadata.creators] == AUTHORS[1::2]
    data = dataset.Dataset(described / "data/dataset.json")
    records = list(found.records("designs"))
    assert len(records) == len(data.manifest["valid"]) == 12
    for record in records:
        place = [int(Path(record["designs/shard"].decode()).stem), record["designs/row"]]
        assert data.read("index", [place])[0] == record["designs/design"]
        part = record["designs/part"].decode()
        assert place in data.split[part].tolist()
        curve = [record[f"designs/stress_{strain:.3f}"] for strain in CURVE_STRAIN]
        assert np.allclose(curve, data.read("curve_stress", [place])[0], rtol=1e-5)


def test_control_broken_croissant_is_refused(run):
    path = run / "data/croissant.json"
    broken = json.loads(path.read_text())
    del broken["recordSet"][0]["field"][0]["dataType"]
    path.write_text(json.dumps(broken))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=str(path))


def test_the_files_are_described_with_their_checksums(described):
    written = json.loads((described / "data/croissant.json").read_text())
    files = {entry["@id"]: entry for entry in written["distribution"]}
    for name in ("dataset.json", "designs.csv"):
        assert files[name]["sha256"] == hash_file(described / "data" / name)
    pattern = files["shards"]["includes"]
    assert any((described / "data").glob(pattern)) and "frames (n, 11, 4, 96, 96)" in str(files)


def test_published_data_are_described_as_such(settings, tmp_path):
    run = make(settings, tmp_path / "published", imported=True)
    assert cli.main(["crate", str(run)]) == 0
    written = json.loads((run / "data/croissant.json").read_text())
    assert "the published data set of Bastek and Kochmann" in written["description"]
    crate = json.loads((run / METADATA).read_text())
    validate(crate, run)
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert entities["#import-published-physics"]["value"] == '"published"'
    assert not any(name.startswith("#simulate-mesh") for name in entities)
