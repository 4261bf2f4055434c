"""What a model knows: the backbone's own LM head, new ones, and a trained one that several adapters share."""

import copy
import json
import pickle
import re

import pytest
import torch
from helpers import (
    FAMILIES,
    batch,
    bytes_of,
    make_model,
    run_python,
    save_backbone,
    save_masked_lm,
    shake,
    small_adapter,
    tiny_tokenizer,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForMaskedLM, BertTokenizerFast, PreTrainedTokenizerFast, pipeline
from transformers.pipelines import PipelineException

from kadapter import KAdapterForMaskedLM, KAdapterForSequenceClassification, KAdapterModel

pytestmark = pytest.mark.slow

LM_HEADS = ("transform", "linear")
KINDS = [
    *((family, {}) for family in FAMILIES),
    ("deberta-v2", {"legacy": False}),
    ("bert", {"tie_word_embeddings": False}),
]


def masked_lm(backbone, *names, **kwargs):
    return make_model(backbone, *names, model_class=KAdapterForMaskedLM, **kwargs)


def logits(model, **inputs):
    with torch.no_grad():
        return model(**(inputs or batch())).logits


def head_tensors(folder):
    return {key for key in load_file(folder / "model.safetensors") if key.startswith("head.")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone with an LM head, one without, and an adapter and an LM head of the latter."""
    folder = tmp_path_factory.mktemp("masked_lm")
    save_masked_lm(folder / "lm")
    bare = save_backbone(folder / "bare")
    tiny_tokenizer(bare)
    make_model(bare, "fac").save_pretrained(folder / "fac")
    make_model(bare, "lin").save_pretrained(folder / "lin")
    for name in LM_HEADS:
        masked_lm(bare, lm_head=name).save_pretrained(folder / name)
    return folder


# ---- the backbone's own LM head -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "changes"), KINDS, ids=str)
def test_without_adapters_the_logits_are_the_backbones_own_to_the_bit(tmp_path, family, changes):
    backbone = save_masked_lm(tmp_path / "lm", family, **changes)
    model, inputs = masked_lm(backbone, "fac"), batch(family)
    expected = AutoModelForMaskedLM.from_pretrained(backbone).eval()(**inputs).logits
    with_adapter = logits(model, **inputs)
    model.disable_adapters()
    assert torch.equal(logits(model, **inputs), expected)
    assert (with_adapter - expected).abs().max() > 0.01
    assert torch.equal(logits(masked_lm(backbone), **inputs), expected)  # and "add" of no adapters at all


@pytest.mark.parametrize("family", ["bert", "electra", "deberta-v2"])
def test_a_backbone_given_as_a_module_keeps_its_lm_head_and_stays_whole(tmp_path, family):
    given = AutoModelForMaskedLM.from_pretrained(save_masked_lm(tmp_path / "lm", family)).eval()
    expected, before = given(**batch(family)).logits, bytes_of(given)
    model = masked_lm(given)
    assert torch.equal(logits(model, **batch(family)), expected)
    assert model.config.backbone_fingerprint and model.config.backbone_name_or_path == str(tmp_path / "lm")
    assert torch.equal(given(**batch(family)).logits, expected) and bytes_of(given) == before
    with torch.no_grad():
        given.get_output_embeddings().bias.add_(1.0)
    assert masked_lm(given).config.backbone_fingerprint is None  # an LM head that was changed is of no checkpoint


def test_nothing_of_the_backbones_lm_head_is_saved_and_all_of_it_is_restored(tmp_path, folder):
    model = masked_lm(str(folder / "lm"), "fac")
    model.save_pretrained(tmp_path / "saved")
    assert {key.split(".")[1] for key in load_file(tmp_path / "saved" / "model.safetensors")} == {"adapters"}
    assert all(not key.startswith(("head.", "kadapter.backbone.")) for key in model.state_dict())
    for loaded in (
        KAdapterForMaskedLM.from_pretrained(tmp_path / "saved"),
        AutoModelForMaskedLM.from_pretrained(tmp_path / "saved"),
    ):
        assert type(loaded) is KAdapterForMaskedLM and torch.equal(logits(loaded), logits(model))
    assert AutoModel.from_pretrained(tmp_path / "saved").active_adapters() == ["fac"]


def test_the_decoder_is_the_backbones_embedding_and_stays_frozen_while_an_adapter_trains(folder):
    model = masked_lm(str(folder / "lm"), "fac")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.train_adapter("fac")
    model.train()
    assert not any(module.training for module in model.head.modules())
    assert {key.split(".")[1] for key, tensor in model.named_parameters() if tensor.requires_grad} == {"adapters"}
    labels = batch()["input_ids"].masked_fill(batch()["attention_mask"] == 0, -100)
    model(**batch(), labels=labels).loss.backward()
    assert all(tensor.grad is not None for _, tensor in model.base_model.adapters["fac"].named_parameters())
    assert all(tensor.grad is None for tensor in model.head.parameters())


def test_a_backbone_that_was_trained_along_takes_its_lm_head_with_it(tmp_path, folder):
    model = masked_lm(str(folder / "lm"), "fac")
    model.base_model.backbone.requires_grad_(True)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    model.save_pretrained(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {key for key in stored if key.startswith("head.")} == {
        f"head.backbone.lm_head.{name}"
        for name in ("bias", "dense.bias", "dense.weight", "layer_norm.bias", "layer_norm.weight")
    }
    loaded = KAdapterForMaskedLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert AutoModel.from_pretrained(tmp_path / "saved").active_adapters() == ["fac"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("family", ["roberta", "deberta-v2"])
def test_a_copy_and_a_pickle_answer_alike_and_share_nothing_with_the_model(tmp_path, family, copied):
    model = masked_lm(save_masked_lm(tmp_path / "lm", family), "fac")
    expected = logits(model, **batch(family))
    other = copied(model)
    assert torch.equal(logits(other, **batch(family)), expected)
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
    with torch.no_grad():
        other.get_input_embeddings().weight.zero_()
    assert torch.equal(logits(model, **batch(family)), expected)


@pytest.mark.parametrize("name", ["backbone", *LM_HEADS])
def test_a_backbone_in_another_dtype_has_its_lm_head_in_that_too(tmp_path, folder, name):
    options = {"lm_head": name, "adapters": {"fac": small_adapter()}}
    model = KAdapterForMaskedLM.from_backbone(folder / "lm", dtype=torch.bfloat16, **options)
    assert torch.isfinite(logits(model)).all() and model.get_output_embeddings().weight.dtype == (
        torch.float32 if name == "linear" else torch.bfloat16
    )
    model.save_pretrained(tmp_path / "saved")
    for keywords in ({"dtype": torch.bfloat16}, {"backbone_kwargs": {"dtype": torch.bfloat16}}):
        loaded = KAdapterForMaskedLM.from_pretrained(tmp_path / "saved", **keywords)
        assert torch.isfinite(logits(loaded)).all()
        assert loaded.base_model.backbone.dtype == torch.bfloat16
    both = KAdapterForMaskedLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, backbone_kwargs={"dtype": torch.bfloat16}
    )
    assert both.get_input_embeddings().weight.dtype == torch.bfloat16 and torch.isfinite(logits(both)).all()


def test_a_checkpoint_without_an_lm_head_is_refused_and_the_choices_are_named(folder):
    choices = "choose a new one by lm_head='transform' or 'linear', or a trained one by its id or path"
    lacks = f"backbone '{folder / 'bare'}' has no complete LM head: its checkpoint lacks 'lm_head.bias' and 5 more; "
    for lm_head in (None, "backbone"):
        with pytest.raises(ValueError, match=re.escape(lacks + choices)):
            KAdapterForMaskedLM.from_backbone(str(folder / "bare"), lm_head=lm_head)
    with pytest.raises(ValueError, match=re.escape(lacks + choices)):
        KAdapterForMaskedLM.from_pretrained(folder / "fac")
    with pytest.raises(ValueError, match="a RobertaModel, has no LM head; give a masked language model such as"):
        KAdapterForMaskedLM.from_backbone(AutoModel.from_pretrained(folder / "lm"))


def test_a_single_missing_tensor_of_an_lm_head_is_not_left_at_random(tmp_path):
    backbone = save_masked_lm(tmp_path / "lm", "bert")
    weights = tmp_path / "lm" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["cls.predictions.transform.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    lacks = "its checkpoint lacks 'cls.predictions.transform.dense.weight'; choose"
    with pytest.raises(ValueError, match=re.escape(lacks)):
        KAdapterForMaskedLM.from_backbone(backbone)


# ---- positions, labels, vocabulary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backbone", *LM_HEADS])
def test_logits_at_positions_are_those_of_all_tokens_there_and_so_is_the_loss(folder, name):
    model = masked_lm(str(folder / "lm"), "fac", lm_head=name)
    positions, labels = torch.tensor([[1, 4], [2, -1], [3, 0]]), torch.tensor([[7, 9], [11, -100], [5, 59]])
    everywhere = logits(model)
    assert everywhere.shape == (3, 9, 60)
    everything = torch.full((3, 9), -100)
    for row, at, label in ((0, 1, 7), (0, 4, 9), (1, 2, 11), (2, 3, 5), (2, 0, 59)):
        everything[row, at] = label
    with torch.no_grad():
        output = model(**batch(), positions=positions, labels=labels)
        loss = model(**batch(), labels=everything).loss
        shared = model(**batch(), labels=everything, num_items_in_batch=10).loss
    assert torch.allclose(
        output.logits, everywhere.gather(1, positions.clamp(min=0)[..., None].expand(-1, -1, 60)), atol=1e-5
    )
    assert torch.allclose(output.loss, loss) and torch.allclose(shared, loss / 2)
    states = model.read(**batch(), positions=positions)
    assert states["backbone"].shape == (3, 2, 32)
    assert torch.equal(logits(model, states=states), output.logits)


def test_what_does_not_fit_is_refused_in_a_sentence(folder):
    model = masked_lm(str(folder / "lm"), "fac")
    with pytest.raises(ValueError, match=r"positions have shape \(3,\) and must have \(batch, n\), here \(3, n\)"):
        model(**batch(), positions=torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="position 9 lies outside the 9 tokens of the batch"):
        model(**batch(), positions=torch.tensor([[9], [1], [1]]))
    with pytest.raises(ValueError, match="label 60 is none of the 60 classes, 0 to 59"):
        model(**batch(), positions=torch.tensor([[1], [1], [1]]), labels=torch.tensor([[60], [1], [1]]))
    with pytest.raises(ValueError, match=r"lm_head='transfrom' is none of \['backbone', 'transform', 'linear'\]"):
        KAdapterForMaskedLM.from_pretrained(folder / "fac", lm_head="transfrom")
    for change in (lambda: model.resize_token_embeddings(70), lambda: model.set_output_embeddings(None)):
        with pytest.raises(ValueError, match=r"made for its vocabulary.*can't be exchanged or resized; resize the"):
            change()
    with pytest.raises(ValueError, match="'backbone' multiplies by the backbone's embeddings; keep it"):
        model.release_backbone()
    with pytest.raises(ValueError, match="lm_head='transform' can't be chosen for"):
        KAdapterModel.from_pretrained(folder / "fac", lm_head="transform")


# ---- new LM heads, as artifacts that adapters share -----------------------------------------------------------------


@pytest.mark.parametrize("name", LM_HEADS)
def test_a_new_lm_head_trains_alone_and_its_artifact_holds_nothing_else(tmp_path, folder, name):
    model = KAdapterForMaskedLM.from_backbone(str(folder / "bare"), lm_head=name)
    trained = {key for key, tensor in model.named_parameters() if tensor.requires_grad}
    own = {"transform": {"bias", "dense.bias", "dense.weight", "layer_norm.bias", "layer_norm.weight"}}
    own = own.get(name, {"decoder.bias", "decoder.weight"})
    assert trained == {f"head.{key}" for key in own} == head_tensors(folder / name)
    model.save_pretrained(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == trained
    loaded = KAdapterForMaskedLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(model.eval())) and loaded.config.lm_head == name
    assert model.get_output_embeddings().weight.shape == (60, 32)
    assert f'lm_head": "{name}' in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_a_new_lm_head_fits_embeddings_that_are_narrower_than_the_states(tmp_path, family):
    model = KAdapterForMaskedLM.from_backbone(save_backbone(tmp_path / "bare", family), lm_head="transform")
    assert logits(model, **batch(family)).shape == (3, 9, 60)


@pytest.mark.parametrize("name", LM_HEADS)
def test_adapters_compose_with_a_trained_lm_head_and_what_is_saved_refers_to_it(tmp_path, folder, name):
    path = folder / name
    model = KAdapterForMaskedLM.from_pretrained([folder / "fac", folder / "lin"], lm_head=str(path))
    assert model.config.lm_head == name and not any(tensor.requires_grad for tensor in model.head.parameters())
    assert model.active_adapters() == ["fac", "lin"]
    model.disable_adapters()
    assert torch.equal(logits(model), logits(KAdapterForMaskedLM.from_pretrained(path)))
    model.enable_adapters()
    model.save_pretrained(tmp_path / "both")
    assert head_tensors(tmp_path / "both") == set()
    source = json.loads((tmp_path / "both" / "config.json").read_text(encoding="utf-8"))["lm_head_source"]
    assert source["name_or_path"] == str(path) and len(source["hash"]) == 64
    for loaded in (KAdapterForMaskedLM, AutoModelForMaskedLM):
        assert torch.equal(logits(loaded.from_pretrained(tmp_path / "both")), logits(model))
    assert AutoModel.from_pretrained(tmp_path / "both").active_adapters() == ["fac", "lin"]
    model.save_pretrained(tmp_path / "whole", bundle_adapters=True)
    assert head_tensors(tmp_path / "whole") == head_tensors(path)


def test_every_way_to_name_a_trained_lm_head_gives_the_same_model(tmp_path, folder):
    path = str(folder / "transform")
    make_model(str(folder / "bare"), "fac").save_pretrained(tmp_path / "k-fac")
    make_model(str(folder / "bare"), "lin").save_pretrained(tmp_path / "k-lin")
    one = KAdapterForMaskedLM.from_pretrained(f"{tmp_path}/k-fac+lin", lm_head=path)
    two = AutoModelForMaskedLM.from_pretrained(folder / "fac", compose_with=[folder / "lin"], lm_head=path)
    three = KAdapterForMaskedLM.from_backbone(str(folder / "bare"), lm_head=path)
    three.load_adapter(str(folder / "fac"))
    three.load_adapter(str(folder / "lin"))
    four = KAdapterForMaskedLM.from_pretrained(folder / "linear", compose_with=[], lm_head=path)
    four.load_adapter(str(folder / "fac"))
    four.load_adapter(str(folder / "lin"))
    five = KAdapterForMaskedLM.from_pretrained([folder / "fac", folder / "lin"], lm_head="linear")
    five.load_lm_head(path)
    expected = logits(one)
    assert all(torch.equal(logits(other), expected) for other in (two, three, four, five))
    assert all(other.config.lm_head_source == one.config.lm_head_source for other in (two, three, four, five))


def test_a_loaded_lm_head_stays_frozen_until_it_is_trained_and_then_is_saved_along(tmp_path, folder):
    model = KAdapterForMaskedLM.from_pretrained(folder / "fac", lm_head=str(folder / "transform"))
    model.train_adapter("fac")
    assert {key.split(".")[1] for key, tensor in model.named_parameters() if tensor.requires_grad} == {"adapters"}
    model.head.requires_grad_(True)
    with torch.no_grad():
        model.head.bias.add_(1.0)
    model.save_pretrained(tmp_path / "trained")
    assert head_tensors(tmp_path / "trained") == head_tensors(folder / "transform")
    loaded = KAdapterForMaskedLM.from_pretrained(tmp_path / "trained")
    assert torch.equal(logits(loaded), logits(model)) and loaded.config.lm_head_source is None
    again = KAdapterForMaskedLM.from_pretrained(
        folder / "lin", lm_head=str(tmp_path / "trained")
    )  # a head all the same
    assert again.active_adapters() == ["lin"] and torch.equal(again.head.bias, model.head.bias)


def test_an_artifact_never_refers_to_the_directory_that_it_replaces(tmp_path, folder):
    masked_lm(str(folder / "bare"), lm_head="linear").save_pretrained(tmp_path / "own")
    model = KAdapterForMaskedLM.from_pretrained(folder / "fac", lm_head=str(tmp_path / "own"))
    model.save_pretrained(tmp_path / "own")
    assert head_tensors(tmp_path / "own") == {"head.decoder.weight", "head.decoder.bias"}
    assert torch.equal(logits(KAdapterForMaskedLM.from_pretrained(tmp_path / "own")), logits(model))


def test_an_lm_head_that_changed_or_is_gone_or_is_of_another_backbone_is_a_sentence(tmp_path, folder):
    own = tmp_path / "own"
    masked_lm(str(folder / "bare"), lm_head="linear").save_pretrained(own)
    model = KAdapterForMaskedLM.from_pretrained(folder / "fac", lm_head=str(own))
    model.save_pretrained(tmp_path / "saved")
    shake(KAdapterForMaskedLM.from_pretrained(own), seed=5).save_pretrained(own)
    with pytest.raises(ValueError, match=f"the LM head has changed since .*saved was trained with it: '{own}' holds"):
        KAdapterForMaskedLM.from_pretrained(tmp_path / "saved")
    assert KAdapterForMaskedLM.from_pretrained(tmp_path / "saved", lm_head=str(own)).config.lm_head == "linear"
    own.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=f"can't be read from '{own}': no config.json .*or name another place by"):
        KAdapterForMaskedLM.from_pretrained(tmp_path / "saved")
    assert KAdapterModel.from_pretrained(tmp_path / "saved").active_adapters() == ["fac"]  # which needs no LM head
    for sizes, sentence in (
        ({"vocab_size": 70}, "has a vocabulary of 60 tokens, and this backbone one of 70; use an LM head that was"),
        ({"seed": 9}, "was made for another backbone"),
    ):
        other = save_backbone(tmp_path / sentence[:9], **sizes)
        with pytest.raises(ValueError, match=sentence):
            KAdapterForMaskedLM.from_backbone(other, lm_head=str(tmp_path / "moved"))
    for path, holds in (("fac", "holds a model, lm_head=None"), ("saved", "refers to that of another artifact")):
        path = folder / path if path == "fac" else tmp_path / path
        with pytest.raises(ValueError, match=f"{path} holds no LM head of its own \\({holds}"):
            KAdapterForMaskedLM.from_pretrained(folder / "lin", lm_head=str(path))


def test_other_models_leave_the_lm_head_behind(tmp_path, folder):
    model = KAdapterForMaskedLM.from_pretrained(folder / "fac", lm_head=str(folder / "linear"))
    model.save_adapter(tmp_path / "adapter", "fac")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text(encoding="utf-8"))
    assert config["lm_head"] is None and config["lm_head_source"] is None
    model.save_pretrained(tmp_path / "both")
    text = KAdapterForSequenceClassification.from_pretrained(tmp_path / "both", num_labels=2)
    text.save_pretrained(tmp_path / "text")
    config = json.loads((tmp_path / "text" / "config.json").read_text(encoding="utf-8"))
    assert config["lm_head"] is None and config["lm_head_source"] is None
    assert KAdapterModel.from_pretrained([folder / "linear", folder / "fac"]).active_adapters() == ["fac"]


# ---- from raw text --------------------------------------------------------------------------------------------------


def word_piece(path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "wrote", "to", "par", "##is", "from", "lyon", "."]
    (path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return BertTokenizerFast(str(path / "vocab.txt"), do_lower_case=True)


def byte_pairs(path):
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"adwrotepisflyn.", "Ġ"]
    merges = [("Ġ", "t"), ("Ġt", "o"), ("a", "d"), ("ad", "a"), ("Ġ", "p")]
    vocabulary = {token: number for number, token in enumerate([*symbols, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", **special)


@pytest.mark.parametrize(
    ("family", "tokenizer_of", "target"), [("bert", word_piece, "par"), ("roberta", byte_pairs, "Ġto")]
)
def test_fill_mask_answers_with_targets_and_for_several_masks(tmp_path, family, tokenizer_of, target):
    tokenizer = tokenizer_of(tmp_path)
    model = masked_lm(save_masked_lm(tmp_path / "lm", family), "fac")
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    mask, at = tokenizer.mask_token, 2
    answers = fill(f"ada {mask}", top_k=3)
    inputs = tokenizer([f"ada {mask}"], return_tensors="pt")
    at = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    probabilities = logits(model, **inputs)[0, at].softmax(-1)
    assert [answer["token"] for answer in answers] == probabilities.topk(3).indices.tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(probabilities.topk(3).values.tolist())
    (answer,) = fill(f"ada {mask}", targets=[target])
    number = tokenizer.convert_tokens_to_ids(target)
    assert answer["token"] == number and answer["score"] == pytest.approx(probabilities[number].item())
    two = fill(f"{mask} to {mask}", top_k=2)
    assert [len(answers) for answers in two] == [2, 2]  # a list for each mask
    with pytest.raises(PipelineException, match="No mask_token"):
        fill("ada")


@pytest.mark.thorough
@pytest.mark.slow
def test_fill_mask_in_a_process_that_never_heard_of_kadapter(tmp_path):
    backbone = save_masked_lm(tmp_path / "lm")
    byte_pairs(tmp_path).save_pretrained(backbone)
    masked_lm(backbone, "fac").save_pretrained(tmp_path / "saved")
    code = """
import sys
from transformers import pipeline
fill = pipeline("fill-mask", model=sys.argv[1], trust_remote_code=True)
print([answer["token"] for answer in fill("ada <mask>", top_k=3)])
"""
    done = run_python(code, tmp_path, tmp_path / "saved")
    fill = pipeline("fill-mask", model=masked_lm(backbone, "fac"), tokenizer=byte_pairs(tmp_path))
    assert str([answer["token"] for answer in fill("ada <mask>", top_k=3)]) in done.stdout
