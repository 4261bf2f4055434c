"""Multiple choice: your own files of questions with answers to choose from, in the layout of CosmosQA or as lists.

Source: your files. Licence: your own.
Layout: ``*.json`` or ``*.jsonl``, one JSON array or one object a line: ``{"context", "question", "choices": [str],
    "label"}`` with an optional ``"id"``; or, there and in ``*.csv`` with a header, ``answer0``, ``answer1`` and so on
    in the place of ``choices``. ``label`` counts from 0; a question without it has -1 and is counted
    (``unlabelled``). All questions of a file have as many choices, two or more.
Splits: by file name; without split words, by a hash of the context, which several questions may share.
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
    """Reads the user's own questions with choices: one row for each question."""

    licence = "your own"
    example = (
        '{"context": "Mira closed the window.", "question": "Why?", "choices": ["It was cold.", "It was '
        'late."], "label": 0}'
    )
