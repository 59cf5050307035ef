"""The configuration: its file on disk, its presets, and its error messages."""

import json
import operator
from pathlib import Path

import pytest

from crumple.config import (
    OPERATION,
    STAGE_SECTIONS,
    Config,
    default_yaml,
    load_config,
    parse_config,
    stage_operation,
    stage_settings,
)
from crumple.dataset import in_validation
from crumple.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_config_yaml_is_generated_from_the_types():
    assert (ROOT / "config.yaml").read_text() == default_yaml(), (
        "config.yaml is out of date: crumple config > config.yaml"
    )


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
        ([1], ["not a mapping"]),
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
    result, operation = stage_settings(config, "train"), stage_operation(config, "train")
    assert set(result) == {"seed", "model", "training"} and set(operation) == {"training"}
    assert result["training"]["learning_rate"] == 0.5 and operation["training"]["log_every"] == 7
    assert not set(result["training"]) & set(operation["training"])
    both = {**result["training"], **operation["training"]}
    assert both == config.training.model_dump(mode="json")
    assert stage_operation(config, "simulate") == {}


def test_the_table_of_stages_names_settings_that_exist():
    for name in {*OPERATION, *(name for names in STAGE_SECTIONS.values() for name in names)}:
        operator.attrgetter(name)(Config())


@pytest.mark.parametrize("stage", [name for name in STAGE_SECTIONS if STAGE_SECTIONS[name]])
def test_json_for_a_stage_must_be_complete(stage, tmp_path):
    config = Config()
    given = [json.dumps(f(config, stage)) for f in (stage_settings, stage_operation)]
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


@pytest.mark.parametrize("text", [None, "a: [1", "\x00"])
def test_an_unreadable_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "c.yaml" in str(caught.value) and "\n" not in str(caught.value)
