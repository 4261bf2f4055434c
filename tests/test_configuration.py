"""Configurations say what is wrong, where, and what to do; the backbone's fields are its own."""

import json

import pytest
from helpers import tiny_backbone

from kadapter import KAdapterConfig, KAdapterModel, KnowledgeAdapterConfig


@pytest.fixture
def config():
    return KAdapterConfig(backbone_config=tiny_backbone("distilbert").config)


@pytest.mark.parametrize(
    ("blocks", "layers"), [(24, [0, 11, 22]), (12, [0, 5, 10]), (4, [0, 1, 2]), (2, [0]), (1, [0])]
)
def test_the_default_layers_are_the_first_the_middle_and_the_last_but_one(blocks, layers):
    assert KnowledgeAdapterConfig().for_backbone(blocks).layers == layers


@pytest.mark.parametrize("layers", [[2, 1], [0, 0], [-1, 2], [], [3, 3, 4]])
def test_layers_that_are_repeated_unordered_or_negative_are_refused_with_a_proposal(layers):
    with pytest.raises(ValueError, match="strictly increasing and without repeats; try layers="):
        KnowledgeAdapterConfig(layers=layers)


def test_layers_beyond_the_backbone_are_refused_with_a_proposal():
    with pytest.raises(
        ValueError, match=r"layers=\[0, 5\] must lie in 0\.\.4 for a backbone of 4 blocks.*try layers="
    ):
        KnowledgeAdapterConfig(layers=[0, 5]).for_backbone(4)
    assert KnowledgeAdapterConfig(layers=[0, 4]).for_backbone(4).layers == [0, 4]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("num_attention_heads", 5),
        ("hidden_dropout_prob", 1.5),
        ("attention_probs_dropout_prob", -0.1),
        ("skip_layers", 1),
        ("num_hidden_layers", -1),
    ],
)
def test_a_size_that_makes_no_adapter_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        KnowledgeAdapterConfig(**{field: value})


def test_an_unknown_activation_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"hidden_act='glu' must be one of .*did you mean 'gelu'"):
        KAdapterModel.from_backbone(tiny_backbone()).add_adapter("fac", {"hidden_act": "glu"})


def test_a_misspelt_field_is_recognised():
    with pytest.raises(ValueError, match=r"unknown field 'hiden_size'.*did you mean 'hidden_size'"):
        KnowledgeAdapterConfig.from_dict({"hiden_size": 8})


def test_a_field_of_another_type_is_named_in_a_type_error():
    with pytest.raises(TypeError, match="hidden_size"):
        KnowledgeAdapterConfig.from_dict({"hidden_size": "wide"}, " of 'fac'")


def test_the_shape_of_an_adapter_survives_json(config):
    config.adapters["fac"] = KnowledgeAdapterConfig(layers=(0, 3), hidden_size=24).to_dict()
    again = KAdapterConfig.from_dict(json.loads(config.to_json_string()))
    assert again.adapter_config("fac") == KnowledgeAdapterConfig(layers=[0, 3], hidden_size=24)


def test_the_backbones_fields_answer_by_their_usual_names(config):
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 4, 4)
    assert config.vocab_size == 60 and "hidden_size" not in config.to_dict()


def test_the_backbones_fields_refuse_to_be_set(config):
    with pytest.raises(ValueError, match="hidden_size=64 can't be set: it is the backbone's"):
        config.hidden_size = 64
    with pytest.raises(ValueError, match="hidden_size=64 can't be set"):
        KAdapterConfig(hidden_size=64)


@pytest.mark.parametrize(("field", "value", "meant"), [("fusion", "ad", "add"), ("dependency_head", "arcs", "arc")])
def test_an_unknown_choice_is_named_with_the_one_that_was_meant(field, value, meant):
    with pytest.raises(ValueError, match=f"{field}='{value}' must be one of .* did you mean '{meant}'"):
        KAdapterConfig(**{field: value})


def test_an_active_adapter_that_is_not_there_is_told():
    with pytest.raises(ValueError, match=r"active adapter 'lin' is not one of the adapters \['fac'\]"):
        KAdapterConfig(adapters={"fac": KnowledgeAdapterConfig()}, active_adapters=["lin"])


def test_adapters_that_are_no_dict_are_refused_with_the_way_to_compose():
    with pytest.raises(TypeError, match=r"adapters=\['lin'\] must be a dict .* composed by compose_with"):
        KAdapterConfig(adapters=["lin"])


def test_a_configuration_without_backbone_says_how_to_get_one():
    with pytest.raises(ValueError, match=r"build the model with KAdapterModel\.from_backbone"):
        KAdapterConfig().typed_backbone_config()
    assert not hasattr(KAdapterConfig(), "hidden_size")


def test_a_newer_format_asks_for_a_newer_kadapter():
    with pytest.raises(ValueError, match=r"saved in format 99, .* install a newer kadapter"):
        KAdapterConfig(format_version=99)
