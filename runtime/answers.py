"""From texts to answers: what an exported model makes of raw text, in the words of the pipelines."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .inputs import sigmoid, softmax
from .rows import gathered
from .texts import Encoded, Texts

__all__ = ["Answers", "Question"]

ASKED = {  # the heads that are asked about texts, and how many mentions they read
    "KAdapterForEntityPairClassification": 2,
    "KAdapterForEntityClassification": 1,
    "KAdapterForSequenceClassification": 0,
    "KAdapterForTokenClassification": 0,
    "KAdapterForDependencyParsing": 0,
    "KAdapterForMaskedLM": 0,
}
SHOWN = 5  # words for a mask
NO_HEAD = "KAdapterModel"  # the class of adapters that were exported without a head
NO_ENTITY = "O"  # the label that transformers leaves out


class Question(NamedTuple):
    """A text that was read for a head, and can be answered in one batch with any others.

    Args:
        text: the text, or the words of a sentence.
        encoded: its tokens.
        adapters: the adapters that it goes through.
        head: the name of the head that answers it; None for the model's own.
        positions: the name by which positions of tokens go to that head; None if it reads none.
        top_k: how many answers are returned; None for what is usual for the head.
    """

    text: Any
    encoded: Encoded
    adapters: tuple[str, ...]
    head: str | None = None
    positions: str | None = None
    top_k: int | None = None


class Answers(ABC):
    """The methods of an exported model that take texts."""

    manifest: dict[str, Any]
    texts: Texts | None
    single: bool

    @abstractmethod
    def __call__(self, input_ids: Any, **inputs: Any) -> Any:
        """Run the model on a batch."""

    @abstractmethod
    def logits_of(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Return the logits of each question."""

    @abstractmethod
    def _entry(self, head: str | None) -> dict[str, Any]:
        """Return what the manifest says of a head."""

    @abstractmethod
    def _asked(self, adapter_names: Any, head: str | None, texts: int) -> list[tuple[str, ...]]:
        """Return the adapters that each text goes through, after checking that the head takes them."""

    def encode(self, texts: str | Sequence[str], adapter_names: Any = None, batch_size: int = 8) -> list[np.ndarray]:
        """Return the fused features of texts, each (tokens, hidden), special tokens included.

        Raises:
            ValueError: the model has a head, which reads a few tokens, or no tokenizer, or a text is too long.
        """
        if self._entry(None)["class"] != NO_HEAD:
            raise ValueError(
                f"this is a {self._entry(None)['class']}, which answers by predict; features are those of adapters "
                "that were exported without a head"
            )
        texts = [texts] if isinstance(texts, str) else texts
        check_list(texts)
        check_texts(texts)
        encoded = self.fitting(self.reader().plain(texts))
        check_batch_size(batch_size)
        model = copy.copy(self)  # keeps the adapters and heads that there are now, whatever other threads do
        rows, features = model._asked(adapter_names, None, len(encoded)), []
        for first in range(0, len(encoded), batch_size):
            batch = encoded[first : first + batch_size]
            names = None if adapter_names is None else rows[first : first + batch_size]
            states = model(**self.reader().batch(batch), adapter_names=names).last_hidden_state
            features += [states[row, : len(each.input_ids)] for row, each in enumerate(batch)]
        return features

    def predict(
        self,
        texts: Any,
        entity_spans: Any = None,
        top_k: int | None = None,
        adapter_names: Any = None,
        head: str | None = None,
        batch_size: int = 8,
    ) -> list[Any]:
        """Return what the head answers to each text, in the layout of the pipelines.

        Args:
            texts: texts; for a parser lists of words; for a masked language model texts with its mask.
            entity_spans: of each text its mentions, (start, end) in characters, where the head reads mentions.
            top_k: how many answers of a text; by default one label, types from a probability of 0.5 on, or five words.
            adapter_names: which adapters each text goes through, as `__call__` takes them.
            head: one of several heads.
            batch_size: texts of a batch.

        Returns:
            For each text a list of {"label", "score"}, best first; of tokens {"entity", "score", "index", "word",
            "start", "end"}; of a sentence {"words", "heads", "scores"}; of masks a list of such lists.

        Raises:
            ValueError: there is no head for texts, or no tokenizer; or a text is too long, empty or lacks mentions.
        """
        check_list(texts)
        check_batch_size(batch_size)
        model = copy.copy(self)  # keeps the adapters and heads that there are now, whatever other threads do
        questions, answers = model._questions(texts, entity_spans, top_k, adapter_names, head), []
        for first in range(0, len(questions), batch_size):
            answers += model.answer(questions[first : first + batch_size])
        return answers

    def read(
        self,
        text: Any,
        entity_spans: Any = None,
        top_k: int | None = None,
        adapter_names: Any = None,
        head: str | None = None,
    ) -> Question:
        """Read a text for a head, as `predict` takes both; `answer` answers it with others.

        Args:
            text: a text, or the words of a sentence.
            entity_spans: its mentions, where the head reads mentions.
            top_k: how many answers are returned.
            adapter_names: the adapters that it goes through: a name, "__base__", or a list of names.
            head: one of several heads.

        Raises:
            TypeError: an argument is of another type.
            ValueError: `predict` would refuse it, or the head does not take these adapters.
        """
        spans = None if entity_spans is None else [entity_spans]
        names = None if adapter_names is None else [adapter_names]
        return self._questions([text], spans, top_k, names, head)[0]

    def answer(self, questions: Sequence[Question]) -> list[Any]:
        """Return the answer to each question, by one pass of the encoder whichever adapters and heads they ask.

        Raises:
            ValueError: an adapter or a head was removed since a question was read.
        """
        pairs = zip(questions, self.logits_of(questions), strict=True) if questions else ()
        return [self._answer(question, logits) for question, logits in pairs]

    def _questions(
        self, texts: Sequence[Any], entity_spans: Any, top_k: int | None, adapter_names: Any, head: str | None
    ) -> list[Question]:
        entry = self._entry(head)
        if entry["class"] == NO_HEAD:
            raise ValueError(
                "this model has no head, so it predicts nothing; encode(texts) returns its features, and add_head "
                "adds a head of the same encoder"
            )
        if entry["class"] not in ASKED:
            raise ValueError(f"a {entry['class']} is asked by its inputs, model(input_ids, ...), not by texts alone")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k={top_k!r} must be a whole number of at least 1: how many answers are returned")
        rows = self._asked(adapter_names, head, len(texts))
        encoded, positions = self._read(entry, texts, entity_spans)
        self.fitting(encoded)
        return [
            Question(text, each, names, head, positions, top_k)
            for text, each, names in zip(texts, encoded, rows, strict=True)
        ]

    def _read(
        self, entry: dict[str, Any], texts: Sequence[Any], entity_spans: Any
    ) -> tuple[list[Encoded], str | None]:
        """Return encoded texts, and by which name their positions go to the head."""
        reader, mentions = self.reader(), ASKED[entry["class"]]
        if entry["class"] != "KAdapterForDependencyParsing":
            check_texts(texts)
        if (entity_spans is not None) != bool(mentions):
            raise ValueError(
                f"a {entry['class']} reads {mentions} mentions of each text; "
                + ("give their entity_spans" if mentions else "leave out entity_spans")
            )
        if len(entry["markers"]) < mentions:
            raise ValueError(
                "this head was exported without a tokenizer, so it has no markers of mentions and reads no texts; "
                "call it with input_ids and entity_positions, or export it with a tokenizer"
            )
        if mentions:
            return reader.marked(texts, entity_spans, entry["markers"][:mentions]), "entity_positions"
        if entry["class"] == "KAdapterForDependencyParsing":
            return reader.words(texts), "word_positions" if entry["reads"] == "word_positions" else None
        encoded = reader.plain(texts)
        if entry["class"] != "KAdapterForMaskedLM":
            return encoded, None
        for number, each in enumerate(encoded):
            if not each.positions:
                raise ValueError(f"text {number}, {texts[number]!r}, has no mask; write {reader.mask} for the answer")
        return encoded, None if self.single else "positions"

    def _answer(self, question: Question, logits: np.ndarray) -> Any:
        """Return the answer to a question from its logits."""
        entry, encoded, text, top_k = self._entry(question.head), question.encoded, question.text, question.top_k
        labels, head = entry["labels"], entry["class"]
        if head == "KAdapterForMaskedLM":
            at = encoded.positions if self.single else range(len(encoded.positions))
            return [self._words(softmax(logits[position]), top_k or SHOWN) for position in at]
        if head == "KAdapterForTokenClassification":
            return tokens_labelled(encoded, text, softmax(logits[: len(encoded.input_ids)]), labels, self.reader())
        if head == "KAdapterForDependencyParsing":
            return parsed(encoded, text, logits, entry["reads"] == "word_positions")
        types = head == "KAdapterForEntityClassification"
        scores = scored(logits, "multi_label_classification" if types else entry["problem_type"])
        ranked = sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1])
        answers = [{"label": label, "score": score} for label, score in ranked]
        if types and top_k is None:
            return [answer for answer in answers if answer["score"] >= 0.5]
        return answers[: top_k or 1]

    def _words(self, scores: np.ndarray, number: int) -> list[dict[str, Any]]:
        best = np.argsort(-scores)[:number]
        return [{"label": self.reader().decode(int(each)).strip(), "score": float(scores[each])} for each in best]

    def reader(self) -> Texts:
        """Return what turns texts into token ids; ValueError where the model has none."""
        if self.texts is None:
            raise ValueError(
                "this model was exported without a tokenizer, so it reads no texts; call it with input_ids, or export "
                "an artifact with a tokenizer beside it"
            )
        return self.texts

    def fitting(self, encoded: list[Encoded]) -> list[Encoded]:
        """Return encoded texts, of which none may be longer than encoder and tokenizer allow.

        Raises:
            ValueError: one is.
        """
        limits = (self.manifest["backbone"]["longest"], self.manifest["tokenizer"]["max_length"])
        longest = min((limit for limit in limits if limit is not None), default=None)
        for number, each in enumerate(encoded):
            if longest is not None and len(each.input_ids) > longest:
                raise ValueError(
                    f"text {number} has {len(each.input_ids)} tokens, more than the {longest} that the encoder takes; "
                    "cut it"
                )
        return encoded


def check_list(texts: Any) -> None:
    """Raise TypeError for texts that are no list, such as a single one or what can be read only once."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"texts is {type(texts).__name__}; give a list of texts")


def check_texts(texts: Sequence[Any]) -> None:
    """Raise TypeError for a text that is no string."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {text!r}, a {type(text).__name__}; give a string")


def check_batch_size(size: int) -> None:
    """Raise ValueError for a batch of no texts."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"batch_size={size!r} must be a whole number of at least 1")


def scored(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """Return the scores of labels as transformers' text classification has them."""
    if problem_type == "regression":
        return logits
    several = problem_type == "multi_label_classification" or len(logits) == 1
    return sigmoid(logits) if several else softmax(logits)


def tokens_labelled(
    encoded: Encoded, text: str, scores: np.ndarray, labels: Sequence[str], reader: Texts
) -> list[dict[str, Any]]:
    """Return the label of each token that is not special, but for those of the label "O"."""
    answers = []
    for index, best in enumerate(scores.argmax(axis=-1).tolist()):
        if encoded.special[index] or labels[best] == NO_ENTITY:
            continue
        start, end = encoded.offsets[index]
        answer = {"entity": labels[best], "score": float(scores[index, best]), "index": index}
        answers.append({**answer, "word": reader.token(encoded.input_ids[index]), "start": start, "end": end})
    return answers


def parsed(encoded: Encoded, words: Sequence[str], logits: np.ndarray, by_words: bool) -> dict[str, Any]:
    """Return of each word its head, 1 for the first word and 0 for the root, and the probability of it.

    The official head names a token: None where that begins no word.
    """
    if by_words:
        scores = softmax(logits[: len(words), : len(words) + 1])
        heads: list[int | None] = scores.argmax(axis=-1).tolist()
    else:
        scores = softmax(gathered(logits[None], np.array([encoded.positions[1:]]))[0])
        numbers = {start: number for number, start in enumerate(encoded.positions)}
        heads = [numbers.get(token - 1) for token in scores.argmax(axis=-1).tolist()]
    return {"words": list(words), "heads": heads, "scores": scores.max(axis=-1).tolist()}
