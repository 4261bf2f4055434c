"""Entities of a knowledge base in encoded examples: where their slots are, and which rows of the table fill them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...embeddings_kadapter import EntityEmbeddings
from ...processing_kadapter import KnowledgeSource, KnowledgeTokens

__all__ = ["COLUMNS", "Knowledge", "columns_of"]

COLUMNS = {"knowledge_slots": -1, "knowledge_rows": -1}  # of an example, and their padding


def columns_of(text: KnowledgeTokens, row_of: dict[str, int]) -> dict[str, list[int]]:
    """Return the columns of a text whose entities `insert_entities` put in, given the rows of their ids."""
    rows = [row_of[str(link.id)] for _, link in text.slots]
    return dict(zip(COLUMNS, ([position for position, _ in text.slots], rows), strict=True))


@dataclass
class Knowledge:
    """A table, and how its entities are put into the texts of an objective or a task.

    An example has the positions of its slots and the rows that fill them, -1 for a vector of zeros; `complete` looks
    the rows up, batch by batch, so that no vector is stored with an example.

    Args:
        source: the table, and how its entities are put into a text.
        shuffle: the seed by which the vectors change hands among the entities, for a control; None leaves them.
        ids_are_rows: whether ids of digits are numbers of rows, as in the corpus of Wiki-ET.
        required: whether training examples without an entity are left out, since nothing in them would train.
    """

    source: KnowledgeSource
    shuffle: int | None = None
    ids_are_rows: bool = False
    required: bool = False

    def __repr__(self) -> str:
        """Return all that encoded examples depend on, for the key of their cache."""
        own = (self.shuffle, self.ids_are_rows, self.required)
        return f"{type(self).__name__}({self.table.sha256}, {self.source[1:]}, {own})"

    @property
    def table(self) -> EntityEmbeddings:
        """The entity embeddings."""
        return self.source.embeddings

    @cached_property
    def _order(self) -> Tensor | None:
        """The row whose vector an entity has, by its own row; None where it is its own."""
        if self.shuffle is None:
            return None
        return torch.randperm(len(self.table), generator=torch.Generator().manual_seed(self.shuffle))

    def rows_of(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the row of each different id, -1 for those that the table lacks; "" is no id.

        Raises:
            ValueError: the number of a row is beyond the table.
        """
        different = sorted({name for name in ids if name})
        if not different:
            return {}
        rows = self.table.rows(different)
        for number, name in enumerate(different):
            if self.ids_are_rows and name.isdecimal():
                rows[number] = self._checked(int(name))
        if self._order is not None:
            rows = torch.where(rows < 0, rows, self._order[rows.clamp(min=0)])
        return dict(zip(different, rows.tolist(), strict=True))

    def _checked(self, row: int) -> int:
        if row >= len(self.table):
            raise ValueError(
                f"entity id {row} is the number of a row, and the table has {len(self.table)} rows; give the "
                "--entity_embeddings that the corpus was made with"
            )
        return row

    def has_slot(self, row: int) -> bool:
        """Return whether an entity of this row, -1 where the table lacks it, has a slot."""
        return row >= 0 or self.source.missing_entity == "bias"

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Look up the entities of a batch: (batch, slots) rows of the table become (batch, slots, dimension)."""
        if "knowledge_rows" not in batch:  # of states that were kept
            return batch
        rows = batch.pop("knowledge_rows")
        vectors = self.table.embeddings[rows.clamp(min=0)].float()
        return {**batch, "knowledge_embeds": vectors.masked_fill((rows < 0)[..., None], 0.0)}

    def check(self, ids: Iterable[str]) -> None:
        """Refuse mentions of which none is linked to an entity of the table; "" stands for a mention without an id.

        Raises:
            ValueError: none has an id, or the table knows none of the ids.
        """
        row_of = self.rows_of(ids)
        if not row_of:
            raise ValueError(
                "no record has the id of an entity, so a knowledge map has nothing to put beside its mentions; choose "
                "a corpus with linked mentions, such as wiki80 or fewrel, or leave the map out"
            )
        if all(row < 0 for row in row_of.values()):
            self.table.check_known(sorted(row_of))

    def count(self, ids: Sequence[str]) -> str:
        """Describe how many of these mentions are linked, and how many of their entities the table lacks."""
        linked, row_of = [name for name in ids if name], self.rows_of(ids)
        missing = sum(row_of[name] < 0 for name in linked)
        what = "are skipped" if self.source.missing_entity == "skip" else "have the bias of the map"
        lacked = f"; {missing} have an entity that the table lacks, and {what}" if missing else ""
        return f"{len(linked)} of {len(ids)} mentions are linked, to {len(row_of)} entities{lacked}"
