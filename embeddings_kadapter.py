"""Embeddings of the entities of a knowledge base, found by their ids: a table on disk that is mapped, never changed.

The file `entity_embeddings.safetensors` holds the vectors in the order of their rows, the ids as UTF-8, and an index
of the ids: each id belongs to the bucket that a checksum of it names, and of each bucket the rows are listed. The
bytes of the file follow from its content. Dimensions: E entities, D dimension, n ids that are looked up.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import is_normalized, normalize

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from .artifacts_kadapter import (
    CONFIG,
    DTYPES,
    UPLOADING,
    all_finite,
    check_destination,
    upload,
    write_directory,
)
from .backbone_kadapter import (
    READING,
    backbone_fingerprint,
    digest_of_tensor,
    fingerprint_of,
    memory_of,
    remember,
)
from .cards_kadapter import CARD, PLACEHOLDER, as_code, as_text, signed
from .configuration_kadapter import refuse_keywords

__all__ = ["TABLE", "EntityEmbeddings", "IdIndex"]

TABLE = "entity_embeddings.safetensors"
RECORD = "entity_embeddings"  # the single entry of the file's metadata: with several their order would be random
TENSORS = ("embeddings", "id_bytes", "id_offsets", "buckets", "rows")
CHUNK = 2**16  # rows looked at together, where all are


class IdIndex(NamedTuple):
    """The ids of all rows, and where to look for one; every tensor may be mapped from a file."""

    id_bytes: Tensor  # all ids, one after the other, as UTF-8
    id_offsets: Tensor  # (E + 1,) where each row's id begins
    buckets: Tensor  # (E + 1,) where each bucket's rows begin
    rows: Tensor  # (E,) the rows of all buckets, one after the other

    @classmethod
    def of(cls, ids: Sequence[str]) -> IdIndex:
        """Index ids, whose numbers are their rows.

        Raises:
            TypeError: an id is no string.
            ValueError: there are none, an id is empty or listed twice; the sentence names it and its row.
        """
        if len(ids) == 0:
            raise ValueError("there are no ids; give the id of each row of the embeddings")
        keys = [_key(name, row) for row, name in enumerate(ids)]
        bucket_of = torch.tensor([_bucket_of(key, len(keys)) for key in keys])
        index = cls(
            torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8),
            _offsets(torch.tensor([len(key) for key in keys])),
            _offsets(torch.bincount(bucket_of, minlength=len(keys))).to(torch.int32),
            bucket_of.argsort(stable=True).to(torch.int32),
        )
        for start in range(0, len(keys), CHUNK):
            own = index.find(keys[start : start + CHUNK])
            for number in (own != torch.arange(start, start + len(own))).nonzero()[:1, 0].tolist():
                first, second = sorted((start + number, int(own[number])))
                raise ValueError(f"id {ids[first]!r} is listed twice, in rows {first} and {second}; keep one of them")
        return index

    def find(self, keys: Sequence[bytes]) -> Tensor:
        """Return the rows (n,) of ids in UTF-8, -1 where there is none.

        It is a loop, since for a thousand ids waking PyTorch's threads takes longer than all the rest.
        """
        text, offsets, buckets, rows = (tensor.numpy().data for tensor in self)
        row_of_key = [-1] * len(keys)
        for number, key in enumerate(keys):
            bucket = _bucket_of(key, len(rows))
            for row in rows[buckets[bucket] : buckets[bucket + 1]]:  # one or two
                if text[offsets[row] : offsets[row + 1]] == key:
                    row_of_key[number] = row
                    break
        return torch.tensor(row_of_key, dtype=torch.int64)

    def names(self) -> Iterator[str]:
        """Yield the ids of all rows in their order."""
        for start in range(0, len(self.rows), CHUNK):
            offsets = self.id_offsets[start : start + CHUNK + 1]
            text = self.id_bytes[int(offsets[0]) : int(offsets[-1])].numpy().tobytes()
            ends = (offsets - offsets[0]).tolist()
            yield from (text[begin:end].decode() for begin, end in pairwise(ends))

    def is_sound(self, rows: int) -> bool:
        """Return whether nothing in the index points outside it, for a table of so many rows."""
        lengths = (len(self.id_offsets), len(self.buckets), len(self.rows))
        ends = (rows > 0 and lengths == (rows + 1, rows + 1, rows)) and (
            (self.id_offsets[0], self.id_offsets[-1], self.buckets[0], self.buckets[-1])
            == (0, len(self.id_bytes), 0, rows)
        )
        ascending = ends and all(bool((run[1:] >= run[:-1]).all()) for run in (self.id_offsets, self.buckets))
        return bool(ascending and self.rows.min() >= 0 and self.rows.max() < rows)


def _key(name: Any, number: int) -> bytes:
    """Return an id, of which `number` says the position in its list, as it is stored: composed (NFC), as UTF-8."""
    if not isinstance(name, str):
        raise TypeError(f"id {name!r}, number {number}, is of type {type(name).__name__}; write ids as strings")
    if not name:
        raise ValueError(f"id number {number} is empty; give each entity an id")
    try:
        return (name if name.isascii() or is_normalized("NFC", name) else normalize("NFC", name)).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"id {name!r}, number {number}, holds half a surrogate pair; repair the text") from error


def _bucket_of(key: bytes, number: int) -> int:
    return zlib.crc32(key) % number


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


class EntityEmbeddings:
    """The embeddings of a knowledge base's entities by their ids, an artifact of its own, which nothing changes.

    Args:
        ids: the id of each row, such as "Q90" (E); composed Unicode (NFC), in which they are looked up too.
        embeddings: a vector for each entity (E, D), in a floating-point type.
        knowledge_base: what the ids belong to, for instance "wikidata".
        origin: how the vectors were made, for the card: names and values that JSON can hold.

    Attributes:
        embeddings: the vectors (E, D) in memory of the CPU; of a table that was read they are mapped from its file.
        name_or_path, revision: where the table was read, and its commit on the Hub; None if it was not.

    Raises:
        TypeError: an id is no string, or the embeddings are no tensor.
        ValueError: there are no rows, their number is not that of the ids, an id is empty or listed twice, or a row
            holds NaN or infinite values; the sentence names id and row.
    """

    embeddings: Tensor
    name_or_path: str | None = None
    revision: str | None = None

    def __init__(
        self, ids: Sequence[str], embeddings: Tensor, knowledge_base: str, origin: dict[str, Any] | None = None
    ) -> None:
        if not isinstance(embeddings, Tensor):
            raise TypeError(
                f"the embeddings are of type {type(embeddings).__name__}; give a tensor (entities, dimension)"
            )
        _check_shape(embeddings)
        self.embeddings = embeddings.detach().cpu().contiguous()
        self.knowledge_base, self.origin = knowledge_base, dict(origin or {})
        if len(ids) != len(embeddings):
            raise ValueError(f"there are {len(ids)} ids for {len(embeddings)} rows; give an id for each row")
        self.index = IdIndex.of(ids)
        for start in range(0, len(embeddings), CHUNK):
            if not all_finite(chunk := self.embeddings[start : start + CHUNK]):
                row = start + int((~chunk.isfinite()).any(dim=1).nonzero()[0])
                raise ValueError(
                    f"row {row} (entity {ids[row]!r}) holds NaN or infinite values; leave the entity out, or train it"
                )

    # ---- looking up -------------------------------------------------------------------------------------------------

    @property
    def dimension(self) -> int:
        """The width D of the vectors."""
        return self.embeddings.shape[1]

    def __len__(self) -> int:
        return len(self.embeddings)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(name) and bool(self.rows([name])[0] >= 0)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids in the order of the rows."""
        return self.index.names()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} entities of {self.knowledge_base!r}, dimension {self.dimension})"

    def __deepcopy__(self, memo: dict[int, Any]) -> EntityEmbeddings:
        return self  # nothing changes it, and a copy of a model that refers to it should not copy gigabytes

    def rows(self, ids: Sequence[str]) -> Tensor:
        """Return the row of each id (n,), -1 for those that the table lacks.

        Raises:
            TypeError: `ids` is a single string, or an id is no string.
            ValueError: an id is empty.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids are a list of strings, not the string {ids!r}; give [{ids!r}]")
        return self.index.find([_key(name, number) for number, name in enumerate(ids)])

    def known(self, ids: Sequence[str]) -> Tensor:
        """Return for each id whether the table has it (n,). Errors are those of `rows`."""
        return self.rows(ids) >= 0

    def lookup(self, ids: Sequence[str]) -> Tensor:
        """Return the vectors of ids (n, D), zero for those that the table lacks. Errors are those of `rows`.

        They are copied by NumPy, as bytes, for the same reason that `IdIndex.find` is a loop.
        """
        rows = self.rows(ids).numpy()
        vectors = self.embeddings.new_empty(len(rows), self.dimension)
        stored, copied = (tensor.view(torch.uint8).numpy() for tensor in (self.embeddings, vectors))
        copied[:] = stored[rows]
        copied[rows < 0] = 0
        return vectors

    def check_known(self, ids: Collection[str]) -> int:
        """Return how many of the ids the table lacks, and refuse ids of which it has none.

        Raises:
            ValueError: none of them is in the table, so that they are likely of another knowledge base.
        """
        asked = list(ids)
        missing = int((self.rows(asked) < 0).sum())
        if asked and missing == len(asked):
            raise ValueError(
                f"none of the {len(asked)} ids, such as {', '.join(map(repr, asked[:3]))}, is among the {len(self)} "
                f"entities of {self.knowledge_base!r}, such as {', '.join(map(repr, islice(self, 3)))}; use the "
                "embeddings of the knowledge base that the ids belong to"
            )
        return missing

    # ---- reading ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, id_or_path: str | os.PathLike, *, sha256: str | None = None, verify: bool = True, **reading: Any
    ) -> EntityEmbeddings:
        """Map a table from a directory or the Hub, of which only what is looked up is ever read into memory.

        Args:
            id_or_path: directory or Hub id.
            sha256: the hash that the table must have, where something was made for it.
            verify: whether to hash the content, once for each file, and compare the hash with what was noted at the
                save. It is remembered in the Hugging Face cache.
            **reading: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`, `proxies`.

        Raises:
            OSError: there is no such table.
            TypeError: a keyword is unknown.
            ValueError: the file is damaged or was changed, or its hash is not `sha256`.
        """
        refuse_keywords(reading, READING, "from_pretrained")
        where = os.path.expanduser(id_or_path)
        file = _file(where, reading)
        table = cls._mapped(file)
        table.name_or_path = os.path.abspath(where) if os.path.isdir(where) else where
        table.revision = None if os.path.isdir(where) else extract_commit_hash(file, None)
        if verify and (actual := backbone_fingerprint([file])) != table.sha256:
            raise ValueError(
                f"{file}: the content has sha256 {actual[:12]}, not {table.sha256[:12]}, which was noted when it was "
                "saved; fetch or save it again, or pass verify=False if it was changed on purpose"
            )
        if sha256 is not None and table.sha256 != sha256:
            raise ValueError(
                f"the entity embeddings at {where!r} have sha256 {table.sha256[:12]}, and {sha256[:12]} is needed; "
                "name the directory or the revision that holds those"
            )
        return table

    @classmethod
    def _mapped(cls, file: str) -> EntityEmbeddings:
        try:
            with safe_open(file, framework="pt") as opened:
                record = json.loads((opened.metadata() or {})[RECORD])
                tensors = {name: opened.get_tensor(name) for name in TENSORS}
            table = cls.__new__(cls)
            table.embeddings, table.index = tensors.pop("embeddings"), IdIndex(**tensors)
            table.knowledge_base, table.origin = str(record["knowledge_base"]), dict(record["origin"])
            table.sha256 = str(record["sha256"])
            _check_shape(table.embeddings)
            if not table.index.is_sound(len(table.embeddings)):
                raise ValueError("its index of ids does not fit its rows")
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{file} holds no entity embeddings, or is damaged or cut short ({error}); fetch or save it again"
            ) from error
        return table

    # ---- writing ----------------------------------------------------------------------------------------------------

    @cached_property
    def sha256(self) -> str:
        """A hash of all that the table holds: vectors, ids and their order."""
        return self._hashed()

    def _hashed(self) -> str:
        return fingerprint_of((name, digest_of_tensor(name, tensor)) for name, tensor in self._tensors().items())

    def _tensors(self) -> dict[str, Tensor]:
        return {"embeddings": self.embeddings, **self.index._asdict()}

    def save_pretrained(self, directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the table and its card to a directory, at once; of equal tables the files have equal bytes.

        Keywords: `push_to_hub=True`, `repo_id` and those of `push_to_hub`.

        Raises:
            OSError: the directory holds a model, the disk is full or it can't be written; what was there before is
                untouched.
            TypeError: a keyword is unknown.
        """
        push, repo_id = kwargs.pop("push_to_hub", False), kwargs.pop("repo_id", None)
        refuse_keywords(kwargs, ("push_to_hub", "repo_id", *UPLOADING), "save_pretrained")
        directory = Path(directory).expanduser()
        check_destination(directory, marks=[TABLE])
        if (directory / CONFIG).exists():
            raise OSError(
                f"can't save to {str(directory)!r}: it holds a model ({CONFIG}); name a directory of its own"
            )
        actual = self._hashed()  # which a table that was read without being verified may only claim to have
        record = {
            "knowledge_base": self.knowledge_base,
            "origin": self.origin,
            "sha256": vars(self).setdefault("sha256", actual),
        }

        def fill(folder: Path) -> None:
            save_file(self._tensors(), folder / TABLE, metadata={RECORD: json.dumps(record, sort_keys=True)})
            (folder / CARD).write_text(self._card(), encoding="utf-8")
            shutil.copymode(folder / CARD, folder / TABLE)  # save_file leaves it readable to its owner only

        write_directory(directory, fill)
        self._remember(str(directory / TABLE), actual)
        if push:
            self.push_to_hub(repo_id or directory.name, **kwargs)

    def _remember(self, file: str, fingerprint: str) -> None:
        """Remember the hash of a file that was just written, unless another save has put its own there since."""
        with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            memory = memory_of([file])
            with safe_open(file, framework="pt") as opened:
                written = json.loads((opened.metadata() or {})[RECORD])["sha256"] == self.sha256
            if written:
                remember(memory, fingerprint)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the table as a repository of its own and return the commit's address.

        Keywords: `private`, `token`, `commit_message`, `commit_description`, `revision`, `create_pr`.

        Raises:
            TypeError: a keyword is unknown.
            ValueError: the name holds a "+", which the Hub refuses.
        """
        refuse_keywords(kwargs, UPLOADING, "push_to_hub")
        return upload(repo_id, self.save_pretrained, **{"commit_message": "Upload entity embeddings", **kwargs})

    def _card(self) -> str:
        """Return the text of README.md: which entities these are, how their vectors were made, and how to use them."""
        data = ModelCardData(library_name="kadapter", tags=["kadapter", "entity-embeddings", "knowledge-graph"])
        lines = ["---", data.to_yaml(), "---", f"# Entity embeddings of {as_text(self.knowledge_base)}", ""]
        lines += [
            f"Vectors of {len(self)} entities, such as {', '.join(map(as_code, islice(self, 3)))}, of dimension "
            f"{self.dimension} ({str(self.embeddings.dtype).removeprefix('torch.')}), sha256 {as_code(self.sha256)}.",
            "They are a table to look ids up in, for map-tuning (Zhang et al., ACL 2023), and stay as they are.",
            "",
        ]
        if self.origin:
            lines += ["| | |", "|---|---|"]
            lines += [f"| {as_text(key)} | {as_text(_shown(value))} |" for key, value in self.origin.items()] + [""]
        first = json.dumps(next(iter(self)), ensure_ascii=False)
        lines += ["```python", "from kadapter import EntityEmbeddings", ""]
        lines += [f'table = EntityEmbeddings.from_pretrained("{PLACEHOLDER}")']
        lines += [f"vectors = table.lookup([{first}])  # (1, {self.dimension})", "```", ""]
        return signed(str(ModelCard("\n".join(lines), ignore_metadata_errors=True)))


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _check_shape(embeddings: Tensor) -> None:
    if embeddings.dim() != 2 or 0 in embeddings.shape or embeddings.dtype not in DTYPES:
        raise ValueError(
            f"embeddings of shape {tuple(embeddings.shape)} and type {embeddings.dtype} are no table; give (entities, "
            f"dimension), neither of them 0, in one of {', '.join(map(str, DTYPES))}"
        )


def _file(where: str, reading: dict[str, Any]) -> str:
    remedy = "check its id or path; `kadapter embeddings import` or `train` makes such a directory"
    try:
        path = cached_file(where, TABLE, **reading)
    except OSError as error:
        raise OSError(f"no {TABLE} at {where!r} ({error}); {remedy}") from error
    if path is None:
        raise OSError(f"no {TABLE} at {where!r}; {remedy}")
    return path
