"""Your own knowledge: plain text and triples, aligned by distant supervision.

Source: your own files.
Licence: your own.
Layout: `*.txt`, one passage of any number of sentences per line, and triples with surface forms: `*.tsv`, head TAB
    relation TAB tail, or in the order of a header line (head or subject, relation or predicate, tail or object);
    `*.csv` with such a header, perhaps with other columns; or `*.jsonl`, `{"head", "relation", "tail"}` with optional
    `"head_id"`, `"tail_id"` (copied into the rows; names with the same id are the same entity) and `"head_aliases"`,
    `"tail_aliases"` (lists of further surface forms).
Alignment: each sentence that mentions the head and the tail of a triple gives a row for that pair, with the first
    mention of each. Names are matched case-sensitively, as whole words (inside running text in Chinese, Japanese,
    Thai and similar scripts, see `_mentions`), with the longest name at each position; white space and decomposed
    letters make no difference. Left out and counted: pairs of mentions with several relations
    (`dropped_ambiguous_pair`), mentions that overlap or are head and tail at once (`dropped_overlapping_mention`),
    and sentences without a pair (`dropped_no_pair`). Triples whose names never occur in the same sentence are counted
    (`triples_never_found`). See `_sentences` for where sentences end.
Splits: by file name, for texts and triples alike: a split has its own texts and triples and those whose names contain
    no split. If no name contains a split, the sentences are split by hash and both splits use all triples.
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
from ._files import NumberedRecords, or_empty, text_lines
from ._mentions import NameFinder
from ._names import normal
from ._records import BadRecord, named, optional, typed
from ._sentences import sentences
from ._splits import SPLITS, files_by_split, together
from ._triples import TRIPLE_FILES, triple_records

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

Span = tuple[int, int]
Entity = tuple[str, str]  # (id, ""), or ("", name) for an entity without id
Fact = tuple[str, str, str]  # relation, head id, tail id
OnBad = Callable[[Path, int, BadRecord], None]


class Corpus(CorpusBuilder):
    """Align texts with triples: one row per pair of mentions in a sentence that a triple relates."""

    record_type = "relation"
    file_patterns = ("*.txt", *TRIPLE_FILES)
    licence = "your own"
    note = "names are found as the triples spell them, in their own case; other forms of a name are aliases in *.jsonl"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the passages of a text file, numbered by line."""
        return ((number, line) for number, line in text_lines(path) if isinstance(line, BadRecord) or line.strip())

    def row_maker(self, triples: tuple[str, ...] = (), **resources: Any) -> RowMaker:
        """Index the triples of a split and return the function that aligns a passage with them."""
        return Knowledge([Path(path) for path in triples], on_bad=lambda *_: None, spelled=normal).rows

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        texts = self._pooled_for_folds(files_by_split(path for path in self.files if path.suffix.lower() == ".txt"))
        triples = self._pooled_for_folds(files_by_split(path for path in self.files if path.suffix.lower() != ".txt"))
        named = together(texts, triples)
        if named:
            return [self._aligned_split(dl_manager, split, *files, None) for split, files in named.items()]
        hashed = [split for split in SPLITS if split in dict(self._shares())]
        both = texts.get(None, []), triples.get(None, [])
        return [self._aligned_split(dl_manager, split, *both, split) for split in hashed]

    def _aligned_split(
        self, dl_manager: Any, split: str, texts: list[Path], triples: list[Path], hash_split: str | None
    ) -> datasets.SplitGenerator:
        """Return the generator of a split; its triples are checked and counted here, once for all processes."""
        for what, files in (("texts (*.txt)", texts), ("triples (*.tsv, *.csv or *.jsonl)", triples)):
            if not files:
                raise ValueError(
                    f"{self.config.data_dir} holds no {what} for the split '{split}'; add or rename a file"
                )
        tally = Tally(self.config.on_bad_record, hash_split, self._shares())
        knowledge = Knowledge(triples, tally.bad, tally.spelled)
        tally.counts["triples"] = knowledge.triples
        tally.files.update({(file, "triples"): number for file, number in knowledge.files.items()})
        if not dl_manager.is_streaming:
            write_partial(self._output_dir, split, tally)
        resources, shares = {"triples": tuple(map(str, triples))}, self._shares()
        trained = frozenset() if hash_split is None else self._kept_in_train(texts, shares, **resources)
        return self._split(dl_manager, split, texts, hash_split, shares, trained, **resources)

    def left_out(self) -> list[Path]:
        """Return no files: a file whose name contains no split is used in all splits."""
        return []


class Knowledge:
    """The triples of a split, indexed to be found in sentences.

    Args:
        files: the files of triples.
        on_bad: called with file, line number and problem for each malformed triple.
        spelled: returns the normal spelling of a relation.
    """

    def __init__(self, files: list[Path], on_bad: OnBad, spelled: Callable[[str], str]) -> None:
        self.triples = 0
        self.files: dict[str, int] = {}
        self.spelled = spelled
        self.entities: dict[str, set[Entity]] = {}
        self.relations: dict[Entity, dict[Entity, dict[str, list[int]]]] = {}  # the numbers of the triples
        for path in files:
            for number, record in or_empty(triple_records(path)):
                try:
                    self._add(record)
                except BadRecord as problem:
                    on_bad(path, number, problem)
            self.files[path.name] = self.triples - sum(self.files.values())
        self.finder = NameFinder(self.entities)

    def rows(self, passage: str) -> Iterator[Row | Dropped | Matched]:
        """Yield a row for each related pair in each sentence, and a `Dropped` for each pair left out.

        The triples that match in a sentence come before its rows.
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
    """Return the row of two mentions, with the facts that the triples state about them."""
    if head == tail:
        return Dropped("overlapping_mention", sentence)
    relations, head_ids, tail_ids = (set(values) for values in zip(*facts, strict=True))
    if len(relations) > 1:
        return Dropped("ambiguous_pair", sentence)
    spans = {name: {"start": start, "end": end} for name, (start, end) in (("head", head), ("tail", tail))}
    # If two entities have the same name, the relation is certain but the entity is not.
    ids = {
        name: known.pop() if len(known) == 1 else "" for name, known in (("head_id", head_ids), ("tail_id", tail_ids))
    }
    return {"text": sentence, **spans, "relation": relations.pop(), **ids}


def _entity(record: dict[str, Any], side: str) -> Entity:
    identifier = normal(optional(record, f"{side}_id", ""))
    return (identifier, "") if identifier else ("", normal(named(record, side)))


def _names(record: dict[str, Any], side: str) -> list[str]:
    """Return all surface forms of the head or tail of a triple."""
    aliases = optional(record, f"{side}_aliases", [])
    names = [named(record, side), *(typed(name, f"{side}_aliases[{i}]", str) for i, name in enumerate(aliases))]
    return list(filter(None, map(normal, names)))
