"""A plugged model where others call it: `generate`, `Trainer`, replicas on several devices."""

import copy
import inspect
import pickle

import pytest
import torch
from datasets import Dataset
from helpers import shake
from tiny_knowledge import bert_tokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    IBertConfig,
    IBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    XLNetConfig,
    XLNetModel,
)

from kadapter import (
    EntityEmbeddings,
    KAdapterForCausalLM,
    KnowledgeMap,
    KnowledgeMapConfig,
    encode_knowledge,
    plug,
    unplug,
)

SIZE = 6  # of the entity embeddings
PROMPT = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]]), "attention_mask": torch.ones(1, 6, dtype=torch.long)}
STEPS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
LAYERS = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = LlamaConfig(**LAYERS, num_key_value_heads=2, intermediate_size=48, eos_token_id=None)
T5 = T5Config(vocab_size=60, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, decoder_start_token_id=0)
BART = BartConfig(
    vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, scale_embedding=True,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40
)  # fmt: skip


RECURRENT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": None}
MAMBA, RWKV = MambaConfig(**RECURRENT, state_size=4), RwkvConfig(**RECURRENT, context_length=40)
XLNET = XLNetConfig(vocab_size=60, d_model=32, n_layer=2, n_head=4, d_inner=48)


def entities(seed=3, slots=((1, 4),)):
    rows = torch.randn(len(slots), len(slots[0]), SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    return {"knowledge_slots": torch.tensor(slots), "knowledge_embeds": rows}


def table():
    return EntityEmbeddings(["Q1"], torch.ones(1, SIZE), "toy")


def fresh_map():
    return shake(KnowledgeMap(KnowledgeMapConfig(knowledge_size=SIZE), 32)).requires_grad_(False)


def plugged(model_class, config):
    torch.manual_seed(0)
    model = model_class(config).eval()
    plug(model, fresh_map(), table())
    return model


def greedily(model, **inputs):
    """Go on from a prompt without `generate` and without a cache."""
    ids = inputs.pop("input_ids")
    for _ in range(STEPS["max_new_tokens"]):
        with torch.no_grad():
            logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids.tolist()


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_plugged_decoder_goes_on_from_a_prompt_with_entities(use_cache):
    model = plugged(LlamaForCausalLM, LLAMA)
    found = model.generate(**PROMPT, **entities(), **STEPS, use_cache=use_cache).tolist()
    assert found == greedily(model, **PROMPT, **entities())
    assert found != model.generate(**PROMPT, **STEPS).tolist() == greedily(model, **PROMPT)


def test_beams_and_several_answers_share_the_entities_of_their_prompt():
    model = plugged(LlamaForCausalLM, LLAMA)
    twice = {key: own.repeat_interleave(2, dim=0) for key, own in PROMPT.items()}
    both = entities(slots=((1, 4), (2, -1)))
    beams = {**STEPS, "num_beams": 3, "num_return_sequences": 2}
    together = model.generate(**twice, **both, **beams).tolist()
    for row in (0, 1):
        alone = {key: own[row : row + 1] for key, own in both.items()}
        assert model.generate(**PROMPT, **alone, **beams).tolist() == together[2 * row : 2 * row + 2]


def test_beams_share_the_entities_of_several_maps():
    torch.manual_seed(0)
    ours = KAdapterForCausalLM.from_backbone(LlamaForCausalLM(LLAMA))
    for name in ("knowledge", "umls"):
        ours.add_adapter(name, KnowledgeMapConfig(knowledge_size=SIZE))
    shake(ours).eval()
    theirs = plugged(LlamaForCausalLM, LLAMA)
    plug(theirs, fresh_map(), table(), "umls")
    one, other = entities(slots=((1,),)), entities(seed=5, slots=((4,),))
    both = {key: {"knowledge": one[key], "umls": other[key]} for key in one}
    for model in (ours, theirs):
        found = model.generate(**PROMPT, **both, **STEPS, num_beams=3, num_return_sequences=3)
        expected = model.generate(
            **{key: own.repeat_interleave(2, dim=0) for key, own in PROMPT.items()},
            **{
                key: {name: own.repeat_interleave(2, dim=0) for name, own in by_map.items()}
                for key, by_map in both.items()
            },
            **STEPS,
            num_beams=3,
            num_return_sequences=3,
        )
        assert found.tolist() * 2 == expected.tolist()


@pytest.mark.parametrize(("model_class", "config"), [(MambaForCausalLM, MAMBA), (RwkvForCausalLM, RWKV)])
@pytest.mark.parametrize("slots", [((0, -1),), ((1, 4),)])
def test_a_recurrent_decoder_reads_the_entities_with_the_prompt_alone(model_class, config, slots):
    model = plugged(model_class, config)
    for own in model.parameters():
        torch.nn.init.normal_(own, std=0.3 if own.dim() > 1 else 0.1)
    found = model.generate(**PROMPT, **entities(slots=slots), **STEPS).tolist()
    assert found == greedily(model, **PROMPT, **entities(slots=slots))


def test_slots_count_from_the_first_token_of_a_text_whose_begin_is_in_the_cache():
    model, own = plugged(LlamaForCausalLM, LLAMA), entities()
    with torch.no_grad():
        whole = model(**PROMPT, **own).logits
        first = model(input_ids=PROMPT["input_ids"][:, :3], **entities(slots=((1, -1),)), use_cache=True)
        rest = model(
            **{**PROMPT, "input_ids": PROMPT["input_ids"][:, 3:]}, **own, past_key_values=first.past_key_values
        )
    assert torch.allclose(rest.logits, whole[:, 3:], atol=1e-5)


def test_a_decoder_of_ours_with_a_map_goes_on_from_a_prompt_with_entities():
    torch.manual_seed(0)
    model = KAdapterForCausalLM.from_backbone(LlamaForCausalLM(LLAMA))
    model.add_adapter("wikidata", KnowledgeMapConfig(knowledge_size=SIZE))
    shake(model).eval()
    found = model.generate(**PROMPT, **entities(), **STEPS).tolist()
    assert found == greedily(model, **PROMPT, **entities()) and found != model.generate(**PROMPT, **STEPS).tolist()


@pytest.mark.parametrize(
    ("model_class", "config"), [(T5ForConditionalGeneration, T5), (BartForConditionalGeneration, BART)]
)
def test_an_encoder_reads_the_entities_once_and_its_decoder_never(model_class, config):
    model = plugged(model_class, config)
    options = {**STEPS, "return_dict_in_generate": True, "output_hidden_states": True, "output_logits": True}
    found = model.generate(**PROMPT, **entities(), **options)
    with torch.no_grad():
        expected = model(**PROMPT, **entities(), decoder_input_ids=found.sequences[:, :-1])
    assert torch.allclose(found.encoder_hidden_states[-1], expected.encoder_last_hidden_state, atol=1e-5)
    assert torch.allclose(torch.stack(found.logits, dim=1), expected.logits, atol=1e-4)
    without = model.generate(**PROMPT, **options).encoder_hidden_states[-1]
    assert not torch.allclose(without, found.encoder_hidden_states[-1], atol=1e-3)
    unplug(model)
    assert all("forward" not in vars(module) for module in (model, model.get_encoder()))


def test_entities_reach_an_encoder_whose_embeddings_are_tied_to_those_that_it_shows():
    model = plugged(T5EncoderModel, T5)
    with torch.no_grad():
        found, without = (model(**PROMPT, **own).last_hidden_state for own in (entities(), {}))
        embeds = model.get_input_embeddings()(PROMPT["input_ids"])
        own = entities()
        embeds[0, [1, 4]] = vars(model)["_knowledge_plugs"].maps["knowledge"](own["knowledge_embeds"][0])
        expected = model(inputs_embeds=embeds, attention_mask=PROMPT["attention_mask"]).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-6) and not torch.allclose(found, without, atol=1e-3)


def classifier():
    return plugged(BertForSequenceClassification, BertConfig(**LAYERS, intermediate_size=48))


def test_trainer_keeps_the_entities_of_a_dataset(tmp_path):
    model, inputs = classifier(), {**PROMPT, **entities()}
    dataset = Dataset.from_dict({key: own.tolist() for key, own in inputs.items()} | {"text": ["not an input"]})
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    found = torch.from_numpy(Trainer(model, arguments).predict(dataset).predictions)
    with torch.no_grad():
        assert torch.allclose(found, model(**inputs).logits, atol=1e-6)
        assert not torch.allclose(found, model(**PROMPT).logits, atol=1e-6)


def test_trainer_trains_a_map_by_its_own_optimizer_and_encodes_each_batch_in_a_collator(tmp_path):
    tokenizer, knowledge_map = bert_tokenizer(), fresh_map().requires_grad_(True)
    model = BertForSequenceClassification(BertConfig(**{**LAYERS, "vocab_size": len(tokenizer)}, intermediate_size=48))
    plugs, before = plug(model, knowledge_map, table()), knowledge_map.projection.weight.clone()

    def encode(rows):
        inputs = plugs.encode(tokenizer, [row["text"] for row in rows], [row["mentions"] for row in rows])
        return {**inputs, "labels": torch.tensor([row["label"] for row in rows])}

    rows = [
        {"text": text, "mentions": [(0, 5, "Q1")] if text else [], "label": 0} for text in ("Paris", "", "Paris is")
    ]
    arguments = TrainingArguments(
        str(tmp_path), report_to=[], use_cpu=True, max_steps=2, remove_unused_columns=False, save_strategy="no"
    )
    optimizer = torch.optim.AdamW(knowledge_map.parameters())
    Trainer(model, arguments, train_dataset=rows, data_collator=encode, optimizers=(optimizer, None)).train()
    assert not torch.equal(knowledge_map.projection.weight, before)


def test_texts_of_one_length_need_no_token_to_pad_with():
    tokenizer, padded = bert_tokenizer(), encode_knowledge(bert_tokenizer(), ["Paris"], [[(0, 5, "Q1")]], table())
    tokenizer.pad_token = None
    found = encode_knowledge(tokenizer, ["Paris"], [[(0, 5, "Q1")]], table())
    assert {key: own.tolist() for key, own in found.items()} == {key: own.tolist() for key, own in padded.items()}


def test_a_single_text_is_refused_where_a_list_belongs():
    with pytest.raises(TypeError, match="the texts are a single str; give a list of texts"):
        encode_knowledge(bert_tokenizer(), "Paris", [[(0, 5, "Q1")]], table())


@pytest.mark.parametrize("mentions", [None, [None]], ids=["no lists", "none of one text"])
def test_texts_without_a_list_of_mentions_and_no_texts_say_what_to_give(mentions):
    with pytest.raises(TypeError, match="no list of mentions; give one for each text, an empty one where there are"):
        encode_knowledge(bert_tokenizer(), ["Paris"], mentions, table())
    with pytest.raises(ValueError, match="0 texts and mentions for 0; give one text at least"):
        encode_knowledge(bert_tokenizer(), [], [], table())


def test_copies_and_replicas_of_a_plugged_model_run_their_own_forward():
    model, inputs = classifier(), {**PROMPT, **entities()}
    with torch.no_grad():
        expected = model(**inputs).logits
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model._replicate_for_data_parallel()):
            twin._parameters, twin._modules = dict(twin._parameters), dict(twin._modules)
            twin.classifier = torch.nn.Linear(32, 2)
            assert not torch.allclose(twin(**inputs).logits, expected, atol=1e-4)
            assert torch.equal(model(**inputs).logits, expected)


def test_unplugging_gives_back_the_forward_that_was_there():
    model = classifier()
    unplug(model)
    assert "forward" not in vars(model) and "knowledge_slots" not in inspect.signature(model.forward).parameters
    calls, own = [], model.forward

    def noticed(*args, **kwargs):
        calls.append(sorted(kwargs))
        return own(*args, **kwargs)

    model.forward = noticed  # as accelerate does
    plug(model, fresh_map(), table())
    with torch.no_grad():
        model(**PROMPT, **entities())
    unplug(model)
    assert model.forward is noticed and calls == [["attention_mask", "input_ids"]]


# ---- entities that are no good --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"knowledge_slots": torch.tensor([[2, 2]])}, "row 0 has a slot twice; give each entity its own slot"),
        ({"knowledge_embeds": torch.full((1, 2, SIZE), torch.nan)}, "of row 0, slot 0, hold NaN or infinite values"),
        ({"knowledge_slots": torch.tensor([[2, 6]])}, "slot 6 lies outside the 6 tokens"),
    ],
)
def test_entities_that_would_be_lost_or_are_no_numbers_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        classifier()(**PROMPT, **{**entities(), **changes})


@pytest.mark.parametrize(
    ("model_class", "config"), [(XLNetModel, XLNET), (IBertModel, IBertConfig(**LAYERS, intermediate_size=48))]
)
@pytest.mark.parametrize("texts", [1, 6])  # 6: as many as tokens, so that a slot exists in columns too
def test_a_model_that_looks_up_tokens_in_another_form_is_refused(model_class, config, texts):
    model = plugged(model_class, config)
    ids = torch.arange(5, 5 + 6 * texts).view(texts, 6)
    with pytest.raises(ValueError, match=f"{model_class.__name__} did not look up its tokens in its input embeddings"):
        model(input_ids=ids, **entities(slots=((1, 4),) * texts))


def test_two_maps_that_want_one_slot_are_refused():
    model, own = classifier(), entities()
    plug(model, fresh_map(), table(), "umls")
    both = {key: {"knowledge": value, "umls": value} for key, value in own.items()}
    with pytest.raises(ValueError, match=r"row 0 has a slot of two of the maps \['knowledge', 'umls'\]"):
        model(**PROMPT, **both)


def test_what_wraps_a_model_is_refused_with_a_word_on_what_to_plug_into():
    with pytest.raises(TypeError, match=r"not DataParallel; give the model within, of a model of PEFT get_base_model"):
        plug(torch.nn.DataParallel(BertForSequenceClassification(BertConfig(**LAYERS))), fresh_map(), table())
