"""EntityQuestions as a cloze: a question about a marked subject, and a mask that the answer fills; accuracy.

accelerate launch trainers/run_task.py --recipe recipes/entity_questions_bert.yaml --data_dir DIR --aliases FILE
    --backbone bert-base-uncased --output_dir OUT
accelerate launch trainers/run_task.py --recipe recipes/entity_questions_bert.yaml --data_dir DIR --aliases FILE
    --backbone bert-base-uncased --trained_model OUT --adapters MAP --entity_embeddings TABLE --do_train false
    --missing_entity bias --output_dir PLUGGED
accelerate launch trainers/run_task.py --recipe recipes/entity_questions_bert_map.yaml --data_dir DIR --aliases FILE
    --backbone bert-base-uncased --trained_model OUT --adapters MAP --entity_embeddings TABLE --output_dir TUNED
Published, map-tuning on bert-base-uncased (Zhang et al., ACL 2023, from the files of its repository), test accuracy:
without a map 41.7 (LoRA 42.4, Adapter 43.6, BitFit 41.3); general map, plugged in 49.0 (49.6, 50.8, 48.4); map tuned
on the task 58.9; fine-tuned with a general map 62.9, with a map of the task's own questions 62.0.
Ours, all-MiniLM-L6-v2 with tables of its own (docs/map_tuning.md, one seed), 2,000 questions of dev: without a map
0.351; general map, plugged in 0.346; map tuned on the task 0.386, with a shuffled table 0.351. Those above were not
measured again, since ERNIE's table is not at hand.

The corpus has no ids. `--aliases` names a file of lines "mention TAB id", the official `entity_map.txt` for example;
without it the mention is its own id, for a table whose ids are names, such as that of a graph in words. All rows of a
comparison ask the same questions, whatever map and table they have: those with a subject that has an id by this rule,
and with an answer that is a single token. The others are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from ...configuration_kadapter import KAdapterConfig
from ...graphs.linking import read_aliases
from ...language_modeling_kadapter import KAdapterForMaskedLM
from ...processing_kadapter import marked_tokens
from ..common.knowledge import COLUMNS
from ..fact_probing.prompts import Prompter, check_mask
from ._base import probabilities
from ._mentions import MentionTask, with_entities

SUBJECT, ANSWER, MARKER = "[X]", "[Y]", "$"
SHOWN = 5  # answers whose probabilities are written down


class Task(MentionTask):
    """`[CLS] where was $ ENT / subject $ born ? [MASK] [SEP]`, the likeliest token of the whole vocabulary.

    The label is the first answer that is a single token, in lower case where the tokenizer lower-cases, as the
    published one does. A question that does not fit as a whole is left out, and counts as wrong in evaluation. With
    `--closed_answers` the prediction is the likeliest of the labels that its relation has in the evaluated questions.
    """

    record_type = "fact"
    corpus = "entity_questions"
    model_class = KAdapterForMaskedLM
    tag = "fill-mask"
    metric, headline = "accuracy", "accuracy"
    id_columns: ClassVar[tuple[str, ...]] = ("subject_id",)

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "positions": -1, "labels": -100}
        check_mask(tokenizer)
        self.lower_cases = tokenizer.tokenize("A") == tokenizer.tokenize("a")
        self.words: dict[str, int] = {}  # the answers so far that are a single token, and their tokens
        self.aliases = None if arguments.aliases is None else read_aliases(arguments.aliases)
        self.where, self.lm_head = arguments.aliases, arguments.lm_head
        self.closed: dict[str, list[str]] | None = {} if arguments.closed_answers else None

    def records(self, split: str, rows: Dataset, labelled: bool = True) -> tuple[Dataset, list[str]]:
        """Return the questions that are asked, with the id of each subject, and how many are left out for what reason.

        Raises:
            ValueError: none is left.
        """
        subjects, templates, answers = (rows[name][:] for name in ("subject", "template", "answers"))
        self._learn_words(answers)
        ids = [subject if self.aliases is None else self.aliases.get(subject, "") for subject in subjects]
        read = zip(subjects, templates, ids, answers, strict=True)
        reasons = [self._reason(*question) if labelled else "" for question in read]
        counts = Counter(reasons)
        if labelled and not counts[""]:
            raise ValueError(self._nothing_left(rows, counts))
        kept = [number for number, reason in enumerate(reasons) if not reason]
        asked = rows.add_column("subject_id", ids).select(kept)
        if labelled and split != "train":
            self._close(asked)
        left_out = [f"{counts[reason]} {words}" for reason, words in self._words().items() if counts[reason]]
        return asked, [f"{len(kept)} of {len(rows)} questions are asked; {', '.join(left_out)}"] if left_out else []

    def _words(self) -> dict[str, str]:
        """Return the reasons for which questions are left out, in words."""
        return {
            "subject": "have no subject by the template of their relation",
            "id": f"have a subject without an id in {self.where}",
            "answer": "have no answer that is a single token",
        }

    def _reason(self, subject: str, template: str, id: str, answers: list[str]) -> str:
        """Return why a question is left out, "" if it is asked."""
        if not _has_subject(subject, template):
            return "subject"
        return "id" if not id else "answer" if self._label(answers) is None else ""

    def _nothing_left(self, rows: Dataset, counts: Counter[str]) -> str:
        if counts["subject"] == len(rows):
            return (
                f"no question has its subject where the template of its relation says, such as "
                f"{rows[0]['template']!r}; put relation_query_templates.json beside the questions"
            )
        reason = counts.most_common(1)[0][0]
        remedy = {
            "id": "give the aliases of these subjects",
            "answer": "choose a tokenizer that has such answers",
            "subject": "put relation_query_templates.json beside the questions",
        }
        left_out = ", ".join(f"{counts[name]} {words}" for name, words in self._words().items() if counts[name])
        return f"no question is left: of {len(rows)}, {left_out}; {remedy[reason]}"

    def _learn_words(self, answers: list[list[str]]) -> None:
        """Learn which answers are a single token, as they are spelled in the vocabulary."""
        spelled = {self._spelled(answer) for own in answers for answer in own} - self.words.keys()
        if self.lower_cases:  # it may take off accents too, and then the answer is another word; so it is published
            spelled &= self.tokenizer.get_vocab().keys()
        self.words |= Prompter(self.tokenizer).single_tokens(sorted(spelled))

    def _spelled(self, answer: str) -> str:
        return answer.lower() if self.lower_cases else answer

    def _label(self, answers: list[str]) -> str | None:
        """Return the first answer that is a single token, None if there is none."""
        return next((answer for answer in map(self._spelled, answers) if answer in self.words), None)

    def _close(self, asked: Dataset) -> None:
        """Add the labels of evaluated questions to those among which their relations' answers are chosen."""
        if self.closed is None:
            return
        labels: dict[str, set[str]] = {relation: set(known) for relation, known in self.closed.items()}
        for relation, label in zip(asked["relation"], self.gold(asked), strict=True):
            labels.setdefault(relation, set()).add(label)
        self.closed = {relation: sorted(known) for relation, known in sorted(labels.items())}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn nothing but which LM head answers."""
        return {} if self.lm_head is None else {"lm_head": self.lm_head}

    def recall(self, config: KAdapterConfig) -> None:
        """Take nothing: every vocabulary has its own answers."""

    def strata(self, rows: Dataset) -> list[str]:
        """Return each question's relation."""
        return list(rows["relation"])

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Mark the subject of each question, append a mask, and tokenise; the labels are the tokens of the answers."""
        names = ("template", "subject", "subject_id", "answers")
        records = [
            dict(zip(names, values, strict=True)) for values in zip(*(rows[name] for name in names), strict=True)
        ]
        numbers = [number for number, row in enumerate(records) if _has_subject(row["subject"], row["template"])]
        asked = [_question(records[number]) for number in numbers]
        texts = [f"{text} {self.tokenizer.mask_token}" for text, _ in asked]
        marked = marked_tokens(self.tokenizer, texts, [[span] for _, span in asked], [MARKER])
        ids = [[records[number]["subject_id"]] for number in numbers]
        columns = ["record", "input_ids", "positions", "truncated", *(["labels"] if labelled else [])]
        examples: dict[str, list] = {name: [] for name in (*columns, *(COLUMNS if self.knowledge is not None else ()))}
        required = training and self.knowledge is not None and self.knowledge.required
        for number, (_, text) in zip(numbers, with_entities(self.tokenizer, marked, self.knowledge, ids), strict=True):
            if len(text.input_ids) <= self.max_length and (text.knowledge_slots or not required):
                values = {**text._asdict(), "record": number, "positions": [self._mask(text.input_ids)]}
                values["labels"] = [self.words[self._label(records[number]["answers"]) or ""]] if labelled else None
                for name, column in examples.items():
                    column.append(values[name])
        return examples

    def _mask(self, ids: list[int]) -> int:
        """Return the position of the mask that was appended."""
        return max(at for at, token in enumerate(ids) if token == self.tokenizer.mask_token_id)

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the likeliest tokens and their probabilities, or the logits of all closed answers, and each loss."""
        logits, labels = output.logits[:, 0].float(), batch.get("labels")
        if self.closed is None:
            likeliest = logits.softmax(dim=-1).topk(SHOWN)
            decided = torch.cat([likeliest.indices.float(), likeliest.values], dim=1)  # (B, 2 * SHOWN)
        else:
            decided = logits[:, [self.words[name] for name in self._candidates()]]  # (B, answers)
        losses = None if labels is None else F.cross_entropy(logits, labels[:, 0].to(logits.device), reduction="none")
        return decided, losses

    def _candidates(self) -> list[str]:
        """Return the closed answers of all relations.

        Raises:
            ValueError: there are none, as no question with an answer is evaluated.
        """
        names = sorted({name for known in (self.closed or {}).values() for name in known})
        if not names:
            raise ValueError("--closed_answers are those of the evaluated questions; give --do_eval too")
        return names

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[str, dict[str, float]]]:
        """Return the likeliest answer of each question, and the probabilities of the likeliest few."""
        if self.closed is not None:
            return [self._chosen(logits, relation) for logits, relation in zip(decided, rows["relation"], strict=True)]
        answered, known = [], {token: name for name, token in self.words.items()}
        for tokens, scores in zip(
            decided[:, :SHOWN].astype(int), decided[:, SHOWN:].astype(float).round(6), strict=True
        ):
            texts = [known.get(token) or str(self.tokenizer.decode([token])).strip() for token in tokens.tolist()]
            scored = dict(
                zip(reversed(texts), reversed(scores.tolist()), strict=True)
            )  # of a text twice, the likelier
            answered.append((texts[0], dict(reversed(scored.items()))))
        return answered

    def _chosen(self, logits: np.ndarray, relation: str) -> tuple[str, dict[str, float]]:
        known, names = (self.closed or {}).get(relation, []), self._candidates()
        if not known:
            return "", {}
        scores = probabilities(logits[None, [names.index(name) for name in known]])[0]
        order = np.argsort(-scores, kind="stable")[:SHOWN]
        return known[order[0]], {known[number]: float(scores[number]) for number in order}

    def gold(self, rows: Dataset) -> list[str]:
        """Return the label of each question."""
        return [self._label(answers) or "" for answers in rows["answers"]]


def _has_subject(subject: str, template: str) -> bool:
    return bool(subject) and template.count(SUBJECT) == 1


def _question(row: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    """Return a question without the slot of its answer, and the characters of its subject."""
    before, _, after = row["template"].removesuffix(ANSWER).rstrip().partition(SUBJECT)
    return before + row["subject"] + after, (len(before), len(before) + len(row["subject"]))
