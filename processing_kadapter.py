"""From raw text to inputs, from outputs to words, and what an artifact carries for that: a tokenizer and a card.

Mentions are marked as in the official code (fac-adapter.py). Dimensions: B batch, S sequence, W words, M mentions,
C choices, P passages.
"""

import json
import operator
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import CONFIG_NAME, cached_file, logging

from .configuration_kadapter import KAdapterConfig

__all__ = [
    "CARD_MARK",
    "HEADS",
    "MARKERS",
    "VOCABULARIES",
    "PassageTokens",
    "backbone_tokenizer",
    "best_spans",
    "encode_choices",
    "encode_entities",
    "encode_passages",
    "encode_words",
    "fits",
    "join_choice",
    "join_passages",
    "mark_entities",
    "model_card",
    "put_tokenizer",
    "read_tokenizer",
    "special_tokens",
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
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in encoded]}, return_tensors="pt", padding_side="right")
    return {
        "input_ids": padded["input_ids"],
        "attention_mask": padded["attention_mask"],
        "entity_positions": torch.tensor([positions for _, positions in encoded]),  # (B, M)
    }


def mark_entities(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    markers: Sequence[str] = MARKERS,
) -> list[tuple[list[int], list[int]]]:
    """Return for each text its token ids, special tokens included, and the positions of the opening markers."""
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
) -> tuple[list[int], list[int]]:
    ids, positions = list(prefix), [0] * mentions
    for piece in pieces:
        if isinstance(piece, tuple):
            mention, opens = piece
            if opens:
                positions[mention] = len(ids)
            ids += markers[mention]
        elif piece:
            ids += next(segments)
    return ids + suffix, positions


def _marker_ids(tokenizer: Any, marker: str) -> list[int]:
    """Return the bare marker's id, without the sign for a space before it, where the vocabulary has it."""
    token_id = tokenizer.convert_tokens_to_ids(marker)
    if token_id is not None and token_id != tokenizer.unk_token_id:
        return [token_id]
    return tokenizer(marker, add_special_tokens=False)["input_ids"]


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
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in encoded]}, return_tensors="pt", padding_side="right")
    return {
        "input_ids": padded["input_ids"],
        "attention_mask": padded["attention_mask"],
        "word_positions": torch.tensor([row + [-1] * (widest - len(row)) for _, row in encoded]),
    }


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
        context_ids, question_ids, *choice_ids = _spaced(tokenizer, [context, question, *own])
        rest = [question_ids + separator + ids for ids in choice_ids]
        rows += [join_choice(context_ids, ids, prefix, separator, max_length)[0] for ids in rest]
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    return {name: padded[name].view(len(choices), len(choices[0]), -1) for name in ("input_ids", "attention_mask")}


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


def _spaced(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
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
        return (
            [0] * self.first + [1] * len(self.offsets) + [0] * (len(self.input_ids) - self.first - len(self.offsets))
        )


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
    padded = tokenizer.pad(
        {"input_ids": [text.input_ids for text in texts]}, return_tensors="pt", padding_side="right"
    )
    width = padded["input_ids"].shape[1]
    answerable = torch.tensor([text.answerable() + [0] * (width - len(text.input_ids)) for text in texts])
    columns = {**{name: padded[name] for name in ("input_ids", "attention_mask")}, "answer_mask": answerable}
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
CHAT = "chat_template.jinja"  # no encoder talks, and a template is a program
KIND = ("model_type", "tokenizer_class")  # of a backbone's configuration, from which a tokenizer's class is inferred


def read_tokenizer(source: str, config: KAdapterConfig, **reading: Any) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer in a directory or repository, or None where there is none that can be read without code.

    Where its files name no class, as in roberta-large's repository, class and special tokens follow from the kind of
    the backbone, whatever configuration lies beside them.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not _fetch(source, Path(folder), reading):
                return None
            backbone = {key: value for key, value in (config.backbone_config or {}).items() if key in KIND and value}
            Path(folder, CONFIG_NAME).write_text(json.dumps(backbone), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except OSError:  # not at hand: an artifact is complete without
            return None
        except Exception as error:  # noqa: BLE001 (damaged files, for which libraries raise whatever they like)
            logger.warning(f"the tokenizer of {source!r} can't be read ({error}), so it is not saved along")
            return None
    tokenizer.chat_template = None
    return tokenizer


def _fetch(source: str, folder: Path, reading: dict[str, Any]) -> bool:
    """Copy a tokenizer's files without what names code; return whether the tokenizer needs no code of its own."""
    options = {"_raise_exceptions_for_missing_entries": False, **reading}
    paths = {name: cached_file(source, name, **options) for name in TOKENIZER_FILES if name != CHAT}
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
    return read_tokenizer(source, config, revision=config.backbone_revision, local_files_only=True)


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


# ---- the card of an artifact ----------------------------------------------------------------------------------------


REPOSITORY = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"  # the name of one on the Hub
LONGEST_FIELD = 200  # characters of what a card tells of an adapter
HEADS = "heads_kadapter.py"
CARD_MARK = "<!-- Generated by kadapter at each save. Remove this line to keep your own text. -->"
EXAMPLES = {  # what a card shows for each head, from raw text to words; None for a model without a head
    None: """text = "Marie Curie was born in Warsaw."
inputs = model.encode_entities(tokenizer, [text], [[(0, 11), (24, 30)]])  # two mentions, in characters
positions = inputs.pop("entity_positions")  # where the marked mentions begin
head, tail = model(**inputs).last_hidden_state[0, positions[0]]  # features of encoder and adapters, fused
print(head.shape, tail.shape)""",
    "KAdapterForEntityPairClassification": """text = "Marie Curie was born in Warsaw."
inputs = model.encode_entities(tokenizer, [text], [[(0, 11), (24, 30)]])  # head and tail, in characters
logits = model(**inputs).logits
print(model.config.id2label[logits.argmax(-1).item()])  # the relation""",
    "KAdapterForEntityClassification": """text = "Marie Curie was born in Warsaw."
inputs = model.encode_entities(tokenizer, [text], [[(0, 11)]])  # the mention, in characters
scores = model(**inputs).logits.sigmoid()[0].tolist()
print([model.config.id2label[number] for number, score in enumerate(scores) if score > 0.5])  # its types""",
    "KAdapterForDependencyParsing": """words = "Birds sing at dawn .".split()
inputs = model.encode_words(tokenizer, [words])
heads = model(**inputs).logits.argmax(-1)[0].tolist()  # of each word the number of its head, 0 for the root
for word, head in zip(words, heads):
    print(word, "<-", "ROOT" if head == 0 else words[head - 1])""",
    "KAdapterForMaskedLM": """text = f"Marie Curie was born in {tokenizer.mask_token}."
inputs = tokenizer([text], return_tensors="pt")
masks = inputs["input_ids"] == tokenizer.mask_token_id
probabilities, tokens = model(**inputs).logits[masks][0].softmax(-1).topk(5)
print(list(zip(tokenizer.convert_ids_to_tokens(tokens.tolist()), probabilities.tolist())))""",
    "KAdapterForMultipleChoice": """choices = ["She was ill.", "It was raining."]
inputs = model.encode_choices(tokenizer, ["It rained all day."], ["Why did she stay in?"], [choices])
print(choices[model(**inputs).logits.argmax(-1).item()])""",
    "KAdapterForQuestionAnswering": """passages = ["Marie Curie was born in Warsaw.", "Warsaw lies on the Vistula."]
inputs = model.encode_passages(tokenizer, ["Where was Marie Curie born?"], [passages])
output = model(**inputs)
spans, probabilities = model.best_spans(output.start_logits, output.end_logits)
passage, first, last = spans[0].tolist()
print(tokenizer.decode(inputs["input_ids"][0, passage, first : last + 1]), probabilities[0].item())""",
    "KAdapterForSequenceClassification": """text = "Marie Curie was born in Warsaw."
inputs = tokenizer([text], return_tensors="pt")
logits = model(**inputs).logits
print(model.config.id2label[logits.argmax(-1).item()])""",
    "KAdapterForTokenClassification": """text = "Marie Curie was born in Warsaw."
inputs = tokenizer([text], return_tensors="pt")
logits = model(**inputs).logits
labels = [model.config.id2label[number] for number in logits.argmax(-1)[0].tolist()]
print(list(zip(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), labels)))""",
}
MULTI_LABEL = """inputs = tokenizer(["Marie Curie was born in Warsaw."], return_tensors="pt")
scores = model(**inputs).logits.sigmoid()[0].tolist()
print([model.config.id2label[number] for number, score in enumerate(scores) if score > 0.5])"""
REGRESSION = """inputs = tokenizer(["Marie Curie was born in Warsaw."], return_tensors="pt")
print(model(**inputs).logits[0].tolist())"""
OFFICIAL_PARSER = """words = "Birds sing at dawn .".split()
inputs = model.encode_words(tokenizer, [words])
starts = inputs.pop("word_positions")[0].tolist()  # the tokens of the root and of each word's first sub-token
heads = (model(**inputs).logits.argmax(-1)[0] - 1).tolist()  # of each token the position of its head
for word, start in zip(words, starts[1:]):
    head = heads[start]
    print(word, "<-", "ROOT" if head == starts[0] else words[starts.index(head) - 1] if head in starts else "?")"""


def model_card(config: KAdapterConfig) -> str:
    """Return the text of an artifact's README.md: what it is, on which backbone and data, with which result."""
    backbone, names = config.backbone_name_or_path, list(config.adapters)
    local = backbone is None or not re.fullmatch(REPOSITORY, backbone)
    data = ModelCardData(
        library_name="transformers",
        tags=["kadapter", "adapter", *names],
        base_model=None if local else backbone,
        base_model_relation=None if local else "adapter",
    )
    shown = _code(Path(backbone).name if local else backbone) if backbone else "a backbone that exists only in memory"
    lines = ["---", data.to_yaml(), "---", CARD_MARK, f"# {_title(config)}", ""]
    lines += [
        f"For the encoder {shown} (revision {_code(config.backbone_revision or '-')}, fingerprint "
        f"{_code((config.backbone_fingerprint or '-')[:12])}), after K-Adapter (Wang et al., Findings of ACL 2021).",
        f"Outputs are fused by `{config.fusion}`.",
        *_lm_head(config),
        "The backbone was changed along and is part of this artifact."
        if config.backbone_modified
        else "The encoder is frozen and comes from its own repository.",
        "",
        *("| adapter | layers | inner width | trained on | objective | result |", "|---|---|---|---|---|---|"),
        *(_row(name, values) for name, values in config.adapters.items()),
        *_usage(config),
        "Where this stands in a `subfolder` of a repository, put a copy of the `*_kadapter.py` files at its root too:",
        *("transformers looks for code there. With the package `kadapter` installed none is needed.", ""),
    ]
    return str(ModelCard("\n".join(lines), ignore_metadata_errors=True))


def _title(config: KAdapterConfig) -> str:
    """Return what an artifact is called: by its head's task, if it has one, and by its adapters."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", (_head(config) or "").removeprefix("KAdapterFor")).split()
    task = " ".join(word if word.isupper() else word.lower() for word in words)
    adapters = f"knowledge adapter {' + '.join(config.adapters)}" if config.adapters else ""
    title = " with ".join(part for part in (task, adapters) if part) or "encoder without adapters"
    return title[0].upper() + title[1:]


def _head(config: KAdapterConfig) -> str | None:
    model_class = (config.architectures or ["KAdapterModel"])[0]
    return None if model_class == "KAdapterModel" else model_class


def _lm_head(config: KAdapterConfig) -> list[str]:
    """Return where the LM head of a masked-LM model is from."""
    if config.lm_head in (None, "backbone"):
        return [] if config.lm_head is None else ["Its LM head is the encoder's own, frozen."]
    source = config.lm_head_source
    if source is None:
        return [f"Its LM head is new ({_code(config.lm_head)}) and part of this artifact, which adapters can share."]
    name = source["name_or_path"]
    shown = _code(name if re.fullmatch(REPOSITORY, name) else Path(name).name)
    return [f"Its LM head ({_code(config.lm_head)}) is that of {shown}, hash {_code(source['hash'][:12])}."]


def _usage(config: KAdapterConfig) -> list[str]:
    """Return how an artifact is loaded, and how its head turns raw text into words."""
    head = _head(config)
    own = [name for name, target in (config.auto_map or {}).items() if target == f"{HEADS[:-3]}.{head}"]
    loader = own[0] if head and own else "AutoModel"
    lines = ["", "```python", f"from transformers import {loader}, AutoTokenizer", ""]
    lines += [f'model = {loader}.from_pretrained("REPO_OR_DIRECTORY", trust_remote_code=True)']
    lines += ['tokenizer = AutoTokenizer.from_pretrained("REPO_OR_DIRECTORY", trust_remote_code=True)']
    lines += [_example(config, head), "```", ""]
    if head:
        lines += [f"The model with its head is a `{head}`; `AutoModel` gives the encoder and its adapters alone.", ""]
    return lines


def _example(config: KAdapterConfig, head: str | None) -> str:
    if head == "KAdapterForDependencyParsing" and config.dependency_head == "official":
        return OFFICIAL_PARSER
    if head == "KAdapterForSequenceClassification":
        others = {"multi_label_classification": MULTI_LABEL, "regression": REGRESSION}
        return others.get(str(config.problem_type), EXAMPLES[head])
    return EXAMPLES.get(head, "")


def _row(name: str, adapter: dict[str, Any]) -> str:
    training = adapter.get("training") or {}
    results = (training.get("results") or {}).items()
    shown = ", ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in results)
    cells = (training.get("corpus", "-"), training.get("objective", "-"), shown or "-")
    return f"| {name} | {adapter['layers']} | {adapter['hidden_size']} | {' | '.join(map(_plain, cells))} |"


def _plain(value: Any) -> str:
    """Return a value, perhaps of other people's artifacts, as text in which Markdown and HTML mean nothing."""
    text = _one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$!#])|(?<!\w)(_)|(_)(?!\w)", lambda match: f"\\{match.group()}", text)
    return text.replace("://", ":&#47;&#47;")  # no address becomes a link of its own


def _code(value: Any) -> str:
    """Return a value as code within a line, which it can't end."""
    return f"`{_one_line(value).replace('`', '')}`"


def _one_line(value: Any) -> str:
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return textwrap.shorten(text, LONGEST_FIELD, placeholder=" ...") or "-"
