"""LAMA-UHN's filters leave out what a name tells, and nothing else."""

import pytest
from tiny_lm import fact, language_model

from kadapter.trainers.fact_probing.facts import Asked, draw, facts_of, without_repeated
from kadapter.trainers.fact_probing.unhelpful_names import contains_answer, drop_guessed, drop_matching


@pytest.mark.parametrize(
    ("subject", "answers", "contains"),
    [
        ("Apple Watch", ("Apple",), True),
        ("apple watch", ("Apple",), True),
        ("Pineapple Records", ("Apple",), True),  # a substring, as in the paper
        ("Mira Voss", ("Apple", "voss"), True),
        ("Mira Voss", ("Apple",), False),
        ("", ("Apple",), False),
    ],
)
def test_an_answer_inside_the_name_counts_in_any_case(subject, answers, contains):
    assert contains_answer(fact(*answers, subject=subject)) is contains


def test_facts_whose_name_holds_the_answer_are_counted():
    asked = Asked([fact("Lind", subject="Lind", name="a"), fact("Lind", subject="Mira", name="b")])
    drop_matching(asked)
    assert [each.id for each in asked.facts] == ["b"] and asked.reasons() == {"uhn_string_match": 1}


def test_answers_among_the_first_three_guesses_for_a_persons_name_are_left_out():
    guesser = language_model({"tarnstad": 5.0, "lind": 4.0, "kell": 3.0, "paris": 2.0})
    asked = Asked(
        [
            fact("Kell", relation="P19", subject="Mira Voss", name="third"),
            fact("Paris", relation="P19", subject="Mira Voss", name="fourth"),
            fact("Tarnstad", relation="P36", subject="Mira Voss", name="no person"),
            fact("Newton", relation="P20", subject="Mira Voss", name="two tokens"),
            fact("Lind", relation="place_of_death", subject="Mira", name="second"),
            fact("Lind", relation="P19", subject="", name="nameless"),
        ]
    )
    drop_guessed(asked, guesser)
    assert [each.id for each in asked.facts] == ["fourth", "no person", "two tokens", "nameless"]
    assert asked.reasons() == {"uhn_person_name": 2}
    assert asked.dropped == {("P19", "uhn_person_name"): 1, ("place_of_death", "uhn_person_name"): 1}


# ---- facts from rows ----------------------------------------------------------------------------------------------


def row(name="a", **more):
    values = {"id": name, "relation": "P19", "subject": "Mira", "answers": ["Lind"], "evidences": []}
    return {**values, "template": "[X] is from [Y] .", **more}


def test_a_template_is_filled_and_a_fact_without_one_is_counted():
    rows = [row(), row("b", template=""), row("c", subject=""), row("d", subject="", template="Where? [Y]")]
    asked = facts_of(rows, "template")
    assert [each.prompts for each in asked.facts] == [("Mira is from [MASK] .",), ("Where? [MASK]",)]
    assert asked.reasons() == {"no_template": 2} and asked.read == {"P19": 4}


def test_a_fact_with_several_evidences_is_one_fact():
    asked = facts_of([row(evidences=["In [MASK].", "At [MASK]."]), row("b")], "evidence")
    assert [(each.id, each.prompts) for each in asked.facts] == [("a", ("In [MASK].", "At [MASK]."))]
    assert asked.reasons() == {"no_evidence": 1}


def test_repeated_facts_are_asked_once_and_repeated_ids_are_told_apart():
    asked = facts_of([row(), row("b"), row("a", subject="Ole"), row("c", answers=["Kell"])], "template")
    without_repeated(asked)
    assert [each.id for each in asked.facts] == ["a", "a#2", "c"]
    assert asked.reasons() == {"repeated": 1}


def test_a_sample_is_the_same_each_time_and_of_every_relation():
    def drawn():
        asked = facts_of([row(str(n), relation=f"P{n % 3}", subject=str(n)) for n in range(30)], "template")
        draw(asked, 4)
        return asked

    first = drawn()
    assert [each.id for each in first.facts] == [each.id for each in drawn().facts]
    assert {name: len(facts) for name, facts in first.by_relation().items()} == {"P0": 4, "P1": 4, "P2": 4}
    assert first.reasons() == {"not_drawn": 18}
