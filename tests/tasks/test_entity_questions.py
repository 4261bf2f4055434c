"""EntityQuestions as a cloze: what is asked, how it is written, what is left out, and what a map changes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_knowledge import INFO, bert_tokenizer, official_map, save_bert
from tiny_runs import ROOT
from tiny_tasks import predictions, run_of
from torch.nn import functional as F

from kadapter import (
    EntityEmbeddings,
    KAdapterForMaskedLM,
    KAdapterModel,
    KnowledgeMapConfig,
    KnowledgeSource,
    encode_knowledge,
    insert_entities,
)
from kadapter.data_builders import load
from kadapter.trainers import run_task, tasks
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.knowledge import Knowledge
from kadapter.trainers.downstream.arguments import TaskCorpusArguments

TEMPLATES = {"P19": "Where was [X] born?", "P36": "What is the capital of [X]?"}
QUESTIONS = {
    "P19": [
        ("Where was Alice born?", ["Hamsters city", "Paris", "France"]),
        ("Where was Bob Carol born?", ["France"]),
        ("Where was Alice born?", ["Peanut butter"]),  # no answer of a single token
        ("Where was Mouse born?", ["Par\u00eds"]),  # whose token has no accent
        ("In which city was Alice born?", ["Paris"]),  # another form than the template
    ],
    "P36": [("What is the capital of France?", ["PARIS"]), ("What is the capital of Food?", ["City"])],
}
ALIASES = "Alice\tQ42\nFrance\tQ142\nMouse\tQ7\nBob Carol\tQ99999\n"


def write_questions(folder, questions=QUESTIONS, templates=TEMPLATES):
    folder.mkdir(parents=True, exist_ok=True)
    if templates is not None:
        (folder / "relation_query_templates.json").write_text(json.dumps(templates), encoding="utf-8")
    for relation, own in questions.items():
        records = [{"question": question, "answers": answers} for question, answers in own]
        for split in ("train", "dev"):
            (folder / f"{relation}.{split}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_questions(tmp_path_factory.mktemp("questions"))
    (folder / "aliases.txt").write_text(ALIASES, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rows(corpus):
    return load("entity_questions", corpus, "validation")


def task_of(corpus, max_length=32, aliases=True, **arguments):
    given = {"aliases": str(corpus / "aliases.txt")} if aliases else {}
    return tasks.load("entity_questions")(
        bert_tokenizer(), max_length, TaskCorpusArguments(data_dir=str(corpus), **given, **arguments)
    )


def table(missing_entity="bias"):
    ids = sorted(INFO["entity2id"], key=INFO["entity2id"].get)
    rows = torch.randn(len(ids), 16, generator=torch.Generator().manual_seed(2))
    return KnowledgeSource(EntityEmbeddings(ids, rows, "wikidata"), missing_entity=missing_entity)


def encoded(task, rows, **options):
    asked, messages = task.records("validation", rows)
    return asked, task.encode(asked[:], **options), messages


def words(task, ids):
    return " ".join(task.tokenizer.convert_ids_to_tokens(ids))


# ---- how a question is written ------------------------------------------------------------------------------------


def test_a_question_has_a_marked_subject_and_a_mask_at_its_end_and_its_first_answer_of_one_token(corpus, rows):
    task = task_of(corpus)
    asked, examples, _ = encoded(task, rows)
    assert [words(task, ids) for ids in examples["input_ids"]] == [
        "[CLS] where was $ alice $ born ? [MASK] [SEP]",
        "[CLS] where was $ bob carol $ born ? [MASK] [SEP]",
        "[CLS] what is the capital of $ france $ ? [MASK] [SEP]",
    ]
    assert [words(task, labels) for labels in examples["labels"]] == ["paris", "france", "paris"]
    assert examples["positions"] == [[8], [9], [10]] and task.gold(asked) == ["paris", "france", "paris"]
    assert "knowledge_slots" not in examples


def test_with_a_map_the_inputs_are_those_of_encode_knowledge(corpus, rows):
    task, source = task_of(corpus), table()
    task.use(Knowledge(source))
    asked, examples, _ = encoded(task, rows)
    assert asked["subject_id"] == ["Q42", "Q99999", "Q142"]
    texts = [
        "Where was Alice born? [MASK]",
        "Where was Bob Carol born? [MASK]",
        "What is the capital of France? [MASK]",
    ]
    entities = [[(10, 15, "Q42")], [(10, 19, "Q99999")], [(23, 29, "Q142")]]
    expected = insert_entities(task.tokenizer, texts, entities, source, markers=["$"])
    assert examples["input_ids"] == [text.input_ids for text in expected]
    assert examples["knowledge_slots"] == [[at for at, _ in text.slots] for text in expected] == [[4], [4], [7]]
    batch = PadToBatch(task.padding, complete=task.complete)(
        [dict(zip(examples, values, strict=True)) for values in zip(*examples.values(), strict=True)]
    )
    official = encode_knowledge(task.tokenizer, texts, entities, source, markers=["$"])
    for name in ("input_ids", "attention_mask", "knowledge_slots", "knowledge_embeds"):
        assert torch.equal(batch[name], official[name]), name


def test_an_entity_that_the_table_lacks_has_no_slot_where_it_is_skipped_and_the_question_is_asked_all_the_same(
    corpus, rows
):
    task = task_of(corpus)
    task.use(Knowledge(table("skip")))
    _, examples, _ = encoded(task, rows)
    assert examples["knowledge_slots"] == [[4], [], [7]] and len(examples["record"]) == 3
    task.use(Knowledge(table("skip"), required=True))  # where only the map trains
    assert [len(encoded(task, rows, training=training)[1]["record"]) for training in (True, False)] == [2, 3]


def test_a_question_that_does_not_fit_with_its_mask_is_left_out(corpus, rows):
    _, examples, _ = encoded(task_of(corpus, max_length=11), rows)
    assert examples["record"] == [0, 1]


# ---- which questions are asked ------------------------------------------------------------------------------------


def test_questions_without_subject_id_or_answer_are_left_out_and_counted(corpus, rows):
    _, _, messages = encoded(task_of(corpus), rows)
    assert messages == [
        "3 of 7 questions are asked; 1 have no subject by the template of their relation, 1 have a subject without an "
        f"id in {corpus / 'aliases.txt'}, 2 have no answer that is a single token"
    ]


def test_without_aliases_the_subject_is_its_own_id(corpus, rows):
    asked, _, messages = encoded(task_of(corpus, aliases=False), rows)
    assert asked["subject_id"] == ["Alice", "Bob Carol", "France", "Food"]
    assert messages == [
        "4 of 7 questions are asked; 1 have no subject by the template of their relation, 2 have no answer that is a "
        "single token"
    ]


def test_the_same_questions_are_asked_with_and_without_a_map_whatever_its_table_has(corpus, rows):
    plain, mapped = task_of(corpus), task_of(corpus)
    mapped.use(Knowledge(table()._replace(embeddings=EntityEmbeddings(["Q142"], torch.ones(1, 4), "small"))))
    assert [encoded(task, rows)[0]["id"] for task in (plain, mapped)] == [
        ["P19.dev.json:1", "P19.dev.json:2", "P36.dev.json:1"]
    ] * 2


def test_all_questions_of_a_file_to_be_predicted_are_kept(corpus, rows):
    task = task_of(corpus)
    asked, messages = task.records("predict", rows, labelled=False)
    assert asked["id"] == rows["id"] and messages == []
    assert task.encode(asked[:], labelled=False)["record"] == [0, 1, 2, 3, 5, 6]


@pytest.mark.parametrize(
    ("questions", "templates", "aliases", "reason"),
    [
        (
            QUESTIONS,
            None,
            ALIASES,
            r"no question has its subject where .* says, such as 'Where was Alice born\? \[Y\]'",
        ),
        (
            QUESTIONS,
            TEMPLATES,
            "Nobody\tQ1\n",
            "no question is left: of 7, .* 6 have a subject without an id in .*aliases",
        ),
        (
            {"P19": [("Where was Alice born?", ["Peanut butter"])]},
            TEMPLATES,
            ALIASES,
            "1 have no answer .* single token; ",
        ),
        (QUESTIONS, TEMPLATES, "\n", r"aliases\.txt has no name; give a file of lines name TAB id"),
        (QUESTIONS, TEMPLATES, "Alice Q42\n", r"aliases\.txt, line 1: \['Alice Q42'\] is not a name and an id"),
    ],
)
def test_corpora_of_which_nothing_is_left_are_refused(tmp_path, questions, templates, aliases, reason):
    folder = write_questions(tmp_path / "own", questions, templates)
    (folder / "aliases.txt").write_text(aliases, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        task_of(folder).records("validation", load("entity_questions", folder, "validation", cache_dir=tmp_path))


# ---- what is answered ---------------------------------------------------------------------------------------------


def model_of(folder):
    model = KAdapterForMaskedLM.from_backbone(folder)
    model.add_adapter("graph", official_map().config)
    model.base_model.adapters["graph"].load_state_dict(official_map().state_dict())
    return model.eval()


def test_answers_and_losses_are_those_of_the_mask_over_the_whole_vocabulary_or_over_closed_answers(
    corpus, rows, tmp_path
):
    model, task, closed = model_of(save_bert(tmp_path)), task_of(corpus), task_of(corpus, closed_answers=True)
    for one in (task, closed):
        one.use(Knowledge(table()))
    asked, examples, _ = encoded(task, rows)
    encoded(closed, rows)
    records = [dict(zip(examples, values, strict=True)) for values in zip(*examples.values(), strict=True)]
    batch = PadToBatch(task.padding, complete=task.complete)(records)
    with torch.no_grad():
        output = model(**batch)
        whole = model(**{name: tensor for name, tensor in batch.items() if name not in ("positions", "labels")}).logits
    logits = torch.stack([whole[row, position] for row, (position,) in enumerate(examples["positions"])])
    labels = torch.tensor([label for (label,) in examples["labels"]])
    decided, losses = task.judge(output, batch)
    assert torch.allclose(losses, F.cross_entropy(logits, labels, reduction="none"), atol=1e-6)
    assert torch.allclose(output.loss, losses.mean())
    best = [INFO["vocab"][token] for token in logits.argmax(-1)]
    answers = task.answers(decided.numpy(), asked)
    assert [answer for answer, _ in answers] == best and all(len(scores) == 5 for _, scores in answers)
    assert closed.closed == {"P19": ["france", "paris"], "P36": ["paris"]}
    chosen = closed.answers(closed.judge(output, batch)[0].numpy(), asked)
    france, paris = (logits[:, INFO["vocab"].index(name)] for name in ("france", "paris"))
    for (answer, scores), one, other in zip(chosen[:2], france, paris, strict=False):
        assert answer == ("france" if one > other else "paris")
        assert scores["france"] == pytest.approx(torch.stack([one, other]).softmax(0)[0].item(), abs=2e-6)
    assert chosen[2] == ("paris", {"paris": 1.0})


# ---- whole runs ---------------------------------------------------------------------------------------------------


def flags(ground, output, *more):
    given = ["--task", "entity_questions", "--data_dir", ground / "corpus", "--backbone", ground / "bert"]
    given += ["--output_dir", output, "--max_length", 32, "--do_eval", "--report_to", "none", "--disable_tqdm", True]
    given += ["--bf16", False, "--learning_rate", 1e-2, "--max_steps", 6, "--per_device_train_batch_size", 4]
    given += ["--aliases", ground / "corpus" / "aliases.txt", "--save_strategy", "no", *more]
    return list(map(str, given))


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A model of questions that was fine-tuned as a whole, a table and a map, which no run may change."""
    ground = tmp_path_factory.mktemp("ground")
    (write_questions(ground / "corpus") / "aliases.txt").write_text(ALIASES, encoding="utf-8")
    save_bert(ground / "bert")
    table().embeddings.save_pretrained(ground / "table")
    model = KAdapterModel.from_backbone(str(ground / "bert"))
    entity_embeddings = EntityEmbeddings.from_pretrained(ground / "table")
    model.add_adapter("graph", KnowledgeMapConfig.for_table(entity_embeddings))
    model.save_adapter(ground / "map", "graph")
    run_task.main(flags(ground, ground / "out", "--do_train", "--fusion", "add", "--freeze_backbone", False))
    return ground


@pytest.mark.slow
def test_a_model_that_is_fine_tuned_trains_its_lm_head_and_keeps_it(ground):
    saved, first = load_file(ground / "out" / "model.safetensors"), load_file(ground / "bert" / "model.safetensors")
    trained = {key: saved[key] for key in saved if key.endswith("predictions.transform.dense.weight")}
    ((key, weight),) = trained.items()
    assert not torch.equal(weight, first["cls.predictions.transform.dense.weight"]), key
    again = run_task.main(flags(ground, ground / "again", "--trained_model", ground / "out"))
    before = json.loads((ground / "out" / "eval_results.json").read_text(encoding="utf-8"))
    assert again["eval_loss"] == pytest.approx(before["eval_loss"], abs=1e-6)
    assert predictions(ground / "again") == predictions(ground / "out")


@pytest.mark.slow
def test_the_recipe_of_a_map_tunes_it_before_a_frozen_model(ground, tmp_path):
    beside = ["--trained_model", ground / "out", "--adapters", ground / "map", "--entity_embeddings", ground / "table"]
    recipe = ["--recipe", ROOT / "recipes" / "entity_questions_bert_map.yaml", "--eval_split", "validation"]
    run_task.main(flags(ground, tmp_path / "out", *recipe, *beside, "--save_strategy", "epoch"))
    assert run_of(tmp_path / "out")["row"] == "graph, task-specific"


@pytest.mark.slow
def test_a_map_is_plugged_in_and_tuned_before_a_frozen_model_on_the_same_questions(ground, tmp_path, capsys):
    beside = ["--trained_model", ground / "out", "--adapters", ground / "map", "--entity_embeddings", ground / "table"]
    plugged = run_task.main(flags(ground, tmp_path / "plugged", *beside))
    tune = ["--do_train", "--freeze_head", True, "--freeze_map", False, "--max_steps", 20]
    tuned = run_task.main(flags(ground, tmp_path / "tuned", *beside, *tune))
    told = capsys.readouterr().out
    assert "validation: 3 of 7 questions are asked; 1 have no subject" in told
    assert "validation: 3 of 3 mentions are linked, to 3 entities; 1 have an entity that the table lacks" in told
    assert tuned["eval_loss"] < plugged["eval_loss"]  # of the questions that it was tuned on
    ids = [[one["id"] for one in predictions(folder)] for folder in (ground / "out", tmp_path / "plugged")]
    assert ids[0] == ids[1] == [one["id"] for one in predictions(tmp_path / "tuned")]
    before, after = (load_file(folder / "model.safetensors") for folder in (ground / "out", tmp_path / "tuned"))
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())  # encoder and head, to the bit
