"""What every downstream task promises, and what each makes of a record, held to the official feature builders."""

import importlib

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from tiny_runs import ROOT, tensors
from tiny_tasks import predictions, run_of, task_flags, tokenizer_of_pieces, tokenizer_of_words, write_task_ground
from transformers import AutoModel

from kadapter import data_builders, metrics
from kadapter.trainers import run_task, tasks
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.encoding import encode
from kadapter.trainers.downstream.arguments import TaskCorpusArguments
from kadapter.trainers.tasks._answers import occurrences

PIECES = ["ĠHe", "Ġvis", "ite", "ĠPar", "is", "Ġin", "ĠMay", "Ġ.", "Ġ@", "@", "#", "Ġa", "Ġb", "Ġc", "Ġd", "Ġe"]
# The pieces and inputs of microsoft/K-Adapter, commit 43651cd, examples/utils_glue.py, on a toy tokenizer.
KINDS = {"searchqa": (".txt",), "quasar_t": (".txt",), "semeval2010_task8": (".TXT",)}
# Flags that the invented corpus of a task needs, and tasks that need labelled records beside those to be predicted.
FLAGS = {
    "fewrel_pairs": "--way 2 --queries 2 --train_episodes 4 --eval_episodes 3 --max_length 60".split(),
    "entity_questions": ["--fusion", "add", "--freeze_adapters", "false"],
}
UNPREDICTED = ("fewrel_pairs",)
OFFICIAL_TYPING = "<s> ĠHe Ġvis ite d Ġ@ ĠPar is Ġ@ Ġin ĠMay Ġ. </s>".split()


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_task_ground(tmp_path_factory.mktemp("ground"), *tasks.available())


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of_pieces(PIECES)


def task_of(name, tokenizer, max_length=24, **arguments):
    return tasks.load(name)(tokenizer, max_length, TaskCorpusArguments(data_dir="", **arguments))


# --- all tasks


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.available())
def test_a_task_trains_evaluates_and_predicts(ground, tmp_path, name):
    output, source = tmp_path / "out", ground / name
    suffixes = KINDS.get(name, (".json", ".jsonl"))
    file = min(one for one in source.iterdir() if one.suffix in suffixes)
    predict = [] if name in UNPREDICTED else ["--do_predict", file]
    results = run_task.main(task_flags(ground, output, *predict, *FLAGS.get(name, ()), task=name))
    task, told = tasks.load(name), predictions(output)
    rows = data_builders.load(task.corpus, source)["validation"]
    assert predict == [] or [one["id"] for one in told] == rows["id"]
    assert all(one.keys() == {"id", "gold", "prediction", "scores"} for one in told)
    run = run_of(output)
    assert (run["task"], run["row"], run["adapters"], run["split"]) == (name, "fac+lin", ["fac", "lin"], "validation")
    module = metrics.load(run["metric"]["name"])
    found = module.compute(
        *([one[key] for one in told] for key in ("prediction", "gold")), **run["metric"]["settings"]
    )
    assert results[f"eval_{run['metric']['key']}"] == pytest.approx(found[run["metric"]["key"]])
    if predict:
        predicted = predictions(output, "predicted.jsonl")
        assert [one["id"] for one in predicted] == data_builders.load_file(task.corpus, file)["id"]
        assert all(one.keys() == {"id", "prediction", "scores"} for one in predicted)
    assert "## Results on" in (output / "README.md").read_text(encoding="utf-8")
    assert AutoModel.from_pretrained(output, trust_remote_code=True).active_adapters() == ["fac", "lin"]


@pytest.mark.parametrize("name", tasks.available())
def test_a_task_tells_command_published_number_and_ours(name):
    told = importlib.import_module(f"kadapter.trainers.tasks.{name}").__doc__
    assert "accelerate launch trainers/run_task.py" in told and "Published" in told and "Ours" in told


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no task 'tacrad'; there are \[.*\]; did you mean 'tacred'\?"):
        tasks.load("tacrad")


RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if "\ntask:" in path.read_text("utf-8")]
RECIPES = [path for path in RECIPES if not path.stem.endswith("_map")]  # tests/tasks/test_maps_in_tasks.py runs those


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_a_task_runs_on_a_tiny_backbone(ground, tmp_path, path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    places = {"data_dir": ground / values["task"], "backbone": ground / "backbone", "output_dir": tmp_path / "out"}
    small = {"max_length": 40, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
    given = ["--recipe", path, "--adapters", ground / "fac", ground / "lin", "--states_dir", ground / "states"]
    for name, value in {**places, **small, "report_to": "none", "save_artifact": "true"}.items():
        given += [f"--{name}", value]
    given += FLAGS.get(values["task"], ())
    results = run_task.main([*map(str, given)])
    run, trained = run_of(tmp_path / "out"), tensors(tmp_path / "out")
    assert run["task"] == values["task"] and f"eval_{run['metric']['key']}" in results
    assert run["freeze_backbone"] == values.get("freeze_backbone", True)
    assert any("backbone" in key for key in trained) != run["freeze_backbone"]


# --- relations


def relation_rows(text, head, tail, relation="born"):
    spans = [{"start": text.index(one), "end": text.index(one) + len(one)} for one in (head, tail)]
    return {"id": ["r1"], "text": [text], "head": [spans[0]], "tail": [spans[1]], "relation": [relation]}


def relation_task(tokenizer, max_length):
    task = task_of("relation_classification", tokenizer, max_length)
    task.learn(Dataset.from_dict({"relation": ["born", "died"]}))
    return task


@pytest.mark.parametrize("max_length", range(6, 40))
def test_long_inputs_are_cut_around_both_mentions_or_dropped(tokenizer, max_length):
    text = "a b c d e a b c d e He a b Paris a b c d e a b c d e"
    examples = relation_task(tokenizer, max_length).encode(relation_rows(text, "He", "Paris"))
    if max_length < 11:  # two special tokens, @ He @, a b, # Par is #
        assert examples["input_ids"] == []
        return
    ((ids,), (at,)) = (examples[key] for key in ("input_ids", "entity_positions"))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert len(tokens) == min(max_length, 31) and (tokens[0], tokens[-1]) == ("<s>", "</s>")
    assert tokens[at[0] : at[0] + 9] == ["@", "ĠHe", "@", "Ġa", "Ġb", "#", "ĠPar", "is", "#"]
    assert at[1] == at[0] + 5
    before, after = at[0] - 1, len(tokens) - at[0] - 10
    assert before == after or abs(before - after) == 1 or before == 10 or after == 10
    assert examples["truncated"] == [max_length < 31]


def test_a_relation_that_the_model_does_not_know_is_named(tokenizer):
    with pytest.raises(ValueError, match="record 'r1' has the relation 'wed', which no training record has"):
        relation_task(tokenizer, 24).encode(relation_rows("He a Paris", "He", "Paris", "wed"))


def test_tacred_keeps_the_first_negatives_as_the_official_code_counts(tokenizer):
    train = Dataset.from_dict({"relation": ["no_relation", "x", "no_relation", "no_relation", "y"], "n": range(5)})
    assert task_of("tacred", tokenizer, negative_sample=3).select(train)["n"] == [0, 1, 2, 4]
    assert task_of("tacred", tokenizer).select(train)["n"] == [0, 1, 2, 3, 4]


# --- typing


def typing_rows(labels, text="He visited Paris in May .", mention="Paris"):
    start = text.index(mention)
    return {
        "id": ["t1"],
        "text": [text],
        "mention": [{"start": start, "end": start + len(mention)}],
        "labels": [labels],
    }


def test_open_entity_inputs_are_the_official_ones(tokenizer):
    task = task_of("open_entity", tokenizer)
    task.learn(Dataset.from_dict({"labels": [["location", "place"], []]}))
    examples = task.encode(typing_rows(["location", "place"]))
    assert tokenizer.convert_ids_to_tokens(examples["input_ids"][0]) == OFFICIAL_TYPING
    assert examples["entity_positions"] == [[5]]
    assert examples["labels"] == [[0, 1, 0, 0, 0, 0, 1, 0, 0]]


def test_a_long_input_is_cut_around_the_mention_where_the_official_code_fails(tokenizer):
    task = task_of("open_entity", tokenizer, max_length=8)
    task.learn(Dataset.from_dict({"labels": [["person"], []]}))
    examples = task.encode(typing_rows(["person"]))
    assert tokenizer.convert_ids_to_tokens(examples["input_ids"][0]) == "<s> d Ġ@ ĠPar is Ġ@ Ġin </s>".split()
    assert examples["entity_positions"] == [[2]]
    assert task_of("open_entity", tokenizer, max_length=5).encode(typing_rows([]), labelled=False)["record"] == []


def test_figer_gives_the_likeliest_type_where_open_entity_gives_none(tokenizer):
    decided = np.asarray([[-1.0, -2.0], [1.0, 2.0]])
    for name, expected in (("figer", [["a"], ["a", "b"]]), ("entity_typing", [[], ["a", "b"]])):
        task = task_of(name, tokenizer)
        task.learn(Dataset.from_dict({"labels": [["b"], ["a"]]}))
        assert [answer for answer, _ in task.answers(decided, None)] == expected


def test_each_example_has_its_own_loss(tokenizer):
    task = task_of("figer", tokenizer)
    output = type("Output", (), {"logits": torch.tensor([[0.0, 0.0], [9.0, -9.0]])})
    _, losses = task.judge(output, {"labels": torch.tensor([[1.0, 0.0], [1.0, 0.0]])})
    assert losses.tolist() == pytest.approx([0.693147, 0.000123], abs=1e-6)


# --- choices


def choice_rows(context="a b c d e", question="He visited", choices=("Paris", "May"), label=1):
    return {"id": ["c1"], "context": [context], "question": [question], "choices": [list(choices)], "label": [label]}


def test_each_choice_is_a_text_with_context_and_question(tokenizer):
    examples = task_of("cosmosqa", tokenizer).encode(choice_rows())
    texts = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in examples["input_ids"][0]]
    start = "<s> Ġa Ġb Ġc Ġd Ġe </s> ĠHe Ġvis ite d </s> "
    assert texts == [start + "ĠPar is </s>", start + "ĠMay </s>"]
    assert examples["labels"] == [1] and examples["length"] == [15] and examples["truncated"] == [False]


def test_the_longer_part_is_cut_first(tokenizer):
    examples = task_of("cosmosqa", tokenizer, max_length=11).encode(choice_rows("a b c d e a b c d e"))
    first = tokenizer.convert_ids_to_tokens(examples["input_ids"][0][0])
    assert first == "<s> Ġa Ġb Ġc Ġd </s> ĠHe Ġvis ite d </s>".split()
    assert examples["truncated"] == [True]


def test_choices_of_uneven_number_are_told(tokenizer):
    task = task_of("multiple_choice", tokenizer)
    task.learn(Dataset.from_dict({"choices": [["a", "b", "c"]]}))
    with pytest.raises(ValueError, match="record 'c1' has 2 choices and the first of training has 3; give the same"):
        task.encode(choice_rows())
    with pytest.raises(ValueError, match="record 'c1' has no label; add it, or predict the file"):
        task_of("multiple_choice", tokenizer).encode(choice_rows(label=-1))


# --- answers


def question_rows(answers, passages=("He visited Paris in May .", "in May a b c", "PARIS , Paris")):
    return {"id": ["q1"], "question": ["a b"], "passages": [list(passages)], "answers": [answers]}


def test_every_occurrence_of_every_answer_is_found_in_tokens(tokenizer):
    examples = task_of("searchqa", tokenizer).encode(question_rows(["paris", "in may", "he visited"]), training=True)
    found = set()
    for passage, start, end in examples["answer_spans"][0]:
        ids = examples["input_ids"][0][passage]
        assert all(examples["answer_mask"][0][passage][start : end + 1])
        found.add((passage, "".join(tokenizer.convert_ids_to_tokens(ids[start : end + 1])).replace("Ġ", " ").strip()))
    expected = {(0, "He visited"), (0, "Paris"), (0, "in May"), (1, "in May"), (2, "PARIS"), (2, "Paris")}
    assert found == expected and len(examples["answer_spans"][0]) == len(expected)
    assert tokenizer.convert_ids_to_tokens(examples["input_ids"][0][1]) == (
        "<s> Ġa Ġb </s> Ġin ĠMay Ġa Ġb Ġc </s>".split()
    )


def test_answers_are_whole_words_in_any_case():
    assert occurrences("Parisian Paris, paris.", ["PARIS"]) == [(9, 14), (16, 21)]
    assert occurrences("the U.S. navy", ["U.S."]) == [(4, 8)]
    assert occurrences("a b", ["", "c"]) == []


def test_a_question_whose_answer_is_nowhere_is_dropped_in_training_only(tokenizer):
    rows, task = question_rows(["Lyon"]), task_of("quasar_t", tokenizer)
    assert task.encode(rows, training=True)["record"] == []
    assert task.encode(rows)["answer_spans"] == [[[-1, -1, -1]]]
    with pytest.raises(ValueError, match="record 'q1' has no answer; add one, or predict the file"):
        task.encode(question_rows([]))
    with pytest.raises(ValueError, match="record 'q1' has no passage; add one"):
        task.encode(question_rows(["a"], passages=()))


def test_an_answer_that_was_cut_off_is_no_answer(tokenizer):
    (spans,) = task_of("searchqa", tokenizer, max_length=10).encode(question_rows(["paris"]))["answer_spans"]
    assert sorted({passage for passage, _, _ in spans}) == [2]


def test_the_best_span_is_found_and_read_from_the_passage(tokenizer):
    task = task_of("searchqa", tokenizer, max_answer_length=2)
    rows = question_rows(["in May"])
    example = {key: value[0] for key, value in task.encode(rows).items()}
    batch = PadToBatch(task.padding)([example, example])
    start, end = (torch.where(batch["answer_mask"].bool(), 0.0, torch.finfo(torch.float).min) for _ in range(2))
    start[0, 0, 10], end[0, 0, 11] = 9.0, 9.0  # "Ġin ĠMay" of the first passage
    start[1, 2, 4], end[1, 2, 8] = 9.0, 9.0  # too far apart: one of the two must do with a neighbour
    output = type("Output", (), {"start_logits": start, "end_logits": end})
    decided, losses = task.judge(output, batch)
    answers = task.answers(decided.numpy(), Dataset.from_dict({key: value * 2 for key, value in rows.items()}))
    assert answers[0][0] == "in May" and answers[0][1]["passage"] == 0 and answers[0][1]["probability"] > 0.99
    assert len(tokenizer(f" {answers[1][0]}", add_special_tokens=False)["input_ids"]) <= 2
    assert losses[0] < 0.01 < losses[1] and decided.shape == (2, 4)


def test_all_passages_are_read_unless_the_flag_says_how_many(tokenizer):
    rows = question_rows(["paris"], passages=["in May a b c", *["He visited Paris ."] * 30])
    whole, part = task_of("searchqa", tokenizer), task_of("searchqa", tokenizer, max_passages=1)
    examples, cut = whole.encode(rows), part.encode(rows)
    assert len(examples["input_ids"][0]) == 31 and len(examples["answer_spans"][0]) == 30
    assert len(cut["input_ids"][0]) == 1 and cut["answer_spans"] == [[[-1, -1, -1]]]
    assert (examples["truncated"], cut["truncated"]) == ([False], [True])
    others = [question_rows(["paris"]), question_rows(["Lyon"]), question_rows(["paris"], passages=["a b c d e"])]
    several = Dataset.from_dict({key: [one[key][0] for one in (rows, *others)] for key in rows})
    assert part.left_out(several) == ["3 questions lost passages to --max_passages 1, 1 of them their only answer"]
    assert whole.left_out(several) == []


@pytest.mark.parametrize("blank", ["", "\u200b", "\u0301"])
def test_where_no_passage_has_a_token_the_answer_is_nothing(blank):
    task = task_of("searchqa", tokenizer_of_words("he visited paris".split()))
    rows = question_rows(["Paris"], passages=[blank])
    example = {key: value[0] for key, value in task.encode(rows).items()}
    assert not any(example["answer_mask"][0])
    none = torch.full((1, 1, example["length"]), torch.finfo(torch.float).min)
    decided, _ = task.judge(type("Output", (), {"start_logits": none, "end_logits": none}), {})
    assert task.answers(decided.numpy(), Dataset.from_dict(rows)) == [("", {"passage": 0, "probability": 0.0})]


# --- what is wrong with a record, and where it stands


@pytest.mark.parametrize(("split", "source", "where"), [("test", None, "DIR"), ("predict", "FILE", "FILE")])
def test_an_unfit_record_is_told_with_its_place_and_split(tokenizer, split, source, where):
    task = task_of("multiple_choice", tokenizer)
    task.learn(Dataset.from_dict({"choices": [["a", "b", "c"]]}))
    rows, corpus = Dataset.from_dict(choice_rows()), TaskCorpusArguments(data_dir="DIR")
    with pytest.raises(ValueError, match=f"^{where}, {split}: record 'c1' has 2 choices and the first of training"):
        encode(split, rows, task, corpus, False, source)


# --- the collator


def test_choices_and_passages_are_padded_in_both_dimensions():
    batch = PadToBatch({"input_ids": 1, "labels": 0.0, "answer_spans": -1})(
        [
            {"input_ids": [[5, 6, 7], [8]], "labels": [1, 0], "answer_spans": [[0, 1, 2]]},
            {"input_ids": [[9]], "labels": [0, 1], "answer_spans": [[0, 1, 1], [1, 0, 0]]},
        ]
    )
    assert batch["input_ids"].tolist() == [[[5, 6, 7], [8, 1, 1]], [[9, 1, 1], [1, 1, 1]]]
    assert batch["attention_mask"].tolist() == [[[1, 1, 1], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]]]
    assert batch["labels"].dtype == torch.float
    assert batch["answer_spans"].tolist() == [[[0, 1, 2], [-1, -1, -1]], [[0, 1, 1], [1, 0, 0]]]
