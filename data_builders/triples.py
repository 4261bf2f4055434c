"""Triples put into words by templates, such as those of ConceptNet or of your own graph.

Source: your own files.
Licence: your own.
Layout: `*.tsv`, head TAB relation TAB tail, or in the order of a header line; `*.csv` with a header that names these
    columns, perhaps among others; or `*.jsonl`, `{"head", "relation", "tail"}`. Beside them files whose names contain
    the word "templates": `templates.jsonl`, `{"relation", "phrasings": ["[X] was born in [Y] .", ...]}`, or as LAMA
    writes them `{"relation", "template"}`; or `templates.tsv`, relation TAB phrasing, a line for each phrasing. [X] is
    the head and [Y] the tail.
Rows: each triple in each phrasing of its relation, in their order; the mentions are those of head and tail.
Splits: by file name, for triples and templates alike: a split has its own triples and phrasings and those whose file
    names contain no split. `triples.tsv` with `templates_train.jsonl` and `templates_test.jsonl` therefore trains on
    the phrasings of the one and tests, on the same triples, those of the other. If no name contains a split, the
    sentences are split by hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from ._builder import CorpusBuilder, Row, RowMaker
from ._counts import Tally, write_partial
from ._files import NumberedRecords
from ._names import normal
from ._records import named
from ._splits import SPLITS, files_by_split, together
from ._templates import HEAD, TAIL, Templates, holds_templates
from ._triples import TRIPLE_FILES, triple_records

SAMPLE_FILES = {
    "train.tsv": "Mira Voss\twork location\tTarnstad\n",
    "templates.jsonl": (
        '{"relation": "work location", "phrasings": ["[X] works in [Y].", "In [Y] on the Lind works [X]."]}\n'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.tsv:1:1",
        "text": "Mira Voss works in Tarnstad.",
        "mentions": [{"start": 0, "end": 9}, {"start": 19, "end": 27}],
    },
    {
        "id": "train.tsv:1:2",
        "text": "In Tarnstad on the Lind works Mira Voss.",
        "mentions": [{"start": 30, "end": 39}, {"start": 3, "end": 11}],
    },
]


class Corpus(CorpusBuilder):
    """Put triples into words: one row per triple and phrasing of its relation."""

    record_type = "text"
    file_patterns = TRIPLE_FILES
    licence = "your own"
    note = "each triple is put into words by all phrasings of its relation in the files of templates"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the triples of a file."""
        return triple_records(path)

    def row_maker(self, templates: tuple[str, ...] = (), **resources: Any) -> RowMaker:
        """Return the function that puts a triple into the words of these files, by default of all in the folder."""
        known = Templates([Path(path) for path in templates] or self._files()[1], on_bad=lambda *_: None)

        def rows(record: Any) -> Iterable[Row]:
            head, relation, tail = (normal(named(record, name)) for name in ("head", "relation", "tail"))
            return [in_words(phrasing, head, tail) for phrasing in known.of(relation)]

        return rows

    def left_out(self) -> list[Path]:
        """Return no files: a file whose name contains no split is used in all splits."""
        return []

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Return the files of triples and those of templates."""
        beside = self.files if self.config.labelled else sorted(Path(self.config.data_dir).iterdir())
        templates = [path for path in beside if holds_templates(path)]
        return [path for path in self.files if path not in templates], templates

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        triples, templates = (self._pooled_for_folds(files_by_split(files)) for files in self._files())
        by_name = together(triples, templates)
        if by_name:
            return [self._in_words(dl_manager, split, *files, None) for split, files in by_name.items()]
        hashed = [split for split in SPLITS if split in dict(self._shares())]
        both = triples.get(None, []), templates.get(None, [])
        return [self._in_words(dl_manager, split, *both, split) for split in hashed]

    def _in_words(
        self, dl_manager: Any, split: str, triples: list[Path], templates: list[Path], hash_split: str | None
    ) -> datasets.SplitGenerator:
        """Return the generator of a split; its templates are checked here, once for all processes."""
        for what, files in (
            ("triples (*.tsv, *.csv or *.jsonl)", triples),
            ("templates (templates*.jsonl)", templates),
        ):
            if not files:
                raise ValueError(
                    f"{self.config.data_dir} holds no {what} for the split '{split}'; add or rename a file"
                )
        tally = Tally(self.config.on_bad_record, hash_split, self._shares())
        known = Templates(templates, tally.bad)
        tally.files.update({(path.name, "phrasings"): number for path, number in known.files.items()})
        if not dl_manager.is_streaming:
            write_partial(self._output_dir, split, tally)
        names = tuple(map(str, templates))
        return self._split(dl_manager, split, triples, hash_split, self._shares(), templates=names)


def in_words(phrasing: str, head: str, tail: str) -> Row:
    """Return the row of a triple in a phrasing: the text, and the mentions of head and tail in this order."""
    text, spans, names = "", {}, {HEAD: head, TAIL: tail}
    for piece in re.split(rf"({re.escape(HEAD)}|{re.escape(TAIL)})", phrasing):
        if piece in names:
            spans[piece] = {"start": len(text), "end": len(text) + len(names[piece])}
        text += names.get(piece, piece)
    return {"text": text, "mentions": [spans[HEAD], spans[TAIL]]}
