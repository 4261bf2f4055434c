r"""Make the graphs of experiments/map_tuning.py: triples to train entity embeddings on, and text with linked mentions.

    python experiments/map_graphs.py relations CODEX/*.txt --fewrel FEWREL --wiki80 WIKI80 -o OUT
    python experiments/map_graphs.py questions --data-dir ENTITY_QUESTIONS \
        --phrasings recipes/phrasings_wikidata.jsonl -o OUT
    kadapter embeddings train --triples OUT/graph.tsv -o TABLE

`relations` joins files of triples with the facts of FewRel's first file of relations, and leaves out every pair of
entities, in either direction, that stands in a sentence on which a task is measured: in FewRel's other file, and in
the validation and test files of Wiki80. FewRel's first file is copied to OUT/text, to train a map on.

`questions` makes a graph in words of EntityQuestions: a subject, its relation and each of its answers, of all splits,
since it is the knowledge base that holds the answers. OUT/text has only training questions, put into statements, for
the corpus `texts_and_triples`; no entity that is asked for elsewhere stands in them. An entity's id is its name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from kadapter import data_builders
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.encoding import sample
from kadapter.trainers.common.entry_point import run_program

GRAPH, TEXT = "graph.tsv", "text"
MEASURED, HELD_OUT = ("validation", "test"), 20  # every 20th statement is held out
Triple = tuple[str, str, str]

app = typer.Typer(no_args_is_help=True)


@app.command()
def relations(
    triples: Annotated[list[Path], typer.Argument(help="Files of lines head TAB relation TAB tail, by Wikidata ids.")],
    fewrel: Annotated[Path, typer.Option(help="Directory of FewRel, two files of relations.")],
    wiki80: Annotated[Path, typer.Option(help="Directory of Wiki80, with validation and test files.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where the graph is written.")],
) -> None:
    """Write a graph of triples and FewRel's facts without what a task is measured on."""
    read, unseen = sorted(fewrel.glob("*relations*.json")) or sorted(fewrel.glob("*wiki*.json"))
    graph = {triple for path in triples for triple in _lines(path)} | set(_facts(read))
    measured = {(head, tail) for head, _, tail in _facts(unseen)}
    for split, rows in data_builders.load("wiki80", wiki80).items():
        measured |= set(zip(rows["head_id"], rows["tail_id"], strict=True)) if split in MEASURED else set()
    kept = [triple for triple in graph if not {(triple[0], triple[2]), (triple[2], triple[0])} & measured]
    _write_graph(output_dir, kept)
    print(f"{len(graph) - len(kept)} of {len(graph)} triples are of pairs that are measured, and left out")
    (output_dir / TEXT).mkdir(exist_ok=True)
    shutil.copy(read, output_dir / TEXT / read.name)


def _lines(path: Path) -> Iterator[Triple]:
    for line in path.read_text(encoding="utf-8").splitlines():
        head, relation, tail = line.split("\t")
        yield head, relation, tail


def _facts(path: Path) -> Iterator[Triple]:
    for relation, sentences in json.loads(path.read_text(encoding="utf-8")).items():
        for sentence in sentences:
            yield sentence["h"][1], relation, sentence["t"][1]


@app.command()
def questions(
    data_dir: Annotated[Path, typer.Option(help="Directory of EntityQuestions, with train/ and dev/.")],
    phrasings: Annotated[
        Path, typer.Option(help='JSON lines, {"relation", "phrasings": ["[X] was born in [Y] .", ...]}.')
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where graph and text are written.")],
    statements: Annotated[int, typer.Option(help="The largest number of statements, a fixed random sample.")] = 20_000,
) -> None:
    """Write the graph of all questions, and the facts of the training questions as text with linked mentions."""
    splits = data_builders.load("entity_questions", data_dir)
    asked = {row["subject"] for split, rows in splits.items() if split != "train" for row in rows}
    _write_graph(output_dir, {triple for rows in splits.values() for row in rows for triple in _answers(row)})
    read = (json.loads(line) for line in phrasings.read_text(encoding="utf-8").splitlines() if line.strip())
    words = {record["relation"]: record["phrasings"][0] for record in read}
    apart = splits["train"].filter(
        lambda row: row["relation"] in words and row["subject"] and not asked & {row["subject"], *row["answers"]}
    )
    chosen = sample(apart, statements)
    texts = [_stated(row, words[row["relation"]]) for row in chosen]
    triples = [json.dumps(_triple(row), ensure_ascii=False) for row in chosen]
    replace_file(output_dir / TEXT / "triples.jsonl", "\n".join(triples))
    replace_file(output_dir / TEXT / "dev.txt", "\n".join(texts[::HELD_OUT]))
    replace_file(output_dir / TEXT / "train.txt", "\n".join(text for at, text in enumerate(texts) if at % HELD_OUT))
    print(f"{len(texts)} of {len(splits['train'])} training questions became statements")


def _answers(row: dict[str, Any]) -> Iterator[Triple]:
    if row["subject"]:
        for answer in row["answers"]:
            yield row["subject"], row["relation"], answer


def _stated(row: dict[str, Any], phrasing: str) -> str:
    """Return a fact in the words of a phrasing."""
    return phrasing.replace("[X]", row["subject"]).replace("[Y]", row["answers"][0])


def _triple(row: dict[str, Any]) -> dict[str, str]:
    """Return a fact as the corpus reads it, its names being its ids."""
    head, tail = row["subject"], row["answers"][0]
    return {"head": head, "relation": row["relation"], "tail": tail, "head_id": head, "tail_id": tail}


def _write_graph(output_dir: Path, triples: Iterable[Triple]) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    lines = sorted("\t".join(triple) for triple in triples)
    replace_file(output_dir / GRAPH, "\n".join(lines))
    print(f"{output_dir / GRAPH}: {len(lines)} triples")


if __name__ == "__main__":
    run_program(app)
