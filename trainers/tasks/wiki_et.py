"""Wiki-ET: 68 types of a marked mention of Wikipedia, linked to its entity (Xin et al., AAAI 2018); loose micro-F1.

accelerate launch trainers/run_task.py --recipe recipes/wiki_et_bert.yaml --data_dir DIR --backbone bert-base-uncased
    --adapters none --output_dir BASE
accelerate launch trainers/run_task.py --recipe recipes/wiki_et_bert_map.yaml --data_dir DIR
    --backbone bert-base-uncased --trained_model BASE --adapters MAP --entity_embeddings TABLE --output_dir TUNED
Published, map-tuning on bert-base-uncased (Zhang et al., ACL 2023, from the files of its repository), test F1: without
a map 77.5; general map, plugged in 76.6 (with LoRA 77.5 and 78.3, Adapter 77.5 and 79.2, BitFit 77.1 and 78.0); map
tuned on the task 78.9; fine-tuned with a general map 79.9, with a map of the task's own text 81.0.
Ours: not measured, the corpus and ERNIE's table are not at hand.

Inputs differ from the official ones by the marker, " @" where that has "$", and by the head, which reads the opening
marker, where that reads the pooled first token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ._typing import TypingTask

NUMBERED = "label2id.json"


class Task(TypingTask):
    """Loose micro-F1; a type is predicted where its logit is at least 0, and the likeliest always."""

    corpus = "wiki_et"
    ids_are_rows: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.order = _published_order(Path(arguments.data_dir) / NUMBERED)

    def likely(self, logits: np.ndarray) -> np.ndarray:
        """Return the types (examples, types) that the official code predicts."""
        return logits >= np.minimum(0, logits.max(axis=1, keepdims=True))


def _published_order(path: Path) -> tuple[str, ...]:
    """Return the types as the file beside the corpus numbers them; none if there is no such file.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        return ()
    try:
        numbered = json.loads(path.read_text(encoding="utf-8")).items()
        return tuple(name for name, _ in sorted(numbered, key=lambda pair: int(pair[1])))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be a JSON object of types and their numbers ({error}); fetch it again, or remove it to "
            "number the types by name"
        ) from error
