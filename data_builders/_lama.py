"""What the parts of LAMA (Petroni et al., EMNLP 2019) have in common as releases."""

from __future__ import annotations

from pathlib import Path

from ._facts import FactBuilder
from ._files import NumberedRecords, json_lines

__all__ = ["RELATIONS", "LamaBuilder"]

RELATIONS = "relations.jsonl"  # lies above the folders of the parts, and describes T-REx alone


class LamaBuilder(FactBuilder):
    """Read the JSON lines of a part of LAMA, from its own folder or from that of the whole release."""

    file_patterns = ("*.jsonl",)
    beside = (RELATIONS,)
    homepage = "https://github.com/facebookresearch/LAMA"
    licence = "CC BY-NC 4.0"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the lines of a file."""
        return json_lines(path)
