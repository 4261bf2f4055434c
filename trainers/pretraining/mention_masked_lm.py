"""Filling in masked mentions beside their entities: general map-tuning (Zhang et al., ACL 2023, section 3).

accelerate launch trainers/run_adapter.py --recipe recipes/map_fewrel_bert.yaml --entity_embeddings TABLE
    --backbone ID_OR_PATH --data_dir DIR --output_dir OUT
Published, on Wiki20m with the entity embeddings of ERNIE and bert-base-uncased, the loss after epochs 1 to 5: without
dropout 6.582, 5.844, 5.637, 5.516, 5.435; with dropout 0.25 7.085, 6.664, 6.562, 6.512, 6.484. Ours: see
docs/map_tuning.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from datasets import Dataset

from ...configuration_kadapter import KAdapterConfig
from ...embeddings_kadapter import EntityEmbeddings
from ...language_modeling_kadapter import KAdapterForMaskedLM
from ...map_kadapter import KnowledgeMapConfig
from ...processing_kadapter import KnowledgeSource, KnowledgeTokens, insert_entities
from ..common.knowledge import COLUMNS, Knowledge, columns_of

IGNORED = -100
VARIANTS = ((0, 1), (0,), (1,))  # which of head and tail are masked


class Objective:
    """A map learns, through a frozen encoder and its LM head, to say by entities what their masked mentions say.

    Of each sentence there are three examples: head and tail masked, the head, and the tail, each time every token of
    a mention, and by the mask alone. Both entities stay where they are. An entity that the table lacks has no slot,
    and its mention is masked all the same; a sentence of which both are missing is left out, and so is one that does
    not fit into `max_length`. The official code has the same examples, of lower-cased text.
    """

    record_type = "relation"
    model_class = KAdapterForMaskedLM
    metric = "accuracy"
    fusion = "add"  # of the encoder alone, where there is no other adapter

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        if arguments.entity_embeddings is None:
            raise ValueError(
                "--entity_embeddings is missing: the id or directory of the table whose vectors are mapped; "
                "`kadapter embeddings` makes such a directory"
            )
        if tokenizer.mask_token is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no mask token, so no mention can be masked; choose "
                "a masked language model"
            )
        self.tokenizer, self.max_length, self.lm_head = tokenizer, max_length, arguments.lm_head
        table = EntityEmbeddings.from_pretrained(arguments.entity_embeddings)
        self.knowledge = Knowledge(KnowledgeSource(table, arguments.entity_position))
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "positions": -1, "labels": IGNORED, **COLUMNS}

    def adapter_config(self) -> KnowledgeMapConfig:
        """Return the configuration of a new map for the table."""
        table, position = self.knowledge.source[:2]
        return KnowledgeMapConfig.for_table(table, entity_position=position)

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Choose the LM head, and count the entities that the table lacks.

        Raises:
            ValueError: it lacks all of them.
        """
        ids = {name for column in ("head_id", "tail_id") for name in train.unique(column) if name}
        if not ids:
            raise ValueError("no record has the id of an entity; choose a corpus with linked mentions, such as fewrel")
        missing = self.knowledge.table.check_known(sorted(ids))
        print(f"entities: {len(ids)} in the training records, {missing} of which the table lacks")
        return {"lm_head": self.lm_head}

    def recall(self, config: KAdapterConfig) -> None:
        """Check that a trained map was trained with the same table.

        Raises:
            ValueError: it was trained with another.
        """
        sha256 = self.knowledge.table.sha256
        for values in config.adapters.values():
            if values.get("knowledge_sha256") not in (None, sha256):
                raise ValueError(
                    f"the map was trained with entity embeddings of sha256 {values['knowledge_sha256'][:12]}, and "
                    f"these have {sha256[:12]}; give the --entity_embeddings that it was trained with"
                )

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Put entities before mentions and mask these: three examples of each sentence that fits."""
        pairs = list(zip(rows["head_id"], rows["tail_id"], strict=True))
        row_of = self.knowledge.rows_of(name for pair in pairs for name in pair)
        links = [
            [
                (span["start"], span["end"], name if row_of.get(name, -1) >= 0 else None)
                for span, name in zip(spans, pair, strict=True)
            ]
            for *spans, pair in zip(rows["head"], rows["tail"], pairs, strict=True)
        ]
        examples: dict[str, list] = {name: [] for name in ("record", *self.padding, "truncated")}
        for record, text in enumerate(insert_entities(self.tokenizer, rows["text"], links, self.knowledge.source)):
            if text.slots and len(text.input_ids) <= self.max_length:
                for example in self._masked(text, row_of):
                    for name, value in {"record": record, **example, "truncated": False}.items():
                        examples[name].append(value)
        return examples

    def _masked(self, text: KnowledgeTokens, row_of: dict[str, int]) -> list[dict[str, Any]]:
        """Return the examples of a sentence, without those that mask nothing, as of a mention that is replaced."""
        spans = [text.mentions[0], text.mentions[-1]]
        examples = []
        for variant in VARIANTS:
            masked = [spans[number] for number in variant]
            positions = sorted({at for span in masked if span is not None for at in range(*span)})
            if positions:
                ids = list(text.input_ids)
                for position in positions:
                    ids[position] = self.tokenizer.mask_token_id
                examples.append(
                    {
                        "input_ids": ids,
                        "positions": positions,
                        "labels": [text.input_ids[position] for position in positions],
                        **columns_of(text, row_of),
                    }
                )
        return examples

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Look up the entities of a batch."""
        return self.knowledge.complete(batch)

    def measure(self, predictions: np.ndarray, labels: np.ndarray, evaluated: Dataset) -> dict[str, float]:
        """Return the share of the masked tokens that are filled in as they were."""
        counted = labels != IGNORED
        return {"accuracy": float(np.mean(predictions[counted] == labels[counted]))}

    def from_loss(self, loss: float) -> dict[str, float]:
        """Return the perplexity of the masked tokens."""
        return {"perplexity": math.exp(min(loss, 700.0))}  # e**709 is the largest float
