"""LAMA-UHN's filters: leave out facts whose answer can be guessed from the subject's name.

Source: Poerner, Waltinger and Schuetze, "E-BERT: Efficient-Yet-Effective Entity Embeddings for BERT", Findings of
EMNLP 2020, and LAMA's `create_lama_uhn.py`. Two filters:

string_match: the answer is part of the subject's name, whatever the case ("Apple Watch" is made by Apple).
person_name: for relations of persons, a masked language model is asked for each word of the name "[X] is a common name
    in the following city : [MASK] .", and the answer is among its first three guesses. The paper asks bert-base-cased.
"""

from __future__ import annotations

from .facts import Asked, Fact
from .language_model import LanguageModel

__all__ = ["FILTERS", "contains_answer", "drop_guessed", "drop_matching"]

FILTERS = ("string_match", "person_name")
GUESSES = 3
QUESTION = "{name} is a common name in the following {noun} : [MASK] ."
NOUNS = {
    "P19": "city",
    "P20": "city",
    "P27": "country",
    "P103": "language",
    "P1412": "language",
    "place_of_birth": "city",
    "place_of_death": "city",
}


def contains_answer(fact: Fact) -> bool:
    """Return whether an answer is part of the subject's name, whatever the case."""
    return any(answer.lower() in fact.subject.lower() for answer in fact.answers)


def drop_matching(asked: Asked) -> None:
    """Leave out and count the facts whose answer is part of the subject's name."""
    asked.keep([fact for fact in asked.facts if not contains_answer(fact)], "uhn_string_match")


def drop_guessed(asked: Asked, guesser: LanguageModel) -> None:
    """Leave out and count the facts of persons whose answer a model guesses from a word of the name."""
    questions = dict.fromkeys(
        QUESTION.format(name=word, noun=NOUNS[fact.relation])
        for fact in asked.facts
        if fact.relation in NOUNS
        for word in fact.subject.split()
    )
    guesses = _guesses(list(questions), guesser)
    asked.keep([fact for fact in asked.facts if not _is_guessed(fact, guesses, guesser)], "uhn_person_name")


def _guesses(questions: list[str], guesser: LanguageModel) -> dict[str, set[int]]:
    """Return the first guesses, as tokens, for each question that fits into the model's inputs."""
    inputs = {question: guesser.prompter.masked(question) for question in questions}
    asked = {question: masked for question, masked in inputs.items() if masked is not None}
    names = list(asked)
    answers = guesser.log_probabilities(asked.values())
    return {names[number]: set(scores[0].topk(GUESSES).indices.tolist()) for number, scores in answers}


def _is_guessed(fact: Fact, guesses: dict[str, set[int]], guesser: LanguageModel) -> bool:
    if fact.relation not in NOUNS:
        return False
    for word in fact.subject.split():
        question = QUESTION.format(name=word, noun=NOUNS[fact.relation])
        answers = {guesser.prompter.answer_in(question, answer) for answer in fact.answers}
        if answers & {(token,) for token in guesses.get(question, ())}:
            return True
    return False
