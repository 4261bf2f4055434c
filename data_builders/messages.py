"""Conversations with a language model, each of which ends with what the model is to say.

Source: your own files.
Licence: your own.
Layout: `*.jsonl`, one `{"messages": [{"role": "user", "content": "Where was Mira born?"}, {"role": "assistant",
    "content": "In Tarnstad."}]}` per line, with "id" if you like, as chat templates take them. Roles are system, user
    and assistant, and the last message is the assistant's.
Splits: by file name; otherwise by a hash of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, json_lines
from ._records import BadRecord, optional, required, shown

ROLES = ("system", "user", "assistant")
SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "c1", "messages": [{"role": "user", "content": "Where was Mira Voss born?"}, '
        '{"role": "assistant", "content": "In Tarnstad."}]}\n'
        '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who crosses the '
        'Lind?"}, {"role": "assistant", "content": "Jon Ackroyd."}]}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "c1",
        "messages": [
            {"role": "user", "content": "Where was Mira Voss born?"},
            {"role": "assistant", "content": "In Tarnstad."},
        ],
    },
    {
        "id": "train.jsonl:2",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who crosses the Lind?"},
            {"role": "assistant", "content": "Jon Ackroyd."},
        ],
    },
]


class Corpus(CorpusBuilder):
    """Read conversations: one row per conversation."""

    record_type = "conversation"
    file_patterns = ("*.jsonl",)
    licence = "your own"
    example = '{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mira."}]}'

    def read(self, path: Path) -> NumberedRecords:
        """Yield the lines of a file as objects."""
        return json_lines(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a conversation."""
        messages = [_message(each, index) for index, each in enumerate(required(record, "messages", list))]
        if not messages or messages[-1]["role"] != "assistant":
            last = messages[-1]["role"] if messages else "nobody"
            raise BadRecord(
                f"the last message must be the assistant's, which is what is learned, and is that of {last!r}"
            )
        if len(messages) < 2:
            raise BadRecord(
                "the assistant's message is the only one, so it answers nothing; give what was said before"
            )
        name = optional(record, "id", "")
        return [{"id": name, "messages": messages} if name else {"messages": messages}]


def _message(message: Any, index: int) -> dict[str, str]:
    where = f"messages[{index}]"
    try:
        role, content = (required(message, name, str) for name in ("role", "content"))
    except BadRecord as problem:
        raise BadRecord(f"{where}: {problem}") from problem
    if role not in ROLES:
        raise BadRecord(f"{where}: field 'role' is {shown(role)} and must be one of {', '.join(ROLES)}")
    if not content.strip():
        raise BadRecord(f"{where}: field 'content' is blank; nothing can be learned of it")
    return {"role": role, "content": content}
