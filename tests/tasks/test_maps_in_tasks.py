"""A knowledge map in downstream tasks: plugged into a trained head, tuned on the task, beside a head that trains."""

import json

import pytest
import torch
from processes import run_processes
from tiny_knowledge import ID_OF, LACKING, linked_typing, write_linked, write_map_ground
from tiny_runs import ROOT, digest, losses, tensors
from tiny_tasks import predictions, run_of, task_flags

from kadapter import (
    EntityEmbeddings,
    KAdapterConfig,
    KAdapterForEntityPairClassification,
    KAdapterModel,
    KnowledgeMap,
    KnowledgeMapConfig,
    KnowledgeSource,
    data_builders,
)
from kadapter.processing_kadapter import placeholder_id
from kadapter.reports.comparison import Resampling
from kadapter.reports.report import report
from kadapter.trainers import run_task, tasks
from kadapter.trainers.common.encoding import open_tokenizer
from kadapter.trainers.common.knowledge import Knowledge
from kadapter.trainers.downstream.arguments import TaskCorpusArguments

pytestmark = pytest.mark.slow

WIKI_ET = ROOT.parent / "shared" / "golden" / "map_tuning" / "toy" / "datasets" / "WikiET"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_map_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def outs(tmp_path_factory):
    return tmp_path_factory.mktemp("outs")


def flags(ground, output, *more, adapters=("map",), train=True, table="table", task="wiki80"):
    """The flags of a run; with a table unless that is None."""
    named = () if table is None else ("--entity_embeddings", ground / table)
    given = task_flags(ground, output, "--num_train_epochs", "1", *named, *more, task=task, adapters=adapters)
    return given if train else [flag for flag in given if flag != "--do_train"]


@pytest.fixture(scope="module")
def base(ground, outs):
    """A head that was trained beside fac and lin, without a map."""
    run_task.main(flags(ground, outs / "base", table=None, adapters=("fac", "lin")))
    return outs / "base"


@pytest.fixture(scope="module")
def plugged(ground, outs, base):
    """The results of that head with the map plugged in, and with the table's rows shuffled."""
    begin = ("--trained_model", base)
    run_task.main(flags(ground, outs / "plugged", *begin, train=False))
    run_task.main(flags(ground, outs / "shuffled", *begin, "--shuffle_entities", "3", train=False))
    return outs / "plugged", outs / "shuffled"


TUNING = ("--freeze_head", "true", "--freeze_map", "false")


@pytest.fixture(scope="module")
def tuned(ground, outs, base):
    """That model with a map that alone was trained on the task, and the bytes of all else before and after."""
    read = [ground / name for name in ("backbone", "table", "map", "fac", "lin")] + [base]
    before = [digest(folder) for folder in read]
    run_task.main(flags(ground, outs / "tuned", "--trained_model", base, *TUNING))
    return outs / "tuned", before, [digest(folder) for folder in read]


# --- records


def task_of(ground, name="wiki80", max_length=40, **source):
    """A task with the entities of the table."""
    tokenizer = open_tokenizer(str(ground / "backbone"), None, max_length)
    task = tasks.load(name)(tokenizer, max_length, TaskCorpusArguments(data_dir=str(ground / name)))
    table = EntityEmbeddings.from_pretrained(ground / "table")
    task.use(Knowledge(KnowledgeSource(table, **source), ids_are_rows=task.ids_are_rows))
    return task


def relation_rows(head="Mira Voss", tail="Old Quarry", **ids):
    text = f"It is said that {head} was born near the river in {tail} , far away ."
    spans = {
        key: [{"start": text.index(name), "end": text.index(name) + len(name)}]
        for key, name in (("head", head), ("tail", tail))
    }
    own = {"head_id": [ID_OF[head]], "tail_id": [ID_OF[tail]]}
    return {"id": ["r1"], "text": [text], **spans, "relation": ["P19"], **own, **ids}


def encoded(task, rows):
    """The only example of records, without their labels."""
    examples = task.encode(rows, labelled=False)
    return {name: column[0] for name, column in examples.items()}


@pytest.mark.parametrize(
    ("where", "around"),
    [("before", "@ ? / MiraVoss @"), ("after", "@ MiraVoss / ? @"), ("instead", "@ ? @")],
)
def test_an_entity_stands_within_the_markers_and_all_other_tokens_are_those_without_a_map(ground, where, around):
    task = task_of(ground, entity_position=where)
    example, tokenizer = encoded(task, relation_rows()), task.tokenizer
    ids, slots = list(example["input_ids"]), example["knowledge_slots"]
    assert [ids[slot] for slot in slots] == [placeholder_id(tokenizer)] * 2
    assert example["knowledge_rows"] == [list(ID_OF).index(name) for name in ("Mira Voss", "Old Quarry")]
    assert [ids[at] for at in example["entity_positions"]] == tokenizer.convert_tokens_to_ids(["@", "#"])
    words = "".join("?" if at in slots else token for at, token in enumerate(tokenizer.convert_ids_to_tokens(ids)))
    assert around.replace(" ", "") in words.replace("Ġ", "")
    task.knowledge = None
    plain = encoded(task, relation_rows())
    assert "knowledge_slots" not in plain and "knowledge_rows" not in plain
    if where == "before":
        for slot in reversed(slots):
            separator = tokenizer(" /", add_special_tokens=False)["input_ids"]
            assert ids[slot + 1 : slot + 1 + len(separator)] == separator
            del ids[slot : slot + 1 + len(separator)]
        assert ids == plain["input_ids"]


def test_a_text_that_is_cut_keeps_each_entity_with_its_mention_or_is_left_out(ground):
    task = task_of(ground, max_length=60)
    whole, closing = encoded(task, relation_rows())["input_ids"], task.tokenizer.convert_tokens_to_ids("#")
    opening = whole.index(task.tokenizer.convert_tokens_to_ids("@"))
    needed = 2 + len(whole) - whole[::-1].index(closing) - opening  # special tokens, and all between the markers
    assert needed + 3 < len(whole)
    for task.max_length in range(needed - 2, len(whole) + 1):
        examples = task.encode(relation_rows(), labelled=False)
        assert len(examples["input_ids"]) == (task.max_length >= needed)
        for ids, at, slots in zip(
            *(examples[key] for key in ("input_ids", "entity_positions", "knowledge_slots")), strict=True
        ):
            assert len(ids) == min(task.max_length, len(whole))
            assert slots == [position + 1 for position in at]
            assert [ids[slot] for slot in slots] == [placeholder_id(task.tokenizer)] * 2


def test_an_entity_that_the_table_lacks_is_skipped_or_is_a_vector_of_zeros_as_the_map_says(ground):
    rows, unlinked = relation_rows(tail=LACKING), relation_rows(tail_id=[""])
    skipped, zeros = task_of(ground), task_of(ground, missing_entity="bias")
    assert [len(encoded(skipped, own)["knowledge_slots"]) for own in (rows, unlinked)] == [1, 1]
    example = encoded(zeros, rows)
    assert example["knowledge_rows"] == [0, -1] and len(encoded(zeros, unlinked)["knowledge_slots"]) == 1
    batch = zeros.complete({"knowledge_rows": torch.tensor([example["knowledge_rows"]])})
    assert torch.equal(batch["knowledge_embeds"][0, 0], zeros.knowledge.table.lookup(["Q1"])[0])
    assert not batch["knowledge_embeds"][0, 1].any()


def test_the_run_can_say_what_becomes_of_an_entity_that_the_table_lacks(ground, tmp_path, capsys):
    run_task.main(flags(ground, tmp_path / "out", "--missing_entity", "bias"))
    assert "have the bias of the map" in capsys.readouterr().out
    assert run_of(tmp_path / "out")["knowledge"]["missing_entity"] == "bias"
    assert KnowledgeMap.from_pretrained(tmp_path / "out", "wikidata").config.missing_entity == "bias"
    trained = predictions(tmp_path / "out")
    run_task.main(flags(ground, tmp_path / "out", train=False))
    assert predictions(tmp_path / "out") == trained


def test_an_entity_that_would_stand_instead_of_a_mention_with_another_is_refused(ground):
    rows = relation_rows()
    rows["tail"] = [{"start": rows["head"][0]["start"], "end": rows["head"][0]["end"] + 4}]
    assert len(encoded(task_of(ground), rows)["knowledge_slots"]) == 2
    with pytest.raises(ValueError, match="a mention lies in another, and the map puts entities instead of mentions"):
        task_of(ground, entity_position="instead").encode(rows, labelled=False)


def test_shuffled_entities_have_the_same_vectors_among_others(ground):
    table = EntityEmbeddings.from_pretrained(ground / "table")
    true, shuffled = (Knowledge(KnowledgeSource(table), seed).rows_of(table) for seed in (None, 3))
    assert true != shuffled and sorted(true.values()) == sorted(shuffled.values())
    assert shuffled == Knowledge(KnowledgeSource(table), 3).rows_of(table)
    assert Knowledge(KnowledgeSource(table), 3).rows_of(["Q99"]) == {"Q99": -1}


# --- a map and a trained head


def test_a_map_is_plugged_into_a_trained_head_and_nothing_of_it_changes(ground, base, plugged, tmp_path):
    record, true = run_of(plugged[0]), EntityEmbeddings.from_pretrained(ground / "table")
    assert (record["row"], record["adapters"]) == ("fac+lin+wikidata, plugged in", ["fac", "lin", "wikidata"])
    assert record["knowledge"]["sha256"] == true.sha256 and record["knowledge"]["shuffled"] is None
    assert record["trained_model"] == str(base) and record["seed"] == run_of(base)["seed"]
    assert not (plugged[0] / "model.safetensors").exists()
    before = digest(base)
    begin = ("--trained_model", base)
    run_task.main(flags(ground, tmp_path / "none", *begin, adapters=("none",), table=None, train=False))
    assert digest(base) == before
    assert predictions(tmp_path / "none") == predictions(base) != predictions(plugged[0])
    assert run_of(tmp_path / "none")["row"] == "fac+lin"


def test_its_answers_are_those_of_the_model_to_which_the_map_is_added(ground, base, plugged):
    model = KAdapterForEntityPairClassification.from_pretrained(base, backbone=str(ground / "backbone"))
    model.load_adapter(ground / "map")
    rows, task = data_builders.load("wiki80", ground / "wiki80")["validation"], task_of(ground)
    for row, answer in zip(rows, predictions(plugged[0]), strict=True):
        example = encoded(task, {name: [value] for name, value in row.items()})
        tensors_of = {name: torch.tensor([example[name]]) for name in example if name not in ("record", "truncated")}
        with torch.no_grad():
            scores = model.eval()(**task.complete(tensors_of)).logits.softmax(-1)[0]
        expected = [answer["scores"][name] for name in sorted(model.config.label2id)]
        assert scores.tolist() == pytest.approx(expected, abs=2e-6)


def test_a_shuffled_table_is_a_row_of_its_own_with_other_answers(plugged):
    true, shuffled = map(run_of, plugged)
    assert shuffled["row"] == "fac+lin+wikidata, plugged in, shuffled table"
    assert shuffled["knowledge"] == {**true["knowledge"], "shuffled": 3}
    assert predictions(plugged[0]) != predictions(plugged[1])


def test_kept_states_are_those_of_the_entities(ground, base, plugged, tmp_path):
    begin = ("--trained_model", base, "--keep_states", "false", "--shuffle_entities", "3")
    run_task.main(flags(ground, tmp_path / "anew", *begin, train=False))
    for one, other in zip(predictions(plugged[1]), predictions(tmp_path / "anew"), strict=True):
        assert list(one["scores"].values()) == pytest.approx(list(other["scores"].values()), abs=2e-6)


def test_map_tuning_trains_the_map_alone(ground, base, tuned):
    folder, before, after = tuned
    assert before == after
    old, new = tensors(base), tensors(folder)
    own = {key for key in new if ".wikidata." in key}
    assert new.keys() - old.keys() == own and not any("backbone." in key for key in new)
    assert all(torch.equal(old[key], new[key]) for key in old)
    general = KnowledgeMap.from_pretrained(ground / "map").projection.weight
    assert not torch.equal(KnowledgeMap.from_pretrained(folder, "wikidata").projection.weight, general)
    record = run_of(folder)
    assert record["row"] == "fac+lin+wikidata, task-specific" and record["knowledge"]["shuffled"] is None


def test_the_encoder_drops_out_before_a_map_that_is_tuned_unless_it_is_told_not_to(
    ground, base, tuned, tmp_path, capsys
):
    run_task.main(flags(ground, tmp_path / "still", "--trained_model", base, *TUNING, "--backbone_dropout", "0"))
    assert "trainable params: 288 " in capsys.readouterr().out  # 8 * 32 + 32
    own = "kadapter.adapters.wikidata.projection.weight"
    assert not torch.equal(tensors(tuned[0])[own], tensors(tmp_path / "still")[own])


def test_a_finished_tuning_is_resumed_with_the_map_that_it_trained(ground, base, tuned):
    folder, _, before = tuned
    weights = (folder / "model.safetensors").read_bytes()
    more = ("--resume_from_checkpoint", "last", "--do_predict", ground / "wiki80" / "dev.txt")
    run_task.main(flags(ground, folder, "--trained_model", base, *TUNING, *more))
    assert (folder / "model.safetensors").read_bytes() == weights and digest(base) == before[-1]
    told = [answer["scores"] for answer in predictions(folder, "predicted.jsonl")]
    assert told == [answer["scores"] for answer in predictions(folder)]


def test_examples_without_an_entity_teach_a_map_nothing_and_are_left_out_where_it_alone_trains(ground):
    task = task_of(ground)
    task.knowledge.required = True
    rows = relation_rows(head_id=[""], tail_id=["Q99"])
    assert task.encode(rows, training=True, labelled=False)["record"] == []
    assert task.encode(rows, training=False, labelled=False)["record"] == [0]


def test_a_head_and_its_encoder_learn_beside_a_frozen_map(ground, tmp_path):
    more = ("--freeze_backbone", "false", "--learning_rate", "1e-3")
    run_task.main(flags(ground, tmp_path / "out", *more, adapters=("fac", "map")))
    own = KnowledgeMap.from_pretrained(ground / "map").projection
    stored = tensors(tmp_path / "out")
    assert torch.equal(stored["kadapter.adapters.wikidata.projection.weight"], own.weight)
    words = next(key for key in stored if key.endswith("backbone.embeddings.word_embeddings.weight"))
    assert not torch.equal(stored[words], tensors(ground / "backbone")["embeddings.word_embeddings.weight"])
    assert run_of(tmp_path / "out")["row"] == "fac+wikidata, fine-tuned with it"
    again = ("--trained_model", tmp_path / "out", "--shuffle_entities", "1")  # the encoder is another now
    run_task.main(flags(ground, tmp_path / "shuffled", *again, adapters=("none",), train=False))
    assert run_of(tmp_path / "shuffled")["row"] == "fac+wikidata, fine-tuned with it, shuffled table"


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["task-specific", "fine-tuned with it"])
def test_two_processes_train_beside_a_map_as_one_does(ground, base, tmp_path, stage):
    own = {
        "task-specific": ("--trained_model", base, *TUNING),
        "fine-tuned with it": ("--freeze_backbone", "false"),
    }[stage]
    more = (
        *own,
        "--backbone_dropout",
        "0",
        "--classifier_dropout",
        "0",
        "--learning_rate",
        "1e-3",
        "--logging_steps",
        "1",
    )
    run_task.main(flags(ground, tmp_path / "one", *more, "--per_device_train_batch_size", "8"))
    halves = flags(ground, tmp_path / "two", *more, "--per_device_train_batch_size", "4")
    run_processes(run_task.main, halves, tmp_path / "printed", number=2)
    one, two = (losses(tmp_path / run) for run in ("one", "two"))
    assert one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-4
    alone, together = (tensors(tmp_path / run) for run in ("one", "two"))
    assert alone.keys() == together.keys()
    assert all(torch.allclose(alone[key], together[key], atol=1e-3) for key in alone)
    assert run_of(tmp_path / "two")["row"].endswith(stage)
    assert KAdapterConfig.from_pretrained(tmp_path / "two").classifier_dropout == 0


def test_a_map_is_plugged_into_an_encoder_that_was_fine_tuned(ground, tmp_path):
    more = ("--freeze_backbone", "false", "--learning_rate", "1e-3")
    run_task.main(flags(ground, tmp_path / "base", *more, adapters=("none",), table=None))
    begin = ("--trained_model", tmp_path / "base")
    run_task.main(flags(ground, tmp_path / "tuned", *begin, *TUNING))
    old, new = tensors(tmp_path / "base"), tensors(tmp_path / "tuned")
    assert any("backbone." in key for key in old) and all(torch.equal(old[key], new[key]) for key in old)
    record = run_of(tmp_path / "tuned")
    assert record["row"] == "wikidata, task-specific" and record["freeze_backbone"] is False


def test_every_control_is_a_row_of_the_report(ground, base, plugged, tuned, tmp_path):
    begin = ("--trained_model", base)
    run_task.main(flags(ground, tmp_path / "random", *begin, train=False, adapters=("random", "map")))
    folders = [base, *plugged, tuned[0], tmp_path / "random"]
    table = report(folders, tmp_path / "report", ["fac+lin"], Resampling(resamples=20), log=lambda text: None)
    (cells,) = table.values()
    assert {row.name for row in cells} == {
        "fac+lin",
        "fac+lin+wikidata, plugged in",
        "fac+lin+wikidata, plugged in, shuffled table",
        "fac+lin+wikidata, task-specific",
        "fac+lin+random_wikidata, plugged in",
    }
    assert all(cell.against.keys() == ({"fac+lin"} - {row.name}) for row, cell in cells.items())
    assert run_of(tmp_path / "random")["random"] == ["random_wikidata"]


def test_a_map_whose_own_name_begins_with_random_is_plugged_in_as_any_other(ground, base, plugged, tmp_path):
    model = KAdapterModel.from_pretrained(ground / "map")
    model.rename_adapter("wikidata", "random_wikidata")
    model.save_adapter(tmp_path / "map", "random_wikidata")
    begin = ("--trained_model", base)
    run_task.main(flags(ground, tmp_path / "out", *begin, train=False, adapters=(tmp_path / "map",)))
    record = run_of(tmp_path / "out")
    assert record["adapters"] == ["fac", "lin", "random_wikidata"] and record["random"] == []
    ours, theirs = (path / "predictions.jsonl" for path in (tmp_path / "out", plugged[0]))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_sweep_begins_with_the_trial_of_each_seed(ground, tmp_path):
    run_task.main(flags(ground, tmp_path / "base", "--seeds", "1", "2", adapters=("none",), table=None))
    begin = ("--trained_model", tmp_path / "base", "--seeds", "1", "2")
    run_task.main(flags(ground, tmp_path / "out", *begin, train=False))
    for seed in (1, 2):
        assert run_of(tmp_path / "out" / f"seed-{seed}")["seed"] == seed
        model = KAdapterForEntityPairClassification.from_pretrained(tmp_path / "base" / f"seed-{seed}")
        assert model.active_adapters() == []
    assert predictions(tmp_path / "out" / "seed-1") != predictions(tmp_path / "out" / "seed-2")


@pytest.mark.parametrize("task", ["wiki80", "wiki_et"])
def test_the_recipes_of_maps_run_on_a_tiny_backbone(ground, tmp_path, task):
    small = ("--max_length", "40", "--max_steps", "1", "--eval_split", "validation", "--eval_strategy", "epoch")
    small += ("--save_strategy", "epoch")
    for recipe, adapters, more in (
        (f"{task}_bert.yaml", ("none",), ()),
        (f"{task}_bert_map.yaml", ("map",), ("--trained_model", tmp_path / f"{task}_bert.yaml")),
    ):
        named = ("--recipe", ROOT / "recipes" / recipe, *small, *more)
        table = None if adapters == ("none",) else "table"
        run_task.main(flags(ground, tmp_path / recipe, *named, adapters=adapters, table=table, task=task))
    record = run_of(tmp_path / f"{task}_bert_map.yaml")
    assert record["row"] == "wikidata, task-specific" and record["freeze_backbone"] is False


# --- Wiki-ET


def test_ids_of_wiki_et_are_rows_of_the_table_and_minus_one_is_no_entity(ground):
    rows, task = data_builders.load("wiki_et", ground / "wiki_et")["train"], task_of(ground, "wiki_et")
    assert "" in rows["entity_id"] and "-1" not in rows["entity_id"]
    examples = task.encode(rows[:], labelled=False)
    expected = [[int(name)] if name else [] for name in rows["entity_id"]]
    assert examples["knowledge_rows"] == expected
    names = {**rows[:1], "entity_id": ["Q3"]}
    assert task.encode(names, labelled=False)["knowledge_rows"] == [[2]]
    with pytest.raises(ValueError, match="entity id 13 is the number of a row, and the table has 13 rows"):
        task.encode({**names, "entity_id": ["13"]}, labelled=False)


def test_types_of_wiki_et_are_numbered_as_published_and_predicted_as_in_the_official_code(ground, tmp_path):
    write_linked(tmp_path / "wiki_et", linked_typing, {"train": 8}, ".json")
    label2id = {"person": 2, "location": 0, "event": 1}
    (tmp_path / "wiki_et" / "label2id.json").write_text(json.dumps(label2id), encoding="utf-8")
    task = task_of(tmp_path_with(ground, tmp_path), "wiki_et")
    assert task.learn(data_builders.load("wiki_et", tmp_path / "wiki_et")["train"])["label2id"] == label2id
    logits = torch.tensor([[0.0, -1.0, 2.0], [-3.0, -1.0, -2.0]]).numpy()
    assert [names for names, _ in task.answers(logits, None)] == [["location", "person"], ["event"]]
    (tmp_path / "wiki_et" / "label2id.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"label2id.json must be a JSON object of types and their numbers"):
        task_of(tmp_path_with(ground, tmp_path), "wiki_et")


def tmp_path_with(ground, folder):
    """A folder with another corpus beside the backbone and the table."""
    for name in ("backbone", "table"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ground / name)
    return folder


@pytest.mark.skipif(not WIKI_ET.is_dir(), reason="the official toy files of Wiki-ET are not here")
def test_the_official_files_of_wiki_et_are_read():
    rows = data_builders.load("wiki_et", WIKI_ET)["test"]
    assert rows["entity_id"] == ["1", "3"] and rows["labels"] == [["loc", "city"], ["person"]]


# --- bad input


def with_another_table(ground, folder):
    table = EntityEmbeddings.from_pretrained(ground / "table")
    EntityEmbeddings([*table], table.embeddings + 1, "wikidata").save_pretrained(folder / "changed")
    EntityEmbeddings([f"C{n}" for n in range(5)], torch.zeros(5, 8), "umls").save_pretrained(folder / "umls")


REFUSED = {
    "no table": (("--adapters", "{map}"), "--entity_embeddings is missing: the knowledge map 'wikidata' needs the"),
    "no map": (("--adapters", "{fac}", "--entity_embeddings", "{table}"), "is of a knowledge map, and there is none"),
    "shuffled without a map": (("--shuffle_entities", "1"), "--shuffle_entities 1 is of a knowledge map"),
    "another table": (
        ("--adapters", "{map}", "--entity_embeddings", "{changed}"),
        "--entity_embeddings .* for the map 'wikidata': the table has sha256 .* and the map was trained with",
    ),
    "no such ids": (("--adapters", "{umls_map}", "--entity_embeddings", "{umls}"), "none of the 14 ids, such as 'Q1'"),
    "no ids": (
        ("--adapters", "{map}", "--entity_embeddings", "{table}", "--data_dir", "{unlinked}"),
        "unlinked: no record has the id of an entity",
    ),
    "another encoder": (
        ("--adapters", "{map}", "--entity_embeddings", "{table}", "--backbone", "{other}"),
        "this map was trained beside another encoder",
    ),
    "a task without mentions": (
        ("--task", "cosmosqa", "--adapters", "{map}", "--entity_embeddings", "{table}"),
        "the task 'cosmosqa' has no linked mentions",
    ),
    "two maps": (("--adapters", "{map}", "{umls_map}", "--entity_embeddings", "{table}"), "has the knowledge maps"),
    "a new head": (("--freeze_head", "true"), "--freeze_head would leave a new head untrained"),
    "nothing trains": (
        ("--trained_model", "{base}", "--freeze_head", "true"),
        "--freeze_head leaves nothing to train",
    ),
    "a rule for no map": (("--missing_entity", "bias"), "--missing_entity bias is of a knowledge map"),
    "dropout of nothing": (("--backbone_dropout", "0.3"), r"--backbone_dropout 0\.3 is of an encoder that trains"),
    "the same folder": (
        ("--trained_model", "{base}", "--output_dir", "{base}"),
        "--output_dir .* is the directory of an adapter or a model that is read",
    ),
    "nothing there": (
        ("--trained_model", "{table}", "--adapters", "{map}", "--entity_embeddings", "{table}"),
        "there is no trained model in",
    ),
    "features": (
        ("--trained_model", "{base}", "--adapters", "{fac}"),
        "--adapters names 'fac', and the head of the model in .* was not trained with its features",
    ),
}


@pytest.fixture(scope="module")
def others(ground, base, outs):
    """What is refused: other tables, their map, another encoder, and a corpus without ids."""
    folder = outs / "others"
    with_another_table(ground, folder)
    model = KAdapterModel.from_backbone(str(ground / "backbone"))
    umls = EntityEmbeddings.from_pretrained(folder / "umls")
    model.add_adapter("umls", KnowledgeMapConfig.for_table(umls))
    model.save_adapter(folder / "umls_map", "umls")
    other = KAdapterModel.from_backbone(str(ground / "backbone")).backbone
    torch.manual_seed(9)
    torch.nn.init.normal_(other.get_input_embeddings().weight)
    other.save_pretrained(folder / "other")
    open_tokenizer(str(ground / "backbone"), None, 40).save_pretrained(folder / "other")
    (folder / "unlinked").mkdir()
    for path in (ground / "wiki80").iterdir():
        text = path.read_text(encoding="utf-8").replace('"id": "Q', '"id": "')
        (folder / "unlinked" / path.name).write_text(text, encoding="utf-8")
    named = {path.name: path for place in (ground, folder) for path in place.iterdir()}
    return {**named, "base": base}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_give_no_result_is_refused_in_a_sentence(ground, others, tmp_path, case):
    more, sentence = REFUSED[case]
    words = [word.format(**others) for word in more]
    with pytest.raises(ValueError, match=sentence):
        run_task.main(flags(ground, tmp_path / "out", *words, table=None, adapters=("none",)))
    assert not (tmp_path / "out" / "run.json").exists()
