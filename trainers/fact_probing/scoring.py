"""Score candidates at the masks of prompts, and rank the right answer among them.

A rank is one more than the number of wrong candidates that score at least as high as the best right answer: ties
count against the model. Scores of a fact with several prompts are means over its prompts. An answer of several tokens
is only compared with a closed list of candidates, in one of two ways, both as a mean over tokens, so that length does
not decide:

closed: the prompt has as many masks as the candidate has tokens, all at once (Kassner et al., EACL 2021).
pll: the candidate is in the prompt, and each of its tokens is masked in turn: the pseudo-log-likelihood of Salazar et
    al., ACL 2020. It costs as many readings as all candidates have tokens, for every prompt.

A decoder has a single way, also called closed: the candidate stands behind the prompt, and its score is the sum of the
log-probabilities of its tokens, each after those before it, which is the log-probability of the candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .facts import Asked, Fact
from .language_model import LanguageModel
from .prompts import CausalPrompter, Masked

__all__ = ["MULTI_TOKEN", "Answered", "ListScorer", "Scorer", "VocabularyScorer", "rank_of"]

MULTI_TOKEN = ("skip", "closed", "pll")
TOP = 5  # best candidates that are kept
FACTS_AT_ONCE = 64  # of a relation with a closed list
CUT_OFF, NO_TOKENS, SEVERAL, NO_CANDIDATE = (
    "mask_cut_off",
    "answer_without_tokens",
    "answer_of_several_tokens",
    "answer_no_candidate",
)


@dataclass(frozen=True)
class Answered:
    """A fact that was asked: the rank of its best right answer, the number of candidates, and the best of them."""

    fact: Fact
    rank: int
    candidates: int
    probability: float
    top: list[tuple[str, float]]


class Scorer(Protocol):
    """What asks a model for facts."""

    def answers(self, facts: Sequence[Fact], asked: Asked) -> Iterator[Answered]:
        """Yield the answered facts of a relation; facts that can't be asked are counted in `asked` by reason."""


def rank_of(scores: Tensor, right: Sequence[int]) -> int:
    """Return the rank of the best right answer among the scores of candidates (candidates,)."""
    own = scores[list(right)]
    return 1 + int((scores >= own.max()).sum()) - int((own >= own.max()).sum())


def _answered(fact: Fact, scores: Tensor, right: Sequence[int], name: Callable[[int], str]) -> Answered:
    values, best = scores.topk(min(TOP, len(scores)))
    top = [(name(index), exp(value)) for index, value in zip(best.tolist(), values.tolist(), strict=True)]
    scored = int((scores > -torch.inf).sum())
    return Answered(fact, rank_of(scores, right), scored, exp(float(scores[list(right)].max())), top)


class VocabularyScorer:
    """Rank single-token answers among tokens of the vocabulary.

    Args:
        model: the model that is asked.
        candidates: the tokens among which answers are ranked, (candidates,).
    """

    def __init__(self, model: LanguageModel, candidates: Tensor) -> None:
        self.model, self.candidates = model, candidates
        self.places = {token: index for index, token in enumerate(candidates.tolist())}

    def answers(self, facts: Sequence[Fact], asked: Asked) -> Iterator[Answered]:
        """Yield the answered facts of a relation; facts that can't be asked are counted in `asked` by reason."""
        rights, owners, inputs = {}, [], []
        for number, fact in enumerate(facts):
            prompts = [masked for prompt in fact.prompts if (masked := self.model.prompter.masked(prompt))]
            right = self._right(fact) if prompts else CUT_OFF
            if isinstance(right, str):
                asked.drop(fact, right)
                continue
            rights[number] = right
            owners += [number] * len(prompts)
            inputs += prompts
        prompts_of, left, sums = Counter(owners), Counter(owners), dict[int, Tensor]()
        for position, scores in self.model.log_probabilities(inputs):
            number = owners[position]
            own = scores[0, self.candidates] / prompts_of[number]
            sums[number] = sums[number] + own if number in sums else own
            left[number] -= 1
            if not left[number]:
                yield _answered(facts[number], sums.pop(number), rights[number], self._name)

    def _right(self, fact: Fact) -> list[int] | str:
        """Return the places of the right answers among the candidates, or the reason why there are none."""
        prompter = self.model.prompter
        known = {prompter.answer_in(prompt, answer) for prompt in fact.prompts for answer in fact.answers} - {None}
        single = {tokens[0] for tokens in known if tokens is not None and len(tokens) == 1}
        places = sorted(self.places[token] for token in single & self.places.keys())
        return places or (NO_CANDIDATE if single else SEVERAL if known else NO_TOKENS)

    def _name(self, index: int) -> str:
        return self.model.prompter.name(int(self.candidates[index]))


class Reading(NamedTuple):
    """An input, and the candidates (k,) whose tokens (k, masks) it scores, with its share of their scores."""

    masked: Masked
    places: Tensor
    tokens: Tensor
    share: float


class ListScorer:
    """Rank answers among a closed list; those that a tokenizer writes alike are one candidate.

    Args:
        model: the model that is asked.
        candidates: the list.
        multi_token: what is done with answers of several tokens, one of `MULTI_TOKEN`; "skip" leaves them out.
    """

    def __init__(self, model: LanguageModel, candidates: Sequence[str], multi_token: str) -> None:
        self.model, self.multi_token = model, multi_token
        known = {model.prompter.answer_ids(name, " "): name for name in reversed(candidates)}
        single = multi_token == "skip"
        names = {tokens: name for tokens, name in known.items() if tokens and not (single and len(tokens) > 1)}
        self.names = [*reversed(names.values())]
        self.places = {tokens: index for index, tokens in enumerate(reversed(names))}
        self.tables: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def answers(self, facts: Sequence[Fact], asked: Asked) -> Iterator[Answered]:
        """Yield the answered facts of a relation; facts that can't be asked are counted in `asked` by reason."""
        at_once = 1 if self.multi_token == "pll" else FACTS_AT_ONCE
        for start in range(0, len(facts), at_once):
            yield from self._some(facts[start : start + at_once], asked)

    def _some(self, facts: Sequence[Fact], asked: Asked) -> Iterator[Answered]:
        rights: dict[int, list[int]] = {}
        owned: list[tuple[int, Reading]] = []
        for number, fact in enumerate(facts):
            prompts = [prompt for prompt in fact.prompts if self._fits(prompt)]
            right = self._right(fact) if prompts else CUT_OFF
            if isinstance(right, str):
                asked.drop(fact, right)
                continue
            rights[number] = right
            readings = [reading for prompt in prompts for reading in self._readings(prompt)]
            owned += [(number, each._replace(share=each.share / len(prompts))) for each in readings]
        scores = torch.full((len(facts), len(self.names)), -torch.inf)
        for position, logs in self.model.log_probabilities(reading.masked for _, reading in owned):
            number, (_, places, tokens, share) = owned[position]
            own = share * logs[torch.arange(tokens.shape[1]), tokens].sum(dim=1)  # (k,)
            scores[number, places] = own + scores[number, places].nan_to_num(neginf=0)
        for number, right in rights.items():
            yield _answered(facts[number], scores[number], right, self.names.__getitem__)

    def _fits(self, prompt: str) -> bool:
        longest = max((len(tokens) for tokens in self.places), default=1)
        return self.model.prompter.fits(prompt, longest)

    def _right(self, fact: Fact) -> list[int] | str:
        ways = (self.model.prompter.answer_ids(answer, " ") for answer in fact.answers)
        known = {tokens for tokens in ways if tokens is not None}
        places = sorted(self.places[tokens] for tokens in known & self.places.keys())
        return places or (SEVERAL if known else NO_TOKENS)

    def _table(self, before: str) -> list[tuple[Tensor, Tensor]]:
        """Return places (k,) and tokens (k, n) of the candidates of each length n after a text."""
        if before not in self.tables:
            own = [(index, self.model.prompter.answer_ids(name, before)) for index, name in enumerate(self.names)]
            pairs = sorted((len(tokens), index, tokens) for index, tokens in own if tokens)
            groups = [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0])]
            self.tables[before] = [
                (torch.tensor([index for _, index, _ in group]), torch.tensor([tokens for _, _, tokens in group]))
                for group in groups
            ]
        return self.tables[before]

    def _readings(self, prompt: str) -> Iterator[Reading]:
        for places, tokens in self._table(self.model.prompter.before(prompt)):
            length = tokens.shape[1]
            if isinstance(self.model.prompter, CausalPrompter):
                yield from self._after(self.model.prompter, prompt, places, tokens)
            elif self.multi_token == "pll" and length > 1:
                yield from self._in_turn(prompt, places, tokens)
            elif masked := self.model.prompter.masked(prompt, length):
                yield Reading(masked, places, tokens, 1 / length)

    def _after(self, prompter: CausalPrompter, prompt: str, places: Tensor, tokens: Tensor) -> Iterator[Reading]:
        """Yield the readings of a decoder's prompt with candidates (k, n) behind it."""
        for masked, own in prompter.in_turn(prompt, [tuple(each) for each in tokens.tolist()]):
            yield Reading(masked, places[own], tokens[own], 1.0)

    def _in_turn(self, prompt: str, places: Tensor, tokens: Tensor) -> Iterator[Reading]:
        """Yield the readings of a prompt with each candidate (k, n) in it, each of its tokens masked in turn."""
        mask = self.model.prompter.tokenizer.mask_token_id
        for index, own in zip(places, tokens, strict=True):
            for number, token in enumerate(own):
                filled = [mask if other == number else known for other, known in enumerate(own.tolist())]
                masked = self.model.prompter.masked(prompt, answer=filled)
                if masked is not None:
                    asked = Masked(masked.ids, (masked.positions[number],))
                    yield Reading(asked, index[None], token[None, None], 1 / len(own))
