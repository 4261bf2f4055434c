"""`kadapter inspect`, `verify` and `predict` on directories: what an artifact is, and what it answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from helpers import ASK, ROOT, make_model, run_python, save_backbone, shake, tiny_backbone
from safetensors.torch import load_file, save_file
from tiny_decoders import small_prenorm
from tiny_runs import tokenizer_of
from transformers import pipeline
from typer.testing import CliRunner

import kadapter
from kadapter import EntityEmbeddings, KAdapterModel, KnowledgeMapConfig
from kadapter.commands import app

TEXT = "Mira Voss was born in Tarnstad on the Kell."
MARKED = "[[Mira Voss]] was born in [[Tarnstad]] on the Kell."
SPANS = [(0, 9), (22, 30)]
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
HEADS = {
    "pair": "EntityPairClassification",
    "types": "EntityClassification",
    "parser": "DependencyParsing",
    "text": "SequenceClassification",
    "tokens": "TokenClassification",
    "words": "MaskedLM",
    "answers": "QuestionAnswering",
}
RESULTS = {"corpus": "trex", "objective": "factual", "results": {"micro_f1": 0.5}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two adapters, and an artifact of each head."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = tokenizer_of([TEXT] * 4)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    both = make_model(backbone, "fac", "lin")
    both.config.adapters["fac"]["training"] = RESULTS
    for name in ("fac", "lin"):
        both.save_adapter(folder / f"kadapter-{name}", name)
    for name, head in HEADS.items():
        fields = {"lm_head": "transform"} if name == "words" else LABELS
        model = make_model(backbone, "fac", model_class=getattr(kadapter, f"KAdapterFor{head}"), **fields)
        shake(model, std=0.1).save_pretrained(folder / name)
    tiny_backbone(seed=8, vocab_size=len(tokenizer), max_position_embeddings=48).save_pretrained(folder / "other")
    return folder


@pytest.fixture
def copied(parts, tmp_path):
    return Path(shutil.copytree(parts / "pair", tmp_path / "pair"))


def run(*words, **options):
    return CliRunner().invoke(app, [str(word) for word in words], **options)


def printed(*words):
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def sentence(result):
    """What a refused command says: a line on stderr, and no traceback."""
    assert result.exit_code == 1, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("kadapter: ") and "Traceback" not in result.output
    return last


# ---- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_shows_adapters_backbone_fusion_head_and_sizes(parts):
    shown = json.loads(printed("inspect", parts / "pair", "--json"))
    model = kadapter.KAdapterForEntityPairClassification.from_pretrained(parts / "pair")
    adapter, head = shown["adapters"]["fac"], shown["head"]
    assert adapter["parameters"] == sum(one.numel() for one in model.base_model.adapters["fac"].parameters())
    assert adapter["bytes"] == 4 * adapter["parameters"] and adapter["dtype"] == "F32"
    assert (adapter["kind"], adapter["layers"], adapter["hidden_size"]) == ("k_adapter", [0, 2, 4], 12)
    assert head["class"] == "KAdapterForEntityPairClassification" and head["labels"] == ["born", "died", "works"]
    assert head["parameters"] == sum(one.numel() for one in model.head.parameters())
    assert shown["fusion"] == {"name": "add", "parameters": 0, "bytes": 0}
    assert shown["backbone"]["fingerprint"] == model.config.backbone_fingerprint
    assert shown["parameters"] == adapter["parameters"] + head["parameters"]
    assert adapter["hash"] == model.config.adapters["fac"]["source"]["hash"]


def test_inspect_says_below_what_an_adapter_is_silent_and_counts_its_weights(parts, tmp_path):
    model = KAdapterModel.from_backbone(parts / "backbone")
    model.add_adapter("facts", small_prenorm(silent_below=0.2))
    model.save_adapter(tmp_path / "facts", "facts")
    number = sum(weight.numel() for weight in model.adapters.parameters())
    shown = printed("inspect", tmp_path / "facts")
    assert "adapter facts: prenorm, layers [0, 2, 4], inner width 16, 2 blocks, silent below 0.2" in shown
    assert f"  {number:,} parameters, " in shown


def test_inspect_shows_recorded_results_and_says_what_is_not_there(parts):
    lines = printed("inspect", parts / "kadapter-fac").splitlines()
    assert lines[0] == f"{parts / 'kadapter-fac'}: KAdapterModel"
    assert lines[1].startswith(f"backbone: {parts / 'backbone'}, revision -, fingerprint ")
    assert "adapter fac: k_adapter, layers [0, 2, 4], inner width 12, 2 blocks" in lines
    assert "  trained on trex by the objective factual" in lines and "  micro_f1 0.5000" in lines
    assert "head: none" in lines and "fusion: add, no parameters" in lines


def test_inspect_names_the_table_that_a_map_was_made_for_and_a_table_is_no_artifact(parts, tmp_path):
    table = EntityEmbeddings(["Q1", "Q2"], torch.eye(2), "wikidata")
    table.save_pretrained(tmp_path / "table")
    table = EntityEmbeddings.from_pretrained(tmp_path / "table")
    model = KAdapterModel.from_backbone(parts / "backbone")
    model.add_adapter("wikidata", KnowledgeMapConfig.for_table(table))
    model.save_adapter(tmp_path / "map", "wikidata")
    known = f"  entities of {tmp_path / 'table'}, revision -, 2 wide, sha256 {table.sha256[:12]}"
    assert known in printed("inspect", tmp_path / "map").splitlines()
    message = sentence(run("inspect", tmp_path / "table"))
    assert "holds a table of entity embeddings, and no adapter; `kadapter verify` checks it, EntityEmb" in message


def test_inspect_shows_each_part_of_a_shorthand_and_what_a_composite_refers_to(parts, tmp_path):
    name = str(parts / "kadapter-fac+lin")
    shown = json.loads(printed("inspect", name, "--json"))
    assert [list(part["adapters"]) for part in shown["parts"]] == [["fac"], ["lin"]]
    model = kadapter.KAdapterForTokenClassification.from_pretrained(name, **LABELS)
    model.save_pretrained(tmp_path / "head", bundle_adapters=False)
    (fac, lin) = json.loads(printed("inspect", tmp_path / "head", "--json"))["adapters"].values()
    assert fac["parameters"] == 0 and fac["source"]["name_or_path"] == str(parts / "kadapter-fac")
    assert f"held by {parts / 'kadapter-lin'}" in printed("inspect", tmp_path / "head")
    assert lin["hash"] == shown["parts"][1]["adapters"]["lin"]["hash"]


def test_inspect_prints_no_control_characters_of_an_artifact(copied):
    config = json.loads((copied / "config.json").read_text())
    config["id2label"]["0"] = "\x1b[31mred"
    (copied / "config.json").write_text(json.dumps(config))
    assert "\x1b" not in printed("inspect", copied) and "[31mred" in printed("inspect", copied)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", None, "no config.json of a K-Adapter artifact at"),
        ("config.json", b"{", "is not a JSON file"),
        ("config.json", b'{"model_type": "bert"}', "holds a model of type 'bert'"),
        ("config.json", b'{"model_type": "kadapter", "adapters": {"a": 3}}', "describe no K-Adapter model"),
        ("model.safetensors", b"12345678 cut", "is damaged or cut short"),
        ("model.safetensors", b"\x0a\x00\x00\x00\x00\x00\x00\x00" + b'{"a": {} }', "is damaged"),
        ("model.safetensors", None, "no model.safetensors of a K-Adapter artifact"),
    ],
)
def test_inspect_refuses_what_is_no_artifact(copied, file, content, reason):
    (copied / file).unlink()
    if content is not None:
        (copied / file).write_bytes(content)
    assert reason in sentence(run("inspect", copied))


# ---- verify ---------------------------------------------------------------------------------------------------------


def checked(*words):
    result = run("verify", *words, "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == (0 if answer["verified"] else 1)
    return {check["check"]: (check["result"], check["detail"]) for check in answer["checks"]}


def test_an_artifact_as_it_was_saved_is_verified(parts):
    found = checked(parts / "pair", "--backbone", parts / "backbone")
    assert {result for result, _ in found.values()} == {"ok"}
    assert list(found) == ["record", "tensors", "code", "backbone"]
    assert "11 files are equal to those of this kadapter" in found["code"][1]
    assert "those of which checksums were saved" in found["tensors"][1]
    assert checked(parts / "pair")["backbone"][0] == "skipped"
    assert printed("verify", parts / "kadapter-fac+lin").count("ok      tensors") == 2


def test_a_table_of_entity_embeddings_is_verified_and_a_changed_one_is_not(tmp_path):
    vectors = torch.tensor([[0.5, 0.25], [0.125, 2.0]])
    EntityEmbeddings(["Q1", "Q2"], vectors, "wikidata").save_pretrained(tmp_path / "table")
    sha256 = EntityEmbeddings.from_pretrained(tmp_path / "table").sha256
    seen = f"2 entities of wikidata, 2 wide, are finite and have the hash that was saved, {sha256[:12]}"
    assert checked(tmp_path / "table") == {"table": ("ok", seen)}
    path = tmp_path / "table" / "entity_embeddings.safetensors"
    content = path.read_bytes()
    one = vectors[:1].numpy().tobytes()
    assert content.count(one) == 1
    path.write_bytes(content.replace(one, one[4:] + one[:4]))
    result, detail = checked(tmp_path / "table")["table"]
    assert result == "failed" and "which was noted when it was saved" in detail


def damaged(folder, change):
    """Write an artifact's weights anew, with their metadata, after a change of the tensors."""
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    tensors = {key: tensor.clone() for key, tensor in load_file(weights).items()}
    change(tensors)
    save_file(tensors, weights, metadata=metadata)


BIAS = "head.out_proj.bias"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors[BIAS].add_(1), "the tensors of head are not those that were saved"),
        (lambda tensors: tensors[BIAS].fill_(float("nan")), f"tensor '{BIAS}' holds NaN"),
        (lambda tensors: tensors.pop(BIAS), f"lacks tensor '{BIAS}', which was saved"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "has unknown tensor 'extra'"),
    ],
)
def test_changed_tensors_are_found(copied, change, reason):
    damaged(copied, change)
    result, detail = checked(copied)["tensors"]
    assert result == "failed" and reason in detail
    assert reason in sentence(run("verify", copied))


def test_an_edited_configuration_and_foreign_code_are_found(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "fusion": "delta"}))
    (copied / "heads_kadapter.py").write_text("raise SystemExit('run')\n")
    found = checked(copied)
    assert found["record"] == (
        "failed",
        "['fusion'] in config.json were edited since it was saved; save the artifact again",
    )
    assert found["code"][0] == "failed" and "['heads_kadapter.py'] are not those of this kadapter" in found["code"][1]
    assert checked(copied, "--any-code")["code"][0] == "skipped"
    (copied / "more.py").write_text("")
    assert "['more.py'] are no files of kadapter" in checked(copied)["code"][1]
    (copied / "config.json").write_text(json.dumps({**config, "record_digest": "0"}))
    assert "is of another save than the weights" in checked(copied)["record"][1]


def test_another_backbone_is_found_by_its_fingerprint(parts):
    result, detail = checked(parts / "pair", "--backbone", parts / "other")["backbone"]
    assert result == "failed" and f"{parts / 'other'} has fingerprint" in detail
    result, detail = checked(parts / "pair", "--backbone", parts / "nowhere")["backbone"]
    assert result == "failed" and "can't be read" in detail


# ---- predict --------------------------------------------------------------------------------------------------------


def predicted(*words):
    return [json.loads(line) for line in printed("predict", *words, "--json").splitlines()]


def test_predict_answers_as_the_pipelines_do(parts):
    (pair,) = predicted(parts / "pair", MARKED)
    made = pipeline("entity-pair-classification", model=str(parts / "pair"), device=-1)
    assert pair == {"text": TEXT, "answers": made(TEXT, entity_spans=SPANS)}
    (every,) = predicted(parts / "pair", MARKED, "--top", 3)
    assert every["answers"] == made(TEXT, entity_spans=SPANS, top_k=3)
    (types,) = predicted(parts / "types", "[[Mira Voss]] was born in Tarnstad on the Kell.", "--top", 2)
    typing = pipeline("entity-classification", model=str(parts / "types"), device=-1)
    assert types["answers"] == typing(TEXT, entity_spans=SPANS[:1], top_k=2)
    (parsed,) = predicted(parts / "parser", TEXT)
    parser = pipeline("dependency-parsing", model=str(parts / "parser"), device=-1)
    assert parsed == {"text": TEXT, **parser(TEXT)}
    (text,) = predicted(parts / "text", TEXT)
    assert text["answers"] == pipeline("text-classification", model=str(parts / "text"), device=-1)(TEXT)


def test_the_tail_may_stand_before_the_head(parts):
    turned = predicted(parts / "pair", "[[Tarnstad|tail]] bore [[Mira Voss|head]].", "--top", 3)[0]
    made = pipeline("entity-pair-classification", model=str(parts / "pair"), device=-1)
    assert turned["text"] == "Tarnstad bore Mira Voss."
    assert turned["answers"] == made(turned["text"], entity_spans=[(14, 23), (0, 8)], top_k=3)


def test_predict_prints_words(parts):
    lines = printed("predict", parts / "text", TEXT, "Kell.").splitlines()
    assert lines[0] == TEXT and lines[2] == "Kell." and lines[1].split()[0] in LABELS["label2id"]
    tree = printed("predict", parts / "parser", TEXT).splitlines()
    assert tree[0] == TEXT and len(tree) == 1 + len(TEXT.replace(".", " .").split())
    (tagged,) = predicted(parts / "tokens", TEXT)
    made = pipeline("token-classification", model=str(parts / "tokens"), device=-1)(TEXT)
    assert [(own["label"], own["start"], own["end"]) for own in tagged["answers"]] == [
        (own["entity"], own["start"], own["end"]) for own in made
    ]


def test_several_masks_have_answers_each_and_masks_are_written_as_people_do(parts):
    one, two = predicted(parts / "words", "Mira was born in [MASK].", "In <mask> was <mask>.", "--top", 3)
    assert [len(mask) for mask in one["masks"]] == [3] and [len(mask) for mask in two["masks"]] == [3, 3]
    made = pipeline("fill-mask", model=str(parts / "words"), device=-1, top_k=3)("Mira was born in <mask>.")
    assert [own["score"] for own in one["masks"][0]] == pytest.approx([own["score"] for own in made])
    assert len(predicted(parts / "words", "In [mask].")[0]["masks"][0]) == 5


def test_a_file_of_texts_is_read_line_by_line_and_batched(parts, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text(f"{MARKED}\n\n[[Oduya]] left [[Kell]].\n" * 5, encoding="utf-8")
    answers = predicted(parts / "pair", "--file", file, "--batch-size", 4)
    assert [one["text"] for one in answers] == [TEXT, "Oduya left Kell."] * 5
    alone = [one["answers"][0]["score"] for one in predicted(parts / "pair", MARKED, "[[Oduya]] left [[Kell]].")]
    assert [one["answers"][0]["score"] for one in answers] == pytest.approx(alone * 5, abs=1e-5)
    piped = run("predict", parts / "pair", "--file", "-", "--json", input=MARKED)
    assert json.loads(piped.stdout)["text"] == TEXT


REFUSED = {
    "no head": ("kadapter-fac", [TEXT], "has no head, so it predicts nothing: train one by kadapter task"),
    "a head that reads more": ("answers", [TEXT], "is asked about more than a text; its card shows how"),
    "no texts": ("pair", [], "there are no texts; give them after the artifact"),
    "an empty text": ("text", [TEXT, " "], "text 2 is empty"),
    "no mentions": ("pair", [TEXT], "has 0 mentions in double square brackets, and the head reads 2"),
    "three mentions": ("pair", [f"{MARKED} [[c]]"], "has 3 mentions"),
    "half a mention": ("types", ["[[Mira]] and [[Oduya"], "has 1 mentions in double square brackets"),
    "two heads": ("pair", ["[[a|head]] [[b|head]]"], "are called head; call one head and the other tail"),
    "no mask": ("words", [TEXT], "has no mask; write <mask> or [MASK]"),
    "no such artifact": ("nowhere", [TEXT], "no config.json of a K-Adapter artifact at"),
    "no such file": ("pair", ["--file", "nowhere.txt"], "there is no file 'nowhere.txt'"),
}


@pytest.mark.parametrize(("name", "words", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_be_predicted_is_refused(parts, name, words, reason):
    assert reason in sentence(run("predict", parts / name, *words))


def test_damaged_weights_predict_nothing(copied):
    damaged(copied, lambda tensors: tensors[BIAS].add_(1))
    assert "are not those that were saved" in sentence(run("predict", copied, MARKED))


def test_no_code_of_an_artifact_is_run(copied, monkeypatch):
    monkeypatch.chdir(copied.parent)
    for path in copied.glob("*.py"):
        path.write_text("from pathlib import Path\nPath('harmed').touch()\n")
    config = json.loads((copied / "config.json").read_text())
    assert config["auto_map"] and config["custom_pipelines"]
    answers = predicted(copied, MARKED)[0]["answers"]
    assert answers[0]["label"] in LABELS["label2id"] and printed("inspect", copied)
    assert "are not those of this kadapter" in sentence(run("verify", copied))
    assert not list(copied.parent.rglob("harmed"))


@pytest.mark.slow
def test_inspect_and_refusals_import_no_torch(parts, tmp_path):
    for words in (["inspect", parts / "pair"], ["predict", parts / "pair", TEXT], ["verify", "nowhere"]):
        done = run_python(ASK, tmp_path, *words, package=True, bare=True)
        assert done.stdout.splitlines()[-1] == "heavy []"
    assert run_python(ASK, tmp_path, "train", "--help", package=True, bare=True).stdout.count("heavy []") == 1


def test_the_release_that_is_installed_is_what_code_is_compared_with(parts):
    names = sorted(path.name for path in (parts / "pair").glob("*.py"))
    assert all((ROOT / name).read_bytes() == (parts / "pair" / name).read_bytes() for name in names)
    assert "pipelines_kadapter.py" in names and len(names) == 11


def test_a_directory_has_no_revision_so_none_is_taken(parts):
    for command in (["inspect"], ["verify"], ["predict", "Kell."]):
        words = [command[0], str(parts / "text"), *command[1:], "--revision", "zz"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        said = "--revision zz is a commit, tag or branch of the Hub, and "
        assert result.stderr.splitlines()[-1] == f"kadapter: {said}{parts / 'text'} is a directory; leave it out"


def test_the_help_of_every_command_begins_with_an_example():
    for name, command in typer.main.get_command(app).commands.items():
        for words in ([name], *([name, own] for own in getattr(command, "commands", ()))):
            shown = CliRunner().invoke(app, [*words, "--help"]).output
            assert f"Example: kadapter {' '.join(words)} " in " ".join(shown.split()[:40]), words
