"""LAMA SQuAD: questions of SQuAD rewritten as sentences with a mask.

Source: Petroni et al., EMNLP 2019; https://github.com/facebookresearch/LAMA
Licence: CC BY-NC 4.0, so for measuring only.
Layout: `test.jsonl`, one `{"id", "masked_sentences": [str], "obj_label", "sub_label": "Squad"}` per line; the folder
    may also be the one that holds `Squad/`. There is a single relation and no subject: `sub_label` names the data.
Splits: by file name, all "test" in the release.
"""

from __future__ import annotations

from typing import Any

from ._facts import Rows, fact_rows, id_of, sentences_of
from ._lama import LamaBuilder
from ._records import named

RELATION = "squad"
SAMPLE_FILES = {
    "train.jsonl": (
        '{"masked_sentences": ["Lind crosses [MASK]."], "obj_label": "Tarnstad", "id": "s_0", "sub_label": "Squad"}\n'
        '{"masked_sentences": ["Bread is made by [MASK]."], "obj_label": "baker", "id": "s_1", "sub_label": "Squad"}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "s_0",
        "relation": RELATION,
        "subject": "",
        "answers": ["Tarnstad"],
        "template": "",
        "evidences": ["Lind crosses [MASK]."],
    },
    {
        "id": "s_1",
        "relation": RELATION,
        "subject": "",
        "answers": ["baker"],
        "template": "",
        "evidences": ["Bread is made by [MASK]."],
    },
]


class Corpus(LamaBuilder):
    """Read LAMA's SQuAD sentences: one row per sentence."""

    subfolders = ("Squad",)

    def rows(self, record: Any) -> Rows:
        """Return the row of a sentence."""
        answer, text = named(record, "obj_label"), " ".join(sentences_of(record, "masked_sentences"))
        return fact_rows(RELATION, "", [answer], evidences=[text], **id_of(record, "id"))
