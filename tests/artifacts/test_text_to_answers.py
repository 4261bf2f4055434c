"""From raw text to words: what docs and every model card show runs as it stands, without the package too."""

import re
import runpy

import pytest
import torch
from helpers import ROOT, make_model, run_python, save_backbone
from tiny_runs import tokenizer_of

import kadapter
from kadapter import best_spans, encode_choices, encode_passages, encode_words

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

LABELS = {"id2label": {0: "born", 1: "died"}, "label2id": {"born": 0, "died": 1}}
BARE = "KAdapterModel"  # which has no head
HEADS = {  # what the last printed line of the steps in each card must match
    "KAdapterModel": r"torch.Size\(\[32\]\) torch.Size\(\[32\]\)",
    "KAdapterForEntityPairClassification": "born|died",
    "KAdapterForEntityClassification": r"\[('born'|'died'|, )*\]",
    "KAdapterForDependencyParsing": r"\. <- (Birds|sing|at|dawn|\.|ROOT)",
    "KAdapterForMultipleChoice": r"She was ill\.|It was raining\.",
    "KAdapterForPairMatching": "born|wrote",
    "KAdapterForQuestionAnswering": r".+ \d(\.\d+)?(e-\d+)?",
    "KAdapterForSequenceClassification": "born|died",
    "KAdapterForTokenClassification": r"\[\('<s>', '(born|died)'\), .*\]",
}
THREE_LINES = {  # and what that of the pipeline must, where there is one
    "KAdapterModel": r"torch.Size\(\[1, \d+, 32\]\)",
    "KAdapterForEntityPairClassification": r"\[\{'label': '(born|died)', 'score': \d\.\d+\}.*\]",
    "KAdapterForEntityClassification": r"\[(\{'label': '(born|died)', 'score': \d\.\d+\}(, )?)*\]",
    "KAdapterForDependencyParsing": r".+",
    "KAdapterForMultipleChoice": None,
    "KAdapterForPairMatching": None,
    "KAdapterForQuestionAnswering": None,
    "KAdapterForSequenceClassification": r"\[\{'label': '(born|died)', 'score': \d\.\d+\}\]",
    "KAdapterForTokenClassification": r"\[\{'entity': '(born|died)', .*\]",
}
VARIANTS = {
    "official parser": ("KAdapterForDependencyParsing", {"dependency_head": "official", "num_positions": 40}),
    "several labels": ("KAdapterForSequenceClassification", {"problem_type": "multi_label_classification"}),
    "a number": ("KAdapterForSequenceClassification", {"problem_type": "regression"}),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(
        ["Marie Curie was born in Warsaw on the Vistula. Birds sing at dawn. Why did she stay in?"] * 3
    )


@pytest.fixture(scope="module")
def cards(tmp_path_factory, tokenizer):
    """The example of each card, and what it printed in one process that has never heard of kadapter."""
    folder = tmp_path_factory.mktemp("cards")
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=80)
    tokenizer.save_pretrained(backbone)
    wanted = {name: (name, {}) for name in HEADS} | VARIANTS
    script = []
    for name, (head, fields) in wanted.items():
        model = make_model(backbone, "fac", model_class=getattr(kadapter, head), **LABELS, **fields)
        model.save_pretrained(folder / name)
        make_model(backbone, "lin").save_pretrained(folder / "other")
        blocks = re.findall("```python\n(.*?)```", (folder / name / "README.md").read_text(), flags=re.DOTALL)
        kinds = [*(["pipeline"] if "pipeline(" in blocks[0] else []), "steps", *(["compose"] if head == BARE else [])]
        for kind, example in zip(kinds, blocks, strict=True):
            example = example.replace("REPO_OR_DIRECTORY", str(folder / name)).replace("OTHER_ADAPTER", "other")
            script.append(f"print('=== {name} {kind}')\n{example}")
    printed = run_python("\n".join(script), folder).stdout
    return dict(re.findall(r"=== (.*?)\n(.*?)(?=\n===|\Z)", printed, flags=re.DOTALL))


def last_line(cards, example):
    return cards[example].strip().splitlines()[-1]


@pytest.mark.parametrize("head", HEADS)
def test_every_card_ends_in_words_by_an_example_that_runs(cards, head):
    assert re.fullmatch(HEADS[head], last_line(cards, f"{head} steps"))


@pytest.mark.parametrize("head", HEADS)
def test_three_lines_of_every_card_take_text_to_words_where_a_pipeline_does(cards, head):
    if THREE_LINES[head] is None:
        assert f"{head} pipeline" not in cards
    else:
        assert re.fullmatch(THREE_LINES[head], last_line(cards, f"{head} pipeline"))


def test_the_lines_that_compose_run_from_the_card_of_an_adapter_alone(cards):
    assert last_line(cards, f"{BARE} compose") == "['fac', 'lin']"
    assert [example for example in cards if example.endswith("compose")] == [f"{BARE} compose"]


def test_a_card_shows_labels_or_numbers_as_the_head_gives_them(cards):
    assert len(cards["official parser steps"].strip().splitlines()) == 5
    assert re.fullmatch(r"\[('born'|'died'|, )*\]", cards["several labels steps"].strip())
    assert re.fullmatch(r"\[-?\d.*, -?\d.*\]", cards["a number steps"].strip())


def test_words_are_encoded_as_the_linguistic_objective_encodes_them(tokenizer):
    inputs = encode_words(tokenizer, [["Birds", "sing"], ["Warsaw"]])
    ids = inputs["input_ids"].tolist()
    for row, words in enumerate((["Birds", "sing"], ["Warsaw"])):
        starts = [position for position in inputs["word_positions"][row].tolist() if position >= 0]
        assert starts[0] == 0 and ids[row][0] == tokenizer.bos_token_id
        ends = [*starts[2:], inputs["attention_mask"][row].sum().item() - 1]
        pieces = [tokenizer.decode(ids[row][a:b]).replace("Ġ", "") for a, b in zip(starts[1:], ends, strict=True)]
        assert pieces == words
    assert inputs["word_positions"][1, -1] == -1


@pytest.mark.parametrize(("sentences", "wrong"), [([[]], "sentence 0 is"), (["Birds sing"], "'Birds sing'")])
def test_a_sentence_that_is_no_list_of_words_is_refused(tokenizer, sentences, wrong):
    with pytest.raises(ValueError, match=wrong):
        encode_words(tokenizer, sentences)
    with pytest.raises(ValueError, match=r"sentence 0: its .* tokens are more than max_length=3"):
        encode_words(tokenizer, [["Birds", "sing", "at", "dawn"]], max_length=3)


def test_choices_and_passages_must_be_as_many_for_each_question(tokenizer):
    with pytest.raises(ValueError, match="as many choices for each"):
        encode_choices(tokenizer, ["a", "b"], ["q", "r"], [["x", "y"], ["x"]])
    with pytest.raises(ValueError, match="as many passages"):
        encode_passages(tokenizer, ["q", "r"], [["x", "y"], ["x"]])
    with pytest.raises(ValueError, match="give a list of questions"):
        encode_passages(tokenizer, "q", ["x"])
    assert encode_choices(tokenizer, ["a"], ["q"], [["x", "y z"]])["input_ids"].shape[:2] == (1, 2)


def test_the_best_span_is_the_likeliest_of_all_passages_within_its_length():
    start, end = torch.full((1, 2, 5), -9.0), torch.full((1, 2, 5), -9.0)
    start[0, 1, 1], end[0, 1, 4], end[0, 1, 2] = 5.0, 6.0, 4.0
    spans, probability = best_spans(start, end)
    assert spans.tolist() == [[1, 1, 4]] and 0.5 < probability.item() < 1
    assert best_spans(start, end, max_answer_length=2)[0].tolist() == [[1, 1, 2]]
    single, _ = best_spans(start[:, 1], end[:, 1])
    assert single.tolist() == [[0, 1, 4]]


def test_the_examples_of_the_documentation_run(tmp_path, tokenizer, monkeypatch, capsys):
    section = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8").split("## Words out of a head")[1]
    script = tmp_path / "documented.py"
    script.write_text("\n".join(re.findall("```python\n(.*?)```", section, flags=re.DOTALL)))
    backbone = save_backbone(tmp_path / "backbone", vocab_size=len(tokenizer), max_position_embeddings=80)
    tokenizer.save_pretrained(backbone)
    directories = {"relations": "EntityPairClassification", "types": "EntityClassification"}
    directories |= {"parser": "DependencyParsing", "choices": "MultipleChoice", "answers": "QuestionAnswering"}
    for name, head in directories.items():
        model_class = getattr(kadapter, f"KAdapterFor{head}")
        make_model(backbone, "fac", model_class=model_class, **LABELS).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    runpy.run_path(str(script))
    relation, types, *heads, choice, answer = capsys.readouterr().out.strip().splitlines()
    shown = (relation, types, heads[-1], choice, answer)
    assert len(heads) == 5
    for head, line in zip(directories.values(), shown, strict=True):
        assert re.fullmatch(HEADS[f"KAdapterFor{head}"], line), line
