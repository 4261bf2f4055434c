"""EntityQuestions: simple questions about entities, often rare ones, made from facts of Wikidata.

Source: Sciavolino et al., EMNLP 2021; https://github.com/princeton-nlp/EntityQuestions
Licence: MIT.
Layout: `P19.dev.json` and so on, a JSON array of `{"question": str, "answers": [str]}`, and in the same folder or the
    one above it `relation_query_templates.json`, `{"P19": "Where was [X] born?"}`; the folder may also be the one that
    holds `train/`, `dev/` and `test/`. The relation is the first word of the file's name. Its template is the question
    followed by the answer, and the subject is what stands in the place of [X]. Questions of another form keep their
    words as a template without a subject and are counted (`no_template`).
Splits: by file name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ._builder import RowMaker
from ._facts import ANSWER, SUBJECT, FactBuilder, Rows, checked_template, fact_rows
from ._files import NumberedRecords, json_array, json_members
from ._names import normal
from ._records import BadRecord, named, shown, strings

TEMPLATES = "relation_query_templates.json"
SAMPLE_FILES = {
    "P19.train.json": (
        '[{"question": "Where was Mira Voss born?", "answers": ["Tarnstad", "Old Tarnstad"]}, '
        '{"question": "Where was Ole Brandt born?", "answers": ["Lind"]}]'
    )
}
SAMPLE_ROWS = [
    {
        "id": "P19.train.json:1",
        "relation": "P19",
        "subject": "",
        "answers": ["Tarnstad", "Old Tarnstad"],
        "template": "Where was Mira Voss born? [Y]",
        "evidences": [],
    },
    {
        "id": "P19.train.json:2",
        "relation": "P19",
        "subject": "",
        "answers": ["Lind"],
        "template": "Where was Ole Brandt born? [Y]",
        "evidences": [],
    },
]


class Corpus(FactBuilder):
    """Read EntityQuestions: one row per question."""

    file_patterns = ("*.json",)
    subfolders = ("train", "dev", "test")
    beside = (TEMPLATES,)
    homepage = "https://github.com/princeton-nlp/EntityQuestions"
    licence = "MIT"

    def read(self, path: Path) -> Iterator[tuple[int, Any]]:
        """Yield pairs of the relation and a question."""
        relation = re.split(r"[.\s]", path.name.strip("."), maxsplit=1)[0]
        for number, record in json_array(path):
            yield number, record if isinstance(record, BadRecord) else (relation, record)

    def row_maker(self, **resources: Any) -> RowMaker:
        """Return the function that makes the row of a question, with the template of its relation."""
        path = self.companions.get(TEMPLATES)
        return partial(_rows, templates={} if path is None else _templates(path))


def _rows(record: tuple[str, Any], templates: dict[str, str]) -> Rows:
    relation, question = record
    asked, answers = normal(named(question, "question")), list(filter(normal, strings(question, "answers")))
    if not answers:
        raise BadRecord(f"field 'answers' has only blank answers: {shown(question['answers'])}")
    before, _, after = templates.get(relation, "").removesuffix(f" {ANSWER}").partition(SUBJECT)
    subject = asked.removeprefix(before).removesuffix(after)
    fits = bool(subject and before + after) and before + subject + after == asked
    template = templates[relation] if fits else f"{asked} {ANSWER}"
    return fact_rows(relation, subject if fits else "", answers, template, counts={"no_template": int(not fits)})


def _templates(path: Path) -> dict[str, str]:
    """Return the templates of the relations, each a question followed by the slot of its answer.

    Raises:
        BadRecord: the file is malformed, or a question lacks the slot of the subject.
    """
    members: NumberedRecords = json_members(path)
    templates = {}
    for number, member in members:
        try:
            if isinstance(member, BadRecord):
                raise member
            relation, question = member
            templates[relation] = checked_template(f"{named({'template': question}, 'template')} {ANSWER}")
        except BadRecord as problem:
            raise BadRecord(f"{path}, record {number}: {problem}; correct it") from None
    return templates
