r"""Turn the facts of a relation corpus into prompts: what is left of a fact in a model that read its sentence?

    python experiments/corpus_facts.py --corpus fewrel --data-dir DIR \
        --phrasings recipes/phrasings_wikidata.jsonl -o OUT
    python trainers/run_probe.py --probe cloze --data_dir OUT/read/sentences --adapters OUT_MLM ... --output_dir PROBED

OUT/read has the facts of the training split and OUT/unread those of the held-out split that no training sentence
states; both are a fixed random sample of the facts whose tail is a single word. `sentences` are the corpus's own, with
the tail masked, `phrasings` put head and relation into other words. Facts of relations without a phrasing are left out
of the phrasings.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kadapter import data_builders
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.encoding import sample
from kadapter.trainers.common.entry_point import run_program

MASK = "[MASK]"
Row = dict[str, Any]


def main(
    corpus: Annotated[str, typer.Option(help="Name of a corpus of relations: a file of data_builders/.")],
    data_dir: Annotated[Path, typer.Option(help="Directory with that corpus as released.")],
    phrasings: Annotated[
        Path, typer.Option(help='JSON lines, {"relation", "phrasings": ["[X] was born in [Y] .", ...]}.')
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where the prompts are written.")],
    facts: Annotated[int, typer.Option(help="The largest number of facts of each kind.", min=1)] = 1000,
) -> None:
    """Write the prompts of facts that were read and of facts that were not."""
    splits = data_builders.load(corpus, data_dir)
    held_out = next((split for split in ("validation", "test") if split in splits), None)
    if "train" not in splits or held_out is None:
        raise typer.BadParameter(
            f"corpus {corpus!r} in {data_dir} has the splits {sorted(splits)}; it needs two parts"
        )
    if "head" not in splits["train"].column_names:
        raise typer.BadParameter(f"corpus {corpus!r} has no heads and tails; name a corpus of relations")
    words = _read_phrasings(phrasings)
    known = {_fact(row) for row in splits["train"]}
    unread = splits[held_out].filter(lambda row: _fact(row) not in known)
    for name, rows in (("read", splits["train"]), ("unread", unread)):
        chosen = sample(rows.filter(_has_short_tail), facts)
        _write(output_dir / name / "sentences", [_by_sentence(row) for row in chosen])
        _write(
            output_dir / name / "phrasings", [_by_phrasing(row, words) for row in chosen if row["relation"] in words]
        )


def _read_phrasings(path: Path) -> dict[str, str]:
    """Return the first phrasing of each relation."""
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {record["relation"]: record["phrasings"][0] for record in records}


def _mention(row: Row, name: str) -> str:
    return row["text"][row[name]["start"] : row[name]["end"]]


def _fact(row: Row) -> tuple[str, str, str]:
    return _mention(row, "head").lower(), row["relation"], _mention(row, "tail").lower()


def _has_short_tail(row: Row) -> bool:
    """Return whether the tail is a single word, and stands where the head does not."""
    head, tail = row["head"], row["tail"]
    apart = head["end"] <= tail["start"] or tail["end"] <= head["start"]
    return apart and _mention(row, "tail").isalpha()


def _by_sentence(row: Row) -> Row:
    text, tail = row["text"], row["tail"]
    return _prompt(row, f"{text[: tail['start']]}{MASK}{text[tail['end'] :]}")


def _by_phrasing(row: Row, phrasings: dict[str, str]) -> Row:
    words = phrasings[row["relation"]]
    return _prompt(row, words.replace("[X]", _mention(row, "head")).replace("[Y]", MASK))


def _prompt(row: Row, prompt: str) -> Row:
    return {
        "id": row["id"],
        "relation": row["relation"],
        "subject": _mention(row, "head"),
        "prompt": prompt,
        "answers": [_mention(row, "tail")],
    }


def _write(folder: Path, prompts: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "prompts.jsonl", "\n".join(json.dumps(prompt) for prompt in prompts))
    print(f"{folder / 'prompts.jsonl'}: {len(prompts)} facts")


if __name__ == "__main__":
    run_program(partial(typer.run, main))
