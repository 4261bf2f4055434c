"""Labels from which nothing can be learned are refused before anything costs time: no perfect score for nothing."""

import json

import pytest
import tiny_runs
from tiny_tasks import task_flags, write_corpus, write_json, write_lines, write_task_ground

from kadapter.trainers import run_adapter, run_task

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_task_ground(tmp_path_factory.mktemp("ground"))


def changed(folder, name, change):
    """A corpus of that layout whose records are all changed alike."""
    write_corpus(folder / name, name)
    for path in (folder / name).iterdir():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            write_json(path, [change(record) for record in json.loads(text)])
        else:
            write_lines(path, [change(json.loads(line)) for line in text.splitlines()])
    return folder / name


def run(ground, folder, name, output):
    return run_task.main(task_flags(ground, output, "--data_dir", folder, task=name, adapters=("none",)))


ALIKE = {
    "one relation": ("relation_classification", {"relation": "P19"}, "the same relation, 'P19'"),
    "one relation of TACRED": ("tacred", {"relation": "no_relation"}, "the same relation, 'no_relation'"),
    "no types at all": ("entity_typing", {"labels": []}, r"the same types, \[\]"),
    "the same types everywhere": ("open_entity", {"labels": ["place", "person"]}, r"types, \['person', 'place'\]"),
}


@pytest.mark.parametrize(("name", "change", "reason"), ALIKE.values(), ids=ALIKE.keys())
def test_a_task_whose_records_all_have_one_label_is_refused(ground, tmp_path, name, change, reason):
    folder = changed(tmp_path, name, lambda record: {**record, **change})
    with pytest.raises(ValueError, match=f"all training records have .*{reason}.* add records"):
        run(ground, folder, name, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_type_of_the_published_order_that_no_training_record_has_is_refused_where_it_is_evaluated(ground, tmp_path):
    folder = write_corpus(tmp_path / "open_entity", "open_entity")
    records = json.loads((folder / "dev.json").read_text())
    write_json(folder / "dev.json", [*records, {**records[0], "labels": ["event"]}])
    with pytest.raises(ValueError, match="has the type 'event', which no training record has"):
        run(ground, folder, "open_entity", tmp_path / "out")


def test_questions_whose_answers_occur_nowhere_are_told_as_such(ground, tmp_path):
    folder = write_corpus(tmp_path / "searchqa", "searchqa")
    for path in folder.glob("*.txt"):
        questions = [json.loads(line) for line in path.read_text().splitlines()]
        write_lines(path, [{**question, "answers": ["nowhere to be found"]} for question in questions])
    with pytest.raises(ValueError, match="no record has anything to learn, as where no answer occurs"):
        run(ground, folder, "searchqa", tmp_path / "out")


def test_a_question_without_any_label_is_refused(ground, tmp_path):
    folder = changed(tmp_path, "multiple_choice", lambda record: {k: v for k, v in record.items() if k != "label"})
    with pytest.raises(ValueError, match="has no label; add it"):
        run(ground, folder, "multiple_choice", tmp_path / "out")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return tiny_runs.write_ground(tmp_path_factory.mktemp("corpora"))


def test_a_factual_adapter_is_not_trained_on_one_relation(corpora, tmp_path):
    folder = tmp_path / "trex"
    folder.mkdir()
    for split in ("train", "dev"):
        records = json.loads((corpora / "trex" / f"{split}.json").read_text())
        write_json(folder / f"{split}.json", [{**record, "relation": "P19"} for record in records])
    with pytest.raises(ValueError, match="all training records have the same relation, 'P19'"):
        run_adapter.main(tiny_runs.flags(corpora, "factual", tmp_path / "out", "--data_dir", folder))


def test_a_sample_of_one_relation_is_refused_as_well(corpora, tmp_path):
    with pytest.raises(ValueError, match="all training records have the same relation"):
        run_adapter.main(tiny_runs.flags(corpora, "factual", tmp_path / "out", "--max_train_samples", "1"))


def test_a_linguistic_adapter_is_not_trained_on_sentences_of_one_word(corpora, tmp_path):
    folder = tmp_path / "conllu"
    folder.mkdir()
    word = "1\tMira\t_\t_\t_\t_\t0\troot\t_\t_\n\n"
    for split in ("train", "dev"):
        (folder / f"{split}.conllu").write_text(word * 5)
    with pytest.raises(ValueError, match="all training sentences have one word"):
        run_adapter.main(tiny_runs.flags(corpora, "linguistic", tmp_path / "out", "--data_dir", folder))
