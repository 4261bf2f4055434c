"""From raw text to inputs, from outputs to words, and what an artifact carries for that: a tokenizer.

Mentions are marked as in the official code (fac-adapter.py). Dimensions: B batch, S sequence, W words, M mentions,
C choices, P passages.
"""

from __future__ import annotations

import json
import operator
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import CONFIG_NAME, cached_file, logging

from .backbone_kadapter import is_decoder
from .configuration_kadapter import KAdapterConfig, check_choice

__all__ = [
    "ENTITY_POSITIONS",
    "MARKERS",
    "MISSING_ENTITIES",
    "TOKENIZER_FILES",
    "VOCABULARIES",
    "EntityLink",
    "KnowledgeSource",
    "KnowledgeTokens",
    "MarkedTokens",
    "PassageTokens",
    "backbone_tokenizer",
    "best_spans",
    "encode_choices",
    "encode_entities",
    "encode_knowledge",
    "encode_passages",
    "encode_words",
    "fits",
    "insert_entities",
    "join_choice",
    "join_passages",
    "knowledge_inputs",
    "mark_entities",
    "marked_tokens",
    "put_tokenizer",
    "read_tokenizer",
    "special_tokens",
    "split_words",
    "tokenize_apart",
    "word_tokens",
]

logger = logging.get_logger(__name__)
MARKERS = ("@", "#")


def encode_entities(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    max_length: int | None = None,
    markers: Sequence[str] = MARKERS,
) -> dict[str, Tensor]:
    """Turn raw text with marked mentions into input_ids, attention_mask and entity_positions.

    `entity_spans` has for each text a (start, end) in characters for each mention: one mention for typing, head and
    tail for relations. The first is marked by "@", the second by "#", before and after, as bare tokens; the position
    is the opening marker's. Where both open at one place the second stands outside. `markers` chooses others: " @" is
    the token with the sign for a space before it, as the official code marks mentions for entity typing.

    Raises:
        TypeError: a span is not a pair of whole numbers.
        ValueError: a span is empty, reversed or outside its text, there are none or more than two, the numbers differ,
            or `max_length` tokens do not reach to the last opening marker; the sentence says for which text.
    """
    encoded = mark_entities(tokenizer, [texts] if isinstance(texts, str) else list(texts), entity_spans, markers)
    for number, (ids, positions) in enumerate(encoded):
        if max_length is not None and max(positions) >= max_length - 1:
            raise ValueError(
                f"text {number}: max_length={max_length} tokens cut off a mention; raise it or shorten the text"
            )
        if max_length is not None and len(ids) > max_length:
            del ids[max_length - 1 : -1]
    entity_positions = torch.tensor([positions for _, positions in encoded])  # (B, M)
    return {**_padded(tokenizer, [ids for ids, _ in encoded]), "entity_positions": entity_positions}


class MarkedTokens(NamedTuple):
    """The token ids of a text with marked mentions, special tokens included.

    Args:
        input_ids: the token ids.
        openings: for each mention the position of its opening marker.
        insides: for each mention the position after its opening marker, and that of its closing marker.
    """

    input_ids: list[int]
    openings: list[int]
    insides: list[tuple[int, int]]

    @property
    def end(self) -> int:
        """The position after the last closing marker."""
        widths = (first - opening for opening, (first, _) in zip(self.openings, self.insides, strict=True))
        return max(closing + width for width, (_, closing) in zip(widths, self.insides, strict=True))


def mark_entities(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    markers: Sequence[str] = MARKERS,
) -> list[tuple[list[int], list[int]]]:
    """Return for each text its token ids, special tokens included, and the positions of the opening markers."""
    marked = marked_tokens(tokenizer, texts, entity_spans, markers)
    return [(text.input_ids, text.openings) for text in marked]


def marked_tokens(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    markers: Sequence[str] = MARKERS,
) -> list[MarkedTokens]:
    """Return the tokens of texts with marked mentions. Arguments and errors are those of `encode_entities`."""
    if len(texts) != len(entity_spans):
        raise ValueError(f"{len(texts)} texts but spans for {len(entity_spans)}; give spans for each text")
    pieces = [_pieces(number, *pair) for number, pair in enumerate(zip(texts, entity_spans, strict=True))]
    segments = [
        " " + piece for text_pieces in pieces for piece in text_pieces if not isinstance(piece, tuple) and piece
    ]
    ids = iter(tokenizer(segments, add_special_tokens=False)["input_ids"] if segments else [])
    prefix, suffix = special_tokens(tokenizer)
    marks = [_marker_ids(tokenizer, marker) for marker in markers]
    return [
        _assemble(text_pieces, ids, prefix, suffix, marks, len(spans))
        for text_pieces, spans in zip(pieces, entity_spans, strict=True)
    ]


def _padded(tokenizer: Any, texts: list[list[int]], **columns: list[list[int]]) -> dict[str, Tensor]:
    """Return input_ids and attention_mask of encoded texts, and further columns of them, padded on the right.

    Texts of one length stay as they are: many a decoder has no token to pad with.
    """
    columns = {"input_ids": texts, **columns}
    if len(set(map(len, texts))) == 1:
        columns["attention_mask"] = [[1] * len(text) for text in texts]
        return {name: torch.tensor(rows) for name, rows in columns.items()}
    padded = tokenizer.pad(columns, return_tensors="pt", padding_side="right", return_attention_mask=True)
    return {name: padded[name] for name in (*columns, "attention_mask")}


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a single text."""
    ids = tokenizer("@")["input_ids"]
    inner = tokenizer("@", add_special_tokens=False)["input_ids"]
    start = next(at for at in range(len(ids)) if ids[at : at + len(inner)] == inner)
    return ids[:start], ids[start + len(inner) :]


def _pieces(number: int, text: str, spans: Sequence[tuple[int, int]]) -> list[str | tuple[int, bool]]:
    """Cut a text at its markers: stripped strings, and (mention, opens) for each marker."""
    if not 1 <= len(spans) <= len(MARKERS):
        raise ValueError(f"text {number}: {len(spans)} mentions; one or two can be marked")
    cuts = []
    for mention, span in enumerate(spans):
        try:
            start, end = map(operator.index, span)
        except (TypeError, ValueError):
            raise TypeError(f"text {number}: mention {mention} is {span!r}; give its (start, end)") from None
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"text {number}: span ({start}, {end}) of mention {mention} is empty, reversed or outside its "
                f"{len(text)} characters; give (start, end) with 0 <= start < end <= {len(text)}"
            )
        cuts += [(start, True, -mention), (end, False, mention)]
    pieces: list[Any] = []
    last = 0
    for at, opens, mention in sorted(cuts):
        pieces += [text[last:at].strip(), (abs(mention), opens)]
        last = at
    return [*pieces, text[last:].strip()]


def _assemble(
    pieces: list[str | tuple[int, bool]],
    segments: Any,
    prefix: list[int],
    suffix: list[int],
    markers: list[list[int]],
    mentions: int,
) -> MarkedTokens:
    ids, openings, closings = list(prefix), [0] * mentions, [0] * mentions
    for piece in pieces:
        if isinstance(piece, tuple):
            mention, opens = piece
            (openings if opens else closings)[mention] = len(ids)
            ids += markers[mention]
        elif piece:
            ids += next(segments)
    firsts = [opening + len(markers[mention]) for mention, opening in enumerate(openings)]
    return MarkedTokens(ids + suffix, openings, list(zip(firsts, closings, strict=True)))


def _marker_ids(tokenizer: Any, marker: str) -> list[int]:
    """Return the bare marker's id, without the sign for a space before it, where the vocabulary has it."""
    token_id = tokenizer.convert_tokens_to_ids(marker)
    if token_id is not None and token_id != tokenizer.unk_token_id:
        return [token_id]
    return tokenizer(marker, add_special_tokens=False)["input_ids"]


# ---- entities of a knowledge base, before their mentions ------------------------------------------------------------


ENTITY_POSITIONS = ("before", "after", "instead")
MISSING_ENTITIES = ("skip", "bias")
IDS_LOOKED_AT = 100  # of a table, to learn what its ids look like


class KnowledgeSource(NamedTuple):
    """Where entity embeddings are looked up, and how the entities are put into a text.

    Args:
        embeddings: what answers `id in embeddings` and `embeddings.lookup(ids)` with (ids, dimension).
        entity_position: whether an entity stands "before" its mention (`ENT / mention`, as published), "after" it or
            "instead" of it.
        separator: text between an entity and its mention; "" for none.
        missing_entity: what an entity without a row becomes: "skip" for nothing, as in general map-tuning of the
            official code, or "bias" for a row of zeros, which a map turns into its bias, as in its downstream tasks.
    """

    embeddings: Any
    entity_position: str = "before"
    separator: str = "/"
    missing_entity: str = "skip"


class EntityLink(NamedTuple):
    """A mention in the characters [start, end) of a text, and its entity; `source` names one of several tables.

    A mention whose `id` is None is marked where mentions are marked, and has no entity.
    """

    start: int
    end: int
    id: str | None
    source: str | None = None


class KnowledgeTokens(NamedTuple):
    """Tokens of a text, or of a pair of texts, with slots for the entities of its mentions.

    Args:
        input_ids: ids with special tokens; a slot has a harmless id, and is never looked up.
        token_type_ids: 0 for a text, 1 for the second text of a pair.
        slots: for each slot its position and its link, from left to right.
        mentions: for each mention, a span of the links in their order, its first token and the token after its last;
            None where it was cut off, or where an entity stands instead of it.
        entity_positions: for each mention the position of its opening marker, -1 where it was cut off; empty where
            nothing is marked.
        offsets: for each token its characters in its text; (0, 0) for what was inserted.
        origins: for each token its number among the text's own tokens, over both texts; -1 for what was inserted.
        truncated: whether anything was cut off.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    slots: list[tuple[int, EntityLink]]
    mentions: list[tuple[int, int] | None]
    entity_positions: list[int]
    offsets: list[tuple[int, int]]
    origins: list[int]
    truncated: bool

    def align(self, values: Sequence[Any], filler: Any = -100) -> list[Any]:
        """Return values of the text's own tokens, such as labels, for the tokens here; a filler for inserted ones."""
        return [filler if origin < 0 else values[origin] for origin in self.origins]

    def position_of(self, character: int) -> int:
        """Return the position of the token that covers a character of a single text, -1 where it was cut off."""
        covering = (at for at, (start, end) in enumerate(self.offsets) if start <= character < end)
        return next(covering, -1)


def encode_knowledge(
    tokenizer: Any,
    texts: Sequence[Any],
    entities: Sequence[Sequence[Any]],
    knowledge: Any,
    max_length: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Turn texts with linked mentions into inputs of a model with a knowledge map.

    `entities` has for each text its mentions, each (start, end, id) in characters or a dict of these, with "source"
    where `knowledge` is a dict of several tables by the names of their maps. `knowledge` is a table that answers
    `lookup`, or a `KnowledgeSource`. Options are those of `insert_entities`.

    Returns:
        `input_ids`, `attention_mask` and, for pairs, `token_type_ids` (batch, sequence); `knowledge_slots` (batch,
        slots), the positions of the entities, -1 where a text has fewer; `knowledge_embeds` (batch, slots,
        dimension), their rows, zeros for missing entities; with several tables both are dicts by name. With markers
        `entity_positions` (batch, mentions) of the opening ones; -1 for one that `official_truncation` cut off a
        single text, which the official code keeps nevertheless.

    Raises:
        TypeError: the tokenizer has no offsets, a text is no string, or a mention is no (start, end, id).
        ValueError: mentions overlap or lie outside their text, the ids of a text are those of another knowledge base,
            or `max_length` cuts off a marked mention.
    """
    sources = _sources(knowledge)
    encoded = insert_entities(tokenizer, texts, entities, knowledge, max_length, **options)
    marked = [text.entity_positions for text in encoded]
    keeps = options.get("official_truncation") and options.get("pairs") is None
    for number, positions in enumerate(marked):
        if -1 in positions and not keeps:
            raise ValueError(
                f"text {number}: max_length={max_length} tokens cut off a marked mention; raise it or shorten the text"
            )
    columns = {}
    if any(any(text.token_type_ids) for text in encoded) and "token_type_ids" in tokenizer.model_input_names:
        columns["token_type_ids"] = [text.token_type_ids for text in encoded]
    inputs: dict[str, Any] = _padded(tokenizer, [text.input_ids for text in encoded], **columns)
    if any(marked):
        inputs["entity_positions"] = torch.tensor(marked)  # (B, M)
    slots, rows = {}, {}
    for name, source in sources.items():
        own = [[(at, link.id) for at, link in text.slots if link.source == name] for text in encoded]
        slots[name], rows[name] = knowledge_inputs(own, source.embeddings)
    several = isinstance(knowledge, dict)
    name = next(iter(sources))
    return {
        **inputs,
        "knowledge_slots": slots if several else slots[name],
        "knowledge_embeds": rows if several else rows[name],
    }


def knowledge_inputs(slots: Sequence[Sequence[tuple[int, str | None]]], embeddings: Any) -> tuple[Tensor, Tensor]:
    """Return `knowledge_slots` (batch, slots) and `knowledge_embeds` (batch, slots, dimension) of slots by text.

    `slots` has for each text (position, id); an id that is not in the table has a row of zeros.
    """
    ids = known_ids(embeddings, [id for text in slots for _, id in text if id is not None])
    table = looked_up(embeddings, ids) if ids else torch.zeros(0, embeddings.dimension)
    row_of = {id: number for number, id in enumerate(ids)}
    width = max(map(len, slots), default=0)
    positions = torch.full((len(slots), width), -1)
    rows = torch.zeros(len(slots), width, table.shape[1])
    for number, text in enumerate(slots):
        for slot, (position, id) in enumerate(text):
            positions[number, slot] = position
            if id in row_of:
                rows[number, slot] = table[row_of[id]]
    return positions, rows


def known_ids(embeddings: Any, ids: Sequence[str]) -> list[str]:
    """Return the different ones of these ids for which a table has a row."""
    ids = list(dict.fromkeys(ids))
    if not hasattr(embeddings, "rows"):  # another table than EntityEmbeddings, which tells of one id at a time
        return [id for id in ids if id in embeddings]
    return [id for id, row in zip(ids, embeddings.rows(ids).tolist(), strict=True) if row >= 0] if ids else []


def looked_up(embeddings: Any, ids: list[str]) -> Tensor:
    """Return the vectors (ids, dimension) of ids that a table has."""
    looked_up = embeddings.lookup(ids)
    return torch.as_tensor(getattr(looked_up, "vectors", looked_up)).float()


def _sources(knowledge: Any) -> dict[str | None, KnowledgeSource]:
    """Return the tables by name, None for a single one.

    Raises:
        TypeError: one has no `lookup`.
        ValueError: an option of one is unknown.
    """
    named = knowledge if isinstance(knowledge, dict) else {None: knowledge}
    sources = {
        name: source if isinstance(source, KnowledgeSource) else KnowledgeSource(source)
        for name, source in named.items()
    }
    for name, source in sources.items():
        if not hasattr(source.embeddings, "lookup"):
            raise TypeError(
                f"knowledge{'' if name is None else f' {name!r}'} is a {type(source.embeddings).__name__}, which has "
                "no lookup; give EntityEmbeddings, for example EntityEmbeddings.from_pretrained(ID_OR_PATH)"
            )
        check_choice("entity_position", source.entity_position, ENTITY_POSITIONS)
        check_choice("missing_entity", source.missing_entity, MISSING_ENTITIES)
    return sources


def insert_entities(
    tokenizer: Any,
    texts: Sequence[Any],
    entities: Sequence[Sequence[Any]],
    knowledge: Any,
    max_length: int | None = None,
    markers: Sequence[str] = (),
    pairs: tuple[Sequence[Any], Sequence[Sequence[Any]]] | None = None,
    official_truncation: bool = False,
) -> list[KnowledgeTokens]:
    """Put a slot for its entity and a separator beside each linked mention of texts, after they were tokenised.

    So the text's own tokens are those that the model was trained with, whatever is inserted.

    Args:
        tokenizer: a fast tokenizer.
        texts: the texts, strings or documents of spaCy, whose own entities `spacy_entities` gives.
        entities: for each text its mentions; see `encode_knowledge`, which pads and looks up what this returns.
        knowledge: a table, a `KnowledgeSource`, or several of these by name.
        max_length: most tokens, with all that is inserted; a mention that is cut loses its slot and its markers.
        markers: a token around each mention, the first around the first; ("#", "$") in the official code for
            relations. Without, mentions are not marked.
        pairs: second texts and their mentions, which stand behind the first texts, and whose markers are the same.
        official_truncation: cut as the official code does: off the tail of a text, whatever stands there, so that a
            slot may outlive its mention; of a pair, what stands before and then after the mentions of the second
            text, and after that of the first.

    Raises:
        TypeError: the tokenizer has no offsets, a text is no string, or a mention is no (start, end, id).
        ValueError: mentions overlap or lie outside their text, there are more than markers, the ids of a text are
            those of another knowledge base, or `max_length` has no room for the special tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"{type(tokenizer).__name__} gives no offsets; load a fast tokenizer by AutoTokenizer")
    sources, texts = _sources(knowledge), _strings(texts)
    others = [] if pairs is None else _strings(pairs[0])
    firsts = _linked(texts, entities, sources, markers)
    seconds = None if pairs is None else _linked(others, pairs[1], sources, markers)
    if seconds is not None and len(seconds) != len(firsts):
        raise ValueError(f"{len(firsts)} texts and {len(seconds)} second texts; give one for each")
    known = _known([*firsts, *(seconds or ())], sources)
    insert = _Inserter(tokenizer, sources, known, markers, official_truncation)
    bodies = [insert.own_tokens(texts, firsts)]
    if seconds is not None:
        bodies.append(insert.own_tokens(others, seconds))
    frame = _frame(tokenizer, len(bodies))
    if max_length is not None and max_length < (least := sum(map(len, frame.special))):
        raise ValueError(f"max_length={max_length} is less than the {least} special tokens; raise it")
    return [insert.framed(own, frame, max_length) for own in zip(*bodies, strict=True)]


def _strings(texts: Sequence[Any]) -> list[str]:
    """Return texts, or those of documents of spaCy, as strings."""
    if isinstance(texts, str) or hasattr(texts, "ents"):  # a document is a sequence too, of its tokens
        raise TypeError(
            f"the texts are a single {type(texts).__name__}; give a list of texts, and of lists of mentions"
        )
    strings = [getattr(text, "text", text) for text in texts]
    for number, text in enumerate(strings):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is of type {type(text).__name__}; give a string or a document of spaCy")
    return strings


def _linked(
    texts: Sequence[str], entities: Sequence[Sequence[Any]], sources: dict[str | None, KnowledgeSource], markers: Any
) -> list[list[EntityLink]]:
    """Return the checked links of each text, in the order in which they were given."""
    if not isinstance(entities, Sequence) or any(not isinstance(mentions, Sequence) for mentions in entities):
        raise TypeError("a text has no list of mentions; give one for each text, an empty one where there are none")
    if not texts or len(texts) != len(entities):
        raise ValueError(
            f"{len(texts)} texts and mentions for {len(entities)}; give one text at least, and of each the mentions"
        )
    linked = []
    for number, (text, mentions) in enumerate(zip(texts, entities, strict=True)):
        links = [_link(f"text {number}: mention {at}", mention, text, sources) for at, mention in enumerate(mentions)]
        _check_apart(number, links, sources)
        spans = {link[:2] for link in links}
        if markers and len(spans) > len(markers):
            raise ValueError(f"text {number}: {len(spans)} mentions and {len(markers)} markers; give one for each")
        linked.append(links)
    return linked


def _link(where: str, mention: Any, text: str, sources: dict[str | None, KnowledgeSource]) -> EntityLink:
    try:
        values = mention if isinstance(mention, dict) else dict(zip(EntityLink._fields, mention, strict=False))
        start, end = operator.index(values["start"]), operator.index(values["end"])
        id, name = values["id"], values.get("source")
    except (TypeError, KeyError):
        raise TypeError(f"{where} is {mention!r}; give (start, end, id) or a dict of these") from None
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"{where}: span ({start}, {end}) of {id!r} is empty, reversed or outside the {len(text)} characters of "
            f"its text; give (start, end) with 0 <= start < end <= {len(text)}"
        )
    if not isinstance(id, str | None):
        raise TypeError(f"{where}: id {id!r} is a {type(id).__name__}; ids are strings, such as 'Q90', or None")
    if id == "":
        raise ValueError(
            f"{where}: the id of {text[start:end]!r} is empty; give an id, or None for a mention without one"
        )
    if name not in sources:
        raise ValueError(f"{where}: source {name!r} is none of the tables {list(sources)}; name one of them")
    return EntityLink(start, end, id, name)


def _check_apart(number: int, links: list[EntityLink], sources: dict[str | None, KnowledgeSource]) -> None:
    """Refuse mentions that overlap, but for the same span with entities of several tables."""
    ordered = sorted(links, key=lambda link: link[:2])
    for one, other in pairwise(ordered):
        same = one[:2] == other[:2] and one.source != other.source
        if other.start < one.end and not (
            same and "instead" not in (sources[one.source].entity_position, sources[other.source].entity_position)
        ):
            raise ValueError(
                f"text {number}: mentions ({one.start}, {one.end}) of {one.id!r} and ({other.start}, {other.end}) of "
                f"{other.id!r} overlap; keep one of them"
            )


def _known(
    linked: Sequence[list[EntityLink]], sources: dict[str | None, KnowledgeSource]
) -> dict[str | None, set[str]]:
    """Return the ids that each table has, and warn of those that it lacks.

    Raises:
        ValueError: the ids of a text are of another knowledge base.
    """
    known = {}
    for name, source in sources.items():
        by_text = [[link.id for link in text if link.source == name and link.id is not None] for text in linked]
        ids = [id for own in by_text for id in own]
        known[name] = set(known_ids(source.embeddings, ids))
        missing = [id for id in ids if id not in known[name]]
        if not missing:
            continue
        _refuse_foreign([own for own in by_text if own and not known[name].intersection(own)], source.embeddings)
        what = "are skipped" if source.missing_entity == "skip" else "have a row of zeros, and so the map's bias"
        logger.warning(
            f"{len(missing)} of {len(ids)} linked mentions have an entity that the table lacks, such as "
            f"{missing[0]!r}: they {what}"
        )
    return known


def _refuse_foreign(texts: list[list[str]], embeddings: Any) -> None:
    """Refuse ids of texts, none of which a table has, where they are of another scheme than its own ids.

    Each text is judged by itself, so that no other text of its batch decides, and words are of no scheme.

    Raises:
        ValueError: so it is.
    """
    try:
        examples = [str(id) for id in islice(iter(embeddings), IDS_LOOKED_AT)]
    except (TypeError, KeyError, IndexError):  # a table that can't be iterated over
        examples = []
    own = set(map(_scheme, examples))
    if not own or None in own:
        return
    for ids in texts:
        schemes = set(map(_scheme, ids))
        if None not in schemes and not own & schemes:
            raise ValueError(
                f"none of {len(set(ids))} entity ids, such as {ids[0]!r}, is in the table, which has ids such as "
                f"{examples[0]!r}; give ids of its knowledge base, or the table of theirs"
            )


def _scheme(id: str) -> str | None:
    """Return what ids of a knowledge base have in common: what stands before a number, as in Q42 and /m/0abc."""
    match = re.match(r"([^\W\d_]{1,2}|[^\d\s]*[/:#.])\d", id)
    return match[1] if match else "number" if id.isdigit() else None


class _Mention(NamedTuple):
    """A span of a text: its first token, the token after its last, its links and, if it is marked, its marker."""

    first: int
    end: int
    links: list[EntityLink]
    marker: list[int]


class _Own(NamedTuple):
    """The own tokens of a text, their characters, and the mentions in the order in which they were given."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    mentions: list[_Mention]


class _Body(NamedTuple):
    """Tokens of a text with all that is inserted, but without special tokens; positions count from its first token."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    origins: list[int]
    slots: list[tuple[int, EntityLink]]
    mentions: list[tuple[int, int] | None]
    markers: list[int]
    wholes: list[tuple[int, int]]  # of each mention that is here, from its opening to its closing marker

    def insert(self, ids: list[int]) -> int:
        """Append tokens that are not the text's own, and return the position of the first of them."""
        self.offsets.extend([(0, 0)] * len(ids))
        self.origins.extend([-1] * len(ids))
        self.ids.extend(ids)
        return len(self.ids) - len(ids)

    def copy(self, own: _Own, first: int, end: int) -> tuple[int, int]:
        """Append own tokens of the text, and return the positions of the first and after the last of them."""
        self.offsets.extend(own.offsets[first:end])
        self.origins.extend(range(first, end))
        self.ids.extend(own.ids[first:end])
        return len(self.ids) - (end - first), len(self.ids)

    def cut(self, end: int, first: int = 0) -> _Body:
        """Return the tokens [first, end), whatever is cut off; a mention must be there whole, a slot by itself."""
        there = [span and (span if first <= span[0] and span[1] <= end else None) for span in self.mentions]
        return _Body(
            self.ids[first:end],
            self.offsets[first:end],
            self.origins[first:end],
            [(at - first, link) for at, link in self.slots if first <= at < end],
            [span and (span[0] - first, span[1] - first) for span in there],
            [at - first if first <= at < end else -1 for at in self.markers],
            [(start - first, last - first) for start, last in self.wholes if first <= start and last <= end],
        )

    def cut_around(self, excess: int) -> _Body:
        """Return at most `excess` tokens less, without any of the mentions: what stands before them goes first."""
        first = min((start for start, _ in self.wholes), default=0)
        last = max((end for _, end in self.wholes), default=0)
        before = min(excess, first)
        return self.cut(len(self.ids) - min(excess - before, len(self.ids) - last), before)


class _Inserter:
    """Puts slots, separators and markers into the tokens of texts."""

    def __init__(
        self,
        tokenizer: Any,
        sources: dict[str | None, KnowledgeSource],
        known: dict[str | None, set[str]],
        markers: Sequence[str],
        official: bool,
    ) -> None:
        self.tokenizer, self.sources, self.known, self.official = tokenizer, sources, known, official
        self.markers = [_marker_ids(tokenizer, marker) for marker in markers]
        self.slot = [placeholder_id(tokenizer)]
        self.separators = {
            name: tokenizer(f" {source.separator}", add_special_tokens=False)["input_ids"] if source.separator else []
            for name, source in sources.items()
        }

    def own_tokens(self, texts: list[str], linked: list[list[EntityLink]]) -> list[_Own]:
        """Tokenise texts as they are; only where a mention begins or ends within a token it is cut there."""
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        own = []
        for text, links, ids, offsets in zip(
            texts, linked, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            offsets = _without_spaces(text, offsets)
            ends = {at for link in links for at in link[:2]}
            if cuts := sorted(cut for cut in ends if any(start < cut < end for start, end in offsets)):
                ids, offsets = self._cut_at(text, cuts)
            own.append(_Own(list(ids), offsets, self._mentions(links, offsets)))
        return own

    def _cut_at(self, text: str, cuts: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise the pieces of a text apart."""
        ids, offsets = [], []
        for start, end in pairwise([0, *cuts, len(text)]):
            encoded = self.tokenizer(text[start:end], add_special_tokens=False, return_offsets_mapping=True)
            ids += encoded["input_ids"]
            offsets += [(start + first, start + last) for first, last in encoded["offset_mapping"]]
        return ids, _without_spaces(text, offsets)

    def _mentions(self, links: list[EntityLink], offsets: list[tuple[int, int]]) -> list[_Mention]:
        """Return the different spans of links and where they are among the tokens."""
        mentions = []
        for number, span in enumerate(dict.fromkeys(link[:2] for link in links)):
            first = sum(end <= span[0] for _, end in offsets)
            end = max(first, sum(start < span[1] for start, _ in offsets))
            own = [link for link in links if link[:2] == span and self._has_slot(link)]
            mentions.append(_Mention(first, end, own, self.markers[number] if self.markers else []))
        return mentions

    def _has_slot(self, link: EntityLink) -> bool:
        bias = self.sources[link.source].missing_entity == "bias"
        return link.id is not None and (bias or link.id in self.known[link.source])

    def framed(self, own: tuple[_Own, ...], frame: _Frame, max_length: int | None) -> KnowledgeTokens:
        """Return a text, or a pair, with special tokens and cut to so many tokens."""
        counts = [len(text.ids) for text in own]
        bodies = [self._composed(text, count) for text, count in zip(own, counts, strict=True)]
        whole = sum(len(body.ids) for body in bodies)
        room = whole if max_length is None else max(0, max_length - sum(map(len, frame.special)))
        if self.official and len(bodies) == 1:
            bodies = [body.cut(room) for body in bodies]
        for at in (1, 0) if self.official and len(bodies) > 1 else ():
            bodies[at] = bodies[at].cut_around(max(0, sum(len(body.ids) for body in bodies) - room))
        while sum(len(body.ids) for body in bodies) > room:
            longest = max(range(len(own)), key=lambda at: len(bodies[at].ids))
            counts[longest] -= 1
            bodies[longest] = self._composed(own[longest], counts[longest])
        return _joined(own, bodies, frame, truncated=whole > room)

    def _composed(self, own: _Own, count: int) -> _Body:
        """Return the first own tokens of a text, so many, and what is inserted at the mentions that are among them."""
        body, at = _Body([], [], [], [], [None] * len(own.mentions), [], []), 0
        body.markers.extend([-1] * len(own.mentions) if self.markers else [])
        for number, mention in sorted(enumerate(own.mentions), key=lambda numbered: numbered[1][:2]):
            if mention.end <= count:
                body.copy(own, at, mention.first)
                at, start = mention.end, len(body.ids)
                if mention.marker:
                    body.markers[number] = body.insert(mention.marker)
                self._add_mention(body, own, number)
                body.insert(mention.marker)
                body.wholes.append((start, len(body.ids)))
        body.copy(own, at, count)
        return body

    def _add_mention(self, body: _Body, own: _Own, number: int) -> None:
        """Append a mention with its slots before or after it, or a slot instead of it."""
        mention = own.mentions[number]
        at: dict[str, list[Any]] = {position: [] for position in ENTITY_POSITIONS}
        for link in mention.links:
            at[self.sources[link.source].entity_position].append(link)
        for link in at["before"]:
            body.slots.append((body.insert(self.slot), link))
            body.insert(self.separators[link.source])
        for link in at["instead"]:
            body.slots.append((body.insert(self.slot), link))
        if not at["instead"]:
            body.mentions[number] = body.copy(own, mention.first, mention.end)
        for link in at["after"]:
            body.insert(self.separators[link.source])
            body.slots.append((body.insert(self.slot), link))


class _Frame(NamedTuple):
    """The special tokens before, between and after texts, and the token types of these and of the texts."""

    special: list[list[int]]
    special_types: list[list[int]]
    text_types: list[int]


def _frame(tokenizer: Any, texts: int) -> _Frame:
    """Return what a tokenizer puts around a text or around both of a pair."""
    encoded = tokenizer(*["@"] * texts, return_token_type_ids=True)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids") or [0] * len(encoded["input_ids"])
    inner = tokenizer("@", add_special_tokens=False)["input_ids"]
    special, special_types, text_types, last = [], [], [], 0
    for _ in range(texts):
        start = next(at for at in range(last, len(ids)) if ids[at : at + len(inner)] == inner)
        special.append(ids[last:start])
        special_types.append(types[last:start])
        text_types.append(types[start])
        last = start + len(inner)
    return _Frame([*special, ids[last:]], [*special_types, types[last:]], text_types)


def _joined(own: tuple[_Own, ...], bodies: list[_Body], frame: _Frame, truncated: bool) -> KnowledgeTokens:
    """Put texts into their frame of special tokens."""
    joined = KnowledgeTokens([], [], [], [], [], [], [], truncated)

    def add(ids: list[int], types: list[int], offsets: list[tuple[int, int]], origins: list[int]) -> None:
        columns: Any = (joined[0], joined[1], joined[5], joined[6])
        for column, values in zip(columns, (ids, types, offsets, origins), strict=True):
            column.extend(values)

    before = 0
    for number, body in enumerate(bodies):
        special = frame.special[number]
        add(special, frame.special_types[number], [(0, 0)] * len(special), [-1] * len(special))
        shift = len(joined.input_ids)
        joined.slots.extend((shift + at, link) for at, link in body.slots)
        joined.mentions.extend(span and (shift + span[0], shift + span[1]) for span in body.mentions)
        joined.entity_positions.extend(at if at < 0 else shift + at for at in body.markers)
        origins = [origin if origin < 0 else before + origin for origin in body.origins]
        add(body.ids, [frame.text_types[number]] * len(body.ids), body.offsets, origins)
        before += len(own[number].ids)
    last = frame.special[-1]
    add(last, frame.special_types[-1], [(0, 0)] * len(last), [-1] * len(last))
    return joined


def placeholder_id(tokenizer: Any) -> int:
    """Return the id that stands in a slot: of the unknown token, else of the first that is not special.

    Never one that a model looks for among its inputs, such as padding, an end, a separator or a mask; a tokenizer may
    use one token for all of these and for the unknown one.
    """
    names = ("pad", "bos", "eos", "cls", "sep", "mask")
    looked_for = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in looked_for:
        return tokenizer.unk_token_id
    special = {*looked_for, *tokenizer.all_special_ids}
    return next((id for id in range(len(tokenizer)) if id not in special), 0)


def _without_spaces(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return offsets without the spaces before a token, which some tokenizers count to it."""
    return [(end - len(text[start:end].lstrip()), end) for start, end in offsets]


# ---- words, for dependency parsing ----------------------------------------------------------------------------------


def encode_words(
    tokenizer: Any, sentences: Sequence[Sequence[str]], max_length: int | None = None
) -> dict[str, Tensor]:
    """Turn sentences, each a list of words, into input_ids, attention_mask and word_positions (batch, 1 + words).

    The positions are those of the root (the first special token) and of each word's first sub-token, -1 where a
    sentence has fewer words than the longest.

    Raises:
        ValueError: a sentence has no word, or `max_length` tokens do not reach to its last word.
    """
    encoded = word_tokens(tokenizer, sentences)
    for number, (words, (ids, _)) in enumerate(zip(sentences, encoded, strict=True)):
        if isinstance(words, str) or not words:
            raise ValueError(f"sentence {number} is {words!r}; give a list of its words, at least one")
        if max_length is not None and len(ids) > max_length:
            raise ValueError(
                f"sentence {number}: its {len(ids)} tokens are more than max_length={max_length}; raise it or split "
                "the sentence"
            )
    widest = max(len(positions) for _, positions in encoded)
    word_positions = torch.tensor([positions + [-1] * (widest - len(positions)) for _, positions in encoded])
    return {**_padded(tokenizer, [ids for ids, _ in encoded]), "word_positions": word_positions}


def split_words(text: str) -> list[str]:
    """Split raw text into words and single marks of punctuation; apostrophes and hyphens within a word stay in it."""
    return re.findall(r"\w+(?:['\u2019\-]\w+)*|[^\w\s]", text)


def word_tokens(tokenizer: Any, sentences: Sequence[Sequence[str]]) -> list[tuple[list[int], list[int]]]:
    """Return for each sentence its token ids, special tokens included, and the positions of root and words.

    Each word is tokenised on its own, as if a space stood before it, and becomes the unknown token if none is left.
    """
    prefix, suffix = special_tokens(tokenizer)
    flat = [" " + word for words in sentences for word in words]
    pieces = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    encoded = []
    for words in sentences:
        sub_tokens = [next(pieces) or [tokenizer.unk_token_id] for _ in words]
        starts = list(accumulate(map(len, sub_tokens), initial=len(prefix)))[:-1]
        ids = prefix + [piece for word in sub_tokens for piece in word] + suffix
        encoded.append((ids, [max(0, len(prefix) - 1), *starts]))
    return encoded


# ---- questions with choices, and with passages ----------------------------------------------------------------------


def encode_choices(
    tokenizer: Any,
    contexts: Sequence[str],
    questions: Sequence[str],
    choices: Sequence[Sequence[str]],
    max_length: int = 256,
) -> dict[str, Tensor]:
    """Turn questions about contexts, with as many choices each, into input_ids and attention_mask (B, C, S).

    Each choice is a text of its own, `<s> context </s> question </s> choice </s>`, as in the official script; what is
    too long is cut at the end of context or question.

    Raises:
        ValueError: the numbers of contexts, questions and choices differ.
    """
    numbers = {len(contexts), len(questions), len(choices)}
    if len(numbers) > 1 or not choices or len({len(row) for row in choices}) > 1:
        raise ValueError(
            f"{len(contexts)} contexts, {len(questions)} questions and {[len(row) for row in choices]} choices; give "
            "one context, one question and as many choices for each"
        )
    prefix, separator = special_tokens(tokenizer)
    rows = []
    for context, question, own in zip(contexts, questions, choices, strict=True):
        context_ids, question_ids, *choice_ids = tokenize_apart(tokenizer, [context, question, *own])
        rest = [question_ids + separator + ids for ids in choice_ids]
        rows += [join_choice(context_ids, ids, prefix, separator, max_length)[0] for ids in rest]
    padded = _padded(tokenizer, rows)
    return {name: tensor.view(len(choices), len(choices[0]), -1) for name, tensor in padded.items()}


def join_choice(
    context: list[int], rest: list[int], prefix: list[int], separator: list[int], max_length: int
) -> tuple[list[int], bool]:
    """Join a context and what follows, cut token by token from the longer of both; also whether anything was cut."""
    room = max(0, max_length - len(prefix) - 2 * len(separator))
    lengths = [len(context), len(rest)]
    cut = max(0, sum(lengths) - room)
    for _ in range(cut):
        lengths[0 if lengths[0] > lengths[1] else 1] -= 1
    return prefix + context[: lengths[0]] + separator + rest[: lengths[1]] + separator, cut > 0


def tokenize_apart(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise each text apart, as if a space stood before it, which is what the official tokeniser does."""
    return tokenizer([f" {text.strip()}" for text in texts], add_special_tokens=False)["input_ids"]


class PassageTokens(NamedTuple):
    """A question joined with one of its passages.

    Args:
        input_ids: tokens of `<s> question </s> passage </s>`.
        first: position of the passage's first token.
        offsets: for each token of the passage that was kept its characters in " " + passage.
        truncated: whether the passage was cut.
    """

    input_ids: list[int]
    first: int
    offsets: list[tuple[int, int]]
    truncated: bool

    def answerable(self) -> list[int]:
        """Return 1 for the tokens of the passage, 0 for all others."""
        rest = len(self.input_ids) - self.first - len(self.offsets)
        return [0] * self.first + [1] * len(self.offsets) + [0] * rest


def join_passages(tokenizer: Any, question: str, passages: Sequence[str], max_length: int) -> list[PassageTokens]:
    """Join a question with each passage, the passage cut to fit, a long question cut at half of `max_length`."""
    prefix, separator = special_tokens(tokenizer)
    texts = [f" {text}" for text in (question, *passages)]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    asked = prefix + encoded["input_ids"][0][: max_length // 2] + separator
    room = max(1, max_length - len(asked) - len(separator))
    return [
        PassageTokens(asked + ids[:room] + separator, len(asked), offsets[:room], len(ids) > room)
        for ids, offsets in zip(encoded["input_ids"][1:], encoded["offset_mapping"][1:], strict=True)
    ]


def encode_passages(
    tokenizer: Any, questions: Sequence[str], passages: Sequence[Sequence[str]], max_length: int = 256
) -> dict[str, Tensor]:
    """Turn questions, with as many passages each, into input_ids, attention_mask and answer_mask (B, P, S).

    Raises:
        ValueError: the numbers of questions and passages differ.
    """
    if isinstance(questions, str) or len(questions) != len(passages) or len({len(row) for row in passages}) != 1:
        raise ValueError(
            f"questions={questions!r} with {[len(row) for row in passages]} passages; give a list of questions and "
            "for each a list of as many passages"
        )
    texts = [
        text
        for question, own in zip(questions, passages, strict=True)
        for text in join_passages(tokenizer, question, own, max_length)
    ]
    padded = _padded(tokenizer, [text.input_ids for text in texts])
    width = padded["input_ids"].shape[1]
    answerable = torch.tensor([text.answerable() + [0] * (width - len(text.input_ids)) for text in texts])
    columns = {**padded, "answer_mask": answerable}
    return {name: tensor.view(len(questions), -1, width) for name, tensor in columns.items()}


def best_spans(start_logits: Tensor, end_logits: Tensor, max_answer_length: int = 20) -> tuple[Tensor, Tensor]:
    """Return the likeliest span of each question and its probability.

    Args:
        start_logits: (batch, passages, sequence), or (batch, sequence) for one passage each.
        end_logits: shaped likewise.
        max_answer_length: most tokens of a span.

    Returns:
        (batch, 3) passage, first and last token; (batch,) probabilities over all passages of a question.
    """
    if start_logits.dim() == 2:
        start_logits, end_logits = start_logits[:, None], end_logits[:, None]
    batch, _, length = start_logits.shape
    best = torch.full((batch,), -torch.inf, device=start_logits.device)
    spans = torch.zeros(batch, 3, dtype=torch.long, device=start_logits.device)
    start, end = (
        logits.float().flatten(1).log_softmax(dim=1).view_as(logits) for logits in (start_logits, end_logits)
    )
    for more in range(min(max_answer_length, length)):
        scores = (start[..., : length - more] + end[..., more:]).flatten(1)  # (B, P * (S - more))
        score, index = scores.max(dim=1)
        passage, first = index // (length - more), index % (length - more)
        spans = torch.where((score > best)[:, None], torch.stack([passage, first, first + more], dim=1), spans)
        best = torch.maximum(best, score)
    return spans, best.exp()


# ---- the tokenizer of an artifact -----------------------------------------------------------------------------------


VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes"),
    *("sentencepiece.bpe.model", "spm.model", "spiece.model", "tokenizer.model"),
)
SETTINGS = "tokenizer_config.json"
TOKENIZER_FILES = (*VOCABULARIES, SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
CHAT = "chat_template.jinja"  # no encoder talks, and a template is a program: a decoder's comes from itself alone
KIND = ("model_type", "tokenizer_class")  # of a backbone's configuration, from which a tokenizer's class is inferred


def read_tokenizer(
    source: str, config: KAdapterConfig, chat: bool = False, **reading: Any
) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer in a directory or repository, or None where there is none that can be read without code.

    It comes without its chat template, unless `chat`. Where its files name no class, as in roberta-large's repository,
    class and special tokens follow from the kind of the backbone, whatever configuration lies beside them.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not _fetch(source, Path(folder), reading, chat):
                return None
            backbone = {key: value for key, value in (config.backbone_config or {}).items() if key in KIND and value}
            Path(folder, CONFIG_NAME).write_text(json.dumps(backbone), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except OSError:  # not at hand: an artifact is complete without
            return None
        except Exception as error:  # noqa: BLE001 (damaged files, for which libraries raise whatever they like)
            logger.warning(f"the tokenizer of {source!r} can't be read ({error}), so it is not saved along")
            return None
    if not chat:
        tokenizer.chat_template = None
    return tokenizer


def _fetch(source: str, folder: Path, reading: dict[str, Any], chat: bool) -> bool:
    """Copy a tokenizer's files without what names code; return whether the tokenizer needs no code of its own."""
    options = {"_raise_exceptions_for_missing_entries": False, **reading}
    paths = {name: cached_file(source, name, **options) for name in TOKENIZER_FILES if chat or name != CHAT}
    files = {name: path for name, path in paths.items() if path is not None}
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    if SETTINGS in files:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        code, named = settings.pop("auto_map", None), settings.get("tokenizer_class")
        if code and named and tokenizer_class_from_name(named) is None:
            logger.warning(f"the tokenizer of {source!r} needs code of its own, so it is not saved along")
            return False
        (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return bool(files.keys() & set(VOCABULARIES))


def fits(tokenizer: PreTrainedTokenizerBase, config: KAdapterConfig, own: PreTrainedTokenizerBase | None) -> bool:
    """Return whether a tokenizer is the backbone's `own`, or that with more tokens and other settings.

    Where the backbone has none at hand, or was trained along, only the number of its embeddings decides.
    """
    ids, size = tokenizer.get_vocab(), (config.backbone_config or {}).get("vocab_size")
    if size is not None and max(ids.values(), default=0) >= size:
        return False
    if own is None or config.backbone_modified:
        return True
    special = own.special_tokens_map.keys() <= tokenizer.special_tokens_map.keys()
    return special and all(ids.get(token) == number for token, number in own.get_vocab().items())


def put_tokenizer(
    config: KAdapterConfig, folder: Path, directory: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> Collection[str]:
    """Write a model's tokenizer to `folder`, from where it comes to `directory`, and return which files there go.

    It is `tokenizer`, else the tokenizer in `directory` if it fits the backbone, else the backbone's own.
    """
    if tokenizer is None:
        own, another = backbone_tokenizer(config), _was_of_another(config, directory)
        # A directory that is new must not be taken for a repository of that name on the Hub.
        there = read_tokenizer(os.path.abspath(directory), config) if directory.is_dir() and not another else None
        belongs = there is not None and fits(there, config, own)
        if (belongs and _names_its_class(directory)) or (there is own is None and not another):
            return ()
        tokenizer = own or (there if belongs else None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return [name for name in TOKENIZER_FILES if not (folder / name).exists()]


def backbone_tokenizer(config: KAdapterConfig) -> PreTrainedTokenizerBase | None:
    """Return the backbone's own tokenizer if it is at hand, without asking the Hub."""
    source = config.backbone_name_or_path
    if not source:
        return None
    reading = {"revision": config.backbone_revision, "local_files_only": True}
    return read_tokenizer(source, config, _is_decoder(config), **reading)


def _is_decoder(config: KAdapterConfig) -> bool:
    return bool(config.backbone_config) and is_decoder(config.typed_backbone_config())


def _names_its_class(directory: Path) -> bool:
    """Return whether a tokenizer is what it is wherever it lies; if not, it has lost its special tokens here."""
    try:
        return bool(json.loads((directory / SETTINGS).read_text(encoding="utf-8")).get("tokenizer_class"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _was_of_another(config: KAdapterConfig, directory: Path) -> bool:
    """Return whether a directory holds a model of another backbone, so that a tokenizer there is that one's."""
    try:
        earlier = json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    for field in ("backbone_fingerprint", "backbone_name_or_path"):
        if earlier.get(field) and getattr(config, field):
            return earlier[field] != getattr(config, field)
    return False
