"""LAMA Google-RE: births and deaths of people, extracted from Wikipedia and judged by people.

Source: Petroni et al., EMNLP 2019, after https://code.google.com/archive/p/relation-extraction-corpus;
    https://github.com/facebookresearch/LAMA
Licence: CC BY-NC 4.0, so for measuring only.
Layout: `place_of_birth_test.jsonl` and so on, one `{"uuid", "pred": "/people/person/place_of_birth", "sub_label",
    "obj_label", "masked_sentences": [str], "judgments": [{"judgment": "yes"}]}` per line; the folder may also be the
    one that holds `Google_RE/`. The sentences of a fact are one text, as in LAMA's code, and the templates are those
    of its `run_experiments.py`. Facts that more people judged wrong than right are dropped and counted
    (`dropped_judged_wrong`), those of another relation have no template and are counted (`no_template`).
Splits: by file name, all "test" in the release.
"""

from __future__ import annotations

from typing import Any

from ._counts import Dropped
from ._facts import Rows, fact_rows, id_of, sentences_of
from ._lama import LamaBuilder
from ._records import named, optional, typed

TEMPLATES = {
    "place_of_birth": "[X] was born in [Y] .",
    "date_of_birth": "[X] (born [Y]).",
    "place_of_death": "[X] died in [Y] .",
}
SAMPLE_FILES = {
    "place_of_birth_train.jsonl": (
        '{"uuid": "g1", "pred": "/people/person/place_of_birth", "sub_label": "Mira Voss", "obj_label": "Tarnstad", '
        '"masked_sentences": ["Voss wrote .", "She was born in [MASK] ."], "judgments": [{"judgment": "yes"}]}\n'
        '{"uuid": "g2", "pred": "/people/person/date_of_birth", "sub_label": "Ole Brandt", "obj_label": "1901", '
        '"masked_sentences": ["Brandt ( born [MASK] ) is a baker ."]}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "g1",
        "relation": "place_of_birth",
        "subject": "Mira Voss",
        "answers": ["Tarnstad"],
        "template": "[X] was born in [Y] .",
        "evidences": ["Voss wrote . She was born in [MASK] ."],
    },
    {
        "id": "g2",
        "relation": "date_of_birth",
        "subject": "Ole Brandt",
        "answers": ["1901"],
        "template": "[X] (born [Y]).",
        "evidences": ["Brandt ( born [MASK] ) is a baker ."],
    },
]


class Corpus(LamaBuilder):
    """Read LAMA's Google-RE facts: one row per fact."""

    subfolders = ("Google_RE",)

    def rows(self, record: Any) -> Rows:
        """Return the row of a fact, or a `Dropped` if most people judged it wrong."""
        relation = named(record, "pred").strip().rstrip("/").rsplit("/", 1)[-1]
        subject, answer = named(record, "sub_label"), named(record, "obj_label")
        text = " ".join(sentences_of(record, "masked_sentences"))
        if _wrong(optional(record, "judgments", [])):
            return [Dropped("judged_wrong", subject)]
        template = TEMPLATES.get(relation, "")
        counts = {"no_template": int(not template)}
        return fact_rows(relation, subject, [answer], template, [text], counts, **id_of(record, "uuid"))


def _wrong(judgments: list) -> bool:
    """Return whether more people judged a fact wrong than right."""
    votes = [named(typed(vote, f"judgments[{n}]", dict), "judgment") == "yes" for n, vote in enumerate(judgments)]
    return sum(votes) < len(votes) - sum(votes)
