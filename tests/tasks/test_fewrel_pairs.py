"""FewRel by pairs: the published episodes, pairs token by token, the summed loss, and what maps change."""

import json
import random
from itertools import permutations

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny_knowledge import INFO, bert_tokenizer, entity_table, official_map, save_bert
from tiny_runs import ROOT
from tiny_tasks import predictions, run_of
from torch.nn import functional as F

from kadapter import (
    EntityEmbeddings,
    KAdapterForPairMatching,
    KAdapterModel,
    KnowledgeMapConfig,
    KnowledgeSource,
    insert_entities,
)
from kadapter.data_builders import load
from kadapter.trainers import run_task, tasks
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.knowledge import Knowledge
from kadapter.trainers.common.sampler import GlobalBatchSampler
from kadapter.trainers.downstream.arguments import TaskCorpusArguments

ENTITIES = {"Paris": "Q90", "France": "Q142", "Hamsters": "Q1", "peanut butter": "Q7", "Alice": "Q42", "Bob": "Q1000"}
FRAMES = {
    "P17": "{} is the city of {} .",
    "P19": "the book was in {} by {} .",
    "P36": "where is {} in {} ?",
    "P50": "{} wrote {} .",
}
PAIRS = list(permutations(ENTITIES, 2))
SMALL = {"way": 2, "shot": 2, "queries": 1, "train_episodes": 3, "eval_episodes": 2}


def sentence(relation, number):
    """A sentence of a relation in FewRel's layout; in every second the tail stands before the head."""
    head, tail = PAIRS[(7 * number + list(FRAMES).index(relation)) % len(PAIRS)]  # none of a relation twice
    sides, tokens = {}, []
    for word in FRAMES[relation].split():
        if word == "{}":
            key = ("h", "t")[(len(sides) + number) % 2]
            name = head if key == "h" else tail
            own = list(range(len(tokens), len(tokens) + len(name.split())))
            sides[key] = [name.lower(), ENTITIES[name], [own]]
            tokens += name.split()
        else:
            tokens.append(word)
    return {"tokens": tokens, **sides}


def write_fewrel(folder, relations=FRAMES, size=6):
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        groups = {relation: [sentence(relation, number) for number in range(size)] for relation in relations}
        (folder / f"{split}_wiki.json").write_text(json.dumps(groups), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_fewrel(tmp_path_factory.mktemp("fewrel"))


@pytest.fixture(scope="module")
def rows(corpus):
    return load("fewrel", corpus, "validation")


def task_of(max_length=64, **arguments):
    given = TaskCorpusArguments(data_dir="", **{**SMALL, **arguments})
    return tasks.load("fewrel_pairs")(bert_tokenizer(), max_length, given)


def source(missing_entity="bias"):
    return KnowledgeSource(entity_table(), missing_entity=missing_entity)


def batch_of(task, examples, number=None):
    values = list(zip(*examples.values(), strict=True))[:number]
    return PadToBatch(task.padding, complete=task.complete)([dict(zip(examples, row, strict=True)) for row in values])


# ---- episodes -----------------------------------------------------------------------------------------------------


def official_episode(sizes, way, shot, queries, seed):
    """The recipe of the official code, which seeds the random numbers of the whole process."""
    before = random.getstate()
    random.seed(seed)
    drawn = {}
    for relation in random.sample(sorted(sizes), way):
        numbers = random.sample(range(sizes[relation]), shot + queries)
        random.shuffle(numbers)
        drawn[relation] = (numbers[:shot], numbers[shot:])
    random.setstate(before)
    return drawn


def test_the_episodes_of_a_split_are_those_of_the_official_recipe_seed_by_seed(rows):
    asked, messages = task_of(first_episode=10000).records("train", rows)
    assert messages == ["3 episodes, 2-way 2-shot, 6 queries of 4 relations"]
    names, texts = rows["id"], rows["text"]
    relations = sorted(FRAMES, key=rows["relation"].index)
    first = {relation: rows["relation"].index(relation) for relation in relations}
    expected = []
    for seed in (10000, 10001, 10002):
        drawn = official_episode(dict.fromkeys(FRAMES, 6), 2, 2, 1, seed)
        supports = [texts[first[relation] + number] for relation, (own, _) in drawn.items() for number in own]
        for relation, (_, queries) in drawn.items():
            expected += [(f"{seed}:{names[first[relation] + n]}", relation, list(drawn), supports) for n in queries]
    assert list(zip(asked["id"], asked["relation"], asked["classes"], asked["support_text"], strict=True)) == expected


def test_it_is_said_where_relations_are_measured_that_were_trained_on(rows):
    task, others = task_of(), rows.filter(lambda row: row["relation"] in ("P36", "P50"))
    task.records("train", rows.filter(lambda row: row["relation"] in ("P17", "P19", "P36")))
    assert "1 of these relations are trained on too" in task.records("validation", others)[1][1]
    task.records("train", rows.filter(lambda row: row["relation"] in ("P17", "P19")))
    assert len(task.records("validation", others)[1]) == 1


def test_episodes_are_the_same_every_time_and_no_query_is_among_its_labelled_sentences(rows):
    asked, again = (task_of(queries=3).records("validation", rows)[0] for _ in range(2))
    assert asked.to_list() == again.to_list() and len(asked) == 2 * 2 * 3
    for record in asked:
        assert record["text"] not in record["support_text"] and len(set(record["support_text"])) == 4
        assert record["relation"] in record["classes"] and len(set(record["classes"])) == 2


def test_the_draw_leaves_the_random_numbers_of_the_process_alone(rows):
    random.seed(7)
    expected = random.random()
    random.seed(7)
    task_of().records("train", rows)
    assert random.random() == expected


def test_other_settings_have_as_many_pairs_as_classes_times_labelled_sentences(rows):
    task = task_of(way=3, shot=3, queries=2)
    asked, _ = task.records("validation", rows)
    examples = task.encode(asked[:])
    assert {len(pairs) for pairs in examples["input_ids"]} == {9} and len(asked) == 2 * 3 * 2
    assert examples["support_labels"][0] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert examples["labels"] == [0, 0, 1, 1, 2, 2] * 2


def test_examples_in_their_order_keep_the_episodes_of_a_step_together():
    assert list(GlobalBatchSampler([5, 9, 7, 5, 6], 2, False, seed=3, in_order=True)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"way": 5}, "there are 4 relations, and an episode needs 5; lower --way"),
        ({"shot": 4, "queries": 3}, "relation 'P17' has 6 sentences, and an episode needs 7 of each: --shot labelled"),
    ],
)
def test_a_corpus_that_is_too_small_for_an_episode_is_refused(rows, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        task_of(**arguments).records("validation", rows)


def test_a_file_to_be_predicted_is_refused_since_its_sentences_have_no_episode(rows):
    with pytest.raises(ValueError, match="a file to be predicted has none; evaluate by --do_eval"):
        task_of().records("predict", rows, labelled=False)


# ---- pairs --------------------------------------------------------------------------------------------------------


def record_of(query, *supports):
    """A record of one query, each sentence a text with its head and tail."""

    def columns(text, head, tail):
        spans = ({"start": text.index(name), "end": text.index(name) + len(name)} for name in (head, tail))
        return (text, *spans, ENTITIES.get(head, "Q5"), ENTITIES.get(tail, "Q5"))

    names = ("text", "head", "tail", "head_id", "tail_id")
    own = dict(zip(names, columns(*query), strict=True))
    beside = zip(*(columns(*support) for support in supports), strict=True)
    labelled = {f"support_{name}": list(values) for name, values in zip(names, beside, strict=True)}
    return Dataset.from_list([{"id": "0:q", "relation": "P36", "classes": ["P17", "P36"], **own, **labelled}])


QUERY = ("Paris is the capital of France .", "Paris", "France")
SUPPORTS = [("the book was in Hamsters by Bob .", "Bob", "Hamsters"), ("Zyx is the city of Alice .", "Zyx", "Alice")]


def test_a_pair_is_written_as_published_with_and_without_entities():
    plain, mapped, record = task_of(shot=1), task_of(shot=1), record_of(QUERY, *SUPPORTS)
    mapped.use(Knowledge(source()))
    tokens = plain.tokenizer.convert_ids_to_tokens
    query, texts = "# paris # is the capital of $ france $ .", []
    for task in (plain, mapped):
        examples = task.encode(record[:])
        texts.append([" ".join(tokens(ids)) for ids in examples["input_ids"][0]])
        assert examples["labels"] == [1] and examples["support_labels"] == [[0, 1]]
    assert texts[0] == [
        f"[CLS] {query} [SEP] the book was in $ hamsters $ by # bob # . [SEP]",
        f"[CLS] {query} [SEP] # z ##y ##x # is the city of $ alice $ . [SEP]",
    ]
    query = "# [UNK] / paris # is the capital of $ [UNK] / france $ ."
    assert texts[1] == [
        f"[CLS] {query} [SEP] the book was in $ [UNK] / hamsters $ by # [UNK] / bob # . [SEP]",
        f"[CLS] {query} [SEP] # [UNK] / z ##y ##x # is the city of $ [UNK] / alice $ . [SEP]",
    ]
    ((types, _),) = examples["token_type_ids"]
    assert types == [0] * 17 + [1] * 17
    assert examples["knowledge_slots"] == [[[2, 11, 22, 28], [2, 11, 18, 29]]]
    row = INFO["entity2id"]
    of_query = [row["Q90"], row["Q142"]]
    assert examples["knowledge_rows"] == [[[*of_query, row["Q1"], row["Q1000"]], [*of_query, -1, row["Q42"]]]]


@pytest.mark.parametrize("max_length", [31, 30, 29, 28, 27, 24])
def test_long_pairs_are_cut_as_insert_entities_cuts_them(max_length):
    long = ("who wrote the book ? it was Alice by the city of Paris in the food .", "Alice", "Paris")
    task = task_of(shot=1, way=1, max_length=max_length)
    record = record_of(long, long)
    examples = task.encode({**record[:], "classes": [["P36"]]})
    spans = [(long[0].index(name), long[0].index(name) + len(name), None) for name in long[1:]]
    (whole,) = insert_entities(
        *(task.tokenizer, [long[0]], [spans], source()),
        markers=("#", "$"),
        pairs=([long[0]], [spans]),
        max_length=max_length,
        official_truncation=True,
    )
    if -1 in whole.entity_positions:
        assert max_length == 24 and examples["record"] == []  # the mentions alone are longer
    else:
        assert examples["input_ids"] == [[whole.input_ids]] and examples["truncated"] == [True]
        assert examples["token_type_ids"] == [[whole.token_type_ids]]


def test_logits_are_mean_scores_and_the_loss_is_the_sum_over_the_queries_of_a_batch(rows, tmp_path):
    model = KAdapterForPairMatching.from_backbone(save_bert(tmp_path))
    model.add_adapter("graph", official_map().config)
    model.base_model.adapters["graph"].load_state_dict(official_map().state_dict())
    task = task_of()
    task.use(Knowledge(source()))
    asked, _ = task.records("validation", rows)
    batch = batch_of(task, task.encode(asked[:]))
    with torch.no_grad():
        output = model.eval()(**batch)
        for query in range(len(asked)):
            alone = {name: tensor[query] for name, tensor in batch.items() if name not in ("labels", "support_labels")}
            states = model.base_model(**alone).last_hidden_state[:, 0]  # a pair after the other
            assert torch.allclose(output.logits[query], model.head(states).view(2, 2).mean(dim=1), atol=1e-5)
    decided, losses = task.judge(output, batch)
    assert torch.allclose(losses, F.cross_entropy(output.logits, batch["labels"], reduction="none"))
    assert torch.allclose(output.loss, losses.sum())
    answers = task.answers(decided.numpy(), asked)
    best = [classes[int(row.argmax())] for classes, row in zip(asked["classes"], output.logits, strict=True)]
    assert [answer for answer, _ in answers] == best
    assert all(list(scores) == classes for (_, scores), classes in zip(answers, asked["classes"], strict=True))
    assert [sum(scores.values()) for _, scores in answers] == pytest.approx([1.0] * len(asked), abs=1e-5)


# ---- whole runs ---------------------------------------------------------------------------------------------------


def flags(ground, output, *more):
    given = ["--task", "fewrel_pairs", "--data_dir", ground / "corpus", "--backbone", ground / "bert", "--way", 2]
    given += ["--queries", 2, "--train_episodes", 4, "--eval_episodes", 3, "--max_length", 64, "--output_dir", output]
    given += ["--do_eval", "--report_to", "none", "--disable_tqdm", True, "--bf16", False, "--learning_rate", 1e-3]
    given += ["--per_device_train_batch_size", 4, "--num_train_epochs", 1, "--save_strategy", "no"]
    return list(map(str, [*given, "--classifier_dropout", 0, "--logging_steps", 1, *more]))


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A model of pairs that was fine-tuned as a whole, a table and a map, which no run may change."""
    ground = tmp_path_factory.mktemp("ground")
    write_fewrel(ground / "corpus")
    save_bert(ground / "bert")
    entity_table().save_pretrained(ground / "table")
    model = KAdapterModel.from_backbone(str(ground / "bert"))
    model.add_adapter("graph", KnowledgeMapConfig.for_table(EntityEmbeddings.from_pretrained(ground / "table")))
    model.save_adapter(ground / "map", "graph")
    run_task.main(flags(ground, ground / "out", "--do_train", "--freeze_backbone", False))
    return ground


def logged(folder, name):
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry[name] for entry in history if name in entry]


@pytest.mark.slow
def test_a_step_in_several_batches_has_the_summed_loss_of_the_whole_step(ground, tmp_path):
    losses = []
    for size, steps in ((8, 1), (2, 4)):
        given = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps, "--do_train"]
        run_task.main(flags(ground, tmp_path / str(size), *given, "--train_sampling_strategy", "sequential"))
        losses.append((logged(tmp_path / str(size), "loss"), logged(tmp_path / str(size), "grad_norm")))
    (whole, norms), (parts, norms_of_parts) = losses
    assert len(whole) == 2 and whole == pytest.approx(parts, rel=1e-3) and norms == pytest.approx(norms_of_parts, 1e-2)
    assert 4 < whole[0] < 8  # eight times a bit less than the loss of a guess


@pytest.mark.slow
def test_a_map_is_plugged_in_and_tuned_and_other_settings_use_the_same_weights(ground, tmp_path):
    beside = ["--trained_model", ground / "out", "--adapters", ground / "map", "--entity_embeddings", ground / "table"]
    plugged = run_task.main(flags(ground, tmp_path / "plugged", *beside))
    tune = ["--do_train", "--freeze_head", True, "--freeze_map", False, "--first_episode", 10000]
    run_task.main(flags(ground, tmp_path / "tuned", *beside, *tune))
    other = ["--trained_model", ground / "out", "--way", 3, "--shot", 2, "--eval_episodes", 2]
    run_task.main(flags(ground, tmp_path / "other", *other))
    assert plugged["eval_records"] == 3 * 2 * 2 and len(predictions(tmp_path / "other")) == 2 * 3 * 2
    assert {len(one["scores"]) for one in predictions(tmp_path / "other")} == {3}
    ids = [[one["id"] for one in predictions(folder)] for folder in (ground / "out", tmp_path / "plugged")]
    assert ids[0] == ids[1] == [one["id"] for one in predictions(tmp_path / "tuned")]
    before, after = (load_file(folder / "model.safetensors") for folder in (ground / "out", tmp_path / "tuned"))
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())  # encoder and head, to the bit
    first = load_file(ground / "map" / "model.safetensors")["adapters.graph.projection.weight"]
    (tuned,) = [tensor for key, tensor in after.items() if key.endswith("adapters.graph.projection.weight")]
    assert not torch.equal(first, tuned)


@pytest.mark.slow
def test_the_recipe_of_a_map_tunes_it_before_a_frozen_model(ground, tmp_path):
    beside = ["--trained_model", ground / "out", "--adapters", ground / "map", "--entity_embeddings", ground / "table"]
    recipe = [
        "--recipe",
        ROOT / "recipes" / "fewrel_pairs_bert_map.yaml",
        "--eval_steps",
        1,
        "--save_strategy",
        "steps",
    ]
    run_task.main(flags(ground, tmp_path / "out", *recipe, *beside))
    assert run_of(tmp_path / "out")["row"] == "graph, task-specific"
    assert 16 * 0.4 < logged(tmp_path / "out", "loss")[0] < 16 * 1.2  # the sum over all queries is that of a step


@pytest.mark.slow
def test_on_a_frozen_encoder_kept_states_give_the_results_of_encoding_each_pair_again(ground, tmp_path):
    kept = ["--do_train", "--states_dir", tmp_path / "states"]
    results = [
        run_task.main(flags(ground, tmp_path / name, *kept, "--keep_states", keep))
        for name, keep in (("kept", True), ("again", False))
    ]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], abs=1e-4)
    assert (tmp_path / "states").is_dir()


def test_episodes_by_prototypes_are_of_tasks_that_classify_relations(ground, tmp_path):
    with pytest.raises(ValueError, match="--episodes can't be used for the task 'fewrel_pairs'"):
        run_task.main(flags(ground, tmp_path / "out", "--episodes", 3))
