"""Your own knowledge: plain text and triples, aligned by distant supervision.

Source: your files. Licence: your own.
Layout: ``*.txt``, one passage of one or more sentences a line, and triples with surface forms: ``*.tsv``, head TAB
    relation TAB tail, or in the order that a header line says (head or subject, relation or predicate, tail or
    object); or ``*.jsonl``, ``{"head", "relation", "tail"}`` with optional
    ``"head_id"``, ``"tail_id"`` (carried into the rows; names with one id are one entity) and ``"head_aliases"``,
    ``"tail_aliases"`` (lists of further surface forms).
Alignment: each sentence that mentions the head and the tail of a triple gives one row for that pair, at the first
    mention of each. Names are matched in their own case, as whole words (in Chinese, Japanese, Thai and the like
    inside running text, see ``_mentions``), the longest at each place; white space and decomposed letters make no
    difference. Left out and counted: pairs of mentions with more than one relation (``dropped_ambiguous_pair``),
    mentions that cross each other or stand for head and tail at once (``dropped_overlapping_mention``), sentences
    without a pair (``dropped_no_pair``). Triples whose names stand together in no sentence are counted
    (``triples_never_found``). Where sentences end is told in ``_sentences``.
Splits: by file name, for texts and triples alike: a split has the texts and the triples of its own and those whose
    names tell no split. If no name tells one, the sentences are split by hash and every triple serves both parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import normalize

import datasets

from ._builder import CorpusBuilder, Row, RowMaker
from ._counts import Dropped, Matched, Tally, write_partial
from ._files import NumberedRecords, json_lines, or_empty, text_lines
from ._mentions import NameFinder
from ._names import normal
from ._records import BadRecord, named, optional, shown, typed
from ._sentences import sentences
from ._splits import SPLITS, files_by_split

SAMPLE_FILES = {
    "train.txt": "Mira Voss works in Tarnstad. She likes it.\n\nTarnstad lies on the river Lind.\n",
    "train.tsv": "Mira Voss\twork location\tTarnstad\n",
    "train.jsonl": (
        '{"head": "Lind", "relation": "crosses", "tail": "Tarnstad", "head_id": "Q904", "tail_id": "Q902",'
        ' "head_aliases": ["river Lind"]}\n'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.txt:1:1",
        "text": "Mira Voss works in Tarnstad.",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 19, "end": 27},
        "relation": "work location",
        "head_id": "",
        "tail_id": "",
    },
    {
        "id": "train.txt:3",
        "text": "Tarnstad lies on the river Lind.",
        "head": {"start": 21, "end": 31},
        "tail": {"start": 0, "end": 8},
        "relation": "crosses",
        "head_id": "Q904",
        "tail_id": "Q902",
    },
]

COLUMNS = ("head", "relation", "tail")
HEADERS = {  # what a header line calls them
    "head": ("head", "h", "subject", "subj", "sub", "s", "source", "src", "head_entity", "entity1", "from"),
    "relation": ("relation", "rel", "r", "predicate", "pred", "p", "property", "relation_type", "label", "edge"),
    "tail": ("tail", "t", "object", "obj", "o", "target", "dst", "tail_entity", "entity2", "to"),
}

Span = tuple[int, int]
Entity = tuple[str, str]  # its id, or "" and its name
Fact = tuple[str, str, str]  # relation, head id, tail id
OnBad = Callable[[Path, int, BadRecord], None]


class Corpus(CorpusBuilder):
    """Aligns texts with triples: one row for each pair of mentions that a triple relates in a sentence."""

    record_type = "relation"
    file_patterns = ("*.txt", "*.tsv", "*.jsonl")
    licence = "your own"
    note = "names are found as the triples spell them, in their own case; other forms of a name are aliases in *.jsonl"

    def read(self, path: Path) -> NumberedRecords:
        """Yields the passages of a text file, numbered by line."""
        return ((number, line) for number, line in text_lines(path) if isinstance(line, BadRecord) or line.strip())

    def row_maker(self, triples: tuple[str, ...] = ()) -> RowMaker:
        """Compiles the triples of a split and returns what aligns a passage with them."""
        return Knowledge([Path(path) for path in triples], on_bad=lambda *_: None, spelled=normal).rows

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        texts = self._fold_or(files_by_split(path for path in self.files if path.suffix.lower() == ".txt"))
        triples = self._fold_or(files_by_split(path for path in self.files if path.suffix.lower() != ".txt"))
        told = [split for split in SPLITS if split in texts or split in triples]
        generators = []
        for split in told or [part for part in SPLITS if part in dict(self._shares())]:
            own = [groups.get(split, []) + groups.get(None, []) for groups in (texts, triples)]
            generators.append(self._aligned_split(dl_manager, split, *own, part=None if told else split))
        return generators

    def _aligned_split(
        self, dl_manager: Any, split: str, texts: list[Path], triples: list[Path], part: str | None
    ) -> datasets.SplitGenerator:
        """Checks and counts the triples here, once, since every process that builds the split reads them again."""
        for what, found in (("texts (*.txt)", texts), ("triples (*.tsv or *.jsonl)", triples)):
            if not found:
                raise ValueError(
                    f"{self.config.data_dir} holds no {what} for the split '{split}'; add or rename a file"
                )
        tally = Tally(self.config.on_bad_record, part, self._shares())
        knowledge = Knowledge(triples, tally.bad, tally.spelled)
        tally.counts["triples"] = knowledge.triples
        tally.files.update({(file, "triples"): number for file, number in knowledge.files.items()})
        if not dl_manager.is_streaming:
            write_partial(self._output_dir, split, tally)
        own, shares = {"triples": tuple(map(str, triples))}, self._shares()
        trained = frozenset() if part is None else self._kept_in_train(texts, shares, **own)
        return self._split(dl_manager, split, texts, part, shares, trained, **own)

    def left_out(self) -> list[Path]:
        """Returns no file: one whose name tells no split serves all of them."""
        return []


class Knowledge:
    """The triples of a split, compiled to be found in sentences.

    Args:
        files: the files of triples.
        on_bad: called with file, line number and problem for each malformed triple.
        spelled: returns the one spelling of a relation.
    """

    def __init__(self, files: list[Path], on_bad: OnBad, spelled: Callable[[str], str]) -> None:
        self.triples = 0
        self.files: dict[str, int] = {}
        self.spelled = spelled
        self.entities: dict[str, set[Entity]] = {}
        self.relations: dict[Entity, dict[Entity, dict[str, list[int]]]] = {}  # the numbers of the triples
        for path in files:
            for number, record in or_empty(_triple_records(path)):
                try:
                    self._add(record)
                except BadRecord as problem:
                    on_bad(path, number, problem)
            self.files[path.name] = self.triples - sum(self.files.values())
        self.finder = NameFinder(self.entities)

    def rows(self, passage: str) -> Iterator[Row | Dropped | Matched]:
        """Yields a row for each related pair in each sentence, and a ``Dropped`` for each one left out.

        Before each pair stand the triples that it matched.
        """
        for sentence in sentences(normalize("NFC", passage)):
            rows = list(self._sentence_rows(sentence))
            yield from rows or [Dropped("no_pair", sentence)]

    def _add(self, record: Any) -> None:
        if isinstance(record, BadRecord):
            raise record
        relation = self.spelled(named(record, "relation"))
        head, tail = _entity(record, "head"), _entity(record, "tail")
        names = {side: _names(record, side) for side in ("head", "tail")}
        relations = self.relations.setdefault(head, {}).setdefault(tail, {})
        relations.setdefault(relation, []).append(self.triples)
        for entity, side in ((head, "head"), (tail, "tail")):
            for name in names[side]:
                self.entities.setdefault(name, set()).add(entity)
        self.triples += 1

    def _sentence_rows(self, sentence: str) -> Iterator[Row | Dropped | Matched]:
        mentions, crossing = self.finder.find(sentence)
        yield from [Dropped("overlapping_mention", sentence)] * crossing
        first: dict[Entity, Span] = {}
        for start, end, name in mentions:
            for entity in self.entities[name]:
                first.setdefault(entity, (start, end))
        pairs: dict[tuple[Span, Span], list[Fact]] = {}
        for head in first:
            tails = self.relations.get(head, {})
            for tail in tails.keys() & first.keys():
                facts = [(relation, head[0], tail[0]) for relation in tails[tail]]
                pairs.setdefault((first[head], first[tail]), []).extend(facts)
                yield from map(Matched, chain.from_iterable(tails[tail].values()))
        for (head_span, tail_span), facts in sorted(pairs.items()):
            yield _pair_row(sentence, head_span, tail_span, facts)


def _pair_row(sentence: str, head: Span, tail: Span, facts: list[Fact]) -> Row | Dropped:
    """The row of two mentions and what the triples say of them."""
    if head == tail:
        return Dropped("overlapping_mention", sentence)
    relations, head_ids, tail_ids = (set(values) for values in zip(*facts, strict=True))
    if len(relations) > 1:
        return Dropped("ambiguous_pair", sentence)
    spans = {name: {"start": start, "end": end} for name, (start, end) in (("head", head), ("tail", tail))}
    # Two entities of one name: the relation is sure, which of them it is about is not.
    ids = {
        name: found.pop() if len(found) == 1 else "" for name, found in (("head_id", head_ids), ("tail_id", tail_ids))
    }
    return {"text": sentence, **spans, "relation": relations.pop(), **ids}


def _entity(record: dict[str, Any], side: str) -> Entity:
    identifier = normal(optional(record, f"{side}_id", ""))
    return (identifier, "") if identifier else ("", normal(named(record, side)))


def _names(record: dict[str, Any], side: str) -> list[str]:
    """All surface forms of one side of a triple."""
    aliases = optional(record, f"{side}_aliases", [])
    names = [named(record, side), *(typed(name, f"{side}_aliases[{i}]", str) for i, name in enumerate(aliases))]
    return list(filter(None, map(normal, names)))


def _triple_records(path: Path) -> NumberedRecords:
    """Yields the triples of a file as objects with the keys head, relation and tail."""
    if path.suffix.lower() == ".jsonl":
        yield from json_lines(path)
        return
    names: tuple[str, ...] | None = None
    for number, line in text_lines(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            header = _header(line) if names is None else None
            names = names or header or COLUMNS
            if header is None:
                yield number, _columns(line, names)


def _header(line: str) -> tuple[str, ...] | None:
    """The names of the columns, where a file's first line tells them."""
    words = [word.strip().lower().replace(" ", "_") for word in line.lstrip("#").split("\t")]
    names = tuple(next((name for name, known in HEADERS.items() if word in known), "") for word in words)
    return names if sorted(names) == sorted(COLUMNS) else None


def _columns(line: str, names: tuple[str, ...]) -> dict[str, str] | BadRecord:
    columns = line.split("\t")
    if len(columns) != 3:
        return BadRecord(f"a line must be {' TAB '.join(names)} but has {len(columns)} columns: {shown(line)}")
    return dict(zip(names, columns, strict=True))
