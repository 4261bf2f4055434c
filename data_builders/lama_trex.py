"""LAMA T-REx: facts of Wikidata with sentences of Wikipedia that state them.

Source: Petroni et al., EMNLP 2019; https://github.com/facebookresearch/LAMA
Licence: CC BY-NC 4.0, so for measuring only.
Layout: `P19.jsonl` and so on, one `{"uuid", "predicate_id", "sub_label", "obj_label", "evidences": [{"sub_surface",
    "obj_surface", "masked_sentence"}]}` per line, and in the same folder or the one above it `relations.jsonl`, one
    `{"relation": "P19", "template": "[X] was born in [Y] ."}` per line. The folder may also be the one that holds
    `TREx/`. An evidence is kept only where its `obj_surface` is the `obj_label` that is asked for; the others are
    counted (`evidence_of_other_words`). Facts of relations without a template are kept and counted (`no_template`).
Splits: all facts are for testing, unless the name of a file contains a split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ._builder import RowMaker
from ._facts import Rows, checked_template, fact_rows, id_of
from ._files import json_lines
from ._lama import RELATIONS, LamaBuilder
from ._records import BadRecord, named, required, typed

SAMPLE_FILES = {
    "train.jsonl": (
        '{"uuid": "f1", "predicate_id": "P19", "sub_label": "Mira Voss", "obj_label": "Tarnstad", "evidences": '
        '[{"sub_surface": "Voss", "obj_surface": "Tarnstad", "masked_sentence": "Voss was born in [MASK] in May."}, '
        '{"sub_surface": "Voss", "obj_surface": "the town", "masked_sentence": "Voss left [MASK] early."}]}\n'
        '{"uuid": "f2", "predicate_id": "P106", "sub_label": "Ole Brandt", "obj_label": "baker", "evidences": []}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "f1",
        "relation": "P19",
        "subject": "Mira Voss",
        "answers": ["Tarnstad"],
        "template": "",
        "evidences": ["Voss was born in [MASK] in May."],
    },
    {
        "id": "f2",
        "relation": "P106",
        "subject": "Ole Brandt",
        "answers": ["baker"],
        "template": "",
        "evidences": [],
    },
]


class Corpus(LamaBuilder):
    """Read LAMA's T-REx facts: one row per fact, however many sentences state it."""

    subfolders = ("TREx",)

    def row_maker(self, **resources: Any) -> RowMaker:
        """Return the function that makes the rows of a fact, with the template of its relation."""
        path = self.companions.get(RELATIONS)
        return partial(_rows, templates={} if path is None else _templates(path))


def _rows(record: Any, templates: dict[str, str]) -> Rows:
    relation, subject, answer = (named(record, name) for name in ("predicate_id", "sub_label", "obj_label"))
    template = templates.get(relation, "")
    sentences, others = [], 0
    for number, evidence in enumerate(required(record, "evidences", list)):
        typed(evidence, f"evidences[{number}]", dict)
        others += required(evidence, "obj_surface", str) != answer
        if evidence["obj_surface"] == answer:
            sentences.append(required(evidence, "masked_sentence", str))
    counts = {"evidence_of_other_words": others, "no_template": int(not template)}
    return fact_rows(relation, subject, [answer], template, sentences, counts, **id_of(record, "uuid"))


def _templates(path: Path) -> dict[str, str]:
    """Return the templates of a file by relation.

    Raises:
        BadRecord: a line is malformed or a template lacks a slot; the message names the line.
    """
    templates = {}
    for number, record in json_lines(path):
        try:
            if isinstance(record, BadRecord):
                raise record
            templates[named(record, "relation")] = checked_template(named(record, "template"))
        except BadRecord as problem:
            raise BadRecord(f"{path}, record {number}: {problem}; correct it") from None
    return templates
