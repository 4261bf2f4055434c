"""Multiple choice corpora with the keys of CosmosQA: id, context, question, answer0, answer1, ..., label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from ._builder import CorpusBuilder, Row
from ._counts import Noted
from ._files import NumberedRecords, csv_records, json_records
from ._records import BadRecord, named, optional, required, shown, strings, typed

UNLABELLED = -1


class MultipleChoiceBuilder(CorpusBuilder):
    """Read CSV files with a header, a JSON array, or a JSON object per line: one row per question."""

    record_type = "multiple_choice"
    file_patterns: ClassVar[tuple[str, ...]] = ("*.csv", "*.json", "*.jsonl")
    fewest_choices: ClassVar[int] = 2

    def read(self, path: Path) -> NumberedRecords:
        """Yield the questions of a file, with a `BadRecord` for each with more or fewer choices than the first."""
        return evenly(csv_records(path) if path.suffix.lower() == ".csv" else json_records(path))

    def rows(self, record: Any) -> Iterable[Row | Noted]:
        """Return the row of a question, and a note if it has no label."""
        question, choices = named(record, "question"), choices_of(record, self.fewest_choices)
        context = required(record, "context", str)
        row = {"context": context, "question": question, "choices": choices, "label": _label(record, len(choices))}
        name = optional(record, "id", "")
        notes = [Noted("unlabelled", context or question)] if row["label"] == UNLABELLED else []
        return [{"id": name, **row} if name else row, *notes]


def choices_of(record: dict[str, Any], fewest: int) -> list[str]:
    """Return the answers to choose from: the list `choices`, or else `answer0`, `answer1` and so on.

    Raises:
        BadRecord: there are too few answers, a number is skipped, or an answer is blank or not a string.
    """
    answers = _number_of_answers(record)
    if "choices" in record or not answers:
        choices = strings(record, "choices")
        names = [f"choices[{index}]" for index in range(len(choices))]
    else:
        names = [f"answer{index}" for index in range(max(fewest, answers))]
        choices = [required(record, name, str) for name in names]
    blank = next((name for name, choice in zip(names, choices, strict=True) if not choice.strip()), None)
    if blank is not None:
        raise BadRecord(f"field '{blank}' is blank")
    if len(choices) < fewest:
        raise BadRecord(f"field 'choices' must hold {fewest} choices or more but is {shown(choices)}")
    return choices


def _number_of_answers(record: dict[str, Any]) -> int:
    """Return the highest number among the fields answer0, answer1, ..., plus 1."""
    numbers = (name.removeprefix("answer") for name in record if name.startswith("answer"))
    return max((int(number) + 1 for number in numbers if number.isdecimal() and len(number) < 4), default=0)


def _label(record: dict[str, Any], choices: int) -> int:
    """Return the number of the right choice, a string in CSV; -1 if the field is missing or empty."""
    value = record.get("label")
    if value in (None, "", UNLABELLED, str(UNLABELLED)):
        return UNLABELLED
    label = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 4 else value
    if typed(label, "label", int) not in range(choices):
        raise BadRecord(f"field 'label' is {label} but must lie in 0..{choices - 1}, for {choices} choices")
    return label


def evenly(records: NumberedRecords) -> Iterator[tuple[int, Any]]:
    """Yield questions, with a `BadRecord` instead of each whose number of choices differs from the first."""
    first: tuple[int, int] | None = None
    for number, record in records:
        choices = _number_of_choices(record)
        first = first or ((choices, number) if choices else None)
        if first is not None and choices not in (0, first[0]):
            record = BadRecord(
                f"has {choices} choices but record {first[1]} of the file has {first[0]}; all must have equally many"
            )
        yield number, record


def _number_of_choices(record: Any) -> int:
    """Return the number of choices of a question, or 0 if the record is malformed in another way."""
    if not isinstance(record, dict):
        return 0
    choices = record.get("choices")
    return len(choices) if isinstance(choices, list) else _number_of_answers(record)
