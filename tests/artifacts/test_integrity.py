"""What is damaged is told, each time that it is asked for, and never taken for what was saved."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import bytes_of, make_model, save_backbone, tiny_backbone
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from kadapter import KAdapterForEntityPairClassification, KAdapterModel
from kadapter.artifacts_kadapter import read_artifact

pytestmark = pytest.mark.slow

KEY = "adapters.fac.layers.0.down_project.weight"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("encoder") / "backbone")


def rewrite(artifact, change):
    """Change an artifact's tensors by hand, keeping what its weights tell of themselves."""
    path = artifact / "model.safetensors"
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path, metadata=metadata)


def test_an_artifact_that_failed_its_check_fails_it_again(tmp_path, backbone):
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    rewrite(tmp_path / "fac", lambda tensors: tensors | {KEY: tensors[KEY] * float("nan")})
    part = read_artifact(tmp_path / "fac")
    for _ in range(3):
        with pytest.raises(ValueError, match=f"tensor '{KEY}' holds NaN"):
            part.check()


# ---- tensors that were changed -----------------------------------------------------------------------------------


def flipped(one):
    """A tensor with one bit of its last number's mantissa flipped, which is finite and hardly another number."""
    numbers = one.clone().flatten().view(torch.int32)
    numbers[-1] ^= 1
    return numbers.view(torch.float32).view(one.shape)


def swaps(tensors):
    """All swaps of two tensors of one shape that differ."""
    names = sorted(tensors)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            alike = tensors[first].shape == tensors[second].shape
            if alike and not torch.equal(tensors[first], tensors[second]):
                yield tensors | {first: tensors[second], second: tensors[first]}


@pytest.fixture(scope="module")
def head(tmp_path_factory, backbone):
    """A model with adapters, a learned fusion and a head, and a backbone that was trained along."""
    folder = tmp_path_factory.mktemp("head") / "head"
    kind = KAdapterForEntityPairClassification
    model = make_model(backbone, "fac", "lin", model_class=kind, fusion="concat", num_labels=3)
    model.base_model.backbone.requires_grad_(True)
    model.save_pretrained(folder)
    return folder


def test_every_tensor_with_a_flipped_bit_is_refused(head, tmp_path):
    tensors = load_file(head / "model.safetensors")
    kinds = {}
    for key, one in tensors.items():
        kinds.setdefault((key.removeprefix("kadapter.").split(".")[:2][0], one.dim()), key)
    assert {kind for kind, _ in kinds} == {"adapters", "fusion", "head", "backbone"}
    shutil.copytree(head, tmp_path / "out")
    for key in kinds.values():
        rewrite(tmp_path / "out", lambda _, key=key: tensors | {key: flipped(tensors[key])})
        part = read_artifact(tmp_path / "out")
        with pytest.raises(ValueError, match=r"model.safetensors: the tensors of .* are not those that were saved"):
            part.check()
        part.check(verify=False)


@pytest.mark.thorough
@pytest.mark.slow
def test_swapped_tensors_are_refused(head, tmp_path):
    tensors = load_file(head / "model.safetensors")
    shutil.copytree(head, tmp_path / "out")
    for changed in [*swaps(tensors)][::97]:
        rewrite(tmp_path / "out", lambda _, changed=changed: changed)
        with pytest.raises(ValueError, match="are not those that were saved"):
            read_artifact(tmp_path / "out").check()


def test_changed_tensors_are_refused_by_all_that_load_unless_told_otherwise(tmp_path, backbone):
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    rewrite(tmp_path / "fac", lambda tensors: tensors | {KEY: flipped(tensors[KEY])})
    model = make_model(backbone, "lin")
    for load in (KAdapterModel.from_pretrained, model.load_adapter):
        with pytest.raises(ValueError, match=r"the tensors of adapter 'fac' are not those .* verify=False"):
            load(tmp_path / "fac")
    assert list(model.adapters) == ["lin"]
    assert model.load_adapter(tmp_path / "fac", verify=False) == ["fac"]
    assert "fac" in KAdapterModel.from_pretrained(tmp_path / "fac", verify=False).adapters


def test_a_record_changed_within_the_weights_is_refused(tmp_path, backbone):
    make_model(backbone, "fac", fusion="gated").save_pretrained(tmp_path / "fac")
    path = tmp_path / "fac" / "model.safetensors"
    for old, new in ((b"roberta", b"roberts"), (b"gated", b"concat"[:5]), (b"[0, 2, 4]", b"[0, 2, 3]")):
        kept = path.read_bytes()
        assert old in kept
        path.write_bytes(kept.replace(old, new))
        with pytest.raises(ValueError, match="damaged or cut short"):
            KAdapterModel.from_pretrained(tmp_path / "fac")
        path.write_bytes(kept)


def test_artifacts_from_before_there_were_hashes_load(tmp_path, head, backbone):
    shutil.copytree(head, tmp_path / "old")
    path = tmp_path / "old" / "model.safetensors"
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    for missing in (["checksums"], ["checksums", "hashes"]):
        save_file(load_file(path), path, metadata={key: one for key, one in metadata.items() if key not in missing})
        kind = KAdapterForEntityPairClassification
        assert bytes_of(kind.from_pretrained(tmp_path / "old")) == bytes_of(kind.from_pretrained(head))


# ---- the memory of fingerprints ----------------------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "kadapter" / "fingerprints"


@pytest.mark.parametrize("text", ["", "0123456789abcdef", "g" * 64, "f" * 63 + "\n", "0" * 128])
def test_a_cut_or_foreign_memory_is_no_fingerprint(tmp_path, backbone, memory, text):
    expected = make_model(backbone, "fac").config.backbone_fingerprint
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    for path in memory.iterdir():
        path.write_text(text)
    assert KAdapterModel.from_pretrained(tmp_path / "fac").config.backbone_fingerprint == expected
    assert KAdapterModel.from_backbone(backbone).config.backbone_fingerprint == expected
    assert [path.read_text() for path in memory.iterdir()] == [expected]


@pytest.mark.parametrize("how", ["in place", "by another file"])
def test_a_backbone_replaced_by_one_of_equal_size_and_time_is_another(tmp_path, memory, how):
    backbone = Path(save_backbone(tmp_path / "backbone"))
    model = make_model(str(backbone), "fac")
    model.save_pretrained(tmp_path / "fac")
    tiny_backbone(seed=1).save_pretrained(tmp_path / "other")
    path, told = backbone / "model.safetensors", os.stat(backbone / "model.safetensors")
    content = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert len(content) == told.st_size
    if how == "in place":
        path.write_bytes(content)
    else:
        (backbone / "new").write_bytes(content)
        os.replace(backbone / "new", path)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    with pytest.raises(ValueError, match="has fingerprint"):
        KAdapterModel.from_pretrained(tmp_path / "fac")
    assert make_model(str(backbone), "fac").config.backbone_fingerprint != model.config.backbone_fingerprint


def test_what_is_pinned_is_read_in_full_whatever_is_remembered(tmp_path, backbone, memory):
    expected = make_model(backbone, "fac").config.backbone_fingerprint
    for path in memory.iterdir():
        path.write_text("0" * 64)
    assert KAdapterModel.from_backbone(backbone).config.backbone_fingerprint == expected


# ---- parts without a fingerprint ---------------------------------------------------------------------------------


def unpinned(folder, backbone, name, **changes):
    """An artifact that tells no fingerprint of its backbone."""
    model = make_model(backbone, name)
    model.config.backbone_fingerprint = None
    for key, value in changes.items():
        setattr(model.config, key, value)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("first", [True, False])
def test_a_composite_is_pinned_by_the_parts_that_are(tmp_path, backbone, first, caplog):
    pinned = make_model(backbone, "fac")
    pinned.save_pretrained(tmp_path / "fac")
    part = unpinned(tmp_path / "lin", backbone, "lin", backbone_name_or_path="org/elsewhere")
    with caplog.at_level(logging.WARNING):
        model = KAdapterModel.from_pretrained([part, tmp_path / "fac"] if first else [tmp_path / "fac", part])
    for field in ("backbone_fingerprint", "backbone_name_or_path", "backbone_revision"):
        assert getattr(model.config, field) == getattr(pinned.config, field)
    assert "'org/elsewhere' has no fingerprint; that they are the same is not verified" in caplog.text


@pytest.mark.parametrize("first", ["lin", "fac"])
def test_auto_model_composes_with_a_part_that_is_pinned_whichever_is_named_first(tmp_path, first):
    backbone = save_backbone(tmp_path / "backbone")
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    make_model(tiny_backbone(), "lin").save_pretrained(tmp_path / "lin")  # beside one that was only in memory
    other = {"lin": "fac", "fac": "lin"}[first]
    model = AutoModel.from_pretrained(tmp_path / first, compose_with=[tmp_path / other])
    assert list(model.adapters) == [first, other] and model.config.backbone_name_or_path == backbone


def test_parts_pinned_to_two_backbones_are_refused_behind_one_that_is_pinned_to_none(tmp_path, backbone):
    other = save_backbone(tmp_path / "other", seed=1)
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    make_model(other, "far").save_pretrained(tmp_path / "far")
    part = unpinned(tmp_path / "lin", backbone, "lin")
    with pytest.raises(ValueError, match="was made for another backbone"):
        KAdapterModel.from_pretrained([part, tmp_path / "fac", tmp_path / "far"])
