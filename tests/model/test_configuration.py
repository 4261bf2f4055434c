"""Configurations say what is wrong, where, and what to do; the backbone's fields are its own."""

import dataclasses
import json

import pytest
import torch
from helpers import tiny_backbone
from transformers import AutoConfig, AutoModel

from kadapter import KAdapterConfig, KAdapterModel, KnowledgeAdapterConfig, KnowledgeMapConfig, PreNormAdapterConfig
from kadapter.artifacts_kadapter import adapter_hash

PUBLISHED = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}


@pytest.fixture
def config():
    return KAdapterConfig(backbone_config=tiny_backbone("distilbert").config)


@pytest.mark.parametrize(
    ("blocks", "layers"), [(24, [0, 11, 22]), (12, [0, 5, 10]), (4, [0, 1, 2]), (2, [0]), (1, [0])]
)
def test_the_default_layers_are_the_first_the_middle_and_the_last_but_one(blocks, layers):
    assert KnowledgeAdapterConfig().for_backbone(blocks, 64).layers == layers


@pytest.mark.parametrize("layers", [[2, 1], [0, 0], [-1, 2], [], [3, 3, 4]])
def test_layers_that_are_repeated_unordered_or_negative_are_refused_with_a_proposal(layers):
    with pytest.raises(ValueError, match="strictly increasing and without repeats; try layers="):
        KnowledgeAdapterConfig(layers=layers)


def test_layers_beyond_the_backbone_are_refused_with_a_proposal():
    with pytest.raises(
        ValueError, match=r"layers=\[0, 5\] must lie in 0\.\.4 for a backbone of 4 blocks.*try layers="
    ):
        KnowledgeAdapterConfig(layers=[0, 5]).for_backbone(4, 64)
    assert KnowledgeAdapterConfig(layers=[0, 4]).for_backbone(4, 64).layers == [0, 4]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("num_attention_heads", 0),
        ("intermediate_size", -3),
        ("hidden_dropout_prob", 1.5),
        ("attention_probs_dropout_prob", -0.1),
        ("skip_layers", 1),
        ("num_hidden_layers", -1),
    ],
)
def test_a_size_that_makes_no_adapter_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        KnowledgeAdapterConfig(**{field: value})


@pytest.mark.parametrize(
    ("encoder", "sizes"),
    [(1024, (768, 12, 3072)), (768, (576, 9, 2304)), (384, (256, 4, 1024)), (312, (192, 3, 768)), (32, (64, 1, 256))],
)
def test_an_adapter_is_three_quarters_as_wide_as_its_encoder_in_heads_of_64(encoder, sizes):
    shape = KnowledgeAdapterConfig().for_backbone(6, encoder)
    assert (shape.hidden_size, shape.num_attention_heads, shape.intermediate_size) == sizes


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"hidden_size": 96}, (96, 1, 384)),
        ({"hidden_size": 100}, (100, 1, 400)),
        ({"hidden_size": 200}, (200, 2, 800)),
        ({"num_attention_heads": 12}, (252, 12, 1008)),
        ({"intermediate_size": 7}, (256, 4, 7)),
        ({"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 5}, (24, 3, 5)),
    ],
)
def test_what_is_given_of_a_shape_stays_and_the_rest_follows_it(given, sizes):
    shape = KnowledgeAdapterConfig(**given).for_backbone(6, 384)
    assert (shape.hidden_size, shape.num_attention_heads, shape.intermediate_size) == sizes
    with pytest.raises(ValueError, match=r"hidden_size=24 .* must be divisible by num_attention_heads=5"):
        KnowledgeAdapterConfig(hidden_size=24, num_attention_heads=5)


@pytest.mark.parametrize(("width", "layers", "millions"), [(384, 6, 5.3), (1024, 24, 47.3)])
def test_a_default_adapter_is_small_beside_a_small_encoder_and_published_beside_a_large_one(width, layers, millions):
    with torch.device("meta"):
        sizes = {"vocab_size": 100, "hidden_size": width, "num_attention_heads": 8, "intermediate_size": 64}
        backbone = AutoModel.from_config(AutoConfig.for_model("roberta", num_hidden_layers=layers, **sizes))
        model = KAdapterModel.from_backbone(backbone)
        model.add_adapter("fac")
    assert round(sum(parameter.numel() for parameter in model.adapters.parameters()) / 1e6, 1) == millions
    assert None not in model.config.adapters["fac"].values()  # what is stored is what was built


def test_hashes_of_adapters_that_were_saved_before_stay_as_they_were():
    published = {**PUBLISHED, "layers": [0, 2, 4], "num_hidden_layers": 2, "hidden_act": "gelu"}
    tensors = {"a": torch.arange(6.0).view(2, 3)}
    # computed by the release in which 768, 12 and 3072 were the defaults
    assert adapter_hash(published, tensors) == "421d62a1e99c4be747e224857a1e3448921e1173cef50cce73a07665f2a42a46"
    small = {**published, "hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 16}
    assert adapter_hash(small, tensors) == "0101477d770c42bb4f808d391747c319b2148108ba2b2437a0249260d96886b3"


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


@pytest.mark.parametrize("config_class", [KnowledgeAdapterConfig, KnowledgeMapConfig, PreNormAdapterConfig])
def test_every_field_of_every_kind_refuses_a_value_of_another_type(config_class):
    fields = dataclasses.fields(config_class)
    assert len(fields) > 14
    for each in fields:
        with pytest.raises(TypeError, match=f"{each.name}="):
            config_class(**{each.name: b"no such thing"})
