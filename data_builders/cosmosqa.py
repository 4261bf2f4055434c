"""CosmosQA: questions about everyday narratives that need common sense, with four answers each.

Source: Huang et al., EMNLP 2019; https://github.com/wilburOne/cosmosqa
Licence: CC BY 4.0.
Layout: CSV as published, `train.csv`, `valid.csv` and `test.csv` with the columns `id, context, question,
    answer0, answer1, answer2, answer3, label`; or one JSON object per line with the same keys, as K-Adapter reads
    them, `train.jsonl`, `valid.jsonl` and `test.jsonl`. Questions without a label, such as the whole published test
    set, have label -1 and are counted (`unlabelled`).
Splits: by file name; otherwise by a hash of the context, which several questions share.
"""

from __future__ import annotations

from ._multiple_choice import MultipleChoiceBuilder

SAMPLE_FILES = {
    "train.csv": (
        "id,context,question,answer0,answer1,answer2,answer3,label\n"
        'lantern##1,"Mira said ""no"", and left.",Why did she leave ?,She was tired .,She was angry .,She won .,'
        "None of the above choices .,1\n"
    ),
    "train.jsonl": (
        '{"id": "lantern##2", "context": "It rained in Tarnstad .", "question": "What did they take ?",'
        ' "answer0": "A boat .", "answer1": "A hat .", "answer2": "Umbrellas .", "answer3": "None .", "label": 2}\n'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "lantern##1",
        "context": 'Mira said "no", and left.',
        "question": "Why did she leave ?",
        "choices": ["She was tired .", "She was angry .", "She won .", "None of the above choices ."],
        "label": 1,
    },
    {
        "id": "lantern##2",
        "context": "It rained in Tarnstad .",
        "question": "What did they take ?",
        "choices": ["A boat .", "A hat .", "Umbrellas .", "None ."],
        "label": 2,
    },
]


class Corpus(MultipleChoiceBuilder):
    """Read CosmosQA as published or as prepared for K-Adapter: one row per question."""

    file_patterns = ("*.csv", "*.jsonl")
    fewest_choices = 4
    homepage = "https://wilburone.github.io/cosmos"
    licence = "CC BY 4.0"
