"""A knowledge map before an encoder: as an adapter of ours, and plugged into other people's models."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import FAMILIES, batch, bytes_of, make_model, output, save_backbone, shake, tiny_backbone
from tiny_knowledge import bert_tokenizer, save_bert
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Tokenizer,
    RobertaConfig,
    RobertaForMultipleChoice,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTModel,
)

from kadapter import (
    EntityEmbeddings,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterModel,
    KnowledgeMap,
    KnowledgeMapConfig,
    KnowledgeSource,
    encode_knowledge,
    insert_entities,
    plug,
    unplug,
)

SIZE = 6  # of the entity embeddings in these tests
TEXT = "Paris is the capital of France ."
ENTITIES = [(0, 5, "Q90"), (24, 30, "Q142")]


def table(size=SIZE, seed=0, ids=("Q1", "Q2", "Q3")):
    generator = torch.Generator().manual_seed(seed)
    return EntityEmbeddings(list(ids), torch.randn(len(ids), size, generator=generator), "toy")


def map_config(**changes):
    return KnowledgeMapConfig(**{"knowledge_size": SIZE, **changes})


def entities_of(lengths=(9, 6, 4), seed=5):
    """Slots and rows for the texts of `batch`: two, one and none."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.tensor([[1, 5], [2, -1], [-1, -1]])
    return {"knowledge_slots": slots, "knowledge_embeds": torch.randn(3, 2, SIZE, generator=generator)}


def model_with_map(backbone, *names, **config):
    model = make_model(backbone, *names)
    model.add_adapter("wikidata", map_config(**config))
    return shake(model).eval()


def hooks_of(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks.values(),)] + [
        hook for module in model.modules() for hook in module._forward_pre_hooks.values()
    ]


# ---- before an encoder of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_into_a_model_of_any_family_give_the_same_states(family):
    backbone, inputs = tiny_backbone(family), batch(family)
    model = model_with_map(copy.deepcopy(backbone))
    ours = output(model, **inputs, **entities_of())
    plug(backbone, model.adapters["wikidata"], table())
    with torch.no_grad():
        plugged = backbone(**inputs, **entities_of()).last_hidden_state
    real = inputs["attention_mask"].bool()
    assert torch.allclose(ours[real], plugged[real], atol=2e-6)
    assert not torch.allclose(ours[real], output(model, **inputs)[real], atol=1e-2)


@pytest.mark.parametrize("family", ["roberta", "bert", "mpnet"])
def test_padding_on_the_left_changes_nothing(family):
    model, entities = model_with_map(tiny_backbone(family)), entities_of()
    left, right = (batch(family, side=side) for side in ("left", "right"))
    shift = (left["attention_mask"] == 0).sum(dim=1, keepdim=True)
    moved = torch.where(entities["knowledge_slots"] < 0, -1, entities["knowledge_slots"] + shift)
    states = output(model, **right, **entities)[right["attention_mask"].bool()]
    found = output(model, **left, **{**entities, "knowledge_slots": moved})[left["attention_mask"].bool()]
    assert torch.allclose(states, found, atol=2e-6)


def test_inputs_without_entities_give_the_bits_of_the_model_without_a_map():
    backbone = tiny_backbone()
    plain = make_model(backbone, "fac")
    expected = output(plain)
    plain.add_adapter("wikidata", map_config())
    assert torch.equal(output(plain.eval()), expected)


def test_a_text_s_slots_change_no_other_text_and_padding_changes_nothing():
    model = model_with_map(tiny_backbone())
    states = output(model, **batch(), **entities_of())
    padded = output(model, **batch(extra=4), **entities_of())
    real = batch()["attention_mask"].bool()
    assert torch.allclose(states[real], padded[:, :9][real], atol=2e-6)
    assert torch.equal(states[2], output(model, **batch())[2])  # it has no entities


@pytest.mark.parametrize("changes", [{}, {"use_bias": False}, {"num_hidden_layers": 2, "hidden_size": 10}])
def test_an_affine_map_and_an_mlp_fit_any_width_of_input_embeddings(changes):
    model = model_with_map(tiny_backbone("electra"), **changes)
    own = model.adapters["wikidata"]
    assert own.config.embedding_size == own.projection.out_features == 16 != model.config.hidden_size
    assert (own.projection.bias is None) == (changes.get("use_bias") is False)
    assert len(own.hidden) == changes.get("num_hidden_layers", 0)
    assert own(torch.zeros(2, SIZE)).shape == (2, 16)


def test_only_the_map_gets_gradients_and_the_encoder_keeps_its_bytes():
    model = model_with_map(tiny_backbone(), "fac")
    before = bytes_of(model.backbone)
    model.train_adapter("wikidata")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**batch(), **entities_of()).last_hidden_state.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        "adapters.wikidata.projection.weight",
        "adapters.wikidata.projection.bias",
    ]
    optimizer.step()
    assert bytes_of(model.backbone) == before


def test_a_frozen_map_leaves_no_graph():
    model = model_with_map(tiny_backbone(), "fac")
    model.adapters.requires_grad_(False)
    assert not model(**batch(), **entities_of()).last_hidden_state.requires_grad


def test_several_maps_stand_side_by_side_whatever_their_order():
    backbone, entities = tiny_backbone(), entities_of()
    model = model_with_map(backbone)
    model.add_adapter("umls", map_config(knowledge_size=3))
    shake(model, seed=4)
    slots = {"wikidata": entities["knowledge_slots"], "umls": torch.tensor([[3], [-1], [0]])}
    rows = {"wikidata": entities["knowledge_embeds"], "umls": torch.randn(3, 1, 3)}
    states = output(model, **batch(), knowledge_slots=slots, knowledge_embeds=rows)
    turned = {key: dict(reversed(own.items())) for key, own in (("slots", slots), ("rows", rows))}
    again = output(model, **batch(), knowledge_slots=turned["slots"], knowledge_embeds=turned["rows"])
    assert torch.equal(states, again)
    slots["umls"] = torch.tensor([[1], [-1], [0]])
    with pytest.raises(ValueError, match="row 0 has a slot of two of the maps"):
        model(**batch(), knowledge_slots=slots, knowledge_embeds=rows)


def test_a_map_and_two_adapters_load_in_any_order_and_each_alone_is_what_it_was(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model, inputs = model_with_map(backbone, "fac", "lin"), {**batch(), **entities_of()}
    names = ["fac", "lin", "wikidata"]
    for name in names:
        model.save_adapter(tmp_path / name, name)
    expected = model(**inputs)
    for order in itertools.permutations(names):
        loaded = KAdapterModel.from_pretrained([tmp_path / name for name in order])
        found = loaded(**inputs)
        assert all(
            torch.equal(found.adapter_hidden_states[name], expected.adapter_hidden_states[name])
            for name in ("fac", "lin")
        )
        assert torch.allclose(found.last_hidden_state, expected.last_hidden_state, atol=1e-6)
        assert not any(parameter.requires_grad for parameter in loaded.adapters.parameters())
    alone = KAdapterModel.from_pretrained(tmp_path / "wikidata")
    assert torch.equal(alone(**inputs).last_hidden_state, expected.backbone_hidden_state)
    fac = KAdapterModel.from_pretrained(tmp_path / "fac")
    plain = make_model(backbone, "fac", "lin")
    assert torch.equal(fac(**batch()).adapter_hidden_states["fac"], plain(**batch()).adapter_hidden_states["fac"])


@pytest.mark.parametrize("fusion", ["add", "concat", "gated", "gated_token", "delta"])
def test_no_fusion_takes_a_map_for_a_feature(tmp_path, fusion):
    model = KAdapterModel.from_backbone(tiny_backbone(), fusion=fusion)
    model.add_adapter("wikidata", map_config())
    assert output(shake(model).eval(), **batch(), **entities_of()).shape == (3, 9, 32)
    assert [name for name, _ in model.fusion.named_parameters() if "wikidata" in name] == []
    with torch.no_grad():
        assert model(**batch(), **entities_of()).adapter_hidden_states == {}


@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_a_map_that_is_added_or_deleted_leaves_the_trained_fusion_of_the_others(fusion):
    model = make_model(tiny_backbone(), "fac", "lin", fusion=fusion)
    before = output(model, **batch())
    model.add_adapter("wikidata", map_config())
    assert torch.equal(output(model, **batch()), before)
    model.delete_adapter("wikidata")
    assert torch.equal(output(model, **batch()), before)


def test_a_head_model_with_a_map_is_saved_and_loaded_to_the_bit(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model = KAdapterForEntityPairClassification.from_backbone(backbone, num_labels=3)
    model.add_adapter("wikidata", map_config(missing_entity="bias"))
    shake(model).eval().save_pretrained(tmp_path / "head")
    inputs = {**batch(), **entities_of(), "entity_positions": torch.tensor([[1, 4], [2, 3], [0, 2]])}
    again = KAdapterForEntityPairClassification.from_pretrained(tmp_path / "head")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        assert torch.equal(again(states=again.read(**inputs)).logits, model(**inputs).logits)
    assert again.config.adapter_config("wikidata").missing_entity == "bias"


def test_choices_have_entities_of_their_own():
    model = KAdapterForMultipleChoice.from_backbone(tiny_backbone())
    model.add_adapter("wikidata", map_config())
    shake(model).eval()
    twice = {key: torch.stack([own, own], dim=1) for key, own in {**batch(), **entities_of()}.items()}
    with torch.no_grad():
        logits = model(**twice).logits
        named = {key: {"wikidata": twice[key]} for key in ("knowledge_slots", "knowledge_embeds")}
        assert torch.equal(model(**{**twice, **named}).logits, logits)
    assert torch.allclose(logits[:, 0], logits[:, 1], atol=1e-6) and logits.shape == (
        3,
        2,
    )  # rows apart differ in bits


def test_a_model_with_a_map_goes_through_pickle_and_copy():
    model = model_with_map(tiny_backbone())
    expected = output(model, **batch(), **entities_of())
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(output(twin, **batch(), **entities_of()), expected)


# ---- in other people's models ---------------------------------------------------------------------------------------


SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_size": 32,
    "vocab_size": 60,
}


def built(model_class, config, **changes):
    torch.manual_seed(0)
    return model_class(config(**{**SMALL, **changes})).eval()


def classifier(**changes):
    return built(RobertaForSequenceClassification, RobertaConfig, num_labels=3, **changes)


def fresh_map(width=32, **changes):
    return shake(KnowledgeMap(map_config(embedding_size=width, **changes), width)).requires_grad_(False)


def test_unplugging_leaves_the_model_as_it_was_without_hooks():
    model = classifier()
    hooks, before, keys = hooks_of(model), bytes_of(model), list(model.state_dict())
    with torch.no_grad():
        expected = model(**batch()).logits
        plug(model, fresh_map(), table())
        assert list(model.state_dict()) == keys
        assert torch.equal(model(**batch()).logits, expected)
        assert not torch.allclose(model(**batch(), **entities_of()).logits, expected)
        assert torch.equal(model(**batch()).logits, expected)  # nothing is left of the entities before
        unplug(model)
        assert torch.equal(model(**batch()).logits, expected)
    assert hooks_of(model) == hooks and bytes_of(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_plugged_model_is_frozen_and_only_the_map_learns():
    model, knowledge_map = classifier(), fresh_map().requires_grad_(True)
    plug(model, knowledge_map, table())
    model(**batch(), **entities_of(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in knowledge_map.parameters())


def test_a_model_may_be_fine_tuned_with_a_frozen_map():
    model, knowledge_map = classifier(), fresh_map()
    plug(model, knowledge_map, table(), train_model=True)
    model(**batch(), **entities_of(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert model.classifier.out_proj.weight.grad is not None and knowledge_map.projection.weight.grad is None


def test_a_pass_that_fails_leaves_no_entities_behind():
    model = classifier()
    plug(model, fresh_map(), table())
    with torch.no_grad():
        expected = model(**batch()).logits
        with pytest.raises(ValueError, match="slot 40 lies outside the 9 tokens"):
            model(**batch(), **{**entities_of(), "knowledge_slots": torch.full((3, 2), 40)})
        assert torch.equal(model(**batch()).logits, expected)


def test_a_decoder_s_classifier_still_reads_the_last_token_before_the_padding():
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=40, pad_token_id=0, num_labels=3)
    ).eval()
    plug(model, fresh_map(), table())
    inputs, padded = batch("bert"), batch("bert", extra=5)
    with torch.no_grad():
        near = torch.allclose(
            model(**inputs, **entities_of()).logits, model(**padded, **entities_of()).logits, atol=1e-5
        )
        assert near and not torch.allclose(model(**inputs).logits, model(**inputs, **entities_of()).logits)


def test_scaled_embeddings_are_what_the_map_maps_into():
    config = BartConfig(
        vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, scale_embedding=True,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40
    )  # fmt: skip
    model, knowledge_map = BartForConditionalGeneration(config).eval(), fresh_map()
    with torch.no_grad():
        embeds = model.get_encoder().get_input_embeddings()(batch()["input_ids"])
        changed = knowledge_map.embed(embeds, **entities_of())
        expected = model.get_encoder()(inputs_embeds=changed, attention_mask=batch()["attention_mask"])
        plug(model, knowledge_map, table())
        found = model(**batch(), **entities_of(), decoder_input_ids=batch()["input_ids"])
    real = batch()["attention_mask"].bool()
    assert torch.allclose(found.encoder_last_hidden_state[real], expected.last_hidden_state[real], atol=1e-5)


def test_choices_and_embeddings_of_the_user_are_changed_too():
    model, inputs = shake(built(RobertaForMultipleChoice, RobertaConfig)), {**batch(), **entities_of()}
    plug(model, fresh_map(), table())
    twice = {key: torch.stack([own, own], dim=1) for key, own in inputs.items()}
    with torch.no_grad():
        logits = model(**twice).logits
        plain = model(input_ids=twice["input_ids"], attention_mask=twice["attention_mask"]).logits
        assert torch.allclose(logits[:, 0], logits[:, 1], atol=1e-6)  # rows of one batch differ in their last bits
        assert not torch.allclose(logits, plain, atol=1e-4)
        encoder = built(BertModel, BertConfig)
        plug(encoder, fresh_map(), table())
        embeds = encoder.get_input_embeddings()(inputs["input_ids"])
        by_embeds = encoder(inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **entities_of())
        assert torch.equal(by_embeds.last_hidden_state, encoder(**inputs).last_hidden_state)


def test_several_maps_are_plugged_side_by_side_and_one_can_go():
    tokenizer, model = bert_tokenizer(), built(BertModel, BertConfig, vocab_size=111)
    plug(model, fresh_map(), table(ids=("Q90", "Q142", "Q7")), "wikidata")
    plugged = plug(model, fresh_map(knowledge_size=3), table(3, ids=("C1", "C2")), "umls")
    entities = [
        {"start": 0, "end": 5, "id": "Q90", "source": "wikidata"},
        {"start": 24, "end": 30, "id": "C2", "source": "umls"},
    ]
    inputs = plugged.encode(tokenizer, [TEXT], [entities])
    assert inputs["knowledge_slots"]["wikidata"].tolist() == [[1]] and inputs["knowledge_slots"]["umls"].tolist() == [
        [8]
    ]
    with torch.no_grad():
        both = model(**inputs).last_hidden_state
        unplug(model, "umls")
        with pytest.raises(ValueError, match=r"knowledge_slots are of \['umls', 'wikidata'\]"):
            model(**inputs)
        first = {key: own["wikidata"] for key, own in inputs.items() if key.startswith("knowledge")}
        assert not torch.allclose(model(**{**inputs, **first}).last_hidden_state, both)
        unplug(model)
    assert hooks_of(model) == []


def test_each_thread_has_its_own_entities():
    model = classifier()
    plug(model, fresh_map(), table())
    other = {**entities_of(), "knowledge_embeds": entities_of(seed=9)["knowledge_embeds"]}
    with torch.no_grad():
        expected = [model(**batch(), **entities).logits for entities in (entities_of(), other, {})]

        def run(entities):
            with torch.no_grad():
                return [model(**batch(), **entities).logits for _ in range(5)]

        with ThreadPoolExecutor(3) as threads:
            both = list(threads.map(run, (entities_of(), other, {})))
    for logits, alone in zip(both, expected, strict=True):
        assert all(torch.allclose(found, alone, atol=1e-6) for found in logits)


def test_a_copy_of_a_plugged_model_has_maps_of_its_own_and_the_same_table():
    model, shared = classifier(), table()
    plug(model, fresh_map(), shared)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(**batch(), **entities_of()).logits
        unplug(model)
        assert torch.equal(twin(**batch(), **entities_of()).logits, expected)
        unplug(twin)
    assert hooks_of(twin) == hooks_of(classifier())


def test_a_map_trained_in_another_model_is_saved_beside_its_encoder(tmp_path):
    folder = save_bert(tmp_path / "bert")
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    knowledge_map = fresh_map()
    plug(model, knowledge_map, table())
    knowledge_map.save_pretrained(tmp_path / "map", "wikidata", folder)
    inputs = {key: value[:, :5] for key, value in batch().items()}
    entities = {"knowledge_slots": torch.tensor([[1], [2], [0]]), "knowledge_embeds": torch.ones(3, 1, SIZE)}
    with torch.no_grad():
        expected = model(**inputs, **entities).logits
        unplug(model)
        plug(model, str(tmp_path / "map"), table())
        assert torch.equal(model(**inputs, **entities).logits, expected)
    whole = KAdapterModel.from_pretrained(tmp_path / "map")
    assert list(whole.adapters) == ["wikidata"] and "rows" not in "".join(whole.state_dict())


# ---- texts ----------------------------------------------------------------------------------------------------------


def toy(*ids):
    return table(ids=ids or ("Q90", "Q142"))


def tokens_of(text, tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(text.input_ids)
    for position, link in text.slots:
        tokens[position] = link.id
    return " ".join(tokens)


@pytest.mark.parametrize(
    ("position", "separator", "expected"),
    [
        ("before", "/", "[CLS] Q90 / paris is the capital of Q142 / france . [SEP]"),
        ("after", "/", "[CLS] paris / Q90 is the capital of france / Q142 . [SEP]"),
        ("instead", "/", "[CLS] Q90 is the capital of Q142 . [SEP]"),
        ("before", "", "[CLS] Q90 paris is the capital of Q142 france . [SEP]"),
    ],
)
def test_an_entity_stands_before_after_or_instead_of_its_mention(position, separator, expected):
    source = KnowledgeSource(toy(), position, separator)
    (text,) = insert_entities(bert_tokenizer(), [TEXT], [ENTITIES], source)
    assert tokens_of(text, bert_tokenizer()) == expected


def test_labels_words_and_offsets_are_those_of_the_text_after_insertion():
    tokenizer = bert_tokenizer()
    plain = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    (text,) = insert_entities(tokenizer, [TEXT], [ENTITIES], toy(), markers=("#", "$"))
    assert text.entity_positions == [1, 10] and text.mentions == [(4, 5), (13, 14)]
    labels = text.align(list(range(7)))
    assert labels == [-100, -100, -100, -100, 0, -100, 1, 2, 3, 4, -100, -100, -100, 5, -100, 6, -100]
    assert [offset for offset, label in zip(text.offsets, labels, strict=True) if label >= 0] == plain[
        "offset_mapping"
    ]
    starts = [0, 6, 9, 13, 21, 24, 31]  # of the words
    assert [text.position_of(start) for start in starts] == [4, 6, 7, 8, 9, 13, 15]
    kept = [id for id, origin in zip(text.input_ids, text.origins, strict=True) if origin >= 0]
    assert kept == plain["input_ids"]  # the text's own tokens are those of the text without entities


def test_truncation_drops_an_entity_with_its_mention_and_the_official_one_the_tail():
    tokenizer = bert_tokenizer()
    (text,) = insert_entities(tokenizer, [TEXT], [ENTITIES], toy(), max_length=10)
    assert tokens_of(text, tokenizer) == "[CLS] Q90 / paris is the capital of [SEP]"
    assert text.mentions == [(3, 4), None] and text.truncated
    (official,) = insert_entities(tokenizer, [TEXT], [ENTITIES], toy(), max_length=10, official_truncation=True)
    assert tokens_of(official, tokenizer) == "[CLS] Q90 / paris is the capital of Q142 [SEP]"
    assert official.mentions == [(3, 4), None]
    with pytest.raises(ValueError, match="text 0: max_length=10 tokens cut off a marked mention"):
        encode_knowledge(tokenizer, [TEXT], [ENTITIES], toy(), max_length=10, markers=("#", "$"))


def test_the_official_truncation_keeps_a_text_whose_marked_mention_it_cuts_off():
    options = {"max_length": 10, "markers": ("#", "$"), "official_truncation": True}
    inputs = encode_knowledge(bert_tokenizer(), [TEXT], [ENTITIES], toy(), **options)
    tokens = bert_tokenizer().convert_ids_to_tokens(inputs["input_ids"][0])
    assert [*tokens[:2], *tokens[3:]] == "[CLS] # / paris # is the capital [SEP]".split()
    assert inputs["entity_positions"].tolist() == [[1, -1]] and inputs["knowledge_slots"].tolist() == [[2]]


def test_pairs_are_joined_as_the_tokenizer_joins_them():
    tokenizer = bert_tokenizer()
    inputs = encode_knowledge(tokenizer, [TEXT], [ENTITIES[:1]], toy(), pairs=([TEXT], [ENTITIES[1:]]))
    first = "[CLS] Q90 / paris is the capital of france . [SEP] "
    second = "paris is the capital of Q142 / france . [SEP]"
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    for position, name in zip(inputs["knowledge_slots"][0].tolist(), ("Q90", "Q142"), strict=True):
        tokens[position] = name
    assert " ".join(tokens) == first + second
    assert inputs["token_type_ids"][0].tolist() == [0] * len(first.split()) + [1] * len(second.split())


def test_a_mention_within_a_word_is_cut_out_of_it():
    tokenizer = bert_tokenizer()
    (text,) = insert_entities(tokenizer, ["mousefood"], [[(5, 9, "Q90")]], toy())  # "mouse" is a token, "##f" too
    assert tokens_of(text, tokenizer) == "[CLS] mouse Q90 / ##f ##o ##o ##d [SEP]"
    (text,) = insert_entities(tokenizer, ["hamsters"], [[(3, 8, "Q90")]], toy())
    assert tokens_of(text, tokenizer) == "[CLS] h ##a ##m Q90 / s ##t ##e ##r ##s [SEP]"


def test_entities_that_a_table_lacks_are_counted_and_skipped_or_become_the_bias(caplog):
    entities = [[(0, 5, "Q90"), (24, 30, "Q999")]]
    skipped = encode_knowledge(bert_tokenizer(), [TEXT], entities, toy())
    assert skipped["knowledge_slots"].tolist() == [[1]]
    assert (
        "1 of 2 linked mentions have an entity that the table lacks, such as 'Q999': they are skipped" in caplog.text
    )
    biased = encode_knowledge(bert_tokenizer(), [TEXT], entities, KnowledgeSource(toy(), missing_entity="bias"))
    assert biased["knowledge_slots"].tolist() == [[1, 8]] and not biased["knowledge_embeds"][0, 1].any()
    assert torch.equal(biased["knowledge_embeds"][0, 0], toy().lookup(["Q90"])[0])


def test_no_slot_looks_like_padding_or_an_end_where_a_tokenizer_has_one_token_for_all():
    vocabulary = {"<|endoftext|>": 0, **{character: number for number, character in enumerate("abcdefg@\u0120", 1)}}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>")
    assert tokenizer.unk_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    source = KnowledgeSource(toy(), "instead")
    inputs = encode_knowledge(tokenizer, ["ab cd"], [[(3, 5, "Q90")]], source)
    assert inputs["knowledge_slots"].tolist() == [[3]] and inputs["input_ids"][0, 3] != 0
    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0, eos_token_id=0)).eval()
    plug(model, fresh_map(), toy())
    with torch.no_grad():
        other = {**inputs, "knowledge_embeds": 9 - inputs["knowledge_embeds"]}
        assert not torch.allclose(model(**inputs).logits, model(**other).logits)  # the last token is read, a slot


def test_an_id_that_looks_like_none_of_a_table_of_words_is_missing_and_nothing_else(caplog):
    text, entities, words = "1984 is a book", [(0, 4, "1984")], toy("Paris", "France")
    skipped = encode_knowledge(bert_tokenizer(), [text], [entities], words)
    assert skipped["knowledge_slots"].shape == (1, 0) and "such as '1984': they are skipped" in caplog.text
    biased = encode_knowledge(bert_tokenizer(), [text], [entities], KnowledgeSource(words, missing_entity="bias"))
    assert biased["knowledge_slots"].tolist() == [[1]] and not biased["knowledge_embeds"].any()


def test_a_text_is_taken_or_refused_whatever_else_is_in_its_batch():
    many = [[(0, 5, f"Q{number}")] for number in range(1000, 1030)]
    source = KnowledgeSource(toy(), missing_entity="bias")
    assert encode_knowledge(bert_tokenizer(), [TEXT] * 30, many, source)["knowledge_slots"].shape == (30, 1)
    for batch_of in ([[(0, 5, "C01")]], [ENTITIES, [(0, 5, "C01")]]):
        with pytest.raises(ValueError, match="none of 1 entity ids, such as 'C01', is in the table"):
            encode_knowledge(bert_tokenizer(), [TEXT] * len(batch_of), batch_of, source)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entities", "sentence"),
    [
        ([(0, 5, "Q90"), (3, 8, "Q142")], r"mentions \(0, 5\) of 'Q90' and \(3, 8\) of 'Q142' overlap; keep one"),
        ([(24, 99, "Q142")], r"span \(24, 99\) of 'Q142' is empty, reversed or outside the 32 characters"),
        ([(5, 5, "Q142")], r"span \(5, 5\) of 'Q142' is empty"),
        ([(0, 5, "C01"), (24, 30, "C02")], "none of 2 entity ids, such as 'C01', is in the table, which has ids such"),
        ([(0, 5, "")], "text 0: mention 0: the id of 'Paris' is empty; give an id, or None"),
        ([(0, 5, "Q90", "umls")], r"source 'umls' is none of the tables \[None\]"),
    ],
)
def test_mentions_that_fit_no_text_or_table_are_refused(entities, sentence):
    with pytest.raises(ValueError, match=sentence):
        encode_knowledge(bert_tokenizer(), [TEXT], [entities], toy())


@pytest.mark.parametrize("max_length", [1, 0, -1])
def test_lengths_without_room_for_the_special_tokens_are_refused(max_length):
    with pytest.raises(ValueError, match=f"max_length={max_length} is less than the 2 special tokens; raise it"):
        encode_knowledge(bert_tokenizer(), [TEXT], [ENTITIES], toy(), max_length)


@pytest.mark.parametrize(("entities", "sentence"), [([(0, 5)], "give .start, end, id."), ([(0, 5, 90)], "id 90 is a")])
def test_mentions_of_another_type_are_refused(entities, sentence):
    with pytest.raises(TypeError, match=sentence):
        encode_knowledge(bert_tokenizer(), [TEXT], [entities], toy())


def test_another_table_than_the_map_was_trained_with_is_refused():
    config = KnowledgeMapConfig.for_table(table(), embedding_size=32)
    knowledge_map = KnowledgeMap(config, 32)
    assert knowledge_map.source(table()).embeddings.sha256 == config.knowledge_sha256
    with pytest.raises(ValueError, match=r"the table has sha256 .* and the map was trained with"):
        plug(classifier(), knowledge_map, table(seed=1))
    with pytest.raises(ValueError, match="the table's rows are 7 wide, and the map takes knowledge_size=6"):
        plug(classifier(), knowledge_map, table(7))
    with pytest.raises(TypeError, match="entity embeddings have lookup"):
        plug(classifier(), knowledge_map, {"Q1": torch.zeros(6)})
    with pytest.raises(ValueError, match="entity embeddings are 7 wide, and this map takes knowledge_size=6"):
        knowledge_map(torch.zeros(2, 7))


def test_a_map_is_refused_beside_another_encoder_and_taken_beside_its_fine_tuned_copy(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model_with_map(backbone).save_adapter(tmp_path / "map", "wikidata")
    knowledge_map = KnowledgeMap.from_pretrained(tmp_path / "map")
    other = built(RobertaForSequenceClassification, RobertaConfig)
    with pytest.raises(ValueError, match=r"trained beside another encoder, .*backbone': samples .* have a cosine of"):
        plug(other, knowledge_map, table())
    tuned = tiny_backbone()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    plug(tuned, knowledge_map, table())
    tuned.save_pretrained(tmp_path / "tuned")
    assert KAdapterModel.from_backbone(str(tmp_path / "tuned")).load_adapter(tmp_path / "map") == ["wikidata"]
    with pytest.raises(ValueError, match="gives vectors of width 32, and the input embeddings of ElectraModel are 16"):
        plug(tiny_backbone("electra"), knowledge_map, table())
    with pytest.raises(ValueError, match="this map was trained beside another encoder"):
        KAdapterModel.from_backbone(save_backbone(tmp_path / "other", seed=5)).load_adapter(tmp_path / "map")


class WithoutEmbeds(BertModel):
    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids, attention_mask)


def test_models_without_an_entrance_for_entities_are_refused():
    vision = ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32))
    for model, sentence in (
        (vision, "has no input embeddings of tokens"),
        (built(WithoutEmbeds, BertConfig), "takes no inputs_embeds"),
        (model_with_map(tiny_backbone()), "takes knowledge maps as adapters"),
    ):
        with pytest.raises(ValueError, match=sentence):
            plug(model, fresh_map(), table())
    with pytest.raises(TypeError, match="plug takes a PreTrainedModel"):
        plug(torch.nn.Linear(2, 2), fresh_map(), table())
    with pytest.raises(TypeError, match="plug takes a KnowledgeMap"):
        plug(classifier(), torch.nn.Linear(2, 2), table())
    with pytest.raises(ValueError, match="there is no map in the model"):
        unplug(classifier())


def test_entities_without_a_map_and_half_of_them_are_refused():
    model = model_with_map(tiny_backbone(), "fac")
    with pytest.raises(ValueError, match="knowledge_slots and knowledge_embeds go together"):
        model(**batch(), knowledge_slots=entities_of()["knowledge_slots"])
    with pytest.raises(ValueError, match=r"knowledge_slots have shape \(3, 2\) and knowledge_embeds \(3, 1, 6\)"):
        model(**batch(), **{**entities_of(), "knowledge_embeds": torch.zeros(3, 1, 6)})
    model.set_adapter("fac")
    with pytest.raises(ValueError, match=r"entities for one map, and the model has the active maps \[\]"):
        model(**batch(), **entities_of())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": [1]}, "a knowledge map reads no hidden states"),
        ({"knowledge_size": 0}, "knowledge_size=0 of a knowledge map must be at least 1"),
        ({"missing_entity": "biased"}, "did you mean 'bias'"),
        ({"entity_position": "front"}, "entity_position='front' must be one of"),
    ],
)
def test_configurations_that_make_no_map_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        map_config(**changes)
