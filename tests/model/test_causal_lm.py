"""Beside language models: the next token with what adapters add, generated with a cache as without."""

import copy
import json
import pickle
import re

import pytest
import torch
from helpers import bytes_of, run_python, save_backbone, save_masked_lm, small_adapter, tiny_backbone, tiny_tokenizer
from safetensors.torch import load_file
from tiny_decoders import DECODERS, LONGEST, SOFT_CAP, causal_lm, small_prenorm, teach, texts, tiny_decoder
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
    Trainer,
    TrainingArguments,
    pipeline,
)

from kadapter import (
    KAdapterConfig,
    KAdapterForCausalLM,
    KAdapterForMaskedLM,
    KAdapterForSequenceClassification,
    KAdapterModel,
)

WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 2},
    "sampled": {"do_sample": True},
    "sampled beams": {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
}

OTHERS = [family for family in DECODERS if family != "llama"]


def logits(model, **inputs):
    with torch.no_grad():
        return model(**(inputs or texts(side="right"))).logits


def generate(model, seed=5, max_new_tokens=6, **options):
    torch.manual_seed(seed)
    return model.generate(**{**texts(), "max_new_tokens": max_new_tokens, "do_sample": False, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model with a tokenizer, and two adapters that were saved out of models of it."""
    folder = tmp_path_factory.mktemp("causal_lm")
    tiny_decoder().save_pretrained(folder / "lm")
    tiny_tokenizer(folder / "lm")
    for seed, name in enumerate(("fac", "lin")):
        teach(causal_lm(str(folder / "lm"), name), seed).save_adapter(folder / name, name)
    return folder


# ---- what is exact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DECODERS)
def test_without_adapters_or_with_new_ones_all_is_the_backbones_own_to_the_bit(family):
    backbone, inputs = tiny_decoder(family), texts(side="right")
    with torch.no_grad():
        whole, last = (backbone(**inputs, logits_to_keep=number).logits for number in (0, 2))
    new, trained = causal_lm(backbone, "fac", trained=False), causal_lm(backbone, "fac")
    moved = (logits(trained, **inputs) - whole)[inputs["attention_mask"].bool()]
    assert moved.abs().amax(dim=-1).min() > 0.01  # at every token
    trained.disable_adapters()
    for model in (new, trained, causal_lm(backbone)):
        assert torch.equal(logits(model, **inputs), whole)
        assert torch.equal(logits(model, **inputs, logits_to_keep=2), last)
    assert torch.equal(generate(new), generate(backbone))


@pytest.mark.parametrize("family", DECODERS)
def test_a_later_token_changes_no_bit_of_an_earlier_position_whatever_the_padding(family):
    model = causal_lm(tiny_decoder(family), "fac", "lin")
    for side, cut in (("right", 3), ("left", 6)):
        inputs = texts(side=side)
        changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
        changed["input_ids"][:, cut:] = changed["input_ids"][:, cut:].flip(-1).add(7).clamp(max=59)
        before, after = logits(model, **inputs), logits(model, **changed)
        real = inputs["attention_mask"].bool()[:, :cut]
        assert torch.equal(before[:, :cut][real], after[:, :cut][real])
        assert not torch.equal(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize(("family", "way"), [*(("llama", way) for way in WAYS), *((name, "beams") for name in OTHERS)])
def test_generation_with_a_cache_equals_generation_without_token_for_token(family, way):
    model = causal_lm(tiny_decoder(family), "fac", "lin")
    with_cache, without = (generate(model, use_cache=use_cache, **WAYS[way]) for use_cache in (True, False))
    assert torch.equal(with_cache, without) and len(with_cache[0].unique()) > 5
    model.disable_adapters()
    assert not torch.equal(generate(model, **WAYS[way]), with_cache)


@pytest.mark.parametrize("family", DECODERS)
def test_a_text_in_a_batch_with_padding_on_the_left_is_continued_as_alone(family):
    model, inputs = causal_lm(tiny_decoder(family), "fac"), texts()
    together, whole = generate(model), logits(model, **inputs)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        ids = inputs["input_ids"][row, mask][None]
        alone = generate(model, input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        assert torch.equal(together[row, len(mask) - ids.shape[1] :][: len(alone)], alone)
        assert torch.allclose(whole[row, mask], logits(model, input_ids=ids)[0], atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_a_cache_that_is_filled_bit_by_bit_gives_the_logits_of_the_whole_text(family):
    model, inputs = causal_lm(tiny_decoder(family), "fac", "lin"), texts()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for cache in (None, DynamicCache(), DynamicCache(config=model.config)):
        steps = []
        with torch.no_grad():
            for start, end in ((0, 5), (5, 6), (6, 9)):
                output = model(ids[:, start:end], mask[:, :end], past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                steps.append(output.logits)
        real = mask.bool()
        assert torch.allclose(torch.cat(steps, dim=1)[real], logits(model, **inputs)[real], atol=1e-3)
        assert len(cache) == 4 + 2 * 3 * 2  # the backbone's layers, and of two adapters two blocks at three taps each
        assert {layer.get_seq_length() for layer in cache.layers} == {9}


def test_two_adapters_add_what_each_adds_alone(folder):
    both = KAdapterForCausalLM.from_pretrained([folder / "fac", folder / "lin"])
    alone = [KAdapterForCausalLM.from_pretrained(folder / name) for name in ("fac", "lin")]
    with torch.no_grad():
        last, contributions = both.kadapter.contributions(**texts())
        for name, model in zip(("fac", "lin"), alone, strict=True):
            assert torch.equal(model.kadapter.contributions(**texts())[1][name], contributions[name])
        summed = both.head(last + contributions["fac"] + contributions["lin"])
    assert torch.equal(logits(both, **texts()), summed)
    for name, model in zip(("fac", "lin"), alone, strict=True):
        both.set_adapter(name)
        assert torch.equal(generate(both), generate(model))


def test_capped_and_scaled_logits_stay_so_whatever_an_adapter_adds():
    model = causal_lm(tiny_decoder("gemma2"), "fac")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".up_project." in name:
                parameter.mul_(100)
    assert 0.99 * SOFT_CAP < logits(model).abs().max() <= SOFT_CAP
    model = causal_lm(tiny_decoder("granite"), "fac")
    with torch.no_grad():
        last, contributions = model.kadapter.contributions(**texts(side="right"))
        expected = model.get_output_embeddings()(last + contributions["fac"]) / 3.0
    assert torch.equal(logits(model), expected)


# ---- artifacts ------------------------------------------------------------------------------------------------------


def test_the_lm_head_is_in_no_artifact_and_all_is_restored_to_the_bit(tmp_path, folder):
    model = causal_lm(str(folder / "lm"), "fac", "lin")
    model.save_pretrained(tmp_path / "both")
    assert {key.split(".")[1] for key in load_file(tmp_path / "both" / "model.safetensors")} == {"adapters"}
    assert all(not key.startswith(("head.", "kadapter.backbone.")) for key in model.state_dict())
    for auto_class in (KAdapterForCausalLM, AutoModelForCausalLM):
        loaded = auto_class.from_pretrained(tmp_path / "both")
        assert type(loaded) is KAdapterForCausalLM and torch.equal(logits(loaded), logits(model))
        assert torch.equal(generate(loaded), generate(model))
    assert AutoModel.from_pretrained(tmp_path / "both").active_adapters() == ["fac", "lin"]
    config = json.loads((tmp_path / "both" / "config.json").read_text(encoding="utf-8"))
    assert config["auto_map"]["AutoModelForCausalLM"] == "prenorm_kadapter.KAdapterForCausalLM"
    assert config["architectures"] == ["KAdapterForCausalLM"] and config["adapters"]["fac"]["causal"] is True
    assert (tmp_path / "both" / "language_modeling_kadapter.py").is_file()
    card = (tmp_path / "both" / "README.md").read_text(encoding="utf-8")
    assert "For the language model" in card and "model.generate(**inputs" in card


@pytest.mark.parametrize("family", DECODERS)
def test_a_model_of_every_family_is_saved_and_loaded_from_its_checkpoint(tmp_path, family):
    tiny_decoder(family).save_pretrained(tmp_path / "lm")
    model = causal_lm(str(tmp_path / "lm"), "fac")
    assert model.config.backbone_fingerprint
    model.save_adapter(tmp_path / "fac", "fac")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "fac")), logits(model))
    given = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    before = bytes_of(given)
    loaded = KAdapterForCausalLM.from_pretrained(tmp_path / "fac", backbone=given)
    assert torch.equal(logits(loaded), logits(model)) and bytes_of(given) == before


def test_the_chat_template_of_the_backbone_comes_along_untouched(tmp_path):
    tiny_decoder().save_pretrained(tmp_path / "lm")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}@ {{ message['content'] }} # {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "lm")
    model = causal_lm(str(tmp_path / "lm"), "fac")
    model.save_pretrained(tmp_path / "saved")
    chat = [{"role": "user", "content": "ada wrote to"}]
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.apply_chat_template(chat, tokenize=False) == "@ ada wrote to # "
    answer = pipeline("text-generation", model=model, tokenizer=saved)(chat, max_new_tokens=3, do_sample=False)
    assert [message["role"] for message in answer[0]["generated_text"]] == ["user", "assistant"]


def test_an_adapter_is_loaded_onto_a_model_and_taken_off_again(folder):
    model = KAdapterForCausalLM.from_backbone(str(folder / "lm"))
    plain = generate(model)
    model.load_adapter(str(folder / "fac"))
    assert torch.equal(generate(model), generate(KAdapterForCausalLM.from_pretrained(folder / "fac")))
    model.delete_adapter("fac")
    assert torch.equal(generate(model), plain)


def test_a_backbone_that_was_trained_along_takes_its_lm_head_with_it(tmp_path):
    tiny_decoder("gpt_neox").save_pretrained(tmp_path / "lm")
    model = causal_lm(str(tmp_path / "lm"), "fac")
    model.base_model.backbone.requires_grad_(True)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(0.1)
    model.save_pretrained(tmp_path / "saved")
    held = {key for key in load_file(tmp_path / "saved" / "model.safetensors") if key.startswith("head.")}
    assert held == {"head.backbone.lm_head.weight"}
    assert torch.equal(logits(KAdapterForCausalLM.from_pretrained(tmp_path / "saved")), logits(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_and_a_pickle_generate_alike(folder, copied):
    model = causal_lm(str(folder / "lm"), "fac")
    assert torch.equal(generate(copied(model)), generate(model))


def test_a_backbone_in_another_dtype_generates_with_adapters_in_their_own(folder):
    model = causal_lm(str(folder / "lm"), "fac", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.kadapter.adapters.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16 and logits(model).dtype == torch.bfloat16
    assert torch.equal(generate(model), generate(model, use_cache=False))


@pytest.mark.slow
@pytest.mark.thorough
def test_text_is_generated_in_a_process_that_never_heard_of_kadapter(tmp_path, folder):
    KAdapterForCausalLM.from_pretrained([folder / "fac", folder / "lin"]).save_pretrained(tmp_path / "both")
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, pipeline
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert model.active_adapters() == ["fac", "lin"], model.active_adapters()
write = pipeline("text-generation", model=sys.argv[1], trust_remote_code=True)
print(write("ada wrote to", max_new_tokens=6, do_sample=False, return_tensors=True))
"""
    done = run_python(code, tmp_path, tmp_path / "both")
    model = KAdapterForCausalLM.from_pretrained(tmp_path / "both")
    write = pipeline("text-generation", model=model, tokenizer=tiny_tokenizer())
    answer = write("ada wrote to", max_new_tokens=6, do_sample=False, return_tensors=True)
    assert str(answer) in done.stdout and len(answer[0]["generated_token_ids"]) > 5


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_transformers_and_may_be_asked_for_at_a_few_tokens(folder):
    backbone = AutoModelForCausalLM.from_pretrained(folder / "lm")
    model, inputs = causal_lm(backbone, "fac", trained=False), texts(side="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.no_grad():
        assert torch.equal(model(**inputs, labels=labels).loss, backbone(**inputs, labels=labels).loss)
        shared = model(**inputs, labels=labels, num_items_in_batch=40).loss
        assert torch.equal(shared, backbone(**inputs, labels=labels, num_items_in_batch=40).loss)
        teach(model)
        few = torch.full_like(labels, -100)
        few[0, 5], few[0, 8], few[1, 3] = labels[0, 5], labels[0, 8], labels[1, 3]
        positions = torch.tensor([[4, 7], [2, -1], [-1, -1]])  # each tells the token after it
        kept = model(**inputs, labels=few, logits_to_keep=positions)
        assert kept.logits.shape == (3, 2, 60)
        assert torch.allclose(kept.loss, model(**inputs, labels=few).loss)
        last = model(**inputs, labels=labels, logits_to_keep=3)
        assert torch.allclose(last.logits, logits(model, **inputs)[:, -3:], atol=1e-5)


def test_only_the_adapter_learns_and_the_backbone_may_leave_memory(folder):
    model, inputs = causal_lm(str(folder / "lm"), "fac", "lin"), texts(side="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    model.train_adapter("fac")
    model.train()
    trained = {key.split(".")[2] for key, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained == {"fac"} and not any(module.training for module in model.head.modules())
    states, expected = model.kadapter.tap(**inputs), model(**inputs, labels=labels)
    assert expected.past_key_values is None  # which training has no use for
    model.release_backbone()
    assert sum(parameter.numel() for parameter in model.kadapter.backbone.parameters()) == 0
    output = model(**inputs, labels=labels, hidden_states=states)
    assert torch.equal(output.logits, expected.logits) and torch.equal(output.loss, expected.loss)
    output.loss.backward()
    assert all(tensor.grad is not None for tensor in model.kadapter.adapters["fac"].parameters())
    with pytest.raises(ValueError, match="the backbone's weights have left memory"):
        model(**inputs)


def test_an_adapter_learns_a_continuation_and_leaves_nothing_in_the_backbone(folder):
    model = causal_lm(str(folder / "lm"), "fac", trained=False)
    before = bytes_of(model.kadapter.backbone)
    model.train_adapter("fac")
    ids = torch.tensor([[2, 20, 21, 22, 23, 24, 25, 3]])
    optimizer = torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=1e-2)
    for _ in range(25):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    answer = model.generate(input_ids=ids[:, :2], max_new_tokens=8, do_sample=False)
    assert answer.tolist() == ids.tolist()  # and it ends where the text ended
    assert bytes_of(model.kadapter.backbone) == before


# ---- adapters that look both ways -----------------------------------------------------------------------------------


def test_under_a_head_for_classification_the_last_token_is_read_and_an_adapter_may_look_both_ways(tmp_path, folder):
    adapters = {"fac": small_prenorm(causal=False)}
    model = KAdapterForSequenceClassification.from_backbone(str(folder / "lm"), adapters=adapters, num_labels=3).eval()
    teach(model)
    for side in ("left", "right"):
        whole = logits(model, **texts(side=side))
        for row, length in enumerate((9, 6, 4)):
            mask = texts(side=side)["attention_mask"][row].bool()
            alone = texts(side=side)["input_ids"][row, mask][None]
            assert alone.shape == (1, length)
            assert torch.allclose(whole[row], logits(model, input_ids=alone)[0], atol=1e-4)
    states = model.read(**texts(side="right"))
    hidden = model.kadapter.backbone(**texts(side="right")).last_hidden_state
    assert torch.equal(states["backbone"][:, 0], hidden[torch.arange(3), torch.tensor([8, 5, 3])])
    model.save_pretrained(tmp_path / "head")
    assert torch.equal(logits(KAdapterForSequenceClassification.from_pretrained(tmp_path / "head")), logits(model))
    refused = r"adapter 'fac' looks ahead \(causal=False\), so it can't tell the next token"
    generating = KAdapterForCausalLM.from_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match=refused):
        generate(generating)
    generating.disable_adapters()
    assert torch.equal(generate(generating), generate(AutoModelForCausalLM.from_pretrained(folder / "lm")))


def test_an_adapter_that_looks_both_ways_goes_on_from_no_cache(folder):
    model, ids = (
        KAdapterModel.from_backbone(str(folder / "lm"), adapters={"fac": small_prenorm(causal=False)}),
        [5, 6, 7],
    )
    cache, refused = DynamicCache(config=model.config), "adapter 'fac' looks ahead, so it has to read texts as a whole"
    model(torch.tensor([ids]), past_key_values=cache)
    with pytest.raises(ValueError, match=refused):
        model(torch.tensor([ids]), past_key_values=cache)
    assert cache.get_seq_length() == 3
    model.disable_adapters()
    model(torch.tensor([ids]), past_key_values=cache)
    assert cache.get_seq_length() == 6


# ---- adapters on and off, and caches of others ----------------------------------------------------------------------


def test_adapters_are_switched_between_calls_but_not_in_the_middle_of_a_text(folder):
    model = causal_lm(str(folder / "lm"), "fac", "lin")
    with_adapters = generate(model)
    model.disable_adapters()
    plain = generate(model)
    assert torch.equal(plain, generate(AutoModelForCausalLM.from_pretrained(folder / "lm")))
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        model(ids[:, :3], past_key_values=cache)
        model.enable_adapters()
        with pytest.raises(ValueError, match="holds 3 tokens, and of adapter 'fac' 0: it was filled by another"):
            model(ids[:, 3:], past_key_values=cache)
        assert cache.get_seq_length() == 3 and len(cache) == 4  # as it was
        cache = model(ids[:, :3]).past_key_values
        model.set_adapter("fac")
        model(ids[:, 3:], past_key_values=cache)
        model.set_adapter(["fac", "lin"])
        with pytest.raises(ValueError, match="holds 4 tokens, and of adapter 'lin' 3"):
            model(ids[:, 3:], past_key_values=cache)
        cache.reset()
        assert torch.equal(model(ids, past_key_values=cache).logits, model(ids).logits)
    assert torch.equal(generate(model), with_adapters)


def test_a_cache_goes_on_from_one_call_of_generate_to_the_next(folder):
    model, cache = causal_lm(str(folder / "lm"), "fac"), DynamicCache()
    inputs = {key: tensor[:1] for key, tensor in texts(lengths=(9,)).items()}
    first = generate(model, **inputs, max_new_tokens=4, min_new_tokens=4, past_key_values=cache)  # none of them an end
    more = {"input_ids": first, "attention_mask": torch.ones_like(first)}
    second = generate(model, **more, max_new_tokens=2, min_new_tokens=2, past_key_values=cache)
    assert torch.equal(second, generate(model, **inputs, min_new_tokens=6))


def test_a_cache_of_eight_bits_holds_the_backbones_tokens_and_adapters_keep_theirs_beside_them(folder):
    eight = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    new = causal_lm(str(folder / "lm"), "fac", trained=False)
    plain = AutoModelForCausalLM.from_pretrained(folder / "lm")
    for options in ({}, {"num_beams": 2}):
        assert torch.equal(generate(new, **eight, **options), generate(plain, **eight, **options))
    trained = causal_lm(str(folder / "lm"), "fac", "lin")
    assert torch.equal(generate(trained, **eight)[:, :10], generate(trained)[:, :10])  # the first new token


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_text_goes_on_from_its_embeddings_as_from_its_tokens(family):
    model, names = causal_lm(tiny_decoder(family), "fac", "lin"), ["fac", "__base__", ["fac", "lin"]]
    embeds, mask = model.get_input_embeddings()(texts()["input_ids"]), texts()["attention_mask"]
    said = model.generate(
        inputs_embeds=embeds, attention_mask=mask, adapter_names=names, max_new_tokens=6, do_sample=False
    )
    assert torch.equal(said, generate(model, adapter_names=names)[:, mask.shape[1] :])


def test_a_gradient_reaches_what_a_cache_begins_with(folder):
    """A prefix of keys and values that learns before a frozen model, as PEFT's cartridges and prefixes do."""
    inputs, gradients = texts(lengths=(9,)), {}
    prefix = torch.randn(4, 2, 1, 2, 3, 8, generator=torch.Generator().manual_seed(1))  # layers, keys and values
    mask = torch.cat([torch.ones(1, 3, dtype=torch.long), inputs["attention_mask"]], dim=1)
    ours = causal_lm(str(folder / "lm"))
    for model in (ours, AutoModelForCausalLM.from_pretrained(folder / "lm")):
        model.requires_grad_(False)
        learned, cache = prefix.clone().requires_grad_(), DynamicCache(config=model.config)
        for layer, (keys, values) in enumerate(learned):
            cache.update(keys, values, layer)
        model(inputs["input_ids"], attention_mask=mask, past_key_values=cache).logits.logsumexp(-1).sum().backward()
        gradients[model is ours] = learned.grad
    assert torch.equal(gradients[True], gradients[False]) and gradients[True].abs().amax() > 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # which PEFT reads
def test_a_cartridge_of_peft_trains_before_a_frozen_model(folder):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model = causal_lm(str(folder / "lm"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shape = {"num_layers": 4, "num_attention_heads": 2, "token_dim": 16, "num_transformer_submodules": 1}
    config = peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, **shape)
    wrapped, inputs = peft.PeftModelForCausalLM(model, config, "prefix"), texts(side="right")
    learned = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.Adam(learned, lr=0.1), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = wrapped(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_cache_that_does_not_fit_is_refused_in_a_sentence(folder):
    model, inputs = causal_lm(str(folder / "lm"), "fac"), texts()
    fixed = "a StaticCache has a fixed size and no room for what adapters keep; leave out cache_implementation"
    with pytest.raises(ValueError, match=fixed):
        generate(model, cache_implementation="static")
    with pytest.raises(ValueError, match=fixed):
        model(**inputs, past_key_values=StaticCache(config=model.config, max_cache_len=20))
    other = DynamicCache(config=AutoConfig.for_model("llama", **{**DECODERS["llama"], "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match="the cache has 2 layers, and the backbone 4; give a new one"):
        model(**inputs, past_key_values=other)
    with torch.no_grad():
        filled = AutoModelForCausalLM.from_pretrained(folder / "lm")(**inputs).past_key_values
    more = {"input_ids": inputs["input_ids"][:, -1:], "attention_mask": torch.ones(3, 10, dtype=torch.long)}
    with pytest.raises(ValueError, match="the cache holds 9 tokens, and of adapter 'fac' 0"):
        model(**more, past_key_values=filled)
    with pytest.raises(TypeError, match="past_key_values are a Cache of transformers, not a tuple"):
        model(**inputs, past_key_values=((1, 2),))
    with pytest.raises(ValueError, match=r"must have \(3, 10\).*and the 9 tokens in the cache before them"):
        model(input_ids=more["input_ids"], attention_mask=inputs["attention_mask"], past_key_values=filled)
    with pytest.raises(ValueError, match="there is no cache to go on from"):
        model(states=model.read(**inputs), past_key_values=filled)
    with torch.no_grad():
        own = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="the cache holds 9 tokens and the text has 4; give the whole text, that in"):
        model.generate(inputs["input_ids"][:, :4], past_key_values=own, max_new_tokens=2)
    with pytest.raises(ValueError, match="the cache holds 9 tokens and the text has 9; give the whole text"):
        generate(model, past_key_values=own)
    with pytest.raises(ValueError, match="the cache holds 3 texts, and the batch has 1; give those that filled it"):
        model(inputs["input_ids"][:1], past_key_values=own)
    with pytest.raises(TypeError, match="past_key_values are a Cache of transformers, not a EncoderDecoderCache"):
        model(**inputs, past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()))
    encoder = KAdapterModel.from_backbone(tiny_backbone())
    with pytest.raises(TypeError, match="no keyword 'past_key_values'; RobertaModel has none either; leave it out"):
        encoder(torch.tensor([[5, 6]]), past_key_values=DynamicCache())


@pytest.mark.parametrize(
    "options", [{"assistant_early_exit": 2}, {"generation_config": GenerationConfig(assistant_early_exit=2)}]
)
def test_a_draft_of_the_first_blocks_alone_is_refused_in_a_sentence(options):
    with pytest.raises(ValueError, match=r"assistant_early_exit=2 takes blocks away .* give prompt_lookup_num_tokens"):
        generate(causal_lm(tiny_decoder(), "fac"), **{**texts((9,)), **options})


def test_continuous_batching_is_refused_in_a_sentence():
    model, config = causal_lm(tiny_decoder(), "fac"), GenerationConfig(max_new_tokens=2, eos_token_id=3)
    refused = "continuous batching, as of generate_batch, .*; call generate with a batch that is padded on the left"
    with pytest.raises(ValueError, match=refused):
        model.generate_batch([[5, 6], [7]], generation_config=config)
    with pytest.raises(ValueError, match=refused):
        model.init_continuous_batching()


def test_hidden_states_of_other_texts_are_refused_in_a_sentence():
    model = causal_lm(tiny_decoder(), "fac").base_model
    states, longer = model.tap(**texts(side="right")), texts((12, 6, 4), side="right")
    torn = {**states, 2: states[2][:, :5]}
    cases = {
        r"hidden_states\[0\] has shape \(3, 9, 32\) and attention_mask \(3, 12\), of": {
            "attention_mask": longer["attention_mask"]
        },
        r"hidden_states\[0\] has shape \(3, 9, 32\) and inputs \(3, 12\), of": {"input_ids": longer["input_ids"]},
        r"hidden_states\[2\] has shape \(3, 5, 32\) and hidden_states\[-1\] \(3, 9, 32\), of": {"hidden_states": torn},
        r"hidden_states hold the layers \[0, 2, 4\], and .* -1 for the last": {
            "hidden_states": {layer: own for layer, own in states.items() if layer >= 0}
        },
    }
    for sentence, changed in cases.items():
        with pytest.raises(ValueError, match=sentence):
            model(**{"hidden_states": states, **changed})


# ---- what is no language model --------------------------------------------------------------------------------------


def test_a_backbone_without_an_lm_head_is_refused_in_a_sentence(tmp_path):
    bare = AutoModel.from_config(AutoConfig.for_model("gpt_neox", **DECODERS["gpt_neox"]))
    bare.save_pretrained(tmp_path / "bare")
    lacks = f"backbone '{tmp_path / 'bare'}' has no complete LM head: its checkpoint lacks "
    with pytest.raises(ValueError, match=f"{re.escape(lacks)}.*; use a checkpoint with an LM head, as AutoModelForC"):
        KAdapterForCausalLM.from_backbone(str(tmp_path / "bare"))
    with pytest.raises(ValueError, match="a GPTNeoXModel, has no LM head; give a causal language model such as Auto"):
        KAdapterForCausalLM.from_backbone(bare)
    distilbert = save_backbone(tmp_path / "distilbert", "distilbert")
    with pytest.raises(ValueError, match=r"\(distilbert\) is of a kind without a causal language model; use a check"):
        KAdapterForCausalLM.from_backbone(distilbert)
    with pytest.raises(ValueError, match=r"\(roberta\) looks both ways, so it does not tell the next token; use"):
        KAdapterForCausalLM.from_backbone(save_masked_lm(tmp_path / "roberta"))
    with pytest.raises(ValueError, match=r"\(gpt_neox\) is of a kind without a masked language model; choose a new"):
        KAdapterForMaskedLM.from_backbone(str(tmp_path / "bare"))


def test_a_tied_head_that_was_resized_alone_is_refused_and_stays_as_it_is(tmp_path):
    for width, said in ((70, r"\(70, 32\)"), (60, r"\(60, 32\)")):
        backbone = tiny_decoder(tie_word_embeddings=True)
        backbone.lm_head = head = torch.nn.Linear(32, width, bias=False)
        with pytest.raises(ValueError, match=f"'lm_head.weight' {said} is another weight than 'model.embed_tokens"):
            KAdapterForCausalLM.from_backbone(backbone)
        assert backbone.lm_head is head and head.weight.shape == (width, 32)
    backbone.lm_head, backbone.all_tied_weights_keys = torch.nn.Linear(32, 70, bias=False), {}
    backbone.save_pretrained(tmp_path / "lm")
    with pytest.raises(
        ValueError, match=r"tensor 'lm_head.weight' in the shape \[70, 32\], and its configuration say"
    ):
        KAdapterForCausalLM.from_backbone(str(tmp_path / "lm"))
    backbone = tiny_decoder(tie_word_embeddings=True)
    backbone.resize_token_embeddings(70)
    assert torch.equal(logits(causal_lm(backbone, "fac", trained=False)), logits(backbone))


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_resized_beneath_a_language_model_are_saved_only_with_a_head_of_their_size(tmp_path, tied):
    model = causal_lm(tiny_decoder(tie_word_embeddings=tied), "fac")
    model.base_model.resize_token_embeddings(70)
    if tied:
        model.save_pretrained(tmp_path)
        assert torch.equal(logits(KAdapterForCausalLM.from_pretrained(tmp_path)), logits(model))
    else:
        with pytest.raises(ValueError, match=r"LM head has 60 tokens, and the embeddings beneath it 70.*can't be"):
            model.save_pretrained(tmp_path)
        assert not [*tmp_path.iterdir()]


def test_what_makes_no_language_model_is_refused_in_a_sentence(folder):
    lm = str(folder / "lm")
    with pytest.raises(ValueError, match="'fac' is of kind 'k_adapter', which looks both ways"):
        KAdapterForCausalLM.from_backbone(lm, adapters={"fac": small_adapter()})
    with pytest.raises(ValueError, match=r"fusion='gated' changes what a language model says without adapters"):
        KAdapterForCausalLM.from_backbone(lm, fusion="gated")
    model, inputs = causal_lm(lm, "fac"), texts(side="right")
    with pytest.raises(ValueError, match=r"made for its vocabulary.*can't be exchanged or resized"):
        model.resize_token_embeddings(70)
    with pytest.raises(ValueError, match="label 60 is none of the 60 classes"):
        model(**inputs, labels=torch.full_like(inputs["input_ids"], 60))
    with pytest.raises(
        ValueError, match=r"labels have shape \(3, 4\) and must have \(batch, sequence\) of the inputs"
    ):
        model(**inputs, labels=inputs["input_ids"][:, :4])
    with pytest.raises(ValueError, match=r"logits_to_keep has shape \(3, 9\) and dtype torch.bool; give a number"):
        model(**inputs, logits_to_keep=inputs["attention_mask"].bool())
    for kept, sentence in (
        (-2, r"shape \(\) and dtype torch.int64; give a number of last tokens, at least 0"),
        (1.5, r"dtype torch.float32; give a number"),
        (torch.tensor([3, 12]), "logits_to_keep has positions from 3 to 12, and there are 9 tokens"),
        (torch.tensor([-10]), "logits_to_keep has positions from -10 to -10, and there are 9 tokens"),
    ):
        with pytest.raises(ValueError, match=sentence):
            model(**inputs, logits_to_keep=kept)
    for labels in (inputs["input_ids"][0], inputs["input_ids"][:, :4]):
        with pytest.raises(ValueError, match=r"labels have shape .* and must have \(batch, sequence\) of the inputs"):
            model(**inputs, labels=labels, logits_to_keep=3)
    with pytest.raises(TypeError, match="forward has no keyword 'positons'; did you mean 'position_ids'"):
        model(**inputs, positons=None)
    narrow = tiny_decoder("opt", word_embed_proj_dim=16)
    with pytest.raises(ValueError, match=r"\(opt\) has blocks of width 32 and gives states of width 16"):
        KAdapterForCausalLM.from_backbone(narrow)
    gpt2 = causal_lm(tiny_decoder("gpt2"), "fac")
    with pytest.raises(ValueError, match=f"{LONGEST + 1} tokens are more than the {LONGEST} that the backbone takes"):
        gpt2(input_ids=torch.full((1, LONGEST + 1), 5))


def test_labels_that_trainer_smooths_are_those_of_the_next_token(folder, tmp_path):
    model, ids = causal_lm(str(folder / "lm"), "fac"), texts(lengths=(9, 9, 9))["input_ids"]
    rows = [{"input_ids": own, "attention_mask": torch.ones_like(own), "labels": own} for own in ids]
    run = {"label_smoothing_factor": 0.1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    measured = Trainer(model, TrainingArguments(str(tmp_path), **run), eval_dataset=rows).evaluate()["eval_loss"]
    logs, following = logits(model, input_ids=ids)[:, :-1].log_softmax(-1), ids[:, 1:, None]
    expected = -0.9 * logs.gather(-1, following).mean() - 0.1 * logs.mean()
    assert measured == pytest.approx(expected.item(), rel=1e-5)


def test_a_configuration_tells_the_backbones_own_to_what_makes_a_cache(folder):
    config = KAdapterForCausalLM.from_backbone(str(folder / "lm")).config
    assert config.get_text_config(decoder=True).model_type == "llama" and config.get_text_config() is config
    assert KAdapterConfig().get_text_config(decoder=True).model_type == "kadapter"
