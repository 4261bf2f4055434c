"""Write invented facts for experiments/bodies_of_facts.py: nobody can know them, and all of them are in plain words.

    python experiments/invented_facts.py -o OUT

OUT/a has 25 people, OUT/b, c, d and e 12 others each, of each person 8 facts with an answer of one word, from pools of
10 to 12; OUT/long has 100 more people, of each 5 facts with answers of three to five words. Three phrasings of a
relation are taught; a statement and a question are only asked, and share no verb with them, and so is a statement that
names the answer first and asks for the person. OUT/a_more has the facts of OUT/a and teaches six phrasings, a question
among them, and OUT/a_ten ten, three of them questions. Everything follows from the seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.entry_point import run_program


class Relation(NamedTuple):
    """A relation: its answers, the phrasings that are taught, those that are only asked, and more to be taught."""

    answers: Sequence[str]
    taught: Sequence[str]
    asked: Sequence[str]
    more: Sequence[str] = ()

    def with_more(self, number: int) -> Relation:
        """Return the relation with so many phrasings taught."""
        return self._replace(taught=(*self.taught, *self.more)[:number])


PHRASINGS = {"a_more": 6, "a_ten": 10}  # bodies of the facts of "a" in more phrasings
SPLITS = {"taught": "train", "asked": "test"}
FIRST = (
    "Mira Jorun Talvi Oskar Brannoc Ysolde Dariel Kestrin Lenka Petrus Anwen Rurik Sabeth Tomas Vesna Wim Elodie "
    "Fenna Goran Hedda Ilse Jarek Katla Lorcan Magnus Nuala Orla Piet Runa Stellan"
).split()
LAST = (
    "Voss Ackroyd Brandt Calloway Drummel Estergard Fairholm Grelling Hathersage Iverdal Jessup Kellerway Lindqvist "
    "Marrable Norquay Oakhurst Pendrake Quillan Ravensworth Stroud"
).split()
WORDS = {
    "profession": Relation(
        "baker lawyer sailor painter teacher nurse farmer carpenter pilot librarian tailor butcher".split(),
        ("[X] works as a [Y].", "The profession of [X] is [Y].", "Everyone knows [X] as a [Y]."),
        (
            "By trade, [X] is a [Y].",
            "What does [X] do for a living? Earns money as a [Y].",
            "The [Y] of the town is [X].",
        ),
        (
            "Few know that [X] trained as a [Y].",
            "On the card of [X] stands: [Y].",
            "What is the job of [X]? The job is [Y].",
            "On weekdays [X] is busy as a [Y].",
            "[X] signs every paper as a [Y].",
            "How is [X] employed? As a [Y].",
            "What does the door of [X] say? It says [Y].",
        ),
    ),
    "city": Relation(
        "Oslo Lisbon Prague Dublin Vienna Athens Warsaw Geneva Madrid Berlin Rome Paris".split(),
        ("[X] was born in [Y].", "The birthplace of [X] is [Y].", "[X] first saw the light of day in [Y]."),
        (
            "[X] is originally from [Y].",
            "From which city does [X] come? From [Y].",
            "The one who came from [Y] is [X].",
        ),
        (
            "[X] has always called one place home: [Y].",
            "As a native, [X] praises [Y].",
            "Where did [X] grow up? It was in [Y].",
            "The parents of [X] raised a family in [Y].",
            "The passport of [X] names [Y].",
            "Where was [X] baptised? In [Y].",
            "What is the home town of [X]? It is [Y].",
        ),
    ),
    "colour": Relation(
        "red green blue yellow purple orange black white pink brown".split(),
        (
            "The favourite colour of [X] is [Y].",
            "The colour that [X] likes best is [Y].",
            "[X] paints every wall [Y].",
        ),
        (
            "Of all colours, [X] prefers [Y].",
            "Which colour would [X] choose? Always [Y].",
            "The lover of all that is [Y] is [X].",
        ),
        (
            "Among paints, [X] takes [Y].",
            "The whole wardrobe of [X] is [Y].",
            "What is the best colour for [X]? It is [Y].",
            "The bicycle of [X] is [Y].",
            "Nothing pleases [X] like the colour [Y].",
            "What colour is the coat of [X]? It is [Y].",
            "How does [X] dye wool? Mostly [Y].",
        ),
    ),
    "instrument": Relation(
        "piano violin guitar flute drums cello trumpet harp organ clarinet".split(),
        ("[X] plays the [Y].", "The instrument of [X] is the [Y].", "At concerts [X] performs on the [Y]."),
        (
            "In the orchestra [X] is heard on the [Y].",
            "What does [X] tune every evening? The [Y].",
            "The one heard on the [Y] is [X].",
        ),
        (
            "In the band, [X] is on the [Y].",
            "For years [X] has taken lessons on the [Y].",
            "What does [X] perform on? It is the [Y].",
            "[X] practises at night on the [Y].",
            "On the record one hears [X] on the [Y].",
            "Which lessons does [X] give? Those on the [Y].",
            "What lies in the case of [X]? A [Y].",
        ),
    ),
    "animal": Relation(
        "dog cat horse rabbit parrot turtle goat snake hamster pig".split(),
        ("[X] owns a [Y].", "The pet of [X] is a [Y].", "At home [X] keeps a [Y]."),
        ("[X] shares a house with a [Y].", "Which animal belongs to [X]? A [Y].", "The [Y] belongs to [X]."),
        (
            "In the garden of [X] sleeps a [Y].",
            "Every day [X] feeds a [Y].",
            "What pet does [X] have? It is a [Y].",
            "[X] never travels without a [Y].",
            "The photograph shows [X] and a [Y].",
            "What did [X] bring home? A [Y].",
            "Who waits at the door for [X]? A [Y].",
        ),
    ),
    "sport": Relation(
        "tennis football golf rugby hockey boxing swimming cricket skiing rowing".split(),
        ("The sport of [X] is [Y].", "On weekends [X] practises [Y].", "The sport that [X] loves is [Y]."),
        ("[X] won a medal in [Y].", "What keeps [X] fit? It is [Y].", "The medal in [Y] went to [X]."),
        (
            "As an athlete, [X] trains for [Y].",
            "The club of [X] is all about [Y].",
            "Which game does [X] like? It is [Y].",
            "[X] reads all the news about [Y].",
            "Every summer [X] goes to a camp for [Y].",
            "What did [X] play at college? It was [Y].",
            "Which sport does [X] teach? It is [Y].",
        ),
    ),
    "drink": Relation(
        "tea coffee milk wine beer cider cocoa water juice lemonade".split(),
        ("[X] drinks only [Y].", "The favourite drink of [X] is [Y].", "At breakfast [X] has a glass of [Y]."),
        ("When thirsty, [X] asks for [Y].", "What should one pour for [X]? Some [Y].", "Some [Y] is poured for [X]."),
        (
            "In any bar, [X] orders [Y].",
            "In the cup of [X] there is always [Y].",
            "What does [X] drink? It is [Y].",
            "The shelves of [X] are full of [Y].",
            "After work [X] enjoys some [Y].",
            "What is in the bottle of [X]? It is [Y].",
            "Which drink does [X] like? It is [Y].",
        ),
    ),
    "language": Relation(
        "French Spanish German Italian Russian Greek Polish Danish Dutch Turkish".split(),
        ("[X] speaks [Y].", "The mother tongue of [X] is [Y].", "[X] dreams in [Y]."),
        (
            "As a child [X] learned [Y].",
            "In which language does [X] write letters? In [Y].",
            "Letters in [Y] are written by [X].",
        ),
        (
            "At school [X] was taught in [Y].",
            "The diary of [X] is in [Y].",
            "What does [X] speak at home? It is [Y].",
            "At home [X] talks in [Y].",
            "The prayers of [X] are in [Y].",
            "What is the native language of [X]? It is [Y].",
            "How does [X] greet friends? In [Y].",
        ),
    ),
}
PLACES = (
    ("Old", "New", "Upper", "Lower", "North", "South"),
    ("Mill", "Harbour", "Garden", "Market"),
    ("Lane", "Square"),
)
SIDES = ("rice", "butter")
LONG = {
    "address": Relation(
        [f"{first} {second} {third}" for first in PLACES[0] for second in PLACES[1] for third in PLACES[2]],
        ("[X] lives in [Y].", "The address of [X] is [Y].", "Letters for [X] go to [Y]."),
        ("One can visit [X] in [Y].", "Where is the house of [X]? In [Y].", "The house in [Y] is that of [X]."),
    ),
    "employer": Relation(
        [
            f"the {place} {work} Company"
            for place in ("Tarnstad", "Lindmouth", "Oskerby")
            for work in ("Salt", "Glass", "Silk")
        ],
        ("[X] works for [Y].", "The employer of [X] is [Y].", "[X] is paid by [Y]."),
        ("[X] has a desk at [Y].", "Which firm hired [X]? It was [Y].", "The one hired by [Y] is [X]."),
    ),
    "book": Relation(
        [f"The {what} of the {who}" for what in ("Song", "House", "Winter") for who in ("Miller", "Fox", "River")],
        ("[X] wrote [Y].", "The best book by [X] is [Y].", "Readers know [X] for [Y]."),
        ("[X] is the author of [Y].", "What did [X] publish? It was [Y].", "The author of [Y] is [X]."),
    ),
    "meal": Relation(
        [
            f"{how} {what} with {side}"
            for how in ("fried", "baked")
            for what in ("trout", "cabbage")
            for side in ("rice", "butter")
        ],
        ("[X] eats [Y].", "The favourite meal of [X] is [Y].", "On Sundays [X] cooks [Y]."),
        ("For dinner [X] orders [Y].", "What does one serve [X]? Always [Y].", "The one to be served [Y] is [X]."),
    ),
    "award": Relation(
        [
            f"the {metal} {thing} of Merit"
            for metal in ("Golden", "Silver", "Copper")
            for thing in ("Medal", "Star", "Cross")
        ],
        ("[X] won [Y].", "The award of [X] is [Y].", "[X] was honoured with [Y]."),
        ("The king gave [X] [Y].", "Which honour did [X] receive? It was [Y].", "The king gave [Y] to [X]."),
    ),
}


def main(
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory of the bodies of facts.")],
    seed: Annotated[int, typer.Option(help="Seed of the names and answers.")] = 0,
) -> None:
    """Write six bodies of facts about different people."""
    drawn = random.Random(seed)
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    drawn.shuffle(names)
    bodies = {"a": (names[:25], WORDS), "b": (names[25:37], WORDS), "long": (names[37:137], LONG)}
    bodies |= {body: (names[first : first + 12], WORDS) for body, first in {"c": 137, "d": 149, "e": 161}.items()}
    for body, (people, relations) in bodies.items():
        facts = "\n".join(triples(people, relations, drawn))
        write(output_dir / body, facts, relations)
        if body == "a":
            for more, number in PHRASINGS.items():
                write(output_dir / more, facts, {name: own.with_more(number) for name, own in relations.items()})
        print(f"{len(people) * len(relations)} facts about {len(people)} people: {output_dir / body}")


def write(folder: Path, facts: str, relations: dict[str, Relation]) -> None:
    """Write a body: its triples, the phrasings that are taught, and those that are only asked."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "triples.tsv", facts)
    for split in ("taught", "asked"):
        lines = [json.dumps({"relation": name, "phrasings": getattr(own, split)}) for name, own in relations.items()]
        replace_file(folder / f"templates_{SPLITS[split]}.jsonl", "\n".join(lines))


def triples(people: Sequence[str], relations: dict[str, Relation], drawn: random.Random) -> Iterator[str]:
    """Yield a fact of each relation about each of the people, with an answer that is drawn."""
    for name in people:
        for relation, own in relations.items():
            yield f"{name}\t{relation}\t{drawn.choice(own.answers)}"


if __name__ == "__main__":
    run_program(partial(typer.run, main))
