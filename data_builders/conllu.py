"""Dependency trees of any treebank in CoNLL-U.

Source: Universal Dependencies, https://universaldependencies.org, or any files in this format.
Licence: that of the treebank; UD_English-EWT, for example, is CC BY-SA 4.0.
Layout: `*.conllu`, one word per line in ten columns separated by tabs, an empty line after each sentence, comments
    after "#". Multiword tokens (`1-2`) and empty nodes (`1.1`) are skipped, since the tree consists of words. Blocks
    that consist of comments are skipped.
Splits: by file name, one or more files per split, such as `en_ewt-ud-train.conllu`; otherwise by hash.
Bad records: a line without ten columns, word numbers that do not count from 1, a head that is not a number or out of
    range, no root or several roots, a cycle; a sentence whose text is withheld, with an underscore for every word, as
    in treebanks of licensed or social media text (merge the text first, with the script of the treebank); a file that
    is cut off after the comments of a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, text_blocks
from ._records import MERGE, WITHHELD, BadRecord, dependency_row, is_withheld, shown

ID, FORM, HEAD, DEPREL = 0, 1, 6, 7
NOT_A_WORD = re.compile(r"\d+[-.]\d+")
SENTENCE_ID = re.compile(r"#\s*sent_id\s*=\s*(\S.*)")
ANNOUNCED = re.compile(r"#\s*(sent_id|text)\s*=")  # a comment about the sentence that follows

SAMPLE_FILES = {
    "train.conllu": (
        "# sent_id = lantern-1\n"
        "# text = Mira's gone.\n"
        "1-2\tMira's\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "1\tMira\tMira\tPROPN\tNNP\tNumber=Sing\t3\tnsubj\t_\t_\n"
        "2\t's\tbe\tAUX\tVBZ\t_\t3\taux\t_\t_\n"
        "3\tgone\tgo\tVERB\tVBN\t_\t0\troot\t_\tSpaceAfter=No\n"
        "4\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_\n"
        "\n"
        "# text = Tarnstad sleeps\n"
        "1\tTarnstad\tTarnstad\tPROPN\tNNP\t_\t2\tnsubj\t_\t_\n"
        "2\tsleeps\tsleep\tVERB\tVBZ\t_\t0\troot\t_\t_\n"
        "2.1\tsoundly\tsoundly\tADV\tRB\t_\t_\t_\t2:advmod\t_\n"
        "\n"
    )
}
SAMPLE_ROWS = [
    {
        "id": "lantern-1",
        "tokens": ["Mira", "'s", "gone", "."],
        "heads": [3, 3, 0, 3],
        "deprels": ["nsubj", "aux", "root", "punct"],
    },
    {
        "id": "train.conllu:2",
        "tokens": ["Tarnstad", "sleeps"],
        "heads": [2, 0],
        "deprels": ["nsubj", "root"],
    },
]


class Corpus(CorpusBuilder):
    """Read CoNLL-U files: one row per sentence."""

    record_type = "dependency"
    file_patterns = ("*.conllu",)
    homepage = "https://universaldependencies.org/format.html"
    licence = "that of the treebank"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the lines of each sentence, numbered by sentence."""
        number, comments = 0, []
        for _, block in text_blocks(path):
            if all(isinstance(line, str) and line.startswith("#") for line in block):
                comments = block
                continue
            number, comments = number + 1, []
            withheld = _forms(block) == ["_"] and _withholds(path, path.stat().st_mtime_ns)
            yield number, BadRecord(f"{WITHHELD}: its only word is '_'; {MERGE}") if withheld else block
        if comments and _is_cut_off(comments, path):
            yield number + 1, BadRecord("a sentence has comments only and no words, as if the file was cut off")
        elif comments and not number:
            yield 1, comments

    def rows(self, record: list[str | BadRecord]) -> Iterable[Row]:
        """Return the row of a sentence."""
        words: list[tuple[str, int, str]] = []
        name = None
        for line in record:
            if isinstance(line, BadRecord):
                raise line
            if sentence_id := SENTENCE_ID.match(line):
                name = sentence_id.group(1).strip()
            elif not line.startswith("#"):
                words.extend(_word(line, len(words) + 1))
        if not words:  # the comments are about the file or a document
            return []
        row = dependency_row(*(list(column) for column in zip(*words, strict=True)))
        return [row if name is None else {"id": name, **row}]


def _forms(block: list[str | BadRecord]) -> list[str]:
    """Return the forms of the words of a sentence, as far as its lines can be read."""
    lines = [line.split("\t") for line in block if isinstance(line, str) and not line.startswith("#")]
    return [columns[FORM] for columns in lines if len(columns) > FORM and columns[ID].isdecimal()]


@cache
def _withholds(path: Path, changed: int) -> bool:
    """Return whether a file withholds texts, so that a sentence of a single underscore is a withheld text too.

    The result is cached until the modification time of the file, `changed` in nanoseconds, differs.
    """
    some_text = False
    for _, block in text_blocks(path):
        forms = _forms(block)
        if len(forms) > 1 and is_withheld(forms):
            return True
        some_text = some_text or not is_withheld(forms)
    return not some_text


def _is_cut_off(comments: list[str | BadRecord], path: Path) -> bool:
    """Return whether the comments at the end of a file are about a missing sentence, with no empty line after them."""
    with path.open("rb") as handle:
        handle.seek(-min(4, path.stat().st_size), 2)
        ended = handle.read().replace(b"\r", b"").endswith(b"\n\n")
    return not ended and any(isinstance(line, str) and ANNOUNCED.match(line) for line in comments)


def _word(line: str, number: int) -> list[tuple[str, int, str]]:
    """Return form, head and relation of the word of a line; nothing for a multiword token or an empty node."""
    columns = line.split("\t")
    if len(columns) != 10:
        raise BadRecord(f"a line must have 10 columns separated by tabs but has {len(columns)}: {shown(line)}")
    if NOT_A_WORD.fullmatch(columns[ID]):
        return []
    if columns[ID] != str(number):
        raise BadRecord(f"field 'ID' is {columns[ID]!r} but the next word has number {number}")
    if not re.fullmatch(r"[0-9]+", columns[HEAD]):
        raise BadRecord(f"field 'HEAD' of word {number} is {columns[HEAD]!r} but must be a number")
    return [(columns[FORM], int(columns[HEAD]), columns[DEPREL] or "_")]
