"""T-REx: Wikipedia abstracts aligned with Wikidata triples, the corpus of K-Adapter's factual pre-training.

Source: Elsahar et al., LREC 2018; https://hadyelsahar.github.io/t-rex
Licence: CC BY-SA 4.0.
Layout: `*.json`, any number of JSON arrays of two kinds, which are read as streams, so memory use stays flat.
    K-Adapter's `train.json` and `dev.json`: `{"docid", "token": [str], "relation": "P937", "subj_start",
    "subj_end", "obj_start", "obj_end", "subj_label": "Q901", "obj_label"}`; spans count tokens, end inclusive.
    The raw release, `re-nlg_*.json`: documents `{"text", "words_boundaries", "sentences_boundaries", "triples":
    [{"sentence_id", "predicate": {"uri"}, "subject": {"uri", "boundaries"}, "object": ...}]}`. As in K-Adapter's
    `scripts/clean_T_REx.py`: the sentence is the words inside its boundaries; a triple without a span
    (`dropped_no_span`) or with spans that do not start and end with words of the sentence
    (`dropped_off_word_boundaries`) is left out. The later step of its notebook is left to you: it deletes P31 and
    relations with fewer than 50 examples.
Splits: by file name; the raw release has no splits and is split by a hash of the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._counts import Dropped
from ._files import NumberedRecords, json_array
from ._names import normal
from ._records import BadRecord, optional, relation_row, required, shown, subject_object_row, typed, wikidata_id

SAMPLE_FILES = {
    "train.json": (
        '[{"docid": "Q901", "token": ["Mira", "Voss", "works", "in", "Tarnstad", "."], "relation": "P937",'
        ' "subj_start": 0, "subj_end": 1, "obj_start": 4, "obj_end": 4, "subj_label": "Q901", "obj_label": "Q902"}]'
    ),
    "train_raw.json": (
        '[{"docid": "http://www.wikidata.org/entity/Q903", "title": "Halden Works",'
        ' "text": "A firm. Halden Works is in Tarnstad.",'
        ' "words_boundaries": [[0, 1], [2, 6], [6, 7], [8, 14], [15, 20], [21, 23], [24, 26], [27, 35], [35, 36]],'
        ' "sentences_boundaries": [[0, 7], [8, 36]], "triples": [{"sentence_id": 1,'
        ' "predicate": {"uri": "http://www.wikidata.org/prop/direct/P159", "boundaries": null},'
        ' "subject": {"uri": "http://www.wikidata.org/entity/Q903", "boundaries": [8, 20]},'
        ' "object": {"uri": "http://www.wikidata.org/entity/Q902", "boundaries": [27, 35]}}]}]'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.json:1",
        "text": "Mira Voss works in Tarnstad .",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 19, "end": 27},
        "relation": "P937",
        "head_id": "Q901",
        "tail_id": "Q902",
    },
    {
        "id": "train_raw.json:1",
        "text": "Halden Works is in Tarnstad .",
        "head": {"start": 0, "end": 12},
        "tail": {"start": 19, "end": 27},
        "relation": "P159",
        "head_id": "Q903",
        "tail_id": "Q902",
    },
]

Span = tuple[int, int]


class Corpus(CorpusBuilder):
    """Read T-REx, raw or as K-Adapter prepares it: one row per triple with both mentions in its sentence."""

    record_type = "relation"
    file_patterns = ("*.json",)
    homepage = "https://hadyelsahar.github.io/t-rex"
    licence = "CC BY-SA 4.0"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the records or documents of a file."""
        return json_array(path)

    def rows(self, record: Any) -> Iterable[Row | Dropped]:
        """Return the row of a prepared record, or a row for each triple of a raw document."""
        if isinstance(record, dict) and record.keys() & {"text", "triples"}:
            return _document_rows(record)
        relation = _property(record)
        ids = [wikidata_id(optional(record, name, "")) for name in ("subj_label", "obj_label")]
        return [subject_object_row(record, relation, *ids)]


def _property(record: Any) -> str:
    """Return the relation of a prepared record, a Wikidata property."""
    if isinstance(record, dict) and re.fullmatch(r"[0-9]+", str(record.get("relation"))):
        raise BadRecord(
            f"field 'relation' is {record['relation']}, a number as scripts/clean_T_REx.py writes it; map it back "
            "to its Wikidata property such as P937 with T_REx_pred2ic.json"
        )
    relation = required(record, "relation", str)
    if not re.fullmatch(r"P[0-9]+", normal(relation)):
        raise BadRecord(f"field 'relation' must be a Wikidata property such as P937 but is {shown(relation)}")
    return relation


def _document_rows(document: dict[str, Any]) -> Iterator[Row | Dropped]:
    """Yield the row of each triple of a raw document, or a `Dropped`."""
    text = required(document, "text", str)
    words, sentences = (_spans(document, f"{name}_boundaries", len(text)) for name in ("words", "sentences"))
    for triple in required(document, "triples", list):
        number = required(triple, "sentence_id", int)
        if not 0 <= number < len(sentences):
            raise BadRecord(f"field 'sentence_id' is {number} but must lie in 0..{len(sentences) - 1}")
        start, end = sentences[number]
        inside = [word for word in words if start <= word[0] and word[1] <= end]
        yield _triple_row(triple, inside, text)


def _triple_row(triple: dict[str, Any], words: list[Span], text: str) -> Row | Dropped:
    """Return the row of a triple in a sentence, which `words` defines by the boundaries of its words."""
    tokens = [text[start:end] for start, end in words]
    subject, object_ = required(triple, "subject", dict), required(triple, "object", dict)
    if subject.get("boundaries") is None or object_.get("boundaries") is None:
        return Dropped("no_span", " ".join(tokens))
    mentions = ((subject, "subject.boundaries"), (object_, "object.boundaries"))
    head, tail = (_token_span(_mention(entity, name, len(text)), words) for entity, name in mentions)
    if head is None or tail is None:
        return Dropped("off_word_boundaries", " ".join(tokens))
    relation = required(required(triple, "predicate", dict), "uri", str).rsplit("/", 1)[-1]
    ids = [wikidata_id(required(entity, "uri", str)) for entity in (subject, object_)]
    return relation_row(tokens, head, tail, relation, *ids)


def _token_span(mention: Span, words: list[Span]) -> Span | None:
    """Return the words that a mention covers, end exclusive; None if it does not start and end with a word."""
    starts = [index for index, word in enumerate(words) if word[0] == mention[0]]
    ends = [index for index, word in enumerate(words) if word[1] == mention[1]]
    return (starts[0], ends[0] + 1) if len(starts) == len(ends) == 1 else None


def _mention(entity: dict[str, Any], name: str, length: int) -> Span:
    start, end = _span(entity["boundaries"], name, length)
    if start == end:
        raise BadRecord(f"field '{name}' is [{start}, {end}] but a mention must not be empty")
    return start, end


def _spans(document: dict[str, Any], name: str, length: int) -> list[Span]:
    return [_span(value, f"{name}[{index}]", length) for index, value in enumerate(required(document, name, list))]


def _span(value: Any, name: str, length: int) -> Span:
    """Return a character span of the raw release, end exclusive."""
    typed(value, name, list)
    if len(value) != 2 or any(type(offset) is not int for offset in value) or not 0 <= value[0] <= value[1] <= length:
        raise BadRecord(
            f"field '{name}' must be [start, end] with 0 <= start <= end <= {length} but is {shown(value)}"
        )
    return value[0], value[1]
