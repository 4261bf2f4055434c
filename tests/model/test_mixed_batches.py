"""Mixed batches: each row through its own adapters, to the bits of a batch that goes through these as a whole."""

import re

import pytest
import torch
from helpers import batch, make_model, shake, small_adapter, tiny_backbone
from tiny_decoders import causal_lm, texts, tiny_decoder
from transformers import DynamicCache, GenerationConfig

from kadapter import (
    KAdapterConfig,
    KAdapterForCausalLM,
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMaskedLM,
    KAdapterForMultipleChoice,
    KAdapterForPairMatching,
    KAdapterForQuestionAnswering,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
    KAdapterModel,
    KnowledgeMapConfig,
    PreNormAdapterConfig,
)

BASE = "__base__"
ADAPTERS = ("fac", "lin", "geo")
LENGTHS = (9, 6, 4, 9, 7)
NAMES = ["lin", BASE, ["geo", "fac"], "fac", "lin"]
POSITIONS = torch.tensor([[1, 4], [2, 3], [0, 2], [8, 1], [3, 3]])
HEADS = {
    KAdapterForSequenceClassification: {},
    KAdapterForTokenClassification: {},
    KAdapterForQuestionAnswering: {},
    KAdapterForMultipleChoice: {},
    KAdapterForPairMatching: {"support_labels": torch.tensor([[0, 1]] * len(LENGTHS))},
    KAdapterForEntityClassification: {"entity_positions": POSITIONS[:, :1]},
    KAdapterForEntityPairClassification: {"entity_positions": POSITIONS},
    KAdapterForDependencyParsing: {"word_positions": POSITIONS},
    KAdapterForMaskedLM: {},
}


def inputs_of(model_class=None, lengths=LENGTHS):
    """A padded batch for a head, with two texts in each row where it reads several."""
    inputs = batch(lengths=lengths)
    if model_class in (KAdapterForMultipleChoice, KAdapterForPairMatching):
        inputs = {key: torch.stack([tensor, tensor.flip(0)], dim=1) for key, tensor in inputs.items()}
    return {**inputs, **HEADS.get(model_class, {})}


def first_output(model, **inputs):
    with torch.no_grad():
        return model(**inputs)[0]


def use(model, names):
    """Make a row's adapters active for all rows."""
    if names == BASE:
        model.disable_adapters()
    else:
        model.set_adapter(names)


def row_by_row(model, names, run=first_output, **inputs):
    """What becomes of each row in the same batch whose rows all go through its adapters."""
    rows = []
    for row, own in enumerate(names):
        use(model, own)
        rows.append(run(model, **inputs)[row])
    model.enable_adapters()
    model.set_adapter(list(model.base_model.adapters))
    return torch.stack(rows)


def head_model(model_class, *adapters, **kwargs):
    if model_class is KAdapterForMaskedLM:
        kwargs["lm_head"] = "transform"
    kwargs = {"arc_size": 8, **kwargs} if model_class is KAdapterForDependencyParsing else kwargs
    return make_model(tiny_backbone(), *(adapters or ADAPTERS), model_class=model_class, **kwargs)


# ---- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [LENGTHS, (1,) * 5], ids=["texts", "single tokens"])
@pytest.mark.parametrize("fusion", ["add", "delta", "max", "gated", "gated_token"])
def test_each_row_is_what_it_is_where_all_rows_have_its_adapters(fusion, lengths):
    model = make_model(tiny_backbone(), *ADAPTERS, fusion=fusion)
    inputs = batch(lengths=lengths)
    mixed = first_output(model, **inputs, adapter_names=NAMES)
    assert torch.equal(mixed, row_by_row(model, NAMES, **inputs))
    assert len({tuple(row.flatten().tolist()) for row in mixed[[0, 3]]}) == 2


def test_learned_concatenation_takes_rows_with_all_of_its_adapters_and_rows_with_none():
    model = make_model(tiny_backbone(), *ADAPTERS, fusion="concat")
    names = [list(ADAPTERS), BASE, ["geo", "lin", "fac"], list(ADAPTERS), BASE]
    mixed = first_output(model, **inputs_of(), adapter_names=names)
    assert torch.equal(mixed, row_by_row(model, names, **inputs_of()))
    sentence = "adapter_names[2] = ['fac', 'geo'], and fusion 'concat' was trained for all of ['fac', 'lin', 'geo']"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        model(**inputs_of(), adapter_names=[*names[:2], ["geo", "fac"], *names[3:]])


@pytest.mark.parametrize("fusion", ["add", "delta", "max"])
def test_a_row_without_adapters_is_the_backbones_own(fusion):
    backbone = tiny_backbone()
    expected = first_output(backbone, **inputs_of())
    mixed = first_output(make_model(backbone, *ADAPTERS, fusion=fusion), **inputs_of(), adapter_names=NAMES)
    assert torch.equal(mixed[1], expected[1]) and not torch.equal(mixed[0], expected[0])


def test_adapters_of_all_kinds_and_shapes_go_into_one_batch():
    shapes = {"fac": small_adapter(skip_layers=2), "lin": PreNormAdapterConfig(hidden_size=16, num_attention_heads=2)}
    shapes["geo"] = small_adapter(num_hidden_layers=0, layers=[1, 3])
    model = shake(KAdapterModel.from_backbone(tiny_backbone(), adapters=shapes, fusion="delta")).eval()
    mixed = first_output(model, **inputs_of(), adapter_names=NAMES)
    assert torch.equal(mixed, row_by_row(model, NAMES, **inputs_of()))


@pytest.mark.parametrize("fusion", ["add", "gated"])
@pytest.mark.parametrize("model_class", HEADS)
def test_every_head_answers_each_row_as_with_its_adapters_alone(model_class, fusion):
    model, inputs = head_model(model_class, fusion=fusion), inputs_of(model_class)
    mixed = first_output(model, **inputs, adapter_names=NAMES)
    assert torch.equal(mixed, row_by_row(model, NAMES, **inputs))


@pytest.mark.parametrize("kind", ["k_adapter", "prenorm"])
@pytest.mark.parametrize("lengths", [(40, 31, 22, 40, 17), (3, 2, 1, 3, 3)], ids=["long texts", "short texts"])
def test_few_positions_of_wide_adapters_are_the_same_bits(lengths, kind):
    # a CPU multiplies fewer than 16 states in another order, and a head of a text reads a position of each row
    wide = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 768, "layers": [0, 2]}
    shape = small_adapter(**wide) if kind == "k_adapter" else PreNormAdapterConfig(**wide)
    adapters = dict.fromkeys(ADAPTERS, shape)
    backbone = tiny_backbone(max_position_embeddings=48)
    model = KAdapterForSequenceClassification.from_backbone(backbone, adapters=adapters, fusion="delta", num_labels=3)
    shake(model, std=0.05).eval()
    mixed = first_output(model, **batch(lengths=lengths), adapter_names=NAMES)
    assert torch.equal(mixed, row_by_row(model, NAMES, **batch(lengths=lengths)))


def test_adapters_need_not_be_active_and_what_is_active_stays_so():
    model = make_model(tiny_backbone(), *ADAPTERS)
    expected = row_by_row(model, NAMES, **inputs_of())
    model.set_adapter("geo")
    assert torch.equal(first_output(model, **inputs_of(), adapter_names=NAMES), expected)
    assert model.active_adapters() == ["geo"]
    uniform = first_output(model, **inputs_of(), adapter_names=["geo"] * 5)
    assert torch.equal(uniform, first_output(model, **inputs_of()))


def test_the_backbone_runs_once_and_each_adapter_on_its_rows_alone():
    model, seen = make_model(tiny_backbone(), *ADAPTERS), []
    model.backbone.register_forward_hook(lambda *_: seen.append("backbone"))
    for name, adapter in model.adapters.items():
        adapter.layers[0].register_forward_pre_hook(lambda _, args, name=name: seen.append((name, len(args[0]))))
    first_output(model, **inputs_of(), adapter_names=NAMES)
    assert seen == ["backbone", ("fac", 2), ("lin", 2), ("geo", 1)]


def test_an_adapters_states_are_returned_for_its_rows_and_are_no_numbers_in_others():
    model = make_model(tiny_backbone(), *ADAPTERS)
    with torch.no_grad():
        states = model(**inputs_of(), adapter_names=NAMES).adapter_hidden_states
    empty = {name: own.isnan().all(-1).all(-1).tolist() for name, own in states.items()}
    assert empty["lin"] == [False, True, True, True, False] and empty["geo"] == [True, True, False, True, True]
    assert states["lin"][[0, 4]].isfinite().all()


# ---- states that were kept ------------------------------------------------------------------------------------------


def test_kept_hidden_states_and_kept_states_answer_as_the_inputs_do():
    model, inputs = head_model(KAdapterForSequenceClassification), inputs_of()
    expected = first_output(model, **inputs, adapter_names=NAMES)
    with torch.no_grad():
        every, mixed = model.read(**inputs), model.read(**inputs, adapter_names=NAMES)
        model.set_adapter("geo")
        tapped = model.base_model.tap(**inputs, adapter_names=NAMES)
        core = model.base_model(hidden_states=tapped, attention_mask=inputs["attention_mask"], adapter_names=NAMES)
    for states in (every, mixed):
        assert torch.equal(first_output(model, states=states, adapter_names=NAMES), expected)
    whole = first_output(model.base_model, **inputs, adapter_names=NAMES)
    assert torch.equal(core.last_hidden_state, whole)


def test_states_of_other_rows_are_refused():
    model, inputs = head_model(KAdapterForSequenceClassification), inputs_of()
    with torch.no_grad():
        states = model.read(**inputs, adapter_names=NAMES)
    with pytest.raises(ValueError, match=r"adapter_names\[1\] names 'fac', of which the states hold nothing in row 1"):
        model(states=states, adapter_names=["lin", "fac", "geo", "fac", "lin"])
    with pytest.raises(ValueError, match=r"states hold .*, and this model reads .*'adapters.geo'"):
        model(states={"backbone": states["backbone"]}, adapter_names=NAMES)


# ---- generation -----------------------------------------------------------------------------------------------------

WAYS = {
    "greedy": {"do_sample": False},
    "without a cache": {"do_sample": False, "use_cache": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "several answers": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
}
SPOKEN = ["fac", BASE, ["lin", "fac"]]


def answers(model, **options):
    return model.generate(**{**texts(), "max_new_tokens": 6, "return_dict_in_generate": True, **options})


@pytest.mark.parametrize("way", WAYS)
def test_each_text_goes_on_as_with_its_adapters_alone(way):
    model, options = causal_lm(tiny_decoder(), "fac", "lin", fusion="delta"), {**WAYS[way], "output_logits": True}
    mixed, several = answers(model, **options, adapter_names=SPOKEN), WAYS[way].get("num_return_sequences", 1)
    for row, names in enumerate(SPOKEN):
        use(model, names)
        alone = answers(model, **options)
        rows = slice(several * row, several * (row + 1))
        length = min(mixed.sequences.shape[1], alone.sequences.shape[1])  # the rest is padding
        assert torch.equal(mixed.sequences[rows, :length], alone.sequences[rows, :length])
        width = WAYS[way].get("num_beams", 1)
        beams = slice(width * row, width * (row + 1))
        assert torch.equal(mixed.logits[1][beams], alone.logits[1][beams])
        model.enable_adapters()


def test_logits_of_a_language_model_are_the_same_bits_with_a_cache():
    model = causal_lm(tiny_decoder(), "fac", "lin")
    inputs = texts(side="left")

    def two_steps(model, **options):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.no_grad():
            first = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **options)
            return model(input_ids=ids[:, -1:], attention_mask=mask, past_key_values=first.past_key_values, **options)[
                "logits"
            ]

    assert torch.equal(two_steps(model, adapter_names=SPOKEN), row_by_row(model, SPOKEN, two_steps))


def test_a_language_model_reads_a_mixed_batch_once_and_goes_on_from_its_states():
    model = causal_lm(tiny_decoder(), "fac", "lin")
    ids, names = torch.arange(20).view(2, 10) % 50 + 5, ["lin", "__base__"]
    expected = model(input_ids=ids, adapter_names=names).logits
    states = model.read(input_ids=ids, adapter_names=names)
    assert torch.equal(model(states=states, adapter_names=names).logits, expected)
    tapped = model.base_model.tap(ids, None, adapter_names=names)
    assert torch.equal(model(input_ids=ids, hidden_states=tapped, adapter_names=names).logits, expected)


@pytest.mark.parametrize("later", [{"adapter_names": ["fac", "fac", "fac"]}, {}], ids=["other rows", "all rows"])
def test_a_cache_that_was_filled_without_an_adapter_in_a_row_is_refused_for_that_row(later):
    model, cache = causal_lm(tiny_decoder(), "fac"), DynamicCache()
    inputs = texts((4, 4, 4))
    model(**inputs, past_key_values=cache, adapter_names=["fac", BASE, "fac"])
    longer = {"input_ids": inputs["input_ids"][:, :1], "attention_mask": torch.ones(3, 5)}
    with pytest.raises(
        ValueError, match="row 1 goes through adapter 'fac' now, and the cache was filled while it did"
    ):
        model(**longer, past_key_values=cache, **later)


def test_names_of_another_number_than_the_texts_are_refused_before_they_become_beams():
    model = causal_lm(tiny_decoder(), "fac")
    with pytest.raises(ValueError, match="adapter_names has 1 entries and the batch 3 rows"):
        answers(model, num_beams=2, adapter_names=["fac"])


@pytest.mark.parametrize(
    "guided", [{"guidance_scale": 1.5}, {"generation_config": GenerationConfig(guidance_scale=2)}]
)
def test_a_text_that_is_compared_with_another_is_refused_in_a_mixed_batch(guided):
    model = causal_lm(tiny_decoder(), "fac", "lin")
    with pytest.raises(ValueError, match=r"guidance_scale compares each text with another.*without adapter_names"):
        answers(model, adapter_names=SPOKEN, **guided)
    assert answers(model, **guided) is not None


def test_an_assistant_is_refused_where_texts_have_adapters_of_their_own():
    backbone = tiny_decoder()
    model, one = causal_lm(backbone, "fac", "lin"), texts((9,))
    with pytest.raises(ValueError, match=r"assistant_model drafts a single text.*; choose .* by set_adapter"):
        model.generate(**one, max_new_tokens=4, adapter_names=["fac"], assistant_model=backbone)
    model.set_adapter("fac")
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**one, **options, assistant_model=backbone), model.generate(**one, **options))


def test_an_adapter_that_looks_ahead_is_refused_in_any_row():
    ahead = PreNormAdapterConfig(hidden_size=16, num_attention_heads=2, causal=False)
    model = KAdapterForCausalLM.from_backbone(tiny_decoder(), adapters={"fac": ahead})
    with pytest.raises(ValueError, match="adapter 'fac' looks ahead"):
        model(**texts(), adapter_names=[BASE, BASE, "fac"])


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["add", "max", "gated"])
def test_gradients_reach_the_adapters_of_rows_alone_and_are_those_of_their_rows(fusion):
    still = small_adapter(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    options = {"fusion": fusion, "num_labels": 3, "classifier_dropout": 0.0}
    model = KAdapterForSequenceClassification.from_backbone(
        tiny_backbone(), adapters=dict.fromkeys(ADAPTERS, still), **options
    )
    shake(model, std=0.1).train_adapter(list(ADAPTERS))
    model.train()
    inputs, labels = inputs_of(), torch.tensor([0, 1, 2, 0, 1])
    model(**inputs, labels=labels, adapter_names=["lin", BASE, BASE, "fac", "lin"]).loss.backward()
    adapters = model.base_model.adapters
    assert all(parameter.grad is None for parameter in adapters["geo"].parameters())
    found = {name: parameter.grad.clone() for name, parameter in adapters["lin"].named_parameters()}
    assert all(grad.isfinite().all() for grad in found.values()) and any(grad.any() for grad in found.values())
    model.zero_grad()
    model.set_adapter("lin")
    own = torch.tensor([0, -100, -100, -100, 1])
    model(**inputs, labels=own, num_items_in_batch=5).loss.backward()
    for name, parameter in adapters["lin"].named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["fac", "lin", "gee", "fac", "lin"],
            "adapter_names[2] names 'gee', and there are ['fac', 'lin', 'geo', '__ba",
        ),
        (["fac", "lin"], "adapter_names has 2 entries and the batch 5 rows"),
        (["fac", "lin", "geo", ["fac", "fac"], "lin"], "adapter_names[3] = ['fac', 'fac'] names 'fac' twice"),
        (["fac", "lin", "geo", [BASE, "fac"], "lin"], "names adapters beside '__base__', which is none"),
    ],
)
def test_wrong_names_are_refused_with_their_row_by_models_and_heads(names, sentence):
    for model_class in (KAdapterModel, KAdapterForSequenceClassification, KAdapterForMultipleChoice):
        model = make_model(tiny_backbone(), *ADAPTERS, model_class=model_class)
        with pytest.raises(ValueError, match=re.escape(sentence)):
            model(**inputs_of(model_class), adapter_names=names)


@pytest.mark.parametrize("names", ["fac", 3, [3, "fac", "fac", "fac", "fac"], [None] * 5])
def test_names_of_another_type_are_refused(names):
    model = make_model(tiny_backbone(), *ADAPTERS)
    with pytest.raises(TypeError, match=r"adapter_names(\[0\])? is .*; give a"):
        model(**inputs_of(), adapter_names=names)


def test_no_adapter_may_have_the_name_that_stands_for_none(tmp_path):
    model = make_model(tiny_backbone(), *ADAPTERS)
    model.save_adapter(tmp_path / "lin", "lin")
    ways = {
        "add": lambda: model.add_adapter(BASE),
        "load": lambda: model.load_adapter(tmp_path / "lin", BASE),
        "rename": lambda: model.rename_adapter("lin", BASE),
        "weighted": lambda: model.add_weighted_adapter(["fac", "lin"], [0.5, 0.5], BASE),
        "configuration": lambda: KAdapterConfig(adapters={BASE: small_adapter().to_dict()}),
    }
    for way in ways.values():
        with pytest.raises(ValueError, match="adapter name '__base__' stands for no adapter in adapter_names; choose"):
            way()
    assert list(model.adapters) == list(ADAPTERS)


def test_disabled_adapters_and_a_batch_that_is_not_there_are_refused():
    model = make_model(tiny_backbone(), *ADAPTERS)
    with pytest.raises(ValueError, match="adapter_names are for the rows of a batch, and there is none"):
        model(adapter_names=NAMES)
    model.disable_adapters()
    with pytest.raises(ValueError, match="adapters are disabled, and adapter_names asks for some"):
        model(**inputs_of(), adapter_names=NAMES)


def test_a_knowledge_map_is_for_all_rows_or_none():
    model = make_model(tiny_backbone(), "fac")
    model.add_adapter("map", KnowledgeMapConfig(knowledge_size=8))
    shake(model)
    entities = {"knowledge_slots": torch.tensor([[1], [2], [-1], [1], [1]]), "knowledge_embeds": torch.ones(5, 1, 8)}
    inputs = {**inputs_of(), **entities}
    names = [["map", "fac"], "map", ["map", "fac"], "map", ["fac", "map"]]
    mixed = first_output(model, **inputs, adapter_names=names)
    assert torch.equal(mixed, row_by_row(model, names, **inputs))
    with pytest.raises(
        ValueError, match="'map' changes the input embeddings of a whole batch, and row 1 does not nam"
    ):
        model(**inputs, adapter_names=["map", "fac", "map", "map", "map"])
