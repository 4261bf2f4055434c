"""The tokenizer of an artifact is its backbone's, whole, and never another backbone's or a program."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers import make_model, save_backbone, tiny_tokenizer
from huggingface_hub.constants import HF_HUB_CACHE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from kadapter import KAdapterModel
from kadapter.commands._composing import compose

pytestmark = pytest.mark.slow

SPECIAL = {
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
}
CODE = "import pathlib\npathlib.Path('ran').touch()\nraise SystemExit\n"


def minimal_tokenizer(folder, family="roberta", words=("a", "b")):
    """Lay a tokenizer as roberta-large's repository does: its settings name neither class nor special tokens."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL[family], *words])}
    if family == "bert":
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL[family])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump({"model_max_length": 512}, file)


@pytest.fixture(params=["roberta", "bert"])
def backbone(tmp_path, request):
    path = save_backbone(tmp_path / "backbone", request.param)
    minimal_tokenizer(path, request.param)
    return path


def special(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.pad_token, tokenizer.mask_token, tokenizer("a b").input_ids


def test_a_saved_tokenizer_pads_and_masks_as_the_backbones_does(tmp_path, backbone):
    expected = special(backbone)
    assert None not in expected
    model = make_model(backbone, "fac", "lin")
    model.save_pretrained(tmp_path / "both")
    for name in ("fac", "lin"):
        model.save_adapter(tmp_path / name, name)
        assert special(tmp_path / name) == expected
    compose([tmp_path / "fac", tmp_path / "lin"], tmp_path / "composed")
    shutil.move(backbone, tmp_path / "gone")
    for name in ("both", "composed"):
        assert special(tmp_path / name) == expected


def test_an_older_artifacts_tokenizer_without_special_tokens_is_mended_by_the_next_save(tmp_path, backbone):
    model = make_model(backbone, "fac")
    model.save_pretrained(tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(backbone, name), tmp_path / "out")
    model.save_pretrained(tmp_path / "out")
    assert special(tmp_path / "out") == special(backbone)


@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize("saved_by", ["model", "tokenizer"])
def test_no_tokenizer_of_another_backbone_is_kept(tmp_path, saved_by, at_hand):
    ours, theirs = save_backbone(tmp_path / "ours", "roberta"), save_backbone(tmp_path / "theirs", "bert", seed=1)
    minimal_tokenizer(theirs, "bert", ("a", "b", "c"))
    if at_hand:
        minimal_tokenizer(ours)
    if saved_by == "model":
        make_model(theirs, "fac").save_pretrained(tmp_path / "out")
    elif at_hand:
        AutoTokenizer.from_pretrained(theirs).save_pretrained(tmp_path / "out")
    make_model(ours, "fac").save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists() == at_hand
    if at_hand:
        assert special(tmp_path / "out") == special(ours)


def test_a_tokenizer_with_tokens_of_the_users_own_stays(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    minimal_tokenizer(backbone)
    model, tokenizer = make_model(backbone, "fac"), AutoTokenizer.from_pretrained(backbone)
    tokenizer.add_tokens(["[E1]", "[E2]"])
    tokenizer.save_pretrained(tmp_path / "before")
    for name in ("before", "after"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        model.save_pretrained(tmp_path / name)
        assert AutoTokenizer.from_pretrained(tmp_path / name)("[E2]").input_ids == tokenizer("[E2]").input_ids
    model.save_pretrained(tmp_path / "given", tokenizer=tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "given").get_vocab() == tokenizer.get_vocab()


def test_a_damaged_or_missing_tokenizer_hinders_no_save(tmp_path, caplog):
    backbone = save_backbone(tmp_path / "backbone")
    model = make_model(backbone, "fac")
    for text in (None, "{", "[]", '{"model": {"type": "none"}}'):
        if text is not None:
            (tmp_path / "backbone" / "tokenizer.json").write_text(text)
        model.save_pretrained(tmp_path / "out")
        assert not (tmp_path / "out" / "tokenizer.json").exists()
        assert ("can't be read" in caplog.text) == (text is not None)


# ---- what a part brings ------------------------------------------------------------------------------------------


def lay_code(part, tokenizer_class=None):
    """Let everything in an artifact that can name code name code of its own, which leaves a mark when it is run."""
    for name in ("evil", "modeling_kadapter", "configuration_kadapter"):
        (part / f"{name}.py").write_text(CODE)
    settings = json.loads((part / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
    settings["chat_template"] = "{{ messages }}"
    settings |= {"tokenizer_class": tokenizer_class} if tokenizer_class else {}
    (part / "tokenizer_config.json").write_text(json.dumps(settings))
    (part / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((part / "config.json").read_text())
    config["custom_pipelines"] = {"text-classification": {"impl": "evil.Pipeline", "pt": ["AutoModel"]}}
    config["auto_map"] |= {"AutoTokenizer": ["evil.EvilTokenizer", None], "AutoModel": "evil.Model"}
    config["backbone_config"]["auto_map"] = {"AutoConfig": "evil.Config"}
    config |= {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}
    (part / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("tokenizer_class", [None, "EvilTokenizer"])
def test_nothing_that_names_code_is_taken_from_a_part(tmp_path, tokenizer_class, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = save_backbone(tmp_path / "backbone")
    for name in ("fac", "lin"):
        make_model(backbone, name).save_pretrained(tmp_path / name)
    tiny_tokenizer(tmp_path / "fac")
    tiny_tokenizer(tmp_path / "lin")
    lay_code(tmp_path / "fac", tokenizer_class)
    compose([tmp_path / "fac", tmp_path / "lin"], tmp_path / "both")
    KAdapterModel.from_pretrained(tmp_path / "fac").save_adapter(tmp_path / "again", "fac")
    for name in ("both", "again"):
        text = "".join(path.read_text() for path in (tmp_path / name).iterdir() if path.suffix != ".safetensors")
        assert "evil" not in text.lower() and "messages" not in text
        assert not (tmp_path / name / "chat_template.jinja").exists()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "both", trust_remote_code=True)
    assert loaded("ada").input_ids == [0, 8, 2] and not (tmp_path / "ran").exists()


def test_a_new_directory_is_not_taken_for_a_repository_of_that_name(tmp_path, monkeypatch):
    repository = Path(HF_HUB_CACHE) / "models--org--kadapter-fac"  # as the Hub's client keeps it
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    tiny_tokenizer(snapshot)
    model = make_model(save_backbone(tmp_path / "backbone"), "fac")  # which has no tokenizer
    monkeypatch.chdir(tmp_path)
    try:
        model.save_pretrained("org/kadapter-fac")
    finally:
        shutil.rmtree(repository)
    assert not list((tmp_path / "org" / "kadapter-fac").glob("tokenizer*.json"))
