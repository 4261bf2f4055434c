"""The contract of every corpus, tested on the sample in its file; new corpora are tested without further ado."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import datasets
import pytest

from kadapter.data_builders import FEATURES, FOLDS, available, counts, get_builder, load, load_file

each_corpus = pytest.mark.parametrize("name", available())


def sample(name: str) -> ModuleType:
    """Return the module of a corpus, which holds SAMPLE_FILES and SAMPLE_ROWS."""
    return sys.modules[get_builder(name).__module__]


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def twice(files: dict[str, str]) -> dict[str, str]:
    """Return the sample files and a copy of each under another name."""
    return {**files, **{f"copy_{name}": content for name, content in files.items()}}


def bag(rows: Any, ids: bool = True) -> Counter[str]:
    """Return the rows as a multiset, with or without their ids."""
    return Counter(json.dumps(row if ids else {**row, "id": ""}, sort_keys=True) for row in rows)


def broken_file(name: str) -> tuple[str, str]:
    """Return a further sample file of a corpus that is cut off in its first record, which is therefore malformed."""
    for file, content in sample(name).SAMPLE_FILES.items():
        if "\t" in content or content[0] in "[{":
            return f"broken_{file}", content[: content.index("\t" if "\t" in content else ":") + 1]
    raise ValueError(f"no sample file of {name} has columns or JSON")


# --- what every corpus does


@each_corpus
def test_the_sample_files_give_exactly_the_sample_rows(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", sample(name).SAMPLE_FILES)
    built = load(name, corpus, cache_dir=tmp_path)
    assert built["train"].to_list() == sample(name).SAMPLE_ROWS
    assert len(sample(name).SAMPLE_ROWS) == 2
    assert built["train"].features == FEATURES[get_builder(name).record_type]


@each_corpus
def test_a_corpus_is_named_after_its_file_and_so_is_its_cache_directory(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", sample(name).SAMPLE_FILES)
    built = load(name, corpus, "train", cache_dir=tmp_path / "cache")
    assert sample(name).Corpus(corpus, tmp_path).name == name
    assert Path(built.cache_files[0]["filename"]).relative_to(tmp_path / "cache").parts[0] == name


@each_corpus
def test_a_builder_documents_source_licence_layout_and_splits(name: str) -> None:
    text = sample(name).__doc__
    assert all(f"{word}:" in text for word in ("Source", "Licence", "Layout", "Splits"))


@each_corpus
def test_streaming_gives_the_rows_and_the_types_of_the_arrow_files(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", twice(sample(name).SAMPLE_FILES))
    stream = load(name, corpus, "train", streaming=True)
    built = load(name, corpus, "train", cache_dir=tmp_path)
    assert list(stream) == built.to_list()
    assert stream.features == built.features


@pytest.mark.thorough
@each_corpus
def test_two_processes_build_what_one_builds(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", twice(sample(name).SAMPLE_FILES))
    single = load(name, corpus, cache_dir=tmp_path / "one")
    double = load(name, corpus, cache_dir=tmp_path / "two", num_proc=2)
    assert bag(single["train"]) == bag(double["train"])
    assert counts(single) == counts(double)
    assert counts(single)["train"]["rows"] == single["train"].num_rows == 4


@each_corpus
def test_parquet_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", sample(name).SAMPLE_FILES)
    builder = get_builder(name)(corpus, cache_dir=tmp_path / "cache")
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    back = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert back.to_list() == sample(name).SAMPLE_ROWS
    assert back.features == FEATURES[builder.record_type]
    assert counts(builder)["train"]["rows"] == 2


@each_corpus
def test_sentences_without_split_words_are_split_by_hash_and_none_is_lost(name: str, tmp_path: Path) -> None:
    files = {file.replace("train", "all"): content for file, content in sample(name).SAMPLE_FILES.items()}
    built = load(name, write(tmp_path / "corpus", files), cache_dir=tmp_path)
    assert set(built) <= {"train", "validation", "test"}
    rows = [row for dataset in built.values() for row in dataset]
    assert bag(rows, ids=False) == bag(sample(name).SAMPLE_ROWS, ids=False)


# --- bad input


class Mutation(NamedTuple):
    """A JSON value of which an element was removed or replaced."""

    value: Any
    removed_key: str | None = None
    replaced: Any = None
    replacement: Any = None


def mutations(value: Any) -> Iterator[Mutation]:
    """Yield every copy of a JSON value with a single element, however deep, removed or replaced."""
    for replacement in (None, 999_999, -7, 1.5, True, "", "x", [], {}):
        yield Mutation(replacement, replaced=value, replacement=replacement)
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        without = value.copy()
        del without[key]
        yield Mutation(without, removed_key=key if isinstance(value, dict) else None)
        for mutation in mutations(value[key]):
            copy = value.copy()
            copy[key] = mutation.value
            yield mutation._replace(value=copy)


def mutated_json(files: dict[str, str]) -> Iterator[tuple[str, str, Mutation]]:
    """Yield the mutations of every JSON sample file, or of its first line if it consists of JSON lines."""
    for name, content in files.items():
        first, *rest = [content] if name.endswith(".json") else content.splitlines(keepends=True)
        if first[0] in "[{":
            for mutation in mutations(json.loads(first)):
                yield name, json.dumps(mutation.value) + "\n" + "".join(rest), mutation


def mutated_columns(content: str) -> Iterator[str]:
    lines = content.splitlines()
    for index, columns in [(i, line.split("\t")) for i, line in enumerate(lines) if "\t" in line][:4]:
        for column in range(len(columns)):
            for changed in ([], [""], ["_"], ["99"], ["-1"], ["x"], ["1", "2"]):
                line = "\t".join(columns[:column] + changed + columns[column + 1 :])
                yield "\n".join([*lines[:index], line, *lines[index + 1 :], ""])


def sound(row: dict[str, Any]) -> bool:
    """Return whether a trainer can use a row."""
    if "text" in row:
        spans = [row[name] for name in ("head", "tail", "mention") if name in row] + row.get("mentions", [])
        return all(0 <= span["start"] < span["end"] <= len(row["text"]) for span in spans)
    if "choices" in row:
        return len(row["choices"]) > 1 and -1 <= row["label"] < len(row["choices"]) and all(row["choices"])
    if "passages" in row:
        return bool(row["question"]) and bool(row["passages"]) and all(row["answers"])
    if "evidences" in row:
        asked = row["template"].count("[Y]") == 1 or not row["template"]
        return asked and bool(row["relation"]) and bool(row["answers"]) and all(row["answers"])
    if "messages" in row:
        said = row["messages"]
        return said[-1]["role"] == "assistant" and all(each["role"] and each["content"].strip() for each in said)
    length = len(row["tokens"])
    return length == len(row["heads"]) == len(row["deprels"]) and all(0 <= head <= length for head in row["heads"])


def rows_or_error(name: str, corpus: Path, file: str) -> list[dict[str, Any]] | str:
    """Return the streamed rows, all sound, or the message of an error, which must name file and record."""
    try:
        result: list[dict[str, Any]] | str = list(load(name, corpus, "train", streaming=True))
    except ValueError as error:
        result = str(error)
    where, remedy = (
        f"{corpus / file}, record ",
        "; correct it, or set on_bad_record to 'skip' to leave such records out",
    )
    if isinstance(result, str):
        # If two files contradict each other, the message may begin with either file, but it names both.
        assert result.startswith(where) or (result.startswith(f"{corpus}{os.sep}") and file in result)
        assert result.endswith(remedy)
    else:
        assert all(map(sound, result)), result
    return result


@pytest.mark.thorough
@each_corpus
def test_a_mutated_json_record_gives_sound_rows_or_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    files = sample(name).SAMPLE_FILES
    for file, content, mutation in mutated_json(files):
        result = rows_or_error(name, write(tmp_path, {**files, file: content}), file)
        if isinstance(result, str) and mutation.removed_key is not None:
            assert f"'{mutation.removed_key}" in result
        if type(mutation.replaced) is int and mutation.replacement == 999_999:
            assert isinstance(result, str) or result == sample(name).SAMPLE_ROWS, content


@each_corpus
def test_a_mutated_column_gives_sound_rows_or_an_error_that_names_file_and_record(name: str, tmp_path: Path) -> None:
    files = sample(name).SAMPLE_FILES
    for file in (file for file, content in files.items() if "\t" in content):
        results = [
            rows_or_error(name, write(tmp_path, {**files, file: x}), file) for x in mutated_columns(files[file])
        ]
        assert any(isinstance(result, str) for result in results)
    assert files


@each_corpus
def test_a_file_cut_anywhere_gives_sound_rows_or_an_error_that_names_file_and_record(
    name: str, tmp_path: Path
) -> None:
    files = sample(name).SAMPLE_FILES
    for file, content in files.items():
        for end in range(1, len(content.rstrip()), 1 + len(content) // 60):
            result = rows_or_error(name, write(tmp_path, {**files, file: content[:end]}), file)
            assert isinstance(result, str) or not file.endswith(".json")


@each_corpus
@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_bad_record_stops_the_build_with_its_sentence(name: str, num_proc: int | None, tmp_path: Path) -> None:
    file, content = broken_file(name)
    corpus = write(tmp_path / "corpus", {**twice(sample(name).SAMPLE_FILES), file: content})
    with pytest.raises(ValueError, match=f"^{re.escape(str(corpus / file))}, record 1: "):
        load(name, corpus, cache_dir=tmp_path, num_proc=num_proc)
    assert not list(tmp_path.rglob("*.arrow"))


@each_corpus
@pytest.mark.parametrize("num_proc", [None, 2])
def test_skipping_counts_the_bad_record_and_keeps_the_rest(
    name: str, num_proc: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, content = broken_file(name)
    corpus = write(tmp_path / "corpus", {**twice(sample(name).SAMPLE_FILES), file: content})
    built = load(name, corpus, cache_dir=tmp_path, num_proc=num_proc, on_bad_record="skip")
    assert counts(built)["train"]["bad_records"] == 1
    assert bag(sample(name).SAMPLE_ROWS, ids=False) <= bag(built["train"], ids=False)
    assert counts(built)["train"]["rows"] == built["train"].num_rows >= 4
    assert "bad_records 1" in caplog.text


@each_corpus
def test_a_file_that_is_not_utf8_is_an_error_that_says_so(name: str, tmp_path: Path) -> None:
    files = sample(name).SAMPLE_FILES
    for file, content in files.items():
        broken = re.sub(b"Mira|Lind|Tarnstad", b"\\g<0>\xff", content.encode(), count=1)
        corpus = write(tmp_path, {**files, file: broken})
        with pytest.raises(ValueError, match="UTF-8") as caught:
            list(load(name, corpus, "train", streaming=True))
        assert str(caught.value).startswith(f"{corpus / file}, record ")


@each_corpus
def test_an_empty_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    files = sample(name).SAMPLE_FILES
    for file in files:
        for nothing in ("", "\n \n"):
            corpus = write(tmp_path, {**files, file: nothing})
            with pytest.raises(ValueError, match="empty") as caught:
                list(load(name, corpus, "train", streaming=True))
            assert str(caught.value).startswith(f"{corpus / file}, record 1: ")


@each_corpus
def test_a_corpus_of_which_nothing_is_left_is_an_error(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", dict.fromkeys(sample(name).SAMPLE_FILES, ""))
    with pytest.raises(ValueError, match="no row is left"):
        load(name, corpus, cache_dir=tmp_path, on_bad_record="skip")


@each_corpus
def test_a_folder_that_is_missing_or_holds_no_corpus_is_an_error(name: str, tmp_path: Path) -> None:
    write(tmp_path / "other", {"notes.md": "nothing here"})
    for folder, reason in (("nowhere", "does not exist"), ("other/notes.md", "is a file"), ("other", "holds no file")):
        with pytest.raises(ValueError, match=reason) as caught:
            load(name, tmp_path / folder)
        assert str(tmp_path / folder) in str(caught.value)


@each_corpus
def test_the_folds_of_cross_validation_are_the_rows_and_each_is_in_one_test_part(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", sample(name).SAMPLE_FILES)
    rounds = [load(name, corpus, cache_dir=tmp_path, fold=fold) for fold in range(FOLDS)]
    for splits in rounds:
        assert sum(splits.num_rows.values()) == 2
    tested = [row for splits in rounds for row in splits.get("test", [])]
    assert bag(tested) == bag(sample(name).SAMPLE_ROWS)


@each_corpus
def test_sentences_that_stand_in_another_corpus_are_left_out_and_counted(name: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", sample(name).SAMPLE_FILES)
    other = write(tmp_path / "other", {"train.txt": lines(1)})
    built = load(name, corpus, "train", cache_dir=tmp_path, exclude={"wiki80": other})
    assert bag(built) == bag(sample(name).SAMPLE_ROWS)
    with pytest.raises(ValueError, match=r"no row is left of .*'dropped_excluded': 2"):
        load(name, corpus, "train", cache_dir=tmp_path, exclude={name: corpus})


# --- the base class


def lines(records: int, first: int = 0) -> str:
    """Return records in Wiki80's layout, each with a different sentence."""
    mentions = '"h": {"pos": [0, 1]}, "t": {"pos": [2, 3]}'
    texts = (f'"token": ["Mira", "saw", "Tarnstad", "{first + n}"]' for n in range(records))
    return "".join(f'{{{text}, {mentions}, "relation": "saw"}}\n' for text in texts)


def test_an_unknown_corpus_is_an_error_with_a_guess_and_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"no corpus 'connlu'; there are .*fewrel.*trex.*; did you mean 'conllu'\?"):
        load("connlu", ".")


def test_an_unknown_way_with_bad_records_is_an_error(tmp_path: Path) -> None:
    corpus = write(tmp_path, {"train.txt": lines(1)})
    with pytest.raises(ValueError, match="on_bad_record is 'ignore' but must be one of error, skip"):
        load("wiki80", corpus, on_bad_record="ignore")


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"train.txt": lines(1)})
    for streaming in (False, True):
        with pytest.raises(ValueError, match="tset"):
            load("wiki80", corpus, "tset", cache_dir=tmp_path, streaming=streaming)


def test_processes_are_refused_for_a_stream(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_proc=2 can't be combined with streaming"):
        load("wiki80", write(tmp_path, {"train.txt": lines(1)}), streaming=True, num_proc=2)


def test_file_names_tell_the_splits_by_a_word_between_non_letters(tmp_path: Path) -> None:
    names = ["wiki80_train.txt", "train-00.txt", "en-ud-dev.txt", "val_wiki.txt", "Valid.txt", "test2.txt"]
    corpus = write(tmp_path / "corpus", {name: lines(1) for name in names})
    built = load("wiki80", corpus, cache_dir=tmp_path)
    assert {split: dataset.num_rows for split, dataset in built.items()} == {"train": 2, "validation": 3, "test": 1}


def test_a_file_name_that_tells_two_splits_is_an_error(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"train_and_test.txt": lines(1)})
    with pytest.raises(ValueError, match=r"train_and_test\.txt contains several splits"):
        load("wiki80", corpus, cache_dir=tmp_path)


def test_a_file_without_split_word_beside_others_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write(tmp_path / "corpus", {"train.txt": lines(2), "extra.txt": lines(3), "LICENSE.txt": "free"})
    assert load("wiki80", corpus, cache_dir=tmp_path)["train"].num_rows == 2
    assert "extra.txt" in caplog.text
    assert "LICENSE" not in caplog.text


def test_the_hash_split_puts_a_tenth_in_validation_and_a_sentence_always_in_the_same_part(tmp_path: Path) -> None:
    both = load("wiki80", write(tmp_path / "a", {"x.txt": lines(3000), "y.txt": lines(100)}), cache_dir=tmp_path)
    splits = {split: set(dataset["text"]) for split, dataset in both.items()}
    assert not splits["train"] & splits["validation"]
    assert len(both["train"]) + len(both["validation"]) == 3100
    assert 0.08 < len(splits["validation"]) / 3000 < 0.12
    fewer = load("wiki80", write(tmp_path / "b", {"z.txt": lines(50, first=200)}), cache_dir=tmp_path)
    assert all(set(dataset["text"]) <= splits[split] for split, dataset in fewer.items())


def test_a_split_without_a_row_is_left_out_and_an_error_if_asked_for(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"x.txt": lines(1)})
    assert load("wiki80", corpus, cache_dir=tmp_path).num_rows == {"train": 1}
    with pytest.raises(ValueError, match=r"the split 'validation' of .* holds no row; there are \['train'\]"):
        load("wiki80", corpus, "validation", cache_dir=tmp_path)


def test_bad_records_of_a_release_without_splits_are_counted_once(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"x.txt": lines(40) + "junk\n", "y.txt": "junk\n" + lines(40)})
    for num_proc in (None, 2):
        built = load("wiki80", corpus, cache_dir=tmp_path / str(num_proc), num_proc=num_proc, on_bad_record="skip")
        assert sum(numbers.get("bad_records", 0) for numbers in counts(built).values()) == 2
        assert sum(numbers["rows"] for numbers in counts(built).values()) == 80


def test_a_changed_corpus_file_is_built_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"train.txt": lines(2)})
    first = load("wiki80", corpus, "train", cache_dir=tmp_path)
    again = load("wiki80", corpus, "train", cache_dir=tmp_path)
    assert again.cache_files == first.cache_files
    write(corpus, {"train.txt": lines(3)})
    changed = load("wiki80", corpus, "train", cache_dir=tmp_path)
    assert (first.num_rows, changed.num_rows) == (2, 3)
    assert load("wiki80", corpus, "train", cache_dir=tmp_path, on_bad_record="skip").cache_files != changed.cache_files


def test_counts_are_there_for_one_split_a_dictionary_and_the_builder_but_not_for_a_stream(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"train.txt": lines(2), "test.txt": lines(1)})
    built = load("wiki80", corpus, cache_dir=tmp_path)
    expected = {"train": {"records": 2, "rows": 2}, "test": {"records": 1, "rows": 1}}
    assert counts(built) == counts(built["test"]) == counts(built["train"].select([0])) == expected
    for unknown in (load("wiki80", corpus, streaming=True), datasets.Dataset.from_dict({"a": [1]})):
        with pytest.raises(ValueError, match="built"):
            counts(unknown)


@pytest.mark.thorough
def test_a_killed_build_is_not_taken_for_a_complete_one(tmp_path: Path) -> None:
    files = {f"train_{n}.txt": lines(20_000, first=n * 20_000) for n in range(2)}
    corpus, cache = write(tmp_path / "corpus", files), tmp_path / "cache"
    script = f"from kadapter.data_builders import load; load('wiki80', {str(corpus)!r}, cache_dir={str(cache)!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not list(cache.rglob("*.incomplete/*.arrow")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(cache.rglob("*.incomplete"))
    built = load("wiki80", corpus, "train", cache_dir=cache)
    assert built.num_rows == counts(built)["train"]["rows"] == 40_000
    assert len(list(Path(built.cache_files[0]["filename"]).parent.glob("*.arrow"))) == 1


def test_the_package_imports_no_torch() -> None:
    script = "import sys, kadapter.data_builders as d; d.get_builder('trex'); print('torch' in sys.modules)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_left_out_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"train.txt": lines(5)})
    other = write(tmp_path / "other", {"x.txt": lines(2)})
    for number in (2, 3):
        write(other, {"x.txt": lines(number)})
        built = load("wiki80", corpus, cache_dir=tmp_path, exclude={"wiki80": other})
        assert counts(built)["train"] == {"dropped_excluded": number, "records": 5, "rows": 5 - number}
        stream = load("wiki80", corpus, "train", exclude={"wiki80": other}, streaming=True)
        assert list(stream) == built["train"].to_list()


def test_an_unknown_fold_is_an_error(tmp_path: Path) -> None:
    for fold in (5, -1, True):
        with pytest.raises(ValueError, match=f"fold is {fold} but must be one of 0 to 4"):
            load("wiki80", write(tmp_path, {"train.txt": lines(1)}), fold=fold)


def test_undivided_files_beside_test_files_are_split_by_hash_and_test_stays(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"x.txt": lines(100), "test.txt": lines(7)})
    built = load("wiki80", corpus, cache_dir=tmp_path)
    assert set(built) == {"train", "validation", "test"}
    assert built.num_rows["test"] == 7
    assert built.num_rows["train"] + built.num_rows["validation"] == 100


@each_corpus
def test_a_single_file_is_read_whatever_its_name(name: str, tmp_path: Path) -> None:
    files = sample(name).SAMPLE_FILES
    write(tmp_path, files)
    if name == "texts_and_triples":  # a text has no rows without its triples
        with pytest.raises(ValueError, match="no row is left"):
            load_file(name, tmp_path / "train.txt")
        return
    for file in sample(name).SAMPLE_FILES:
        rows = [row for row in sample(name).SAMPLE_ROWS if row["id"].startswith(f"{file}:")]
        if rows:
            built = load_file(name, tmp_path / file)
            assert bag(rows) <= bag(built)
            assert built.features == FEATURES[get_builder(name).record_type]


def test_a_file_that_is_missing_or_bad_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.txt is no file"):
        load_file("wiki80", tmp_path / "nowhere.txt")
    path = write(tmp_path, {"mine.txt": lines(1) + "junk\n"}) / "mine.txt"
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}, record 2: is not valid JSON"):
        load_file("wiki80", path)
    assert load_file("wiki80", path, on_bad_record="skip").num_rows == 1
