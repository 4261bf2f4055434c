"""Multiple choice: your own questions with answers to choose from, in the layout of CosmosQA or as lists.

Source: your own files.
Licence: your own.
Layout: `*.json` or `*.jsonl`, a JSON array or an object per line: `{"context", "question", "choices": [str],
    "label"}` with an optional `"id"`; or `answer0`, `answer1` and so on instead of `choices`, also in `*.csv` with
    a header. `label` counts from 0; questions without a label get -1 and are counted (`unlabelled`). All questions of
    a file have the same number of choices, at least two.
Splits: by file name; otherwise by a hash of the context, which several questions may share.
"""

from __future__ import annotations

from ._multiple_choice import MultipleChoiceBuilder

SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "lantern-1", "context": "Mira closed the window.", "question": "Why?",'
        ' "choices": ["It was cold.", "It was late.", "She slept."], "label": 0}\n'
        '{"context": "", "question": "What crosses Tarnstad?", "answer0": "A wall", "answer1": "The Lind",'
        ' "answer2": "A mill"}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "lantern-1",
        "context": "Mira closed the window.",
        "question": "Why?",
        "choices": ["It was cold.", "It was late.", "She slept."],
        "label": 0,
    },
    {
        "id": "train.jsonl:2",
        "context": "",
        "question": "What crosses Tarnstad?",
        "choices": ["A wall", "The Lind", "A mill"],
        "label": -1,
    },
]


class Corpus(MultipleChoiceBuilder):
    """Read your own questions with choices: one row per question."""

    licence = "your own"
    example = (
        '{"context": "Mira closed the window.", "question": "Why?", "choices": ["It was cold.", "It was '
        'late."], "label": 0}'
    )
