"""SemEval-2010 Task 8: nine relations between nominals in web text, with direction, and Other.

Source: Hendrickx et al., SemEval 2010; https://aclanthology.org/S10-1006
Licence: CC BY 3.0.
Layout: `TRAIN_FILE.TXT` and `TEST_FILE_FULL.TXT` as released: number TAB "sentence with <e1>..</e1> and
    <e2>..</e2>", a line with the relation, such as `Cause-Effect(e2,e1)`, a line with a comment, an empty line. The
    text is the sentence without its tags. `head` is always e1 and `tail` always e2; the relation names the direction.
    `load_file` also reads files without relations.
Splits: there is no official validation set, so the training file is split by a hash of the sentence: of its 8,000
    sentences, exactly 5,700 are "train", 800 "validation" and 1,500 "test", always the same sentences. If the folder
    also has the official test file, that file is "test", the 1,500 sentences join "train", and "validation" stays the
    same. (The shares below were chosen between the hashes of the published sentences to give exactly these sizes.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._files import text_blocks
from ._names import normal
from ._records import BadRecord, shown
from ._splits import TEST, TRAIN, VALIDATION, FilesBySplit, Shares

RELATIONS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
LABELS = frozenset(["Other", *(f"{name}({order})" for name in RELATIONS for order in ("e1,e2", "e2,e1"))])
SHARES: Shares = ((VALIDATION, 107_000), (TEST, 195_173), (TRAIN, 697_827))  # out of a million

NUMBERED = re.compile(r"(\d+)\t(.*)")
MARKED = re.compile(r"(.*)<(e[12])>(.+)</\2>(.*)<(e[12])>(.+)</\5>(.*)")

SAMPLE_FILES = {
    "TRAIN_FILE.TXT": (
        '1\t"The Lind <e1>flood</e1> was caused by <e2>rain</e2>."\nCause-Effect(e2,e1)\nComment:\n\n'
        '2\t""Yes," said Mira, and put the <e1>letter</e1> into a <e2>drawer</e2>."\nEntity-Destination(e1,e2)\n'
        "Comment: the drawer is where it goes\n\n"
    )
}
SAMPLE_ROWS = [
    {
        "id": "1",
        "text": "The Lind flood was caused by rain.",
        "head": {"start": 9, "end": 14},
        "tail": {"start": 29, "end": 33},
        "relation": "Cause-Effect(e2,e1)",
        "head_id": "",
        "tail_id": "",
    },
    {
        "id": "2",
        "text": '"Yes," said Mira, and put the letter into a drawer.',
        "head": {"start": 30, "end": 36},
        "tail": {"start": 44, "end": 50},
        "relation": "Entity-Destination(e1,e2)",
        "head_id": "",
        "tail_id": "",
    },
]


class Corpus(CorpusBuilder):
    """Read the files of SemEval-2010 Task 8: one row per sentence."""

    record_type = "relation"
    file_patterns = ("*train_file*.txt", "*test_file_full*.txt")
    homepage = "https://aclanthology.org/S10-1006"
    licence = "CC BY 3.0"

    def groups(self) -> FilesBySplit:
        """Return the files by split; the training file is split by hash, since the release has no validation set."""
        groups = super().groups()
        return {None if split == TRAIN else split: files for split, files in groups.items()}

    def hash_shares(self) -> Shares:
        """Return three splits, with the sizes that are described at the top of this file."""
        return SHARES

    def read(self, path: Path) -> Iterator[tuple[int, list[str | BadRecord]]]:
        """Yield the lines of each sentence, numbered by sentence."""
        number = 0
        for _, block in text_blocks(path):
            unlabelled = all(isinstance(line, str) and NUMBERED.fullmatch(line) for line in block)
            for lines in [[line] for line in block] if unlabelled else [block]:
                number += 1
                yield number, lines

    def rows(self, record: list[Any]) -> Iterable[Row]:
        """Return the row of a sentence."""
        for line in record:
            if isinstance(line, BadRecord):
                raise line
        numbered = NUMBERED.fullmatch(record[0].strip())
        if numbered is None:
            raise BadRecord(f"a record must begin with its number, a tab and the sentence but with {shown(record[0])}")
        if len(record) > 3 or (len(record) == 3 and not record[2].startswith("Comment:")):
            raise BadRecord(
                f"a record must have a sentence, a relation and a comment but has the lines {shown(record)}"
            )
        row = _marked_row(numbered.group(2), self._relation(record))
        return [{"id": numbered.group(1), **row}]

    def _relation(self, lines: list[str]) -> str:
        if len(lines) == 1 and not self.config.labelled:
            return ""
        if len(lines) == 1:
            raise BadRecord("the line with the relation is missing; the file with the labels is TEST_FILE_FULL.TXT")
        relation = normal(lines[1])
        if relation not in LABELS:
            raise BadRecord(f"the relation is {shown(relation)} but must be one of {', '.join(sorted(LABELS))}")
        return relation


def _marked_row(quoted: str, relation: str) -> dict[str, Any]:
    """Return the row of a sentence in quotation marks with its two mentions in tags."""
    if len(quoted) < 2 or not quoted[0] == quoted[-1] == '"':
        raise BadRecord(f"the sentence must be in quotation marks but is {shown(quoted)}")
    marked = MARKED.fullmatch(quoted[1:-1])
    if marked is None or {marked.group(2), marked.group(5)} != {"e1", "e2"}:
        raise BadRecord(f"the sentence must hold <e1>..</e1> and <e2>..</e2>, once each, but is {shown(quoted)}")
    before, first, mention, between, second, other, after = marked.groups()
    text = before + mention + between + other + after
    if re.search("</?e[12]>", text) or not mention.strip() or not other.strip():
        raise BadRecord(f"the sentence must hold two mentions, none blank or inside the other, but is {shown(quoted)}")
    start = len(before) + len(mention) + len(between)
    spans = {
        first: {"start": len(before), "end": len(before) + len(mention)},
        second: {"start": start, "end": start + len(other)},
    }
    return {
        "text": text,
        "head": spans["e1"],
        "tail": spans["e2"],
        "relation": relation,
        "head_id": "",
        "tail_id": "",
    }
