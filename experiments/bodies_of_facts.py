r"""Teach a language model bodies of facts, each by an adapter of its own, and measure each alone and all together.

    python experiments/bodies_of_facts.py DIR_A DIR_B --recipe recipes/facts_smollm2.yaml --backbone ID_OR_PATH \
        --text-corpus wiki80 --text-data-dir DIR --known-data-dir DIR_OF_LAMA -o OUT -- --locality_data_dir DIR

A body is a directory for the corpus `triples`, with templates_train.jsonl and templates_test.jsonl: what is trained
on, and phrasings that are only asked. An answer is right if each of its tokens is the most probable. Other texts, on
which nothing trains, tell the share of tokens after which the most probable one is still the frozen model's, and the
perplexity relative to the frozen model's; facts of LAMA that the frozen model knows tell how many it still says.
Adapters together are fused by their sum and by the larger of them at each token. OUT/facts.md and OUT/facts.json hold
means over seeds and 95% intervals (bootstrap over questions and seeds). An interrupted run resumes where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kadapter import KAdapterForCausalLM, data_builders
from kadapter.reports.comparison import Resampling
from kadapter.trainers import run_adapter
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.encoding import sample
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.locality import read_texts
from kadapter.trainers.injection.measures import Values, interval

ROOT = Path(__file__).resolve().parents[1]
KNOWN, TEXT = "known", "text"
ROWS = 16  # of a batch


class Item(NamedTuple):
    """What is asked: its kind, its text, and where that begins in it which has to be said, in characters."""

    kind: str
    text: str
    start: int


class Reading(NamedTuple):
    """A batch of items, and what the frozen backbone makes of it."""

    items: list[int]
    inputs: dict[str, Any]
    labels: Tensor


def main(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR... [-- FLAGS]",
            help="Directories of triples and templates, one for each adapter; after --: flags of run_adapter.py.",
        ),
    ],
    recipe: Annotated[Path, typer.Option(help="Flags of run_adapter.py.")],
    backbone: Annotated[str, typer.Option(help="The decoder: Hub id or directory.")],
    text_corpus: Annotated[str, typer.Option(help="Corpus of other texts.")],
    text_data_dir: Annotated[Path, typer.Option(help="Its directory.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory for adapters and tables.")],
    known_data_dir: Annotated[Path | None, typer.Option(help="Directory of LAMA's T-REx, for known facts.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.", min=1)] = 3,
    texts: Annotated[int, typer.Option(help="Number of other texts.", min=1)] = 150,
) -> None:
    """Train an adapter for each body and seed, ask everything of each and of all together, and write the tables."""
    first = next((number for number, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    bodies, more = [Path(word) for word in arguments[:first]], arguments[first:]
    names = [body.name for body in bodies]
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    items = [item for body in bodies for item in facts(body)]
    items += known(known_data_dir) if known_data_dir is not None else []
    items += [Item(TEXT, text, 0) for text in read_texts(text_corpus, str(text_data_dir), "train", texts)]
    results: dict[str, list[list[np.ndarray]]] = {}
    for seed in range(seeds):
        for body in bodies:
            train(body, recipe, backbone, output_dir / f"seed-{seed}" / body.name, seed, more)
        paths = [str(output_dir / f"seed-{seed}" / name) for name in names]
        for row, said in measure(paths, names, tokenizer, items):
            results.setdefault(row, []).append(said)
    described = summary(results, items)
    replace_file(output_dir / "facts.json", json.dumps(described, indent=2))
    replace_file(output_dir / "facts.md", "\n".join(table(described)))
    print("\n".join(table(described)))


# ---- training -------------------------------------------------------------------------------------------------------


def train(body: Path, recipe: Path, backbone: str, output: Path, seed: int, more: Sequence[str]) -> None:
    """Train the adapter of a body of facts, unless that is done."""
    if (output / "finished.json").is_file():
        return
    flags = {"recipe": recipe, "backbone": backbone, "data_dir": body, "adapter_name": body.name, "seed": seed}
    flags |= {"output_dir": output, "overwrite_output_dir": "true", "cache_features": output.parents[1] / "states"}
    run_adapter.main([*(str(word) for flag, value in flags.items() for word in (f"--{flag}", value)), *more])


# ---- what is asked --------------------------------------------------------------------------------------------------


def facts(body: Path) -> Iterator[Item]:
    """Yield the facts of a body in all phrasings that end with the answer, but for what ends the sentence."""
    splits: Any = data_builders.load("triples", body)
    for split, rows in splits.items():
        for row in rows:
            head, tail = row["mentions"]
            if tail["start"] > head["start"]:
                other = "question" if "?" in row["text"][: tail["start"]] else "statement"
                kind = "taught" if split == "train" else other
                yield Item(f"{body.name}, {kind}", row["text"][: tail["end"]], tail["start"])


def known(data_dir: Path, number: int = 40) -> Iterator[Item]:
    """Yield facts of LAMA in words, a sample of each relation, whether or not the model knows them."""
    phrasings = data_builders.read_templates(ROOT / "recipes" / "phrasings_wikidata.jsonl")
    splits: Any = data_builders.load("lama_trex", data_dir)
    rows = next(iter(splits.values()))
    relations = np.asarray(rows["relation"])
    for relation in sorted(set(relations.tolist()) & phrasings.keys()):
        own = [each for each in phrasings[relation] if each.rstrip(" .").endswith("[Y]")]
        for row in sample(rows.select(np.flatnonzero(relations == relation)), number) if own else ():
            before = own[0].split("[Y]")[0].replace("[X]", row["subject"])
            yield Item(KNOWN, before + row["answers"][0], len(before))


# ---- asking ---------------------------------------------------------------------------------------------------------


def measure(
    paths: list[str], names: list[str], tokenizer: PreTrainedTokenizerBase, items: list[Item]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the frozen model, each adapter and all of them by name, with what becomes of each item.

    Of an item that is for each token which has to be said the most probable token, the right one and the loss (3, n).
    """
    rows: dict[str, tuple[str, list[str]]] = {"frozen": ("delta", [])}
    rows |= {name: ("delta", [name]) for name in names}
    rows |= {f"all, {fusion}": (fusion, names) for fusion in ("delta", "max") if len(names) > 1}
    model: Any = KAdapterForCausalLM.from_pretrained(paths, fusion="delta").eval()
    larger: Any = KAdapterForCausalLM.from_pretrained(paths, fusion="max").eval()
    larger.release_backbone()
    said: dict[str, list[np.ndarray]] = {row: [np.zeros(0)] * len(items) for row in rows}
    for batch in read(model, tokenizer, items):
        for row, (fusion, own) in rows.items():
            asked = model if fusion == "delta" else larger
            asked.set_adapter(own)
            with torch.no_grad():
                logits = asked(**batch.inputs).logits.float()  # (B, n, vocabulary)
            losses = F.cross_entropy(logits.transpose(1, 2), batch.labels, reduction="none", ignore_index=-100)
            told = torch.stack([logits.argmax(-1).double(), batch.labels.double(), losses.double()], dim=1)
            for number, index in enumerate(batch.items):
                said[row][index] = told[number][:, batch.labels[number] != -100].numpy()
    yield from said.items()


def read(model: Any, tokenizer: PreTrainedTokenizerBase, items: list[Item]) -> Iterator[Reading]:
    """Yield batches of items of similar length with the states that all adapters tap."""
    encoded = tokenizer([item.text for item in items], return_offsets_mapping=True)
    order = sorted(range(len(items)), key=lambda index: len(encoded["input_ids"][index]))
    for first in range(0, len(items), ROWS):
        chosen = order[first : first + ROWS]
        ids = [torch.tensor(encoded["input_ids"][index]) for index in chosen]
        asked = [_asked(encoded["offset_mapping"][index], items[index].start) for index in chosen]
        padded = pad_sequence(ids, batch_first=True)
        mask = pad_sequence([torch.ones_like(own) for own in ids], batch_first=True)
        labels = pad_sequence([own[at + 1] for own, at in zip(ids, asked, strict=True)], True, -100)
        inputs = {"input_ids": padded, "attention_mask": mask, "logits_to_keep": pad_sequence(asked, True, -1)}
        with torch.no_grad():
            inputs["hidden_states"] = model.base_model.tap(padded, mask)
        yield Reading(chosen, inputs, labels)


def _asked(offsets: list[tuple[int, int]], start: int) -> Tensor:
    """Return the positions before the tokens that have to be said; nothing is said before the first."""
    return torch.tensor([place - 1 for place in range(1, len(offsets)) if offsets[place][1] > start])


# ---- results --------------------------------------------------------------------------------------------------------


def summary(results: dict[str, list[list[np.ndarray]]], items: list[Item]) -> dict[str, dict[str, Any]]:
    """Return by row each measure with its mean, values by seed and interval."""
    frozen, kinds = results["frozen"], list(dict.fromkeys(item.kind for item in items))
    old = {index: own[0] for index, own in enumerate(frozen[0])}
    was_right = {index for index, own in enumerate(frozen[0]) if (own[0] == own[1]).all()}
    chosen = {
        kind: [i for i, item in enumerate(items) if item.kind == kind and (kind != KNOWN or i in was_right)]
        for kind in kinds
    }
    described: dict[str, dict[str, Any]] = {}
    for row, seeds in results.items():
        described[row] = {
            kind: _described([[float((own[i][0] == own[i][1]).all()) for i in chosen[kind]] for own in seeds])
            for kind in kinds
            if kind != TEXT
        }
        same = [[float((own[i][0] == old[i]).sum()) for i in chosen[TEXT]] for own in seeds]
        described[row]["agreement"] = _described(same, [len(old[i]) for i in chosen[TEXT]])
        loss = [sum(own[i][2].sum() for i in chosen[TEXT]) for own in (*seeds, frozen[0])]
        tokens = sum(len(old[i]) for i in chosen[TEXT])
        by_seed = [math.exp(own / tokens - loss[-1] / tokens) for own in loss[:-1]]
        described[row]["perplexity"] = {"mean": float(np.mean(by_seed)), "by_seed": by_seed, "of": tokens}
    return described


def _described(sums: list[list[float]], numbers: list[int] | None = None) -> dict[str, Any]:
    values = Values(np.asarray(sums), np.asarray([1] * len(sums[0]) if numbers is None else numbers, dtype=float))
    by_seed = [Values(values.sums[[seed]], values.numbers).mean() for seed in range(len(sums))]
    low, high = interval(values, Resampling(2000))
    return {"mean": values.mean(), "interval": [low, high], "by_seed": by_seed, "of": int(values.numbers.sum())}


def table(described: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table: measures in the columns, their means, and intervals in brackets."""
    measures = list(next(iter(described.values())))
    lines = ["| adapters | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for row, own in described.items():
        lines.append(f"| {row} | " + " | ".join(_cell(own[name]) for name in measures) + " |")
    numbers = next(iter(described.values()))
    return [*lines, "", "Of so many: " + ", ".join(f"{name} {numbers[name]['of']}" for name in measures) + "."]


def _cell(measure: dict[str, Any]) -> str:
    if "interval" not in measure:
        return f"{measure['mean']:.3f}x"
    low, high = measure["interval"]
    return f"{measure['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    run_program(partial(typer.run, main))
