"""The configuration: its file on disk, its presets, and its error messages."""

import json
import math
import operator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crumple.config import (
    OPERATION,
    STAGE_SECTIONS,
    Config,
    cross_check,
    default_yaml,
    json_schema,
    load_config,
    operation,
    parse_config,
    stage_settings,
)
from crumple.errors import ConfigError
from crumple.readers import parse_json, parse_yaml
from crumple.seeds import in_validation

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.json"


def test_config_yaml_is_generated_from_the_types():
    assert (ROOT / "config.yaml").read_text() == default_yaml(), (
        "config.yaml is out of date: crumple config > config.yaml"
    )


def test_the_schema_for_editors_is_generated_from_the_types():
    assert SCHEMA.read_text() == json_schema(), (
        "out of date: crumple config --schema > workflow/schemas/config.schema.json"
    )


@pytest.mark.parametrize(
    "path",
    [ROOT / "config.yaml", *sorted((ROOT / "workflow").glob("*/*.yaml"))],
    ids=lambda p: p.stem,
)
def test_every_configuration_names_its_schema(path):
    prefix = "# yaml-language-server: $schema="
    first = path.read_text().splitlines()[0]
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == SCHEMA


def test_config_yaml_holds_the_defaults():
    assert load_config(ROOT / "config.yaml") == parse_config({})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflow/presets").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_are_valid_and_named_after_their_run(path):
    assert load_config(path).run == path.stem


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflow/presets").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_hold_out_enough_designs_for_their_targets(path):
    config = load_config(path)
    fraction = config.dataset.validation_fraction
    designs = range(min(config.designs.count, 5000))
    held_out = sum(in_validation(config.seed, index, fraction)[0] for index in designs)
    assert held_out >= 1.25 * config.evaluation.held_out  # some may fail


def test_json_and_yaml_are_the_same(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("contact: {friction: 0.1}")
    assert load_config(path) == load_config('{"contact": {"friction": 0.1}}')
    assert load_config(path).contact.friction == 0.1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"contact": {"frictoin": 1}}, ["'contact.frictoin'", "friction, barrier_distance"]),
        ({"frictoin": 1}, ["'frictoin'", "designs, mesh"]),
        ({"contact": {"friction": -1}}, ["'contact.friction'", "-1", ">= 0 and <= 2"]),
        ({"mesh": {"element_size": 14}}, ["'mesh.element_size'", "<= 0.05", "cell sides"]),
        ({"material": {"youngs_modulus": "2306 GPa"}}, ["youngs_modulus", "2306 GPa", "MPa"]),
        ({"loading": {"platens": "x"}}, ["'loading.platens'", "bonded, lubricated, tied"]),
        (
            {"material": {"hardening": [[40, 0.1]]}},
            ["'material', the plastic strains of hardening", "start at 0"],
        ),
        (
            {"material": {"hardening": [[4, 0], [3, 1]]}},
            ["yield stresses of hardening", "not decrease"],
        ),
        ({"contact": 3}, ["'contact'"]),
        ({"run": "../x"}, ["'run'"]),
        ({"run": ".."}, ["'run'"]),
        ({"run": "{shard}"}, ["'run'"]),
        ({"run": "-n"}, ["'run'"]),
        ({"evaluation": {"targets": "a\nb.csv"}}, ["'evaluation.targets'", "cannot be printed"]),
        ([1], ["not a mapping"]),
        ({"a\nb": 1}, ["unknown key 'a\\nb'"]),
        ({1: 1}, ["unknown key", "1"]),
        ({"seed": 10**5000}, ["'seed'"]),
        ({"seed": 2**64}, ["'seed'", "<= 4294967295"]),
        ({"designs": {"count": 10**9}}, ["'designs.count'", "<= 1000000"]),
        ({"designs": {"spectral_exponent": 1e-9}}, ["spectral_exponent", ">= 0.5"]),
        ({"training": {"learning_rate": float("inf")}}, ["'training.learning_rate'", "finite"]),
        ({"training": {"learning_rate": float("nan")}}, ["'training.learning_rate'", "finite"]),
        ({"training": {"noise_mean": float("-inf")}}, ["'training.noise_mean'", "finite"]),
        ({"training": {"learning_rate": "1e999"}}, ["'training.learning_rate'", "finite"]),
        ({"training": {"steps": True}}, ["'training.steps'", "integer"]),
        ({"training": {"clip": True}}, ["'training.clip'", "number"]),
        ({"training": {"clip": "1_0"}}, ["'training.clip'", "number"]),
        ({"training": {"steps": "10.0"}}, ["'training.steps'", "integer"]),
        ({"training": {"steps": 1.0}}, ["'training.steps'", "integer"]),
        ({"model": {"patch": True}}, ["'model.patch'", "'yes'", "1, 2 or 4"]),
        ({"model": {"mask": 1}}, ["'model.mask'"]),
        ({"model": {"channels": [-16], "depths": [1]}}, ["'model.channels.0'", "-16"]),
        ({"model": {"fields": ["u1", "u1", "s22"]}}, ["'model'", "differ"]),
        ({"model": {"patch": 4, "channels": [16] * 5, "depths": [1] * 5}}, ["5 levels", "24"]),
        ({"generation": {"sigma_min": 80}}, ["sigma_min (80) must be less than sigma_max (80)"]),
        ({"generation": {"guidance_interval": [2, 1]}}, ["guidance_interval", "smaller"]),
        ({"generation": {"guidance_interval": [1]}}, ["guidance_interval"]),
        ({"training": {"drop_curve": 0.6, "drop_steps": 0.6}}, ["drop_curve and drop_steps"]),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_key_and_allowed_values(values, words):
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "c.yaml")
    message = str(caught.value)
    assert message.startswith("c.yaml") and "\n" not in message
    for word in words:
        assert word in message


def test_settings_of_a_stage_are_split_into_what_changes_its_result_and_what_does_not():
    config = parse_config({"training": {"log_every": 7, "learning_rate": 0.5}})
    result, other = stage_settings(config, "train"), operation(config)
    assert {"seed", "model", "training"} < set(result) and "training" in other
    assert result["training"]["learning_rate"] == 0.5 and other["training"]["log_every"] == 7
    assert not set(result["training"]) & set(other["training"])
    both = {**result["training"], **other["training"]}
    assert both == config.training.model_dump(mode="json")


def test_the_table_of_stages_names_settings_that_exist():
    for name in {*OPERATION, *(name for names in STAGE_SECTIONS.values() for name in names)}:
        operator.attrgetter(name)(Config())


@pytest.mark.parametrize("stage", [name for name in STAGE_SECTIONS if STAGE_SECTIONS[name]])
def test_json_for_a_stage_must_be_complete(stage, tmp_path):
    config = Config()
    given = [json.dumps(values) for values in (stage_settings(config, stage), operation(config))]
    assert load_config(*given, stage=stage) == config
    first = STAGE_SECTIONS[stage][0].partition(".")[0]
    partial = {k: v for k, v in stage_settings(config, stage).items() if k != first}
    with pytest.raises(ConfigError, match=f"`crumple {stage}` lacks .*{first}") as caught:
        load_config(json.dumps(partial), stage=stage)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="lacks"):
        load_config("{}", stage=stage)
    path = tmp_path / "c.yaml"
    path.write_text("{}")
    assert load_config(path, stage=stage) == load_config(stage=stage) == config


def test_later_configurations_are_laid_over_earlier_ones(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("contact: {friction: 0.1, barrier_stiffness: 30}\nseed: 3")
    config = load_config(path, '{"contact": {"friction": 0.2}}')
    assert config.contact.friction == 0.2 and config.contact.barrier_stiffness == 30
    assert config.seed == 3


def test_what_yaml_1_1_reads_otherwise_is_taken_as_it_was_meant(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("training: {compile: yes, learning_rate: 1e-3}\nmodel: {mask: yes}")
    config = load_config(path)
    assert config.training.compile == "yes" and config.training.learning_rate == 1e-3
    assert config.model.mask is True
    path.write_text("training: {compile: no}")
    assert load_config(path).training.compile == "no"


def test_text_is_taken_as_the_number_that_it_spells():  # Snakemake's --config gives text
    model = {"patch": "4", "mask": "no", "fields": ["u2", "s22"], "channels": ["16", "32"]}
    training = {"steps": "10", "clip": "2", "noise_mean": "-.5", "learning_rate": "1e-3"}
    config = parse_config(
        {
            "model": {**model, "depths": ["1", "1"]},
            "training": training,
            "generation": {"guidance_interval": ["1", "2.5"]},
        }
    )
    assert config.model.patch == 4 and config.model.mask is False
    assert config.model.channels == [16, 32] and config.generation.guidance_interval == (1, 2.5)
    training = config.training
    assert parse_config({"run": 2024}).run == "2024"
    assert (training.steps, training.clip, training.noise_mean) == (10, 2, -0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2", "'seed' stands there twice"),
        ("contact:\n  friction: 0.1\n  friction: 0.2", "'friction' stands there twice"),
        ('{"seed": 1, "seed": 2}', "'seed' stands there twice"),
        ('{"contact": {"friction": NaN}}', "NaN is not a finite number"),
        ("model:\n  channels: &a [16]\n  depths: *a", "aliases"),
        ("a: &a [x]\n" + "\n".join(f"{n}: &{n} [*a, *a]" for n in "bcdefghij"), "aliases"),
        ("[" * 5000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("seed: " + "9" * 5000, "cannot read"),
        ("#" * 200_000, "larger than 100 kB"),
        ("seed: 2001-99-99", "cannot read"),
        ("? [a]\n: 1", "cannot read"),
        ("seed: !!python/object:os.system 1", "cannot read"),
        ("[1]", "not a mapping"),
        ("\ud800", "cannot read"),
    ],
)
def test_text_that_cannot_be_meant_is_refused(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(text if text.startswith("{") else path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"evaluation": {"verify": 11}}, "evaluation.verify .11. is more than"),
        ({"dataset": {"validation_fraction": 0.0}}, "asks for 4 .* holds 0 of 128"),
        ({"designs": {"count": 8}}, "validation_fraction 0.1 holds [0-7] of 8 designs out"),
        (
            {"model": {"reference_frame": "eulerian", "mask": False, "fields": ["solid", "s22"]}},
            "set fields.eulerian",
        ),
        ({"designs": {"count": 10_001, "shard_size": 1}}, "10001 jobs per stage"),
    ],
)
def test_settings_that_cannot_go_together_are_refused_where_all_are_known(tmp_path, values, words):
    config = parse_config(values)  # each section on its own is possible
    with pytest.raises(ConfigError, match=words) as caught:
        cross_check(config)
    assert "\n" not in str(caught.value)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=words):
        load_config(path)


@pytest.mark.parametrize("path", sorted((ROOT / "workflow/ablations").glob("*.yaml")))
@pytest.mark.parametrize("preset", ["demo", "toy"])
def test_ablations_can_be_laid_over_presets(preset, path):
    assert (
        load_config(ROOT / f"workflow/presets/{preset}.yaml", path).run == f"ablation-{path.stem}"
    )


NAMES = [
    f"{section}.{name}"
    for section, info in Config.model_fields.items()
    for name in getattr(info.annotation, "model_fields", {})
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.sampled_from(NAMES), VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_of_any_setting_is_possible_or_refused_in_one_sentence(name, value):
    section, key = name.split(".")
    try:
        config = parse_config({section: {key: value}})
    except ConfigError as error:
        assert "\n" not in str(error) and section in str(error) and len(str(error)) < 600
    else:
        for number in numbers(config.model_dump()):
            assert math.isfinite(number)
        assert parse_config(config.model_dump(mode="json")) == config


def numbers(value):
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


@given(st.text(max_size=60) | VALUES.map(str))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_configuration_or_refused_in_one_sentence(text):
    for read in (parse_yaml, parse_json):
        try:
            read(text)
        except ValueError:
            pass


@pytest.mark.parametrize("text", [None, "a: [1", "\x00"])
def test_an_unreadable_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "c.yaml" in str(caught.value) and "\n" not in str(caught.value)
