"""Pipelines for the heads that those of transformers don't know: mentions, pairs of mentions, and dependency trees.

And for several heads of one model, which read a batch of texts in one run of its encoder.

Text-classification, token-classification, fill-mask and feature-extraction are transformers' own, which on our models
also take `adapter_names`. Dimensions: B batch, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    FeatureExtractionPipeline,
    FillMaskPipeline,
    Pipeline,
    TextClassificationPipeline,
    TokenClassificationPipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput

from .backbone_kadapter import positions_of
from .processing_kadapter import encode_words, split_words

__all__ = [
    "DependencyParsingPipeline",
    "EntityClassificationPipeline",
    "EntityPairClassificationPipeline",
    "SeveralHeadsPipeline",
    "draw_tree",
]


# ---- adapters of each text ------------------------------------------------------------------------------------------


class TakesAdapterNames(Pipeline):
    """A pipeline whose texts name their adapters: in a call, in records, or all the same when the pipeline is made.

    Args:
        adapter_names: which adapters each text goes through that names none itself: a name, "__base__" or a list of
            names. By default the active ones.
    """

    model: Any

    def __init__(self, *args: Any, adapter_names: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapter_names = adapter_names
        if adapter_names is not None:
            self.check_names(adapter_names, "adapter_names")

    def check_names(self, names: Any, where: str) -> None:
        """Refuse adapters of a text that the model can't join; the sentence says where they are named."""
        core = self.model.base_model
        try:
            core.fusion.check_rows(core.adapters.of_rows([names], 1))
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("adapter_names[0]", where)) from error

    def with_names(
        self, inputs: Any, adapter_names: Any, check: Callable[[dict[str, Any], str], None] | None = None
    ) -> Any:
        """Return a text as a record, or a list of texts as records, that say which adapters each goes through.

        `check` refuses what a record of a list names; it is told by which word.

        Raises:
            TypeError: a name is no name.
            ValueError: there are more or fewer names than texts, or the model does not know one of them.
        """
        if adapter_names is not None and not isinstance(inputs, str | dict | list):
            raise ValueError(
                f"adapter_names go with a text or a list of texts, and this is a {type(inputs).__name__}; give "
                "records that hold 'adapter_names' themselves"
            )
        if adapter_names is not None and not isinstance(inputs, list):
            return {**as_record(inputs), "adapter_names": adapter_names}
        if adapter_names is not None:
            if isinstance(adapter_names, str) or len(adapter_names) != len(inputs):
                raise ValueError(
                    f"adapter_names is {adapter_names!r}, and there are {len(inputs)} texts; give a list, an entry "
                    "for each"
                )
            pairs = zip(inputs, adapter_names, strict=True)
            inputs = [{**as_record(text), "adapter_names": names} for text, names in pairs]
        for row, text in enumerate(inputs if isinstance(inputs, list) else ()):
            if isinstance(text, dict):
                (check or self._check_record)(text, f"adapter_names[{row}]")
        return inputs

    def _check_record(self, record: dict[str, Any], where: str) -> None:
        if record.get("adapter_names") is not None:
            self.check_names(record["adapter_names"], where)

    def own_names(self, example: Any, text: Any) -> dict[str, Any]:
        """Return the adapters of an example as they are kept beside its tokens."""
        names = example.get("adapter_names") if isinstance(example, dict) else getattr(example, "adapter_names", None)
        if names is None:
            return {} if self.adapter_names is None else {"adapter_names": self.adapter_names}
        self.check_names(names, f"adapter_names of {shortened(text)}")
        return {"adapter_names": names}


class NamedText(str):
    """A text that knows its adapters, and is a string to whoever does not ask for them."""

    adapter_names: Any = None


def as_record(text: Any) -> dict[str, Any]:
    """Return a text as a record."""
    return text if isinstance(text, dict) else {"text": text}


def as_text(record: Any) -> Any:
    """Return a record with a text alone as this text; all else stays what it is."""
    if not isinstance(record, dict) or not set(record) <= {"text", "adapter_names"} or "text" not in record:
        return record
    text = NamedText(record["text"])
    text.adapter_names = record.get("adapter_names")
    return text


def shortened(text: Any, longest: int = 80) -> str:
    """Return a text as an error quotes it, of a long one the beginning."""
    text = " ".join(text) if isinstance(text, list) else text
    return repr(text) if len(text) <= longest else f"{text[:longest]!r}..."


class OfTransformers(TakesAdapterNames):
    """A pipeline of transformers on a model of ours; on any other it is transformers' own."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make transformers' own pipeline for a model that is none of ours."""
        model = kwargs.get("model", args[0] if args else None)
        if "KAdapterPreTrainedModel" in {each.__name__ for each in type(model).__mro__}:  # of any copy of its file
            return super().__new__(cls)
        return cls.__bases__[1](*args, **kwargs)

    def __call__(self, inputs: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        """Return what the pipeline of transformers does.

        Args:
            inputs: what that pipeline takes, where a text may also be a record with "text" and "adapter_names".
            adapter_names: which adapters a text goes through, a name, "__base__" or a list of names; of several texts
                a list of these. By default the active ones.
            args: what that pipeline takes.
            kwargs: what that pipeline takes.

        Raises:
            TypeError: a name is no name.
            ValueError: the model does not know an adapter, or there are more or fewer names than texts.
        """
        return super().__call__(as_text(self.with_names(inputs, adapter_names)), *args, **kwargs)

    def preprocess(self, example: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the tokens of a text, or of each of its chunks, and beside them its adapters."""
        example = as_text(example)
        text = example["text"] if isinstance(example, dict) and "text" in example else example
        names = self.own_names(example, text)
        if isinstance(example, dict):
            plain: Any = {key: value for key, value in example.items() if key != "adapter_names"}
        else:
            plain = str(example) if isinstance(example, str) else example
        encoded: Any = super().preprocess(plain, *args, **kwargs)  # type: ignore[safe-super]  # of the class beside this
        if isinstance(encoded, Mapping):
            return {**encoded, "of_row": names}
        return ({**chunk, "of_row": names} for chunk in encoded)

    def _forward(self, model_inputs: Any, **parameters: Any) -> Any:
        of_row = model_inputs.pop("of_row")  # a list where there is a batch
        names = names_of(of_row if isinstance(of_row, list) else [of_row])
        given = model_inputs if names is None else {**model_inputs, "adapter_names": names}
        return super()._forward(given)  # type: ignore[safe-super]


class NamingTextClassification(OfTransformers, TextClassificationPipeline):  # type: ignore[misc]
    """Text-classification, through the adapters that each text names."""


class NamingTokenClassification(OfTransformers, TokenClassificationPipeline):  # type: ignore[misc]
    """Token-classification, through the adapters that each text names."""


class NamingFillMask(OfTransformers, FillMaskPipeline):  # type: ignore[misc]
    """Fill-mask, through the adapters that each text names."""


class NamingFeatureExtraction(OfTransformers, FeatureExtractionPipeline):  # type: ignore[misc]
    """Feature-extraction, through the adapters that each text names."""

    def _forward(self, model_inputs: Any, **parameters: Any) -> ModelOutput:
        return ModelOutput(features=super()._forward(model_inputs, **parameters)[0])  # what has a row for each text


# ---- our own --------------------------------------------------------------------------------------------------------


class KAdapterPipeline(TakesAdapterNames):
    """What our pipelines share: examples stay lists until a batch is padded, on the right, as positions require."""

    task_name = ""
    head = ""  # the class of models that the pipeline is for
    model: Any
    tokenizer: Any
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.head not in {each.__name__ for each in type(self.model).__mro__}:
            several = hasattr(self.model, "heads")
            raise ValueError(
                f"the pipeline {self.task_name} is for a {self.head}, and this is a {type(self.model).__name__}; use "
                + ("model=model.heads[NAME]" if several else "an artifact with that head")
                + ", or another pipeline"
            )

    def longest(self, max_length: int | None) -> int | None:
        """Return the largest number of tokens of an input: what is asked for, but no more than model and tokenizer."""
        limits = (max_length, positions_of(self.model.base_model.backbone).longest, self.tokenizer.model_max_length)
        return min(limit for limit in limits if limit is not None)

    def _forward(self, model_inputs: dict[str, Any], **parameters: Any) -> ModelOutput:
        examples = model_inputs["examples"]  # a list where there is a batch
        batch = examples if isinstance(examples, list) else [examples]
        columns = {"input_ids": [example["input_ids"] for example in batch]}
        inputs = self.tokenizer.pad(columns, return_tensors="pt", padding_side="right")
        tensors = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], **self.beside(batch)}
        rows = {} if (names := names_of(batch)) is None else {"adapter_names": names}
        logits = self.model(**{key: tensor.to(self.device) for key, tensor in tensors.items()}, **rows).logits
        return ModelOutput(logits=logits, examples=examples)

    def beside(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return what the head reads besides tokens, of a batch of encoded examples."""
        return {}


def names_of(batch: Sequence[dict[str, Any]]) -> list[Any] | None:
    """Return the adapters of each encoded example, None where none names any.

    Raises:
        ValueError: some name adapters and others do not.
    """
    named = ["adapter_names" in example for example in batch]
    if any(named) and not all(named):
        raise ValueError(
            "some texts of a batch name their adapters and others none; give adapter_names to all, '__base__' for none"
        )
    return [example["adapter_names"] for example in batch] if all(named) else None


# ---- mentions -------------------------------------------------------------------------------------------------------


class MentionsPipeline(KAdapterPipeline):
    """What both pipelines for marked mentions share: their inputs, and scores by label."""

    mentions = 1

    def __call__(self, inputs: Any, entity_spans: Any = None, adapter_names: Any = None, **kwargs: Any) -> Any:
        """Return the labels of texts whose mentions are spans of characters.

        Args:
            inputs: a text with `entity_spans`, or a list of texts with a list of these; or dicts with "text" and
                "entity_spans", one, a list, a generator or a dataset of them.
            entity_spans: the mentions of a text, each (start, end); of a pair, head and tail.
            adapter_names: which adapters a text goes through, a name, "__base__" or a list of names; of several texts
                a list of these. Dicts may hold their own. By default the active ones.
            kwargs: `top_k`, how many labels are returned; `threshold`, of types, the least score; `max_length`, in
                tokens; `batch_size` and all that a pipeline of transformers takes.

        Returns:
            For a text a list of {"label", "score"}, best first; for several texts a list of such lists.

        Raises:
            ValueError: a span is empty, reversed or outside its text, its mention is cut off by `max_length`, or
                the mentions are too few or too many; the sentence shows the text.
        """
        if entity_spans is not None and isinstance(inputs, str):
            inputs = {"text": inputs, "entity_spans": entity_spans}
        elif entity_spans is not None:
            lists = isinstance(inputs, list | tuple) and isinstance(entity_spans, list | tuple)
            if not lists or len(inputs) != len(entity_spans):
                raise ValueError("give a list of texts and as many lists of entity_spans, or dicts with both")
            pairs = zip(inputs, entity_spans, strict=True)
            inputs = [{"text": text, "entity_spans": spans} for text, spans in pairs]
        inputs = self.with_names(inputs, adapter_names)
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, top_k: int | None = None, threshold: float | None = None, max_length: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k} must be at least 1: how many labels are returned")
        choice = {"top_k": top_k, "threshold": threshold}
        sizes = {} if max_length is None else {"max_length": max_length}
        return sizes, {}, {key: value for key, value in choice.items() if value is not None}

    def preprocess(self, example: Any, max_length: int | None = None) -> dict[str, Any]:
        """Return the token ids of a text with marked mentions, and the positions of the markers."""
        if not isinstance(example, dict) or not {"text", "entity_spans"} <= example.keys():
            raise ValueError(
                f"there are no mentions in {example!r}; give entity_spans=[(start, end)] in characters, or a dict "
                "with 'text' and 'entity_spans'"
            )
        text, spans = example["text"], example["entity_spans"]
        if not isinstance(text, str):
            raise TypeError(f"text is {text!r}; give a string")
        if not isinstance(spans, list | tuple):
            raise TypeError(
                f"entity_spans is {spans!r}; give [(start, end)] in characters, as many as {self.head} reads: "
                f"{self.mentions}"
            )
        spans = [spans] if len(spans) == 2 and all(isinstance(side, int) for side in spans) else spans
        if len(spans) != self.mentions:
            raise ValueError(f"{len(spans)} mentions in {shortened(text)}, and {self.head} reads {self.mentions}")
        try:
            encoded = self.model.encode_entities(self.tokenizer, [text], [spans], max_length=self.longest(max_length))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{str(error).removeprefix('text 0: ')}; the text is {shortened(text)}") from error
        values = {key: encoded[key][0].tolist() for key in ("input_ids", "entity_positions")}
        return {"examples": {**values, **self.own_names(example, text)}}

    def beside(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `entity_positions` (batch, mentions)."""
        return {"entity_positions": as_tensor([example["entity_positions"] for example in batch])}

    def answers(self, scores: Tensor) -> list[dict[str, Any]]:
        """Return all labels with their scores (labels,), best first."""
        ranked = sorted(enumerate(scores.tolist()), key=lambda pair: -pair[1])
        return [{"label": self.model.config.id2label[number], "score": score} for number, score in ranked]


class EntityPairClassificationPipeline(MentionsPipeline):
    """The relation between two mentions of a text: `pipe(text, entity_spans=[(0, 11), (24, 30)])`."""

    task_name = "entity-pair-classification"
    head = "KAdapterForEntityPairClassification"
    mentions = 2

    def postprocess(self, model_outputs: Any, top_k: int = 1, threshold: float = 0.0) -> list[dict[str, Any]]:
        """Return the likeliest relations with their probabilities."""
        answers = self.answers(model_outputs["logits"][0].float().softmax(-1))
        return [answer for answer in answers[:top_k] if answer["score"] >= threshold]


class EntityClassificationPipeline(MentionsPipeline):
    """The types of a mention of a text, any number of them: `pipe(text, entity_spans=[(0, 11)])`."""

    task_name = "entity-classification"
    head = "KAdapterForEntityClassification"

    def postprocess(
        self, model_outputs: Any, top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, Any]]:
        """Return the types with a probability of their own from the threshold on, 0.5 if `top_k` is not asked for."""
        least = (0.0 if top_k else 0.5) if threshold is None else threshold
        answers = self.answers(model_outputs["logits"][0].float().sigmoid())
        return [answer for answer in answers[:top_k] if answer["score"] >= least]


# ---- dependency trees -----------------------------------------------------------------------------------------------


class DependencyParsingPipeline(KAdapterPipeline):
    """The head of each word of a sentence: `pipe("Birds sing at dawn.")`."""

    task_name = "dependency-parsing"
    head = "KAdapterForDependencyParsing"

    def __call__(self, inputs: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        """Return the words of sentences, their heads, and a drawing of the tree.

        Args:
            inputs: a sentence as raw text, which is split into words and punctuation, or {"words": [...]} as they
                are; or several, where a sentence may be a list of words, too.
            adapter_names: which adapters a sentence goes through, a name, "__base__" or a list of names; of several
                sentences a list of these. By default the active ones.
            kwargs: `max_length` in tokens; `batch_size` and all that a pipeline of transformers takes.

        Returns:
            For each sentence {"words", "heads", "scores", "tree"}: of each word the number of its head, 1 for the
            first, 0 for the root and None where the official head names no word, and its probability. Heads are the
            likeliest of each word, as they are evaluated; words that hang on each other in a circle are drawn last.

        Raises:
            ValueError: a sentence has no word, or more tokens than `max_length`.
        """
        if adapter_names is not None and isinstance(inputs, list | str | dict):
            several = inputs if isinstance(inputs, list) else [inputs]
            dicts = [sentence if isinstance(sentence, dict) else {"words": sentence} for sentence in several]
            inputs = dicts if isinstance(inputs, list) else dicts[0]
        inputs = self.with_names(inputs, adapter_names)
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, max_length: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return ({} if max_length is None else {"max_length": max_length}), {}, {}

    def preprocess(self, sentence: Any, max_length: int | None = None) -> dict[str, Any]:
        """Return the words of a sentence, its token ids, and the positions of root and words."""
        words = sentence["words"] if isinstance(sentence, dict) else sentence
        words = split_words(words) if isinstance(words, str) else list(words)
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"the sentence {sentence!r} has no words; give a text or a list of words, at least one")
        try:
            encoded = encode_words(self.tokenizer, [words], self.longest(max_length))
        except ValueError as error:
            raise ValueError(f"{str(error).removeprefix('sentence 0: ')}; it is {shortened(words)}") from error
        values = {key: encoded[key][0].tolist() for key in ("input_ids", "word_positions")}
        return {"examples": {"words": words, **values, **self.own_names(sentence, words)}}

    def beside(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `word_positions` (batch, 1 + words), which the official head does not read."""
        if self.model.config.dependency_head == "official":
            return {}
        positions = [example["word_positions"] for example in batch]
        widest = max(map(len, positions))
        return {"word_positions": as_tensor([own + [-1] * (widest - len(own)) for own in positions])}

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:
        """Return the words, their heads with probabilities, and the tree."""
        example, logits = model_outputs["examples"], model_outputs["logits"][0].float()
        words, starts = example["words"], example["word_positions"]
        if self.model.config.dependency_head == "official":
            scores, tokens = logits[starts[1:]].softmax(-1).max(dim=-1)  # classes are positions from 1 on
            numbers = {start: number for number, start in enumerate(starts)}
            heads = [numbers.get(token - 1) for token in tokens.tolist()]
        else:
            scores, tokens = logits[: len(words), : len(words) + 1].softmax(-1).max(dim=-1)
            heads = tokens.tolist()
        return {"words": words, "heads": heads, "scores": scores.tolist(), "tree": draw_tree(words, heads)}


def draw_tree(words: Sequence[str], heads: Sequence[int | None]) -> str:
    """Return the drawing of a tree, a word a line, each below its head; what does not hang on the root stands last."""
    children: dict[int | None, list[int]] = {}
    for number, head in enumerate(heads, start=1):
        children.setdefault(head, []).append(number)
    lines = list(_branches(words, children, children.get(0, [])))
    drawn = {number for number, _ in lines}
    for number in (number for number in range(1, len(words) + 1) if number not in drawn):
        head = heads[number - 1]
        lines.append((number, f"{words[number - 1]} <- {'?' if head is None else words[head - 1]}"))
    return "\n".join(line for _, line in lines)


def _branches(
    words: Sequence[str], children: dict[int | None, list[int]], roots: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield the number of each word below the root and its line; a stack of its own lets trees be of any depth."""
    stack = [(root, "", "") for root in reversed(roots)]
    while stack:
        number, branch, indent = stack.pop()
        yield number, branch + words[number - 1]
        below = children.get(number, [])
        for child in reversed(below):
            last = child == below[-1]
            stack.append((child, indent + ("└── " if last else "├── "), indent + ("    " if last else "│   ")))


# ---- several heads --------------------------------------------------------------------------------------------------


class SeveralHeadsPipeline(KAdapterPipeline):
    """What several heads of one model answer to a text: `pipe("Birds sing at dawn.", heads=["topic", "tree"])`.

    Each head has the pipeline of its task. The encoder reads a batch once for all heads that read the same tokens, of
    which texts with marked mentions or split words have others than plain ones.
    """

    task_name = "several-heads"
    head = "KAdapterModelWithHeads"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipes: dict[str, Any] = {}
        for name, head in self.model.heads.items():
            pipeline_class = pipeline_of(head)
            if pipeline_class is not None:
                own = {"tokenizer": self.tokenizer, "device": self.device, "adapter_names": self.adapter_names}
                self.pipes[name] = pipeline_class(model=head, **own)

    def check_names(self, names: Any, where: str) -> None:
        """Leave it to the pipelines of the heads, which may have different adapters."""

    def _check(self, heads: Sequence[str], text: dict[str, Any], where: str) -> None:
        """Refuse adapters of a text that one of these heads can't join."""
        for name in heads:
            names = text.get(name, {}).get("adapter_names", text.get("adapter_names"))
            if names is not None:
                self.pipes[name].check_names(names, f"head {name!r}: {where}")

    def __call__(self, inputs: Any, heads: Any = None, adapter_names: Any = None, **kwargs: Any) -> Any:
        """Return the answers of heads to texts.

        Args:
            inputs: a text, or a dict with "text" and by the name of a head what this one reads besides, as its own
                pipeline takes it: {"text": ..., "relations": {"entity_spans": [(0, 11), (24, 30)]}}; or several. A
                dict may hold "adapter_names" for all heads, and what a head reads besides may hold its own.
            heads: the names of those that are asked; by default all that a pipeline asks.
            adapter_names: which adapters a text goes through for all heads, a name, "__base__" or a list of names; of
                several texts a list of these. By default the active ones of each head.
            kwargs: `top_k`, how many labels or words are returned; `batch_size` and all that a pipeline takes.

        Returns:
            For each text the answers of heads by their names, each as the pipeline of its task gives it.

        Raises:
            ValueError: there is no such head, no pipeline asks it, or a text lacks what it reads.
        """
        asked = self._asked(heads)
        inputs = self.with_names(inputs, adapter_names, lambda text, where: self._check(asked, text, where))
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, heads=heads, **kwargs)

    def _sanitize_parameters(
        self, heads: Any = None, top_k: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        chosen = {"names": self._asked(heads)} if hasattr(self, "pipes") else {}
        return chosen, {**chosen, **({} if top_k is None else {"top_k": top_k})}, {}

    def _asked(self, heads: Any) -> list[str]:
        """Return the names of the heads that are asked."""
        names = list(self.pipes) if heads is None else [heads] if isinstance(heads, str) else list(heads)
        for name in names:
            if name not in self.model.heads:
                raise ValueError(f"no head {name!r}; there are {list(self.model.heads)}")
            if name not in self.pipes:
                kind = type(self.model.heads[name]).__name__
                raise ValueError(f"head {name!r}, a {kind}, reads more than a text; ask model.heads[{name!r}] itself")
        if not names:
            raise ValueError(f"no pipeline asks any of the heads {list(self.model.heads)}; ask them themselves")
        return names

    def preprocess(self, example: Any, names: Sequence[str]) -> dict[str, Any]:
        """Return a text, and by the names of heads what each reads besides."""
        example = {"text": example} if isinstance(example, str) else example
        if not isinstance(example, dict) or not isinstance(example.get("text"), str):
            raise ValueError(
                f"{example!r} is no text; give a string, or a dict with 'text' and what heads read besides"
            )
        unknown = sorted(set(example) - {"text", "adapter_names", *names})
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} of {example['text']!r} is none of the heads that are asked, {list(names)}"
            )
        return {"examples": example}

    def _forward(self, model_inputs: dict[str, Any], names: Sequence[str], top_k: int | None = None) -> ModelOutput:
        examples = model_inputs["examples"]  # a list where there is a batch
        batch = examples if isinstance(examples, list) else [examples]
        with reading_once(self.model, names):
            answers = {name: self._answers(name, batch, top_k) for name in names}
        each = [{name: own[row] for name, own in answers.items()} for row in range(len(batch))]
        return ModelOutput(answers=each if isinstance(examples, list) else each[0])

    def _answers(self, name: str, batch: Sequence[dict[str, Any]], top_k: int | None) -> list[Any]:
        """Return what a head's own pipeline answers to the texts of a batch."""
        pipe = self.pipes[name]
        shared = [{"adapter_names": text["adapter_names"]} if "adapter_names" in text else {} for text in batch]
        own = [
            {"text": text["text"], **names, **text.get(name, {})} for text, names in zip(batch, shared, strict=True)
        ]
        if isinstance(pipe, DependencyParsingPipeline):
            inputs: list[Any] = [{"words": example.pop("text"), **example} for example in own]
        else:
            inputs = [example if len(example) > 1 else example["text"] for example in own]
        labels = not isinstance(pipe, DependencyParsingPipeline | TokenClassificationPipeline)
        options = {} if top_k is None or not labels else {"top_k": top_k}
        try:
            if isinstance(pipe, FillMaskPipeline):  # which answers to a list of a single text as to a text
                return [pipe(text, **options) for text in inputs]
            return pipe(inputs, **options, batch_size=len(inputs))
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"head {name!r}: {error}") from error

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:
        """Return the answers of heads by their names."""
        return model_outputs["answers"]


OF_TRANSFORMERS: dict[str, type[OfTransformers]] = {
    "text-classification": NamingTextClassification,
    "token-classification": NamingTokenClassification,
    "fill-mask": NamingFillMask,
    "feature-extraction": NamingFeatureExtraction,
}
PIPELINES: dict[str, type[Pipeline]] = {
    **{own.head: own for own in (EntityPairClassificationPipeline, EntityClassificationPipeline)},
    DependencyParsingPipeline.head: DependencyParsingPipeline,
    "KAdapterForSequenceClassification": NamingTextClassification,
    "KAdapterForTokenClassification": NamingTokenClassification,
    "KAdapterForMaskedLM": NamingFillMask,
}


def pipeline_of(head: Any) -> type[Pipeline] | None:
    """Return the pipeline that asks a head about a text, None where it reads more than that."""
    known = (PIPELINES[each.__name__] for each in type(head).__mro__ if each.__name__ in PIPELINES)
    return next(known, None)


@contextmanager
def reading_once(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Let the encoder read the same inputs once in a block, whichever of these heads are asked about them."""
    kept: dict[Any, dict[int, Tensor]] = {}

    def give(head: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        read = {key: kwargs[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in kwargs}
        if not read.get("token_type_ids", torch.ones(())).any():  # zeros are what the encoder takes anyway
            del read["token_type_ids"]
        key = tuple((name, tuple(own.shape), own.cpu().numpy().tobytes()) for name, own in read.items())
        if key not in kept:
            kept[key] = model.tap(heads=list(names), **read)
        return args, {**kwargs, "hidden_states": dict(kept[key])}

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.heads[name].register_forward_pre_hook(give, with_kwargs=True).remove)
        yield


def as_tensor(rows: list[list[int]]) -> Tensor:
    """Return rows of positions as a tensor (batch, n)."""
    return torch.tensor(rows)


def _register() -> None:
    """Let `pipeline(TASK, model=...)` know these tasks, and `adapter_names` of models of ours in those it knows."""
    for task, naming_class in OF_TRANSFORMERS.items():
        PIPELINE_REGISTRY.supported_tasks[task] = {**PIPELINE_REGISTRY.supported_tasks[task], "impl": naming_class}
    for pipeline_class, auto_class in (
        (EntityPairClassificationPipeline, AutoModelForSequenceClassification),
        (EntityClassificationPipeline, AutoModelForSequenceClassification),
        (DependencyParsingPipeline, AutoModelForTokenClassification),
        (SeveralHeadsPipeline, AutoModel),
    ):
        PIPELINE_REGISTRY.register_pipeline(
            pipeline_class.task_name, pipeline_class=pipeline_class, pt_model=auto_class, type="text"
        )


if (
    __name__ == "kadapter.pipelines_kadapter"
):  # installed: as remote code it must not stand in for another repository's
    _register()
