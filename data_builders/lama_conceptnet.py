"""LAMA ConceptNet: common sense from sentences of the Open Mind Common Sense project.

Source: Petroni et al., EMNLP 2019, after Speer and Havasi, LREC 2012; https://github.com/facebookresearch/LAMA
Licence: CC BY-NC 4.0, so for measuring only.
Layout: `test.jsonl`, one `{"uuid", "sub", "pred": "AtLocation", "masked_sentences": [str], "obj_label"}` per line; the
    folder may also be the one that holds `ConceptNet/`. `sub_label` is read where there is no `sub`.
Splits: by file name, all "test" in the release.
"""

from __future__ import annotations

from typing import Any

from ._facts import Rows, fact_rows, id_of, sentences_of
from ._lama import LamaBuilder
from ._records import named, optional

SAMPLE_FILES = {
    "train.jsonl": (
        '{"sub": "bread", "obj": "bakery", "pred": "AtLocation", "masked_sentences": ["Mira buys it in a [MASK]."], '
        '"obj_label": "bakery", "uuid": "c1"}\n'
        '{"sub": "boat", "obj": "float", "pred": "CapableOf", "masked_sentences": ["A boat can [MASK]."], '
        '"obj_label": "float", "uuid": "c2"}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "c1",
        "relation": "AtLocation",
        "subject": "bread",
        "answers": ["bakery"],
        "template": "",
        "evidences": ["Mira buys it in a [MASK]."],
    },
    {
        "id": "c2",
        "relation": "CapableOf",
        "subject": "boat",
        "answers": ["float"],
        "template": "",
        "evidences": ["A boat can [MASK]."],
    },
]


class Corpus(LamaBuilder):
    """Read LAMA's ConceptNet sentences: one row per fact."""

    subfolders = ("ConceptNet",)

    def rows(self, record: Any) -> Rows:
        """Return the row of a fact."""
        relation, answer = named(record, "pred"), named(record, "obj_label")
        subject = optional(record, "sub", "") or optional(record, "sub_label", "")
        text = " ".join(sentences_of(record, "masked_sentences"))
        return fact_rows(relation, subject, [answer], evidences=[text], **id_of(record, "uuid"))
