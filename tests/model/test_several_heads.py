"""Several heads in one model: one run of one backbone, and of each head the bits of its own model."""

import copy
import hashlib
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, batch, bytes_of, make_model, run_python, save_backbone, shake, small_adapter, tiny_tokenizer
from hub_server import running_hub
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_decoders import small_prenorm, tiny_decoder
from transformers import AutoModel, DynamicCache
from typer.testing import CliRunner

import kadapter
from kadapter import (
    KAdapterConfig,
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMaskedLM,
    KAdapterForMultipleChoice,
    KAdapterForQuestionAnswering,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
    KAdapterModel,
    KAdapterModelWithHeads,
    PreNormAdapterConfig,
)
from kadapter.commands import app
from kadapter.modeling_kadapter import AdapterVerbs
from kadapter.several_heads_kadapter import OF_ONE_HEAD

PAIRS = torch.tensor([[1, 4], [2, 3], [0, 2]])
PARSED = {"dependency_head": "official", "num_positions": 40}
PRENORM = {"pre": PreNormAdapterConfig(hidden_size=12, num_attention_heads=2, intermediate_size=16)}
# Of each head its class, its adapters, what makes it, and what it reads besides tokens. "fac" of "tags" is that of
# "relations", and "fac" of "types" another.
HEADS = {
    "relations": (
        KAdapterForEntityPairClassification,
        ("fac", "lin"),
        {"fusion": "concat"},
        {"entity_positions": PAIRS},
    ),
    "tree": (KAdapterForDependencyParsing, ("lin",), {"fusion": "gated"}, {"word_positions": PAIRS}),
    "tags": (KAdapterForTokenClassification, ("fac",), {"fusion": "delta"}, {}),
    "types": (KAdapterForEntityClassification, ("fac",), {}, {"entity_positions": PAIRS[:, :1]}),
    "topic": (KAdapterForSequenceClassification, ("pre",), {"adapters": PRENORM, "num_labels": 12}, {}),
    "official": (KAdapterForDependencyParsing, (), PARSED, {}),
}
FILE = "several_heads_kadapter.py"
INPUTS = {name: inputs for name, (_, _, _, inputs) in HEADS.items() if inputs}


def head_of(backbone, name):
    """The model of one of `HEADS`; those with "fac" before "types" have the same."""
    head, adapters, fields, _ = HEADS[name]
    seed = list(HEADS).index(name)
    fields = {"adapters": {adapter: small_adapter() for adapter in adapters}, "num_labels": 3, "arc_size": 8, **fields}
    model = shake(head.from_backbone(backbone, **fields), seed=seed).eval()
    if name in ("relations", "tags"):
        shake(model.base_model.adapters["fac"], seed=99)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a backbone, the artifact of each head and one of several, and what each head answers alone."""
    folder = tmp_path_factory.mktemp("heads")
    backbone = save_backbone(folder / "backbone")
    tiny_tokenizer(backbone)
    expected = {}
    for name, (_, _, _, inputs) in HEADS.items():
        model = head_of(backbone, name)
        model.save_pretrained(folder / name)
        with torch.no_grad():
            expected[name] = model(**batch(), **inputs).logits
    KAdapterModelWithHeads.from_heads({name: folder / name for name in HEADS}).save_pretrained(folder / "several")
    make_model(backbone, "fac").save_pretrained(folder / "no-head")
    torch.save((batch(), INPUTS), folder / "inputs.pt")
    torch.save(expected, folder / "expected.pt")
    return folder


@pytest.fixture
def model(folder):
    """The model with all heads, as it was saved."""
    return KAdapterModelWithHeads.from_pretrained(folder / "several")


def answers(model, **keywords):
    """The logits of all heads, without a graph."""
    with torch.no_grad():
        return {name: head.logits for name, head in model(**batch(), inputs=INPUTS, **keywords).heads.items()}


def expected_of(folder):
    return torch.load(folder / "expected.pt", weights_only=True)


def differing(found, expected):
    assert found.keys() == expected.keys()
    return [name for name in expected if not torch.equal(found[name], expected[name])]


def content(artifact):
    """What an artifact's weights and configuration hold: a header may have its entries in any order."""
    with safe_open(artifact / "model.safetensors", framework="pt") as opened:
        tensors = {key: opened.get_tensor(key).numpy().tobytes() for key in opened.keys()}  # noqa: SIM118
        return tensors, opened.metadata(), (artifact / "config.json").read_text()


def counted(module):
    """A list that grows by one whenever a module runs."""
    runs = []
    module.register_forward_hook(lambda *_: runs.append(1))
    return runs


# ---- running --------------------------------------------------------------------------------------------------------


def test_one_run_of_the_backbone_gives_each_head_the_bits_of_its_own_model(folder):
    model = KAdapterModelWithHeads.from_heads({name: folder / name for name in HEADS})
    runs, before = counted(model.backbone), bytes_of(model.backbone)
    assert differing(answers(model), expected_of(folder)) == [] and len(runs) == 1
    assert {id(head.base_model.backbone) for head in model.heads.values()} == {id(model.backbone)}
    assert bytes_of(model.backbone) == before and not model.training
    assert list(model.heads) == list(HEADS)


def test_heads_are_chosen_by_name_and_a_single_one_alone_or_called_by_itself(model, folder):
    output = model(**batch(), heads=["tags", "topic"])
    assert list(output.heads) == ["tags", "topic"] and output.loss is None
    assert list(model(**batch(), heads="tags").heads) == ["tags"]
    alone = model.heads["tree"](**batch(), word_positions=PAIRS).logits
    assert torch.equal(alone, expected_of(folder)["tree"])
    (heads,) = model(**batch(), heads="tags", return_dict=False)
    assert torch.equal(heads["tags"].logits, expected_of(folder)["tags"])


def test_states_that_were_tapped_once_stand_for_the_run_of_the_backbone(model, folder):
    states, runs = model.tap(**batch()), counted(model.backbone)
    assert differing(answers(model, hidden_states=states), expected_of(folder)) == [] and not runs
    assert sorted(states) == [-1, 0, 1, 2, 4]  # what "pre" taps by default, too


def test_rows_of_one_head_go_through_adapters_of_their_own(model):
    names = ["fac", "__base__", "fac"]
    mixed = model(**batch(), heads=["tags", "topic"], inputs={"tags": {"adapter_names": names}}).heads
    head = model.heads["tags"]
    assert torch.equal(mixed["tags"].logits, head(**batch(), adapter_names=names).logits)
    head.disable_adapters()
    assert torch.equal(mixed["tags"].logits[1], head(**batch()).logits[1])
    assert torch.equal(mixed["topic"].logits, model(**batch(), heads="topic").heads["topic"].logits)


def test_adapters_that_heads_have_alike_are_held_and_run_once_where_the_same_positions_are_read(folder, model):
    adapters = {name: model.heads[name].base_model.adapters for name in ("relations", "tags", "types")}
    assert adapters["relations"]["fac"] is adapters["tags"]["fac"] is not adapters["types"]["fac"]
    model.add_head("again", folder / "tags")
    runs = counted(adapters["tags"]["fac"])
    both = model(**batch(), heads=["tags", "again"]).heads
    assert len(runs) == 1 and torch.equal(both["tags"].logits, both["again"].logits)
    assert differing(answers(model, heads=list(HEADS)), expected_of(folder)) == []
    assert len(runs) == 3  # the mentions of "relations" are other positions
    trained = KAdapterForTokenClassification.from_pretrained(folder / "tags", backbone=model.backbone)
    trained.train_adapter("fac")
    model.add_head("trained", trained)
    assert model.heads["trained"].base_model.adapters["fac"] is not adapters["tags"]["fac"]


def test_heads_on_choices_and_passages_read_their_texts_in_one_run(folder):
    backbone = str(folder / "backbone")
    choice = make_model(backbone, "fac", model_class=KAdapterForMultipleChoice)
    answer = make_model(backbone, "lin", model_class=KAdapterForQuestionAnswering, fusion="concat")
    model = KAdapterModelWithHeads.from_heads({"tags": folder / "tags"})
    for name, head in (("choice", choice), ("answer", answer)):
        head.save_pretrained(folder / name)
        model.add_head(name, folder / name)
    inputs = {key: torch.stack([one, one.flip(0)], dim=1) for key, one in batch().items()}
    runs = counted(model.backbone)
    with torch.no_grad():
        found = model(**inputs, heads=["choice", "answer"]).heads
        assert torch.equal(found["choice"].logits, choice(**inputs).logits)
        assert torch.equal(found["answer"].start_logits, answer(**inputs).start_logits) and len(runs) == 1
    with pytest.raises(ValueError, match=r"head 'tags', a KAdapterForTokenClassification, reads a text in each row"):
        model(**inputs)
    with pytest.raises(ValueError, match=r"^head 'choice': .* must have \(batch, choices, sequence\)"):
        model(**batch(), heads="choice")


def test_heads_beside_a_decoder_share_a_run_of_it(tmp_path):
    tiny_decoder("gpt2").base_model.save_pretrained(tmp_path / "decoder")
    heads = {}
    for name, kind in (("topic", KAdapterForSequenceClassification), ("tags", KAdapterForTokenClassification)):
        fields = {"adapters": {name: small_prenorm()}, "num_labels": 3, "fusion": "delta"}
        heads[name] = shake(kind.from_backbone(str(tmp_path / "decoder"), **fields), std=0.1).eval()
        heads[name].save_pretrained(tmp_path / name)
    model = KAdapterModelWithHeads.from_heads({name: tmp_path / name for name in heads})
    runs = counted(model.backbone)
    with torch.no_grad():
        found = model(**batch()).heads
        assert len(runs) == 1
        assert all(torch.equal(found[name].logits, head(**batch()).logits) for name, head in heads.items())
    with pytest.raises(TypeError, match=r"past_key_values belongs to a model of its own"):
        model(**batch(), past_key_values=DynamicCache())


def test_heads_train_together_and_the_backbone_stays_as_it_is(folder):
    model = KAdapterModelWithHeads.from_heads({"tree": folder / "tree"})
    new = KAdapterForTokenClassification.from_backbone(model.backbone, adapters={"new": small_adapter()}, num_labels=5)
    model.add_head("names", new)
    before, frozen = bytes_of(model.backbone), bytes_of(model.heads["tree"].base_model.adapters)
    labels = {"names": {"labels": batch()["input_ids"] % 5}}
    labels["tree"] = {"word_positions": PAIRS, "labels": torch.tensor([[0], [1], [-100]])}
    optimizer = torch.optim.SGD((one for one in model.parameters() if one.requires_grad), lr=0.01)
    with torch.no_grad():
        first = model.eval()(**batch(), inputs=labels).loss
    output = model.train()(**batch(), inputs=labels)
    torch.testing.assert_close(output.loss, output.heads["names"].loss + output.heads["tree"].loss)
    output.loss.backward()
    assert all(one.grad is not None for one in new.base_model.adapters.parameters())
    optimizer.step()
    with torch.no_grad():
        assert model.eval()(**batch(), inputs=labels).loss < first
    assert bytes_of(model.backbone) == before and bytes_of(model.heads["tree"].base_model.adapters) == frozen


def test_a_copy_and_a_pickled_model_answer_the_same(model, folder):
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert differing(answers(other), expected_of(folder)) == []
        assert {id(head.base_model.backbone) for head in other.heads.values()} == {id(other.backbone)}
        other.add_head("again", folder / "tags")
        assert other.heads["again"].base_model.adapters["fac"] is other.heads["tags"].base_model.adapters["fac"]


# ---- heads come and go ----------------------------------------------------------------------------------------------


def test_heads_are_added_renamed_and_removed_while_the_model_runs(model, folder, tmp_path):
    model.rename_head("tree", "parser")
    model.delete_head(["relations", "official"])
    assert list(model.heads) == list(model.config.heads) == ["parser", "tags", "types", "topic"]
    parsed = model(**batch(), heads="parser", inputs={"parser": INPUTS["tree"]}).heads["parser"]
    assert torch.equal(parsed.logits, expected_of(folder)["tree"])
    model.add_head("relations", folder / "relations")
    model.save_pretrained(tmp_path / "changed")
    loaded = KAdapterModelWithHeads.from_pretrained(tmp_path / "changed")
    assert list(loaded.heads) == ["parser", "tags", "types", "topic", "relations"]
    inputs = {**{name: INPUTS[name] for name in ("types", "relations")}, "parser": INPUTS["tree"]}
    found = {name: head.logits for name, head in loaded(**batch(), inputs=inputs).heads.items()}
    found["tree"] = found.pop("parser")
    expected = {name: logits for name, logits in expected_of(folder).items() if name != "official"}
    assert differing(found, expected) == []


def test_what_a_heads_own_verbs_change_is_saved(model, folder, tmp_path):
    model.heads["tags"].add_adapter("more", small_adapter())
    shake(model.heads["tags"].base_model.adapters["more"], seed=7)
    model.heads["relations"].rename_adapter("fac", "facts")
    model.heads["types"].disable_adapters()
    model.heads["types"].enable_adapters()
    model.save_pretrained(tmp_path / "changed")
    loaded = KAdapterModelWithHeads.from_pretrained(tmp_path / "changed")
    assert loaded.heads["relations"].active_adapters() == ["facts", "lin"]
    assert loaded.heads["tags"].active_adapters() == ["fac", "more"]
    assert differing(answers(loaded), answers(model)) == []
    assert (
        differing({"relations": answers(loaded)["relations"]}, {"relations": expected_of(folder)["relations"]}) == []
    )
    loaded.heads["tree"].save_pretrained(tmp_path / "tree")  # a head leaves as a model of its own
    tree = KAdapterForDependencyParsing.from_pretrained(tmp_path / "tree")
    assert tree.config.heads is None and torch.equal(tree(**batch(), **INPUTS["tree"]).logits, answers(model)["tree"])


REFUSED = {
    "no head": (lambda m, f: m.add_head("new", f / "no-head"), "no-head has no head; adapters alone are added by"),
    "several": (lambda m, f: m.add_head("new", f / "several"), "several holds several heads; load it"),
    "taken": (lambda m, f: m.add_head("tree", f / "tree"), "there is a head 'tree' already; choose another name"),
    "unfit": (lambda m, f: m.add_head("a.b", f / "tree"), "head name 'a.b' must be of letters"),
    "a method": (lambda m, f: m.add_head("keys", f / "tree"), "head name 'keys' must be of letters"),
    "other order": (lambda m, f: m.add_head("org/tree", "tree"), r"not 'org/tree'; add_head\(name, artifact\)"),
    "misspelt": (lambda m, f: m.add_head("new", f / "tree", revison="x"), "did you mean 'revision'"),
    "nowhere": (lambda m, f: m.add_head("new", f / "nowhere"), "no config.json of a K-Adapter artifact at"),
    "unknown": (lambda m, f: m(**batch(), heads=["nonsense"]), r"no head 'nonsense'; there are \['relations', 'tree'"),
    "unknown to remove": (lambda m, f: m.delete_head("nonsense"), "no head 'nonsense'; there are"),
    "unknown to rename": (lambda m, f: m.rename_head("nonsense", "new"), "no head 'nonsense'; there are"),
    "taken name": (lambda m, f: m.rename_head("tree", "tags"), "there is a head 'tags' already"),
    "lacking": (lambda m, f: m(**batch(), heads="relations"), r"head 'relations': entity_positions has shape None"),
    "not asked": (lambda m, f: m(**batch(), heads="tags", inputs=INPUTS), "inputs are given for the head 'relations'"),
    "another's": (
        lambda m, f: m(**batch(), heads="tags", inputs={"tags": {"entity_positions": PAIRS}}),
        "the head 'tags' has no keyword 'entity_positions'",
    ),
    "beside": (
        lambda m, f: m(**batch(), heads="relations", entity_positions=PAIRS),
        r"entity_positions belongs to a head; give inputs=\{'relations': \{'entity_positions'",
    ),
    "fewer rows": (
        lambda m, f: m(**batch(), heads="relations", inputs={"relations": {"entity_positions": PAIRS[:2]}}),
        "head 'relations': entity_positions has 2 rows, and the batch 3",
    ),
    "a label": (
        lambda m, f: m(**batch(), heads="topic", inputs={"topic": {"labels": torch.tensor([0, 12, 1])}}),
        "head 'topic': label 12 is none of the 12 classes",
    ),
    "of a model": (
        lambda m, f: m(**batch(), heads="tags", output_hidden_states=True),
        "belongs to a model of its own",
    ),
    "nonsense": (lambda m, f: m(**batch(), heads="tags", nonsense=1), "forward has no keyword 'nonsense'"),
    "nothing": (lambda m, f: m(heads="tags"), "input_ids"),
    "verb": (lambda m, f: m.set_adapter("fac"), r"call model.heads\[NAME\].set_adapter\(...\), of \['relations'"),
    "another model": (
        lambda m, f: m.add_head("new", KAdapterForTokenClassification.from_pretrained(f / "tags")),
        "head 'new', a KAdapterForTokenClassification, stands on a backbone of its own",
    ),
    "labels": (
        lambda m, f: KAdapterModelWithHeads.from_pretrained(f / "several", num_labels=5),
        "id2label=.* can't be chosen for all heads",
    ),
    "one head": (
        lambda m, f: KAdapterModelWithHeads.from_pretrained(f / "tree"),
        "holds the head of a KAdapterForDependencyParsing alone, not several by name; .*WithHeads.from_heads",
    ),
    "adapters": (
        lambda m, f: KAdapterModelWithHeads.from_backbone(m.backbone, adapters={"fac": small_adapter()}),
        r"adapters \['fac'\] belong to no head",
    ),
    "none": (lambda m, f: KAdapterModelWithHeads.from_heads({}), "there is no head; name at least one"),
    "empty": (
        lambda m, f: KAdapterModelWithHeads.from_backbone(m.backbone)(**batch()),
        "the model has no head to ask",
    ),
    "empty saved": (
        lambda m, f: KAdapterModelWithHeads.from_backbone(m.backbone).save_pretrained(f / "empty"),
        "the model has no head, so there is nothing to save",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_a_sentence_and_changes_nothing(shared, folder, case):
    act, reason = REFUSED[case]
    with pytest.raises((OSError, TypeError, ValueError), match=reason) as caught:
        act(shared, folder)
    assert "\n" not in str(caught.value)
    assert list(shared.heads) == list(HEADS) and not (folder / "empty").exists()


def test_verbs_of_adapters_are_those_of_a_head(shared):
    for verb in OF_ONE_HEAD:
        assert callable(getattr(shared.heads["tags"], verb))
        with pytest.raises(TypeError, match=rf"call model.heads\[NAME\].{verb}\("):
            getattr(shared, verb)()
    theirs = {name for name in vars(AdapterVerbs) if "adapter" in name and "print" not in name}
    assert theirs <= set(OF_ONE_HEAD)


@pytest.fixture(scope="module")
def shared(folder):
    """The model with all heads, which no test changes."""
    return KAdapterModelWithHeads.from_pretrained(folder / "several")


def test_a_head_of_another_backbone_is_refused_by_both_fingerprints(shared, tmp_path):
    other = save_backbone(tmp_path / "other", seed=5)
    head = make_model(other, "fac", model_class=KAdapterForTokenClassification)
    head.save_pretrained(tmp_path / "head")
    fingerprints = [config.backbone_fingerprint[:12] for config in (head.config, shared.config)]
    with pytest.raises(ValueError, match=".*other.*{}.*backbone.*{}".format(*fingerprints)):
        shared.add_head("new", tmp_path / "head")
    assert "new" not in shared.heads


def test_heads_that_cannot_share_a_run_are_refused(shared, folder, tmp_path):
    taught = make_model(str(folder / "backbone"), "fac", model_class=KAdapterForMaskedLM, lm_head="linear")
    taught.save_pretrained(tmp_path / "taught")
    model = KAdapterModelWithHeads.from_heads({"tags": folder / "tags", "words": tmp_path / "taught"})
    with torch.no_grad():
        words = model(**batch(), heads="words").heads["words"].logits
        assert torch.equal(words, taught(**batch()).logits)
    mapping = kadapter.KnowledgeMapConfig(knowledge_size=6)
    mapped = KAdapterForTokenClassification.from_backbone(shared.backbone, adapters={"map": mapping}, num_labels=3)
    with pytest.raises(ValueError, match="'new' has adapter 'map', which changes the input embeddings"):
        shared.add_head("new", mapped)


# ---- artifacts ------------------------------------------------------------------------------------------------------


def test_one_artifact_holds_all_heads_and_each_adapter_once_and_no_backbone(folder):
    with safe_open(folder / "several" / "model.safetensors", framework="pt") as opened:
        keys = set(opened.keys())
    assert {key.split(".")[1] for key in keys if key.startswith("adapters.")} == {
        "fac",
        "lin",
        "tree-lin",
        "types-fac",
        "pre",
    }
    assert {key.split(".")[1] for key in keys if key.startswith("head.")} == set(HEADS)
    assert not any("backbone" in key for key in keys)
    config = json.loads((folder / "several" / "config.json").read_text())
    assert config["architectures"] == ["KAdapterModelWithHeads"]
    assert config["heads"]["tags"]["adapters"] == {"fac": "fac"}
    assert config["heads"]["types"]["adapters"] == {"fac": "types-fac"}
    own = json.loads((folder / "tags" / "config.json").read_text())
    assert own["heads"] is None and not (folder / "tags" / "several_heads_kadapter.py").exists()


def test_what_was_saved_loads_by_its_class_and_by_automodel_and_is_saved_again_alike(folder, tmp_path):
    before = hashlib.sha256((folder / "backbone" / "model.safetensors").read_bytes()).hexdigest()
    for load in (KAdapterModelWithHeads.from_pretrained, AutoModel.from_pretrained):
        model, info = load(folder / "several", output_loading_info=True)
        assert type(model) is KAdapterModelWithHeads and not any(info.values()) and not model.training
        assert differing(answers(model), expected_of(folder)) == []
        adapters = [head.base_model.adapters for head in model.heads.values()]
        assert not any(one.requires_grad for own in (*adapters, model.backbone) for one in own.parameters())
    model.save_pretrained(tmp_path / "again")
    assert content(tmp_path / "again") == content(folder / "several")
    assert hashlib.sha256((folder / "backbone" / "model.safetensors").read_bytes()).hexdigest() == before
    small = KAdapterModelWithHeads.from_pretrained(folder / "several", dtype="bfloat16")
    assert {one.dtype for one in small.parameters()} == {torch.bfloat16}


def test_the_adapters_of_several_heads_load_and_compose_without_them(folder):
    model = KAdapterModel.from_pretrained(folder / "several")
    assert model.active_adapters() == ["fac", "lin", "tree-lin", "types-fac", "pre"] and model.config.heads is None
    assert type(AutoModel.from_pretrained(folder / "tags")) is KAdapterModel
    model.set_adapter("pre")
    alone = KAdapterModel.from_pretrained(folder / "topic")
    with torch.no_grad():
        assert torch.equal(model(**batch()).last_hidden_state, alone(**batch()).last_hidden_state)


def test_an_artifact_may_refer_to_adapters_that_are_unchanged(model, folder, tmp_path):
    next(model.heads["types"].base_model.adapters["fac"].parameters()).data.add_(1)
    model.save_pretrained(tmp_path / "small", bundle_adapters=False)
    held = {key.split(".")[1] for key in content(tmp_path / "small")[0] if key.startswith("adapters.")}
    assert held == {"types-fac"}
    found = answers(KAdapterModelWithHeads.from_pretrained(tmp_path / "small"))
    assert differing(found, answers(model)) == [] and differing(found, expected_of(folder)) == ["types"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("head.tree.head.prior.weight"), r"lacks tensor 'head.tree.head.prior.weight'"),
        (lambda tensors: tensors.update({"head.other.x": torch.ones(1)}), r"has unknown tensor 'head.other.x'"),
        (lambda tensors: tensors["head.tags.head.classifier.bias"].add_(1), "the tensors of .*head.* are not those"),
    ],
)
def test_a_damaged_artifact_is_refused(folder, tmp_path, change, reason):
    shutil.copytree(folder / "several", tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    with safe_open(path, framework="pt") as opened:
        tensors, metadata = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=reason):
        KAdapterModelWithHeads.from_pretrained(tmp_path / "cut")


def test_a_configuration_with_a_name_that_no_head_can_have_is_refused(folder):
    config = KAdapterConfig.from_pretrained(folder / "several")
    for name, reason in (("a.b", "head name 'a.b' must be"), ("keys", "head name 'keys' must be")):
        with pytest.raises(ValueError, match=reason):
            KAdapterModelWithHeads(KAdapterConfig(**{**config.to_dict(), "heads": {name: config.heads["tags"]}}))
    for record, reason in (({"architecture": 7}, "tells no 'architecture'"), (7, "tells no 'architecture'")):
        with pytest.raises(ValueError, match=reason):
            KAdapterConfig(**{**config.to_dict(), "heads": {"tags": record}})
    unknown = {**config.heads["tags"], "architecture": "KAdapterForNothing"}
    with pytest.raises(ValueError, match="head 'tags' holds a KAdapterForNothing, not known here"):
        KAdapterModelWithHeads(KAdapterConfig(**{**config.to_dict(), "heads": {"tags": unknown}}))


def test_a_backbone_that_trains_is_not_saved_but_refused(folder, tmp_path):
    model = KAdapterModelWithHeads.from_heads({"tags": folder / "tags"})
    model.backbone.requires_grad_(True)
    with pytest.raises(
        ValueError, match="the backbone trains or was changed, and an artifact of several heads holds none"
    ):
        model.save_pretrained(tmp_path / "trained")
    assert not (tmp_path / "trained").exists()


def test_the_commands_describe_and_verify_it(folder):
    shown = CliRunner().invoke(app, ["inspect", str(folder / "several")])
    assert shown.exit_code == 0, shown.output
    assert "head relations: KAdapterForEntityPairClassification" in shown.output
    assert "  adapters types-fac, fusion add, no parameters" in shown.output
    values = json.loads(CliRunner().invoke(app, ["inspect", str(folder / "several"), "--json"]).stdout)
    assert list(values["heads"]) == list(HEADS) and values["head"] is None
    assert values["heads"]["relations"]["adapters"] == ["fac", "lin"] and len(values["heads"]["topic"]["labels"]) == 12
    assert values["heads"]["relations"]["fusion"]["parameters"] > 0 and len(values["adapters"]["fac"]["hash"]) == 64
    verified = CliRunner().invoke(app, ["verify", str(folder / "several"), "--backbone", str(folder / "backbone")])
    assert verified.exit_code == 0, verified.output
    assert re.findall(r"^(\w+) +(\w+)", verified.stdout, flags=re.MULTILINE) == [
        ("ok", check) for check in ("record", "tensors", "code", "backbone")
    ]
    asked = CliRunner().invoke(app, ["predict", str(folder / "several"), "ada wrote"])
    assert asked.exit_code and "choose by --head" in asked.output


# ---- elsewhere ------------------------------------------------------------------------------------------------------

REMOTE = """
import sys, torch
from transformers import AutoModel
batch, inputs = torch.load("inputs.pt", weights_only=True)
found = {}
for name in sys.argv[1:]:
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        found[name] = {key: head.logits for key, head in model(**batch, inputs=inputs).heads.items()}
    if "again" not in sys.argv:
        model.save_pretrained("again")
torch.save(found, "found.pt")
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_without_the_package_automodel_gives_the_same_bits_and_saves_it_again(folder):
    run_python(REMOTE, folder, "several")
    run_python(REMOTE, folder, "again")
    found = torch.load(folder / "found.pt", weights_only=True)
    assert differing(found["again"], expected_of(folder)) == []
    assert content(folder / "again") == content(folder / "several")
    assert (
        (folder / "again" / FILE).read_bytes()
        == (folder / "several" / FILE).read_bytes()
        == (ROOT / FILE).read_bytes()
    )


@pytest.mark.slow
@pytest.mark.thorough
def test_the_card_shows_the_heads_by_an_example_that_runs(folder):
    card = (folder / "several" / "README.md").read_text()
    assert "| relations | KAdapterForEntityPairClassification | fac, lin | concat |" in card
    (example,) = re.findall("```python\n(.*?)```", card, flags=re.DOTALL)
    lines = run_python(example.replace("REPO_OR_DIRECTORY", str(folder / "several")), folder).stdout.splitlines()
    assert [line.split()[0] for line in lines[-6:]] == list(HEADS) and "[" in lines[-2]


PUSH = """
from kadapter import KAdapterModelWithHeads
model = KAdapterModelWithHeads.from_pretrained("several")
model.config.backbone_name_or_path, model.config.backbone_revision = "org/encoder", sys.argv[1]
model.push_to_hub("org/several")
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_what_is_pushed_to_a_hub_loads_from_there_without_the_package(folder):
    with running_hub() as hub:
        files = {one.name: one.read_bytes() for one in (folder / "backbone").iterdir()}
        first = hub.commit("org/encoder", files)
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "offline": False}
        run_python(PUSH, folder, first, package=True, **online)
        pushed = hub.repositories["org/several"][-1][1]
        run_python(REMOTE, folder, "org/several", **{**online, "HF_HUB_CACHE": str(folder / "fresh")})
        assert hub.repositories["org/encoder"][-1][1] == files and len(hub.repositories["org/encoder"]) == 1
    assert "several_heads_kadapter.py" in pushed and b"backbone." not in pushed["model.safetensors"][:100_000]
    found = torch.load(folder / "found.pt", weights_only=True)
    assert differing(found["org/several"], expected_of(folder)) == []


@pytest.mark.slow
def test_the_snippets_of_the_page_run_one_after_another(folder, tmp_path, monkeypatch, capsys):
    for name in ("relations", "tree", "tags"):
        shutil.copytree(folder / name, tmp_path / "org" / f"kadapter-{name}")
    page = (ROOT / "docs" / "several_heads.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, snippet in enumerate(re.findall("```python\n(.*?)```", page, flags=re.DOTALL)):
        exec(compile(snippet, f"snippet {number}", "exec"), names)
    assert Path("several/several_heads_kadapter.py").is_file()
    assert list(names["model"].heads) == ["relations", "parser", "names"]
    assert capsys.readouterr().out.strip().splitlines()[-1] == "relations parser names"
