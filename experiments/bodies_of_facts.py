r"""Teach a language model bodies of facts, each by an adapter of its own, and measure each alone and all together.

    python experiments/bodies_of_facts.py DIR_A DIR_B --recipe recipes/facts_smollm2.yaml --backbone ID_OR_PATH \
        --text-corpus wiki80 --text-data-dir DIR --known-data-dir DIR_OF_LAMA -o OUT -- --locality_data_dir DIR DIR

A body is a directory for the corpus `triples`, with templates_train.jsonl and templates_test.jsonl: what is trained
on, and phrasings that are only asked; one in which the tail comes first asks for the head, if there is only one. An
answer is right if each of its tokens is the most probable. Other texts, on which nothing trains, tell the share of
tokens after which the most probable one is still the frozen model's, the Kullback-Leibler divergence of the frozen
model's next token from theirs, in nats, and the perplexity relative to the frozen model's; facts of LAMA that the
frozen model knows tell how many it still says.
Adapters together are fused by their sum and by the larger of them at each token. OUT/facts.md and OUT/facts.json hold
means over seeds and 95% intervals (bootstrap over questions and seeds), and the CPU seconds of each training, reading
included, which adapters of a seed share; OUT/facts.svg shows what is known of the first body against what was kept.
An interrupted run resumes where it stopped; results of other flags or data in OUT are refused.

`--lora RATE`, `--full RATE`, `--osf RATE` and `--cartridge RATE`, as often as there are rates, teach the decoder
itself the same texts in the same steps: by PEFT's LoRA weights of rank 16 in all Linears of its blocks, by every
weight, by PEFT's OSF in these Linears, which keeps gradients, though not AdamW's steps, out of the upper half of their
singular directions, and by a prefix of 64 keys and values before every text. Each body is taught to a decoder of its
own, and all of them to one, one after the other; LoRA weights of all bodies are also used together.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from _bodies import claim, described_by, parted
from _decoders import decoder, teach
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kadapter import KAdapterForCausalLM, data_builders
from kadapter.reports import learnt_and_kept
from kadapter.reports.comparison import Resampling
from kadapter.trainers import run_adapter
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.encoding import open_tokenizer, sample
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.locality import read_texts
from kadapter.trainers.injection.measures import Values, interval
from kadapter.trainers.many_adapters.variants import Settings, settings_of

ROOT = Path(__file__).resolve().parents[1]
KNOWN, TEXT = "known", "text"
ROWS = 16  # of a batch
COST = "cpu_seconds.json"  # written last
Said = list[np.ndarray]


class Item(NamedTuple):
    """What is asked: its kind, its text, and where that begins in it which has to be said, in characters."""

    kind: str
    text: str
    start: int


class Reading(NamedTuple):
    """A batch of items, perhaps with what the frozen backbone makes of it, and the tokens that have to be said."""

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
    lora: Annotated[list[float] | None, typer.Option(help="Rate of a row of LoRA weights.")] = None,
    full: Annotated[list[float] | None, typer.Option(help="Rate of a row that trains every weight.")] = None,
    osf: Annotated[list[float] | None, typer.Option(help="Rate of a row of OSF.")] = None,
    cartridge: Annotated[list[float] | None, typer.Option(help="Rate of a row of a prefix.")] = None,
) -> None:
    """Train an adapter for each body and seed, ask everything of each and of all together, and write the tables."""
    bodies, more = parted(arguments)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    items = [item for body in bodies for item in facts(body)]
    items += known(known_data_dir) if known_data_dir is not None else []
    items += [Item(TEXT, text, 0) for text in read_texts(text_corpus, str(text_data_dir), "train", texts)]
    claim(output_dir, described_by(bodies, recipe, backbone, more, items))
    within = {"lora": lora, "full": full, "osf": osf, "cartridge": cartridge}
    rates = [(how, rate) for how, own in within.items() for rate in own or ()]
    results: dict[str, list[Said]] = {}
    costs: dict[str, list[float]] = {}
    for seed in range(seeds):
        own = output_dir / f"seed-{seed}"
        flags = {body.name: flags_of(body, recipe, backbone, own / body.name, seed, more) for body in bodies}
        for row, said, seconds in answers(flags, rates, tokenizer, items, own):
            results.setdefault(row, []).append(said)
            if seconds is not None:
                costs.setdefault(row, []).append(seconds)
    described = summary(results, items)
    for row, each in costs.items():
        described[row]["CPU s"] = {"mean": float(np.mean(each)), "by_seed": each}
    write(described, bodies[0].name, output_dir)


def answers(
    flags: dict[str, list[str]],
    rates: list[tuple[str, float]],
    tokenizer: PreTrainedTokenizerBase,
    items: list[Item],
    output: Path,
) -> Iterator[tuple[str, Said, float | None]]:
    """Yield by row what is said after the trainings of a seed, and the CPU seconds of a row that was trained."""
    states = ["--cache_features", str(output / "states")]  # of this seed alone, as is the time that reading takes
    costs = {name: train(output / name, [*words, *states]) for name, words in flags.items()}
    said = dict(measure([str(output / name) for name in flags], list(flags), tokenizer, items))
    for row, own in said.items():
        yield row, own, costs.get(row)
    for how, rate in rates:
        yield from within(how, rate, flags, items, of_use(said["frozen"], items), output)


# ---- training -------------------------------------------------------------------------------------------------------


def flags_of(body: Path, recipe: Path, backbone: str, output: Path, seed: int, more: Sequence[str]) -> list[str]:
    """Return the flags of run_adapter.py that teach a body of facts."""
    flags = {"recipe": recipe, "backbone": backbone, "data_dir": body, "adapter_name": body.name, "seed": seed}
    flags |= {"output_dir": output, "overwrite_output_dir": "true"}
    return [*(str(word) for flag, value in flags.items() for word in (f"--{flag}", value)), *more]


def train(output: Path, flags: list[str]) -> float:
    """Train the adapter of a body of facts, unless that is done, and return the CPU seconds that it took."""
    if not (output / COST).is_file():
        began = process_time()
        run_adapter.main(flags)
        replace_file(output / COST, json.dumps(process_time() - began))
    return json.loads((output / COST).read_text())


# ---- teaching the decoder itself ------------------------------------------------------------------------------------


def within(
    how: str, rate: float, flags: dict[str, list[str]], items: list[Item], asked: Sequence[int], output: Path
) -> Iterator[tuple[str, Said, float]]:
    """Yield by row what a decoder says that was taught itself, and the CPU seconds; from a file once that is done."""
    file = output / f"{how}-{rate:g}.json"
    if not file.is_file():
        rows = [
            (row, [own.tolist() for own in said], cost) for row, said, cost in _within(how, rate, flags, items, asked)
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(rows))
    for row, said, cost in json.loads(file.read_text(encoding="utf-8")):
        yield f"{how} {rate:g}: {row}", [np.asarray(own) for own in said], cost


def _within(
    how: str, rate: float, flags: dict[str, list[str]], items: list[Item], asked: Sequence[int]
) -> Iterator[tuple[str, Said, float]]:
    bodies = {name: settings_of(own)[0][0] for name, own in flags.items()}
    first, *others = bodies
    for name in (*others, first):  # the first comes last, since its decoder goes on to the others
        if how != "lora" or name == (others or [first])[0]:
            model, choose = decoder(how, bodies[name], [*bodies])
        choose([name])
        cost = teach(model, bodies[name], rate)
        yield name, ask(model, bodies[name], items, asked), cost
    if others and how == "lora":
        choose([*bodies])
        yield " and ".join(bodies), ask(model, bodies[first], items, asked), 0.0
        choose([first])
    if others:
        cost += sum(teach(model, bodies[name], rate) for name in others)
        yield ", then ".join(bodies), ask(model, bodies[first], items, asked), cost


def ask(model: Any, settings: Settings, items: list[Item], asked: Sequence[int]) -> Said:
    """Return what becomes of each item that is asked, and of the others nothing."""
    said: Said = [np.zeros((4, 0))] * len(items)
    model.eval()
    frozen = KAdapterForCausalLM.from_backbone(settings.adapter.backbone).eval()
    for batch in read(None, open_tokenizer(settings.adapter.backbone, None, settings.corpus.max_length), items, asked):
        told(model, batch, said, logs_of(frozen, batch))
    return said


# ---- what is asked --------------------------------------------------------------------------------------------------


def facts(body: Path) -> Iterator[Item]:
    """Yield the facts of a body in all phrasings, as far as what has to be said, which ends it.

    That is the tail, or the head where it comes last and no other is asked for in the same words.
    """
    splits: Any = data_builders.load("triples", body)
    for split, rows in splits.items():
        before = Counter(row["text"][: row["mentions"][0]["start"]] for row in rows)
        for row in rows:
            head, tail = row["mentions"]
            if tail["start"] < head["start"] and before[row["text"][: head["start"]]] == 1:
                yield Item(f"{body.name}, reversed", row["text"][: head["end"]], head["start"])
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
) -> Iterator[tuple[str, Said]]:
    """Yield the frozen model, each adapter and all of them by name, with what becomes of each item."""
    rows: dict[str, tuple[str, list[str]]] = {"frozen": ("delta", [])}
    rows |= {name: ("delta", [name]) for name in names}
    rows |= {f"all, {fusion}": (fusion, names) for fusion in ("delta", "max") if len(names) > 1}
    model: Any = KAdapterForCausalLM.from_pretrained(paths, fusion="delta").eval()
    larger: Any = KAdapterForCausalLM.from_pretrained(paths, fusion="max").eval()
    larger.release_backbone()
    said: dict[str, Said] = {row: [np.zeros(0)] * len(items) for row in rows}
    frozen = torch.zeros(0)  # what the first row makes of a batch
    for batch in read(model, tokenizer, items, range(len(items))):
        for row, (fusion, own) in rows.items():
            asked = model if fusion == "delta" else larger
            asked.set_adapter(own)
            frozen = frozen if own else logs_of(asked, batch)
            told(asked, batch, said[row], frozen)
    yield from said.items()


def logs_of(model: Any, batch: Reading) -> Tensor:
    """Return the log-probabilities of all tokens at each place of a batch that is asked (batch, n, vocabulary)."""
    with torch.no_grad():
        return model(**batch.inputs).logits.float().log_softmax(-1)


def told(model: Any, batch: Reading, said: Said, frozen: Tensor) -> None:
    """Write what becomes of each item of a batch.

    That is for each token which has to be said the most probable token, the right one, the loss, and the divergence of
    the frozen model's log-probabilities (batch, n, vocabulary) from these (4, n).
    """
    logs = logs_of(model, batch)  # (B, n, vocabulary)
    losses = F.nll_loss(logs.transpose(1, 2), batch.labels, reduction="none", ignore_index=-100)
    apart = (frozen.exp() * (frozen - logs)).sum(-1)
    values = torch.stack([each.double() for each in (logs.argmax(-1), batch.labels, losses, apart)], dim=1)
    for number, index in enumerate(batch.items):
        said[index] = values[number][:, batch.labels[number] != -100].numpy()


def read(model: Any, tokenizer: PreTrainedTokenizerBase, items: list[Item], asked: Sequence[int]) -> Iterator[Reading]:
    """Yield batches of items of similar length, with the states that adapters tap if they stand beside a model."""
    encoded = tokenizer([item.text for item in items], return_offsets_mapping=True)
    order = sorted(asked, key=lambda index: len(encoded["input_ids"][index]))
    for first in range(0, len(order), ROWS):
        chosen = order[first : first + ROWS]
        ids = [torch.tensor(encoded["input_ids"][index]) for index in chosen]
        asked = [_asked(encoded["offset_mapping"][index], items[index].start) for index in chosen]
        padded = pad_sequence(ids, batch_first=True)
        mask = pad_sequence([torch.ones_like(own) for own in ids], batch_first=True)
        labels = pad_sequence([own[at + 1] for own, at in zip(ids, asked, strict=True)], True, -100)
        inputs = {"input_ids": padded, "attention_mask": mask, "logits_to_keep": pad_sequence(asked, True, -1)}
        if model is not None:
            with torch.no_grad():
                inputs["hidden_states"] = model.base_model.tap(padded, mask)
        yield Reading(chosen, inputs, labels)


def _asked(offsets: list[tuple[int, int]], start: int) -> Tensor:
    """Return the positions before the tokens that have to be said; nothing is said before the first."""
    return torch.tensor([place - 1 for place in range(1, len(offsets)) if offsets[place][1] > start])


# ---- results --------------------------------------------------------------------------------------------------------


def of_use(frozen: Said, items: list[Item]) -> list[int]:
    """Return the numbers of the items that count: of LAMA's facts those that the frozen model says."""
    return [index for index, own in enumerate(frozen) if items[index].kind != KNOWN or bool((own[0] == own[1]).all())]


def summary(results: dict[str, list[Said]], items: list[Item]) -> dict[str, dict[str, Any]]:
    """Return by row each measure with its mean, values by seed and interval."""
    frozen, kinds = results["frozen"], list(dict.fromkeys(item.kind for item in items))
    old = {index: own[0] for index, own in enumerate(frozen[0])}
    counted = of_use(frozen[0], items)
    chosen = {kind: [index for index in counted if items[index].kind == kind] for kind in kinds}
    described: dict[str, dict[str, Any]] = {}
    for row, seeds in results.items():
        described[row] = {
            kind: _described([[float((own[i][0] == own[i][1]).all()) for i in chosen[kind]] for own in seeds])
            for kind in kinds
            if kind != TEXT
        }
        same = [[float((own[i][0] == old[i]).sum()) for i in chosen[TEXT]] for own in seeds]
        described[row]["agreement"] = _described(same, [len(old[i]) for i in chosen[TEXT]])
        apart = [[float(own[i][3].sum()) for i in chosen[TEXT]] for own in seeds]
        described[row]["divergence"] = _described(apart, [len(old[i]) for i in chosen[TEXT]])
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
    measures = list(dict.fromkeys(name for own in described.values() for name in own))
    lines = ["| adapters | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for row, own in described.items():
        lines.append(f"| {row} | " + " | ".join(_cell(own.get(name)) for name in measures) + " |")
    numbers = next(iter(described.values()))
    return [*lines, "", "Of so many: " + ", ".join(f"{name} {own['of']}" for name, own in numbers.items()) + "."]


def write(described: dict[str, dict[str, Any]], first_body: str, folder: Path) -> None:
    """Write the measures, their table and their picture, and print the table."""
    replace_file(folder / "facts.json", json.dumps(described, indent=2))
    replace_file(folder / "facts.md", "\n".join(table(described)))
    picture(described, first_body, folder / "facts.svg")
    print("\n".join(table(described)))


def picture(described: dict[str, dict[str, Any]], body: str, path: Path) -> None:
    """Draw what the rows know of the first body against the known facts that they keep, or else their agreement."""
    learnt = {f"{body}, {kind}": kind for kind in ("taught", "statement", "question")}
    kept = (KNOWN, "known facts kept") if KNOWN in described["frozen"] else ("agreement", "agreement on other text")
    rows = {row: own for row, own in described.items() if row != "frozen"}
    learnt_and_kept.draw(
        rows, {name: label for name, label in learnt.items() if name in described["frozen"]}, kept, path
    )


def _cell(measure: dict[str, Any] | None) -> str:
    if measure is None:
        return ""
    if "interval" not in measure:
        return f"{measure['mean']:.3f}x" if "of" in measure else f"{measure['mean']:.0f}"
    low, high = measure["interval"]
    return f"{measure['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    run_program(partial(typer.run, main))
