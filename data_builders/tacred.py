"""TACRED: 41 relations between people, organisations and values in news and web text, and no_relation.

Source: Zhang et al., EMNLP 2017; https://nlp.stanford.edu/projects/tacred (also TACREV, Re-TACRED, and other corpora
    with the same keys).
Licence: LDC2018T24, LDC User Agreement for Non-Members.
Layout: `*.json`, a JSON array per file: `{"id", "docid", "relation", "token": [str], "subj_start", "subj_end",
    "obj_start", "obj_end", "subj_type", "obj_type", "stanford_pos", ...}`; spans count tokens, end inclusive. Only
    `relation`, `token` and the spans are needed.
Splits: `train.json`, `dev.json`, `test.json`; otherwise by hash.
"""

from __future__ import annotations

from ._subject_object import SubjectObjectBuilder

SAMPLE_FILES = {
    "train.json": (
        '[{"id": "a1", "docid": "d1", "relation": "per:employee_of",'
        ' "token": ["Mira", "Voss", "joined", "Halden"], "subj_start": 0, "subj_end": 1, "obj_start": 3, "obj_end": 3,'
        ' "subj_type": "PERSON", "obj_type": "ORGANIZATION", "stanford_pos": ["NNP", "NNP", "VBD", "NNP"]},'
        ' {"relation": "no_relation", "token": ["In", "Tarnstad", ",", "Ole", "Brandt", "rested", "."],'
        ' "subj_start": 3, "subj_end": 4, "obj_start": 1, "obj_end": 1}]'
    )
}
SAMPLE_ROWS = [
    {
        "id": "a1",
        "text": "Mira Voss joined Halden",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 17, "end": 23},
        "relation": "per:employee_of",
        "head_id": "",
        "tail_id": "",
    },
    {
        "id": "train.json:2",
        "text": "In Tarnstad , Ole Brandt rested .",
        "head": {"start": 14, "end": 24},
        "tail": {"start": 3, "end": 11},
        "relation": "no_relation",
        "head_id": "",
        "tail_id": "",
    },
]


class Corpus(SubjectObjectBuilder):
    """Read TACRED: one row per record."""

    file_patterns = ("*.json",)
    homepage = "https://nlp.stanford.edu/projects/tacred"
    licence = "LDC2018T24"
