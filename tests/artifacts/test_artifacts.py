"""Saving and loading: bit-equal, strict, at once or not at all, and never with a frozen backbone's tensors."""

import json
import os
import random
import shutil
import signal
import sys
import time

import pytest
import torch
from elsewhere import save_on_a_full_disk, save_without_end
from helpers import ROOT, batch, bytes_of, make_model, output, run_python, save_backbone, small_adapter, tiny_backbone
from processes import kill_processes, run_processes, start_processes
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from kadapter import (
    KAdapterConfig,
    KAdapterForDependencyParsing,
    KAdapterForEntityPairClassification,
    KAdapterModel,
)
from kadapter.artifacts_kadapter import CODE

KEY = "adapters.fac.layers.0.down_project.weight"


@pytest.fixture
def backbone(tmp_path):
    return save_backbone(tmp_path / "backbone")


@pytest.fixture
def artifact(tmp_path, backbone):
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    return tmp_path / "fac"


def rewrite(artifact, change):
    """Change an artifact's tensors by hand, keeping what its weights tell of themselves."""
    path = artifact / "model.safetensors"
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path, metadata=metadata)


def edit(artifact, **changes):
    """Change an artifact's config.json by hand."""
    path = artifact / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["add", "concat"])
@pytest.mark.parametrize("names", [["fac"], ["lin", "fac"]])
def test_a_saved_model_comes_back_bit_equal(tmp_path, backbone, names, fusion):
    model = make_model(backbone, *names, fusion=fusion)
    model.save_pretrained(tmp_path / "out")
    again = KAdapterModel.from_pretrained(tmp_path / "out")
    assert list(again.adapters) == names and bytes_of(again) == bytes_of(model)
    assert torch.equal(output(again), output(model))


def test_a_model_in_bf16_comes_back_in_bf16(tmp_path, backbone):
    model = make_model(backbone, "fac", dtype=torch.bfloat16).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "out")
    again = KAdapterModel.from_pretrained(tmp_path / "out", dtype="bfloat16")
    assert bytes_of(again) == bytes_of(model) and output(again).dtype == torch.bfloat16
    assert KAdapterModel.from_pretrained(tmp_path / "out", dtype=torch.float32).dtype == torch.float32


def test_one_adapter_is_saved_and_loaded_on_its_own(tmp_path, backbone):
    model = make_model(backbone, "fac", "lin", fusion="concat")
    model.save_adapter(tmp_path / "lin", "lin")
    other = make_model(backbone, "fac")
    assert other.load_adapter(tmp_path / "lin", "grammar") == ["grammar"]
    assert bytes_of(other.adapters["grammar"]) == bytes_of(model.adapters["lin"])
    with torch.no_grad():
        found, expected = other(**batch()), KAdapterModel.from_pretrained(tmp_path / "lin")(**batch())
    assert torch.equal(found.adapter_hidden_states["grammar"], expected.adapter_hidden_states["lin"])
    assert set(load_file(tmp_path / "lin" / "model.safetensors")) == {
        f"adapters.lin.{key}" for key in model.adapters["lin"].state_dict()
    }


def test_the_active_adapters_are_remembered(tmp_path, backbone):
    model = make_model(backbone, "fac", "lin")
    model.set_adapter("lin")
    model.save_pretrained(tmp_path / "out")
    again = KAdapterModel.from_pretrained(tmp_path / "out")
    assert again.active_adapters() == ["lin"] and torch.equal(output(again), output(model))


def test_a_model_without_adapters_comes_back_too(tmp_path, backbone):
    KAdapterModel.from_backbone(backbone).save_pretrained(tmp_path / "out")
    assert KAdapterModel.from_pretrained(tmp_path / "out").active_adapters() == []


@pytest.mark.parametrize("head", [KAdapterForEntityPairClassification, KAdapterForDependencyParsing])
def test_a_head_checkpoint_comes_back_by_its_own_auto_class(tmp_path, backbone, head):
    model = make_model(backbone, "fac", model_class=head, fusion="concat", num_labels=3, arc_size=8)
    model.save_pretrained(tmp_path / "out")
    auto = {
        KAdapterForEntityPairClassification: AutoModelForSequenceClassification,
        KAdapterForDependencyParsing: AutoModelForTokenClassification,
    }[head]
    again = auto.from_pretrained(tmp_path / "out")
    assert type(again) is head and bytes_of(again) == bytes_of(model)


def test_auto_model_leaves_out_exactly_the_head_of_a_head_checkpoint(tmp_path, backbone):
    model = make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification, num_labels=3)
    model.save_pretrained(tmp_path / "out")
    assert bytes_of(AutoModel.from_pretrained(tmp_path / "out")) == bytes_of(model.base_model)
    rewrite(tmp_path / "out", lambda tensors: tensors.update({"head.more": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"has unknown tensor 'head\.more'"):
        AutoModel.from_pretrained(tmp_path / "out")


def test_a_head_on_an_adapters_artifact_says_that_it_is_new(artifact, caplog):
    model = KAdapterForEntityPairClassification.from_pretrained(artifact, num_labels=5)
    assert "it is new and needs training" in caplog.text and model.head.out_proj.out_features == 5


def test_saving_a_head_and_then_its_model_writes_the_auto_map_afresh(tmp_path, backbone):
    model = make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification)
    model.save_pretrained(tmp_path / "out")
    model.base_model.save_pretrained(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = "heads_kadapter.KAdapterForSequenceClassification"  # as in any adapter's artifact
    assert written["auto_map"]["AutoModelForSequenceClassification"] == expected
    assert written["architectures"] == ["KAdapterModel"]


def test_no_state_dict_holds_a_frozen_backbones_tensor(tmp_path, backbone):
    model = make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification)
    assert not [key for key in model.state_dict() if "backbone" in key]
    wrapper = torch.nn.ModuleDict({"inner": model})
    assert not [key for key in wrapper.state_dict() if "backbone" in key]
    assert str(wrapper.load_state_dict(wrapper.state_dict())) == "<All keys matched successfully>"


@pytest.mark.thorough
@pytest.mark.slow
def test_under_ddp_and_accelerate_states_hold_and_restore_ours_alone(tmp_path, backbone):
    code = f"""
sys.path[:0] = [{str(ROOT / "tests" / "support")!r}]
import torch
from accelerate import Accelerator
from helpers import batch, bytes_of, make_model, shake
from torch.nn.parallel import DistributedDataParallel
from kadapter import KAdapterForEntityPairClassification
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=0, world_size=1)
model = make_model({backbone!r}, "fac", model_class=KAdapterForEntityPairClassification)
wrapped = DistributedDataParallel(model)
wrapped(**batch(), entity_positions=torch.tensor([[1, 2]] * 3)).logits.sum().backward()
assert not [key for key in wrapped.state_dict() if "backbone" in key]
wrapped.load_state_dict(wrapped.state_dict())
accelerator = Accelerator(cpu=True)
prepared = accelerator.prepare(model)
before = bytes_of(model)
accelerator.save_state({str(tmp_path / "state")!r})
shake(model, seed=5)
accelerator.load_state({str(tmp_path / "state")!r})
assert bytes_of(model) == before
torch.distributed.destroy_process_group()
"""
    run_python(code, tmp_path, package=True)
    saved = load_file(tmp_path / "state" / "model.safetensors")
    assert saved and not [key for key in saved if "backbone" in key]


# ---- the backbone -------------------------------------------------------------------------------------------------


def test_an_unfrozen_backbone_is_saved_and_restored_bit_equal_and_the_card_says_so(tmp_path, backbone):
    model = make_model(backbone, "fac")
    model.backbone.requires_grad_(True)
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=0.1)
    model(**batch()).last_hidden_state.square().mean().backward()
    optimizer.step()
    model.backbone.requires_grad_(False)  # frozen again, and changed all the same
    model.save_pretrained(tmp_path / "out")
    shutil.rmtree(backbone)
    again = KAdapterModel.from_pretrained(tmp_path / "out")
    assert torch.equal(output(again), output(model)) and bytes_of(again) == bytes_of(model)
    assert "changed along and is part of this artifact" in (tmp_path / "out" / "README.md").read_text()
    again.save_adapter(tmp_path / "adapter", "fac")
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "adapter")), output(model))
    with pytest.raises(ValueError, match="a backbone was trained along"):
        make_model(save_backbone(tmp_path / "backbone"), "lin").load_adapter(tmp_path / "out")


def test_a_resized_backbone_is_saved_and_restored_bit_equal(tmp_path, backbone):
    model = make_model(backbone, "fac")
    model.resize_token_embeddings(64, mean_resizing=False)
    model.save_pretrained(tmp_path / "out")
    again = KAdapterModel.from_pretrained(tmp_path / "out", dtype=torch.float32, attn_implementation="eager")
    assert bytes_of(again) == bytes_of(model) and again.backbone.config._attn_implementation == "eager"


def test_an_unfrozen_backbone_of_a_head_with_an_unused_pooler_comes_back(tmp_path):
    module = AutoModel.from_config(tiny_backbone("bert").config).eval()
    assert module.pooler is not None
    model = make_model(module, "fac", model_class=KAdapterForEntityPairClassification)
    model.base_model.backbone.requires_grad_(True)
    model.save_pretrained(tmp_path / "out")
    again = KAdapterForEntityPairClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(output(again.base_model, **batch("bert")), output(model.base_model, **batch("bert")))


def test_the_fingerprint_is_of_what_is_stored(tmp_path):
    module = tiny_backbone()
    module.save_pretrained(tmp_path / "one")
    module.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    torch.save(module.state_dict(), tmp_path / "one" / "spare")
    (tmp_path / "bin").mkdir()
    shutil.copy(tmp_path / "one" / "config.json", tmp_path / "bin")
    torch.save(load_file(tmp_path / "one" / "model.safetensors"), tmp_path / "bin" / "pytorch_model.bin")

    def fingerprint(name, **kwargs):
        return KAdapterModel.from_backbone(tmp_path / name, **kwargs).config.backbone_fingerprint

    expected = fingerprint("one")
    assert {fingerprint("one", dtype=torch.bfloat16), fingerprint("many"), fingerprint("bin")} == {expected}
    loaded = AutoModel.from_pretrained(tmp_path / "one", dtype=torch.bfloat16)
    assert KAdapterModel.from_backbone(loaded).config.backbone_fingerprint == expected
    path = tmp_path / "one" / "model.safetensors"
    stored = bytearray(path.read_bytes())
    stored[-1] ^= 1
    path.write_bytes(stored)
    assert fingerprint("one") != expected


def test_the_fingerprint_is_computed_once_for_all_that_only_compare_it(artifact, monkeypatch):
    def read_again(*args, **kwargs):
        raise AssertionError("the tensors were read again")

    monkeypatch.setattr("kadapter.backbone_kadapter._tensor_digests", read_again)
    assert KAdapterModel.from_pretrained(artifact).config.backbone_fingerprint


def test_a_module_changed_in_memory_is_not_taken_for_its_checkpoint(tmp_path, backbone, caplog):
    module = AutoModel.from_pretrained(backbone)
    with torch.no_grad():
        module.get_input_embeddings().weight[7] += 1
    model = make_model(module, "fac")
    assert model.config.backbone_name_or_path is None and "exists only in memory" in caplog.text
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="pass it as backbone=MODULE_OR_PATH"):
        KAdapterModel.from_pretrained(tmp_path / "out")
    again = KAdapterModel.from_pretrained(tmp_path / "out", backbone=module)
    assert torch.equal(output(again), output(model)) and "only kind and shapes were compared" in caplog.text


def test_a_backbone_given_as_a_module_is_recognised_by_its_checkpoint(tmp_path, artifact, backbone, caplog):
    KAdapterModel.from_pretrained(artifact, backbone=AutoModel.from_pretrained(backbone))
    assert "compared" not in caplog.text
    other = AutoModel.from_pretrained(save_backbone(tmp_path / "other", seed=9))
    with pytest.raises(ValueError, match="has fingerprint"):
        KAdapterModel.from_pretrained(artifact, backbone=other)


def test_another_backbone_of_the_same_shape_is_refused(tmp_path, artifact):
    other = save_backbone(tmp_path / "other", seed=9)
    with pytest.raises(ValueError, match=r"has fingerprint .* pass the right checkpoint as backbone=ID_OR_PATH"):
        KAdapterModel.from_pretrained(artifact, backbone=other)
    with pytest.raises(ValueError, match="was made for another backbone"):
        make_model(other, "lin").load_adapter(artifact)
    with pytest.raises(ValueError, match="has num_hidden_layers=3, and these adapters were made for"):
        KAdapterModel.from_pretrained(artifact, backbone=tiny_backbone(num_hidden_layers=3))


def test_a_moved_backbone_is_found_where_the_user_says(tmp_path, artifact, backbone):
    expected = output(KAdapterModel.from_pretrained(artifact))
    shutil.move(backbone, tmp_path / "elsewhere")
    with pytest.raises(OSError, match="say where it is by backbone=ID_OR_PATH"):
        KAdapterModel.from_pretrained(artifact)
    assert torch.equal(output(KAdapterModel.from_pretrained(artifact, backbone=tmp_path / "elsewhere")), expected)


def test_a_backbone_that_lacks_a_tensor_is_refused(tmp_path, backbone):
    path = tmp_path / "backbone" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("encoder.layer.0.output.dense.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks tensor 'encoder\.layer\.0\.output\.dense\.weight'"):
        KAdapterModel.from_backbone(backbone)


# ---- loading what is on the disk, and no more ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps")
def test_loaded_weights_are_those_in_the_file_itself_and_none_are_drawn_for_them(tmp_path, backbone):
    saved = KAdapterModel.from_backbone(backbone)
    for name in ("fac", "lin"):
        saved.add_adapter(name, small_adapter(hidden_size=16))  # 64 bytes, so that no tensor ends at another byte
        saved.save_adapter(tmp_path / name, name)
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    model = KAdapterModel.from_pretrained(tmp_path / "fac")
    model.load_adapter(str(tmp_path / "lin"))
    assert torch.equal(torch.rand(1), first) and bytes_of(model.adapters) == bytes_of(saved.adapters)
    with open("/proc/self/maps", encoding="utf-8") as lines:
        spans = [line.split()[0].split("-") for line in lines if line.strip().endswith("/model.safetensors")]
    spans = [(int(begin, 16), int(end, 16)) for begin, end in spans]
    for name, one in model.adapters.named_parameters():
        assert any(begin <= one.data_ptr() < end for begin, end in spans), name
        assert one.data_ptr() % 64 == 0, name


@pytest.mark.slow
def test_weights_at_any_byte_of_a_file_come_back_bit_equal(backbone, artifact):
    expected = output(KAdapterModel.from_pretrained(artifact))
    for more in range(0, 64, 8):
        path = artifact / "model.safetensors"
        save_file(load_file(path), path, metadata={"more": " " * more})
        assert torch.equal(output(KAdapterModel.from_pretrained(artifact)), expected), more


def test_an_adapters_hash_is_the_same_whether_it_was_noted_or_not(artifact):
    noted = KAdapterModel.from_pretrained(artifact).config.adapters["fac"]["source"]["hash"]
    path = artifact / "model.safetensors"
    save_file(load_file(path), path)
    assert KAdapterModel.from_pretrained(artifact).config.adapters["fac"]["source"]["hash"] == noted


def test_weights_changed_behind_their_noted_hash_are_never_left_out_of_a_save(tmp_path, artifact):
    rewrite(artifact, lambda tensors: {key: one + 1 for key, one in tensors.items()})
    model = KAdapterForEntityPairClassification.from_pretrained(artifact, verify=False)
    model.save_pretrained(tmp_path / "out", bundle_adapters=False)
    assert KEY.replace("adapters", "kadapter.adapters") in load_file(tmp_path / "out/model.safetensors")


def test_each_file_of_weights_is_opened_once(artifact, monkeypatch):
    opened = []

    def open_one(path, **keywords):
        opened.append(path)
        return safe_open(path, **keywords)

    monkeypatch.setattr("kadapter.artifacts_kadapter.safe_open", open_one)
    KAdapterModel.from_pretrained(artifact)
    assert opened == [str(artifact / "model.safetensors")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinite_values_are_refused_by_file_and_tensor(tmp_path, backbone, artifact, value):
    def spoil(tensors):
        tensors[KEY][0, :2] = torch.tensor([value, -value])

    rewrite(artifact, spoil)
    for load in (KAdapterModel.from_pretrained, make_model(backbone, "lin").load_adapter):
        with pytest.raises(ValueError, match=f"model.safetensors: tensor '{KEY}' holds NaN or infinite values"):
            load(str(artifact))


def test_values_whose_sum_is_too_large_for_their_dtype_are_taken(artifact):
    rewrite(artifact, lambda tensors: {**tensors, KEY: torch.full_like(tensors[KEY], 3e38)})
    model = KAdapterModel.from_pretrained(artifact, verify=False)
    weight = model.adapters["fac"].layers[0].down_project.weight
    assert torch.equal(weight, torch.full_like(weight, 3e38))


# ---- strict loading -----------------------------------------------------------------------------------------------


def test_a_missing_an_extra_a_renamed_and_a_misshapen_tensor_are_named(artifact):
    kept = (artifact / "model.safetensors").read_bytes()
    for change, sentence in (
        (lambda tensors: {key: one for key, one in tensors.items() if key != KEY}, f"lacks tensor '{KEY}'"),
        (lambda tensors: tensors | {"adapters.fac.more": torch.ones(1)}, r"has unknown tensor 'adapters.fac.more'"),
        (lambda tensors: tensors | {"more": torch.ones(1)}, "has unknown tensor 'more'"),
        (
            lambda tensors: {key.replace("down", "sink"): one for key, one in tensors.items()},
            "down_project.bias' and 5 more",
        ),
        (lambda tensors: tensors | {KEY: torch.ones(3, 3)}, f"tensor '{KEY}' has shape"),
        (lambda tensors: tensors | {KEY: tensors[KEY] * float("nan")}, f"tensor '{KEY}' holds NaN"),
        (lambda tensors: tensors | {KEY: tensors[KEY] / 0}, f"tensor '{KEY}' holds NaN or infinite"),
    ):
        rewrite(artifact, change)
        with pytest.raises(ValueError, match=sentence):
            KAdapterModel.from_pretrained(artifact)
        (artifact / "model.safetensors").write_bytes(kept)


@pytest.mark.parametrize("length", [0, 5, 400, -1])
def test_cut_off_weights_are_refused(artifact, length):
    path = artifact / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        KAdapterModel.from_pretrained(artifact)


def test_load_adapter_and_composing_are_as_strict_and_load_all_or_nothing(tmp_path, backbone):
    make_model(backbone, "fac", "lin").save_pretrained(tmp_path / "both")
    make_model(backbone, "more").save_pretrained(tmp_path / "more")
    model = make_model(backbone, "own")
    rewrite(tmp_path / "both", lambda tensors: tensors | {"adapters.lin.layers.0.up_project.bias": torch.ones(3)})
    rewrite(tmp_path / "more", lambda tensors: tensors | {"adapters.other.x": torch.ones(3)})
    with pytest.raises(ValueError, match="has shape"):
        model.load_adapter(tmp_path / "both")
    assert list(model.adapters) == ["own"] == list(model.config.adapters)
    for load in (model.load_adapter, lambda path: KAdapterModel.from_pretrained([tmp_path / "both", path])):
        with pytest.raises(ValueError, match=r"has unknown tensor 'adapters\.other\.x'"):
            load(tmp_path / "more")


def test_a_damaged_backbone_is_told(tmp_path, backbone):
    path = tmp_path / "backbone" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"is damaged or cut short .*; fetch the backbone again"):
        KAdapterModel.from_backbone(backbone)
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match=r"is damaged or cut short .*; fetch the backbone again"):
        KAdapterModel.from_backbone(backbone)


def test_a_configuration_that_is_missing_damaged_or_of_another_model_is_told(artifact, backbone):
    with pytest.raises(ValueError, match="holds a model of type 'roberta', not 'kadapter'; use from_backbone"):
        KAdapterModel.from_pretrained(backbone)
    for text, sentence in (("{", "is not a JSON file"), ("[]", "a model of type 'list'"), ("{}", "of type None")):
        (artifact / "config.json").write_text(text)
        with pytest.raises(ValueError, match=sentence):
            KAdapterModel.from_pretrained(artifact)
    (artifact / "config.json").unlink()
    with pytest.raises(OSError, match=r"no config\.json of a K-Adapter artifact"):
        KAdapterModel.from_pretrained(artifact)


def test_a_configuration_of_nonsense_is_refused_where_the_weights_tell_nothing(artifact):
    save_file(load_file(artifact / "model.safetensors"), artifact / "model.safetensors")
    for changes in ({"adapters": [1]}, {"fusion": "concat "}, {"format_version": 99}, {"adapters": {"a.b": {}}}):
        kept = (artifact / "config.json").read_text()
        edit(artifact, **changes)
        with pytest.raises(ValueError, match="describes no K-Adapter model"):
            KAdapterModel.from_pretrained(artifact)
        (artifact / "config.json").write_text(kept)


def test_missing_weights_and_places_are_told(tmp_path, artifact):
    (artifact / "model.safetensors").unlink()
    for place in (artifact, tmp_path / "nowhere"):
        with pytest.raises(OSError, match=r"of a K-Adapter artifact at .* check its id or path"):
            KAdapterModel.from_pretrained(place)


def test_what_the_weights_were_made_for_can_not_be_chosen_anew(artifact):
    for keyword, value in (
        ("adapters", ["lin"]),
        ("backbone_fingerprint", "0"),
        ("hidden_size", 64),
    ):
        for loader in (KAdapterModel, AutoModel):
            with pytest.raises(ValueError, match=rf"{keyword}=.* can't be"):
                loader.from_pretrained(artifact, **{keyword: value})


def test_an_unknown_keyword_is_told(artifact, tmp_path):
    for loader in (KAdapterModel, AutoModel):
        with pytest.raises(TypeError, match="from_pretrained has no keyword 'nonsense'"):
            loader.from_pretrained(artifact, nonsense=1)
    with pytest.raises(TypeError, match="save_pretrained has no keyword 'nonsense'"):
        KAdapterModel.from_pretrained(artifact).save_pretrained(tmp_path / "out", nonsense=1)
    with pytest.raises(ValueError, match="dtype='float13' is no dtype"):
        KAdapterModel.from_pretrained(artifact, dtype="float13")


def test_a_configuration_edited_by_hand_does_not_change_what_the_weights_were_made_for(artifact, caplog):
    adapters = json.loads((artifact / "config.json").read_text())["adapters"]
    adapters["fac"]["layers"] = [0, 1, 3]
    expected = output(KAdapterModel.from_pretrained(artifact))
    edit(artifact, adapters=adapters, classifier_dropout=0.3)
    again = KAdapterModel.from_pretrained(artifact)
    assert torch.equal(output(again), expected) and again.config.classifier_dropout == 0.3
    assert "['adapters'] in config.json were edited" in caplog.text


# ---- saving -------------------------------------------------------------------------------------------------------


def test_an_artifact_holds_what_it_needs_and_no_name_that_peft_would_read(tmp_path, artifact):
    names = {one.name for one in artifact.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", *CODE}
    assert (artifact / "model.safetensors").stat().st_mode == (artifact / "config.json").stat().st_mode
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []


def test_the_card_is_the_users_once_its_mark_is_gone(artifact):
    model, card = KAdapterModel.from_pretrained(artifact), artifact / "README.md"
    model.save_pretrained(artifact)
    assert "| fac | [0, 2, 4] | 12 |" in card.read_text()
    card.write_text("# My adapter")
    model.save_pretrained(artifact)
    assert card.read_text() == "# My adapter"


def test_the_card_tells_data_and_results(tmp_path, backbone):
    model = make_model(backbone, "fac")
    results = {"eval_uas": 0.71236, "epochs": 3}
    model.config.adapters["fac"]["training"] = {"corpus": "fewrel", "objective": "factual", "results": results}
    model.save_adapter(tmp_path / "out", "fac")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "fewrel | factual | eval_uas 0.7124, epochs 3 |" in text and str(tmp_path) not in text
    assert "\n# Knowledge adapter fac\n" in text and "\nmodel = AutoModel.from_pretrained(" in text


def test_the_card_of_a_model_with_a_head_tells_the_head_and_its_auto_class(tmp_path, backbone):
    make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification).save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "\n# Entity pair classification with knowledge adapter fac\n" in text
    assert "`KAdapterForEntityPairClassification`" in text
    assert "\nmodel = AutoModelForSequenceClassification.from_pretrained(" in text


def test_nothing_is_saved_of_a_model_with_nan(artifact):
    model = KAdapterModel.from_pretrained(artifact)
    expected = output(model)
    with torch.no_grad():
        model.adapters["fac"].layers[0].up_project.bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"up_project\.bias' holds NaN or infinite values, so nothing was saved"):
        model.save_pretrained(artifact)
    assert torch.equal(output(KAdapterModel.from_pretrained(artifact)), expected)


def test_a_file_is_no_directory_to_save_to(tmp_path, backbone):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="it is a file; name a directory"):
        make_model(backbone, "fac").save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_only_the_main_process_writes(tmp_path, backbone):
    make_model(backbone, "fac").save_pretrained(tmp_path / "out", is_main_process=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_full_disk_leaves_what_was_saved_before(tmp_path, artifact):
    expected = output(KAdapterModel.from_pretrained(artifact))
    names = {one.name for one in artifact.iterdir()}
    told = run_processes(save_on_a_full_disk, [artifact, tmp_path / "new"], tmp_path / "printed")
    assert told.count("what was saved there before is untouched: free some space") == 2
    assert torch.equal(output(KAdapterModel.from_pretrained(artifact)), expected)
    assert {one.name for one in artifact.iterdir()} == names and not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path, backbone):
    old, new = make_model(backbone, "fac"), make_model(backbone, "lin", "fac", fusion="concat")
    old.save_pretrained(tmp_path / "old")
    new.save_pretrained(tmp_path / "new")
    old.save_pretrained(tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    possible = [bytes_of(one) for one in (old, new)]
    chance = random.Random(0)
    child = None
    for _ in range(12):
        if child is None:
            (child,) = start_processes(
                save_without_end, [tmp_path / one for one in ("new", "old", "out")], tmp_path / "pipe"
            )
            printed = open(tmp_path / "pipe", encoding="utf-8")  # noqa: SIM115 (open as long as the process runs)
            assert printed.readline() == "saved\n"
        time.sleep(chance.random() * 0.1)
        os.kill(child.pid, signal.SIGSTOP)  # what a kill at this moment leaves to be read
        found = bytes_of(KAdapterModel.from_pretrained(tmp_path / "out"))
        assert found in possible
        if chance.random() < 0.25:
            kill_processes([child])
            printed.close()
            child = None
        else:
            os.kill(child.pid, signal.SIGCONT)
    if child is not None:
        kill_processes([child])
        printed.close()


def test_what_a_killed_save_left_behind_is_swept_away_a_day_later(artifact):
    old, new = (artifact / f".{artifact.name}.{one}.partial" for one in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    KAdapterModel.from_pretrained(artifact).save_pretrained(artifact)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("replaced", ["model.safetensors", "config.json"])
def test_weights_and_configuration_of_two_saves_make_no_mix(tmp_path, backbone, replaced, caplog):
    models = {
        "one": make_model(backbone, "fac"),
        "head": make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification, fusion="concat"),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    shutil.copytree(tmp_path / "one", tmp_path / "torn")
    shutil.copy(tmp_path / "head" / replaced, tmp_path / "torn")
    told = models["head" if replaced == "model.safetensors" else "one"]
    assert bytes_of(KAdapterModel.from_pretrained(tmp_path / "torn")) == bytes_of(told.base_model)
    assert "is of another save" in caplog.text


def test_saving_the_same_model_twice_tells_the_same_configuration(tmp_path, backbone):
    model = make_model(backbone, "fac")
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
    assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()
    assert KAdapterConfig.from_pretrained(tmp_path / "one").adapters == model.config.adapters


def test_a_head_from_elsewhere_is_saved_for_its_own_class(tmp_path, backbone):
    class Own(KAdapterForEntityPairClassification):
        pass

    model = make_model(backbone, "fac", model_class=Own)
    model.save_pretrained(tmp_path / "out")
    assert bytes_of(Own.from_pretrained(tmp_path / "out")) == bytes_of(model)
    written = (tmp_path / "out" / "config.json").read_text()
    assert "Own" in written and "Own" not in str(json.loads(written)["auto_map"])


def test_device_map_and_loading_info_are_understood(artifact):
    model, info = KAdapterModel.from_pretrained(artifact, device_map="cpu", output_loading_info=True)
    assert not any(info.values()) and isinstance(model.adapters["fac"].config.layers, list)
    assert small_adapter().layers == model.adapters["fac"].config.layers
