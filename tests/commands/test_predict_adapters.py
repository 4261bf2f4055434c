"""`kadapter predict` with adapters of each text's own: by a flag, and by the records of a file."""

import itertools
import json

import pytest
from helpers import make_model, save_backbone, shake
from tiny_runs import tokenizer_of
from typer.testing import CliRunner

import kadapter
from kadapter.commands import app

TEXT = "Mira Voss was born in Tarnstad on the Kell."
LABELS = {"id2label": {0: "born", 1: "died"}, "label2id": {"born": 0, "died": 1}}
ASKED = {
    "pair": ("EntityPairClassification", "[[Mira Voss]] was born in [[Tarnstad]]."),
    "text": ("SequenceClassification", TEXT),
    "tokens": ("TokenClassification", TEXT),
    "parser": ("DependencyParsing", TEXT),
    "words": ("MaskedLM", "Mira was born in [MASK]."),
}
NAMES = [["fac"], "__base__", ["lin", "fac"], "lin", None]  # None: those that the artifact uses
SAID = [["fac"], ["__base__"], ["fac", "lin"], ["lin"], ["fac", "lin"]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A head of each task beside two adapters, and one whose fusion was trained for both."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = tokenizer_of([TEXT] * 4)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    for name, (head, _) in ASKED.items():
        fields = {"lm_head": "transform"} if name == "words" else LABELS
        model = make_model(backbone, "fac", "lin", model_class=getattr(kadapter, f"KAdapterFor{head}"), **fields)
        shake(model, std=0.1 if name == "parser" else 0.3)  # so that few of its scores are 1
        model.eval().save_pretrained(folder / name)
    text = kadapter.KAdapterForSequenceClassification
    make_model(backbone, "fac", "lin", model_class=text, fusion="concat", **LABELS).save_pretrained(folder / "concat")
    return folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def predicted(*words):
    result = run("predict", *words, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def sentence(*words):
    result = run("predict", *words)
    assert result.exit_code == 1 and "Traceback" not in result.output and result.stdout == "", result.output
    return result.stderr.strip().splitlines()[-1]


def scores_in(answer):
    """All scores of an answer, of whatever layout."""
    masks = answer.get("masks", [answer.get("answers", [])])
    return answer.get("scores", [own["score"] for mask in masks for own in mask])


def records(path, text, names=NAMES):
    lines = [{"text": text, **({} if own is None else {"adapter_names": own})} for own in names]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ASKED)
def test_each_record_of_a_file_goes_through_the_adapters_that_it_names(parts, tmp_path, name):
    text = ASKED[name][1]
    mixed = predicted(parts / name, "--file", records(tmp_path / "texts.jsonl", text), "--batch-size", 3)
    assert [answer["adapter_names"] for answer in mixed] == SAID
    alone = [predicted(parts / name, text, "--adapters", "+".join(names))[0] for names in SAID[:4]]
    for one, other in zip(mixed, [*alone, *predicted(parts / name, text)], strict=True):
        assert scores_in(one) == pytest.approx(scores_in(other), rel=5e-4)
    for one, other in itertools.combinations(mixed[:4], 2):
        assert scores_in(one) != pytest.approx(scores_in(other), rel=1e-3)


def test_the_flag_is_for_all_texts_or_for_each(parts):
    both = predicted(parts / "text", TEXT, "Kell.", "--adapters", "lin")
    assert [answer["adapter_names"] for answer in both] == [["lin"], ["lin"]]
    each = predicted(parts / "text", TEXT, "Kell.", "--adapters", "lin", "--adapters", "fac+lin")
    assert [answer["adapter_names"] for answer in each] == [["lin"], ["fac", "lin"]]
    assert scores_in(each[0]) == pytest.approx(scores_in(both[0]), abs=1e-5)
    lines = run("predict", parts / "text", TEXT, "--adapters", "fac+lin").stdout.splitlines()
    assert lines[0] == f"{TEXT}  (fac+lin)"


def test_the_flag_is_for_the_records_that_name_none(parts, tmp_path):
    file = records(tmp_path / "texts.jsonl", TEXT)
    mixed = predicted(parts / "text", "--file", file, "--adapters", "__base__")
    assert [answer["adapter_names"] for answer in mixed] == [*SAID[:4], ["__base__"]]
    assert scores_in(mixed[4]) == pytest.approx(scores_in(mixed[1]), abs=1e-5)
    assert "adapter_names" not in predicted(parts / "text", TEXT)[0]


def test_a_head_is_chosen_of_several(parts, tmp_path):
    names = ("pair", "text", "parser")
    several = kadapter.KAdapterModelWithHeads.from_heads({name: str(parts / name) for name in names})
    several.save_pretrained(tmp_path / "several")
    for name in names:
        asked = (ASKED[name][1], "--adapters", "lin")
        (found,), (expected,) = (
            predicted(*where, *asked) for where in ((tmp_path / "several", "--head", name), (parts / name,))
        )
        assert found["adapter_names"] == ["lin"] and scores_in(found) == pytest.approx(scores_in(expected), rel=5e-4)
    assert "holds the heads ['pair', 'text', 'parser']; choose by --head" in sentence(tmp_path / "several", TEXT)
    said = sentence(tmp_path / "several", TEXT, "--head", "words")
    assert "--head words is none of them" in said
    assert "holds no heads by name; leave out --head" in sentence(parts / "text", TEXT, "--head", "text")


REFUSED = {
    "an unknown name": ('{"text": "Kell.", "adapter_names": "gee"}', "names the adapter 'gee', and"),
    "no names": ('{"text": "Kell.", "adapter_names": 3}', "adapter_names is 3; give a name, '__base__' for none"),
    "an empty list": ('{"text": "Kell.", "adapter_names": []}', "adapter_names is []; give a name"),
    "a name twice": ('{"text": "Kell.", "adapter_names": ["fac", "fac"]}', "name each adapter once"),
    "a name beside none": ('{"text": "Kell.", "adapter_names": ["fac", "__base__"]}', "'__base__' alone"),
    "no JSON": ("Kell.", "'Kell.', is no JSON"),
    "no text": ('{"adapter_names": "fac"}', "has no text; write"),
    "a misspelt field": ('{"text": "Kell.", "adapters": "fac"}', "has the unknown field 'adapters'"),
    "an empty text": ('{"text": " "}', "is empty; leave it out"),
}


@pytest.mark.parametrize(("line", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_record_is_named_with_its_file_before_anything_is_answered(parts, tmp_path, line, reason):
    file = tmp_path / "texts.jsonl"
    file.write_text(f'{{"text": "Kell."}}\n{line}\n', encoding="utf-8")
    said = sentence(parts / "text", "--file", file)
    assert f"{file}, record 2" in said and reason in said


def test_bad_flags_are_refused(parts, tmp_path):
    assert "--adapters names the adapter 'gee', and" in sentence(parts / "text", TEXT, "--adapters", "fac+gee")
    said = sentence(parts / "text", TEXT, "Kell.", "Mira.", "--adapters", "fac", "--adapters", "lin")
    assert "--adapters is there 2 times, and there are 3 texts" in said
    file = records(tmp_path / "texts.jsonl", TEXT, [["fac", "lin"], "__base__", "fac"])
    said = sentence(parts / "concat", "--file", file)
    assert f"{file}, record 3: ['fac'], and fusion 'concat' was trained for all of ['fac', 'lin']" in said
