"""Measure what plugging adapters in changes about texts that they are not about, for every fusion.

    python experiments/locality.py OUT_FAC OUT_LIN --backbone DIR --corpus wiki80 --data-dir DIR -o OUT

Features are means of the fused states over a text's tokens, and what they are compared with are the encoder's own.

- neighbours: the share of each text's nearest neighbours among the other texts, by cosine, that stay among them.
- rank: Spearman's correlation of the cosines of all pairs of texts before and after.
- moved: the mean squared change of a token's state, relative to the mean square of the encoder's.
- probe: the accuracy of a linear classifier of the texts' relations that was trained on the encoder's features of
  other texts, and now reads the fused ones; `lost` is what it had before, less this. Corpora of relations only.

The rows are a new adapter, a new adapter whose projections are zero, each artifact, and all of them together (unless
`--alone`). New adapters and learned fusions, which are all untrained here, are drawn anew for each seed.
OUT/locality.json holds every number of every seed, OUT/locality.md the table of means and standard deviations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markdown import Markdown
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from kadapter import KAdapterModel, KnowledgeAdapterConfig, data_builders
from kadapter.configuration_kadapter import FUSIONS
from kadapter.fusion_kadapter import new_fusion
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.encoding import sample
from kadapter.trainers.common.entry_point import run_program

BATCH, MAX_LENGTH = 32, 128
NEW = {"new adapter": {}, "new adapter of zeros": {"projection_initializer_range": 0}}
MEASURES = ("neighbours", "rank", "moved", "probe", "lost")


def main(
    artifacts: Annotated[list[str], typer.Argument(help="Adapters of one encoder, each a Hub id or a directory.")],
    backbone: Annotated[str, typer.Option(help="Their frozen encoder: Hub id or directory.")],
    corpus: Annotated[str, typer.Option(help="Name of the corpus of texts: a file of data_builders/.")],
    data_dir: Annotated[Path, typer.Option(help="Directory with that corpus as released.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where the table is written.")],
    split: Annotated[str, typer.Option(help="The split that texts are taken from.")] = "train",
    texts: Annotated[int, typer.Option(help="Number of texts, a fixed random sample.", min=20)] = 300,
    probe_texts: Annotated[
        int, typer.Option(help="Number of other texts that the probe is trained on.", min=0)
    ] = 2000,
    neighbours: Annotated[int, typer.Option(help="Number of nearest neighbours.", min=1)] = 10,
    seeds: Annotated[int, typer.Option(help="Number of seeds of what is new.", min=1)] = 3,
    fusions: Annotated[list[str] | None, typer.Option("--fusion", help="A fusion; all by default.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Leave out the row of all artifacts together.")] = False,
) -> None:
    """Measure locality of every fusion and row, print the table and write it."""
    chosen = list(fusions or FUSIONS)
    if unknown := sorted({*chosen} - {*FUSIONS}):
        raise typer.BadParameter(f"--fusion {unknown[0]} is none of {', '.join(FUSIONS)}")
    records = Records.of(corpus, data_dir, split, texts, probe_texts)
    if neighbours >= len(records.texts):
        raise typer.BadParameter(f"--neighbours {neighbours} needs more than the {len(records.texts)} texts there are")
    reader = Reader(KAdapterModel.from_backbone(backbone).eval(), AutoTokenizer.from_pretrained(backbone))
    measure = partial(compare, reader.encoder(records.texts), neighbours, _probe(reader, records))
    results: dict[str, dict[str, list[dict[str, float]]]] = {fusion: {} for fusion in chosen}
    for row, numbers, model in rows(backbone, artifacts, seeds, alone):
        for seed in numbers:
            states = reader.read(model(seed), records.texts)
            for fusion in chosen:
                torch.manual_seed(seed)
                results[fusion].setdefault(row, []).append(measure(states.fused(fusion)))
        typer.echo(f"{row}: {_shown(results[chosen[-1]][row], 'neighbours')} of the neighbours kept by {chosen[-1]}")
    _write(output_dir, results, {"texts": len(records.texts), "neighbours": neighbours, "artifacts": artifacts})


def _write(output_dir: Path, results: dict[str, Any], about: dict[str, Any]) -> None:
    named = [measure for measure in MEASURES if measure in next(iter(next(iter(results.values())).values()))[0]]
    lines = [f"| fusion | adapters | {' | '.join(named)} |", "|---|---|" + "---|" * len(named)]
    for fusion, by_row in results.items():
        for row, runs in by_row.items():
            lines.append(f"| {fusion} | {row} | {' | '.join(_shown(runs, measure) for measure in named)} |")
    replace_file(output_dir / "locality.json", json.dumps({**about, "results": results}, indent=2))
    replace_file(output_dir / "locality.md", "\n".join(lines))
    Console(width=110).print(Markdown("\n".join(lines)))


def _shown(runs: list[dict[str, float]], measure: str) -> str:
    values = [run[measure] for run in runs]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 and stdev(values) >= 0.0005 else ""
    return f"{fmean(values):.3f}{spread}"


# ---- texts ----------------------------------------------------------------------------------------------------------


@dataclass
class Records:
    """Texts to compare features of, and other texts to train the probe on, with their relations if they have any."""

    texts: list[str]
    labels: list[str]
    other_texts: list[str]
    other_labels: list[str]

    @classmethod
    def of(cls, corpus: str, data_dir: Path, split: str, number: int, others: int) -> Records:
        """Return a fixed random sample of a corpus, whose first records by a second draw are compared."""
        splits: Any = data_builders.load(corpus, data_dir)
        if split not in splits:
            raise typer.BadParameter(f"{str(data_dir)!r} has no split {split!r}, only {', '.join(sorted(splits))}")
        taken = sample(splits[split], number + others)
        order = np.random.default_rng(1).permutation(len(taken))
        texts = [data_builders.sentence_of(row) for row in taken]
        labels = taken["relation"][:] if "relation" in taken.column_names else [""] * len(taken)
        first, rest = order[:number], order[number:]
        picked = ([values[index] for index in chosen] for chosen in (first, rest) for values in (texts, labels))
        return cls(*picked)


# ---- features -------------------------------------------------------------------------------------------------------


@dataclass
class Features:
    """What is fused of each text: R, the adapters' outputs and their contributions, for each batch, and its mask."""

    model: KAdapterModel
    batches: list[tuple[Tensor, dict[str, dict[str, Tensor]], Tensor]]

    def fused(self, fusion: str) -> tuple[Tensor, float]:
        """Return the fused features (texts, hidden), and how far tokens have moved, by a new fusion of this name."""
        self.model.config.fusion = fusion
        module = new_fusion(self.model.config, list(self.model.adapters)).eval()
        pooled, moved, size = [], 0.0, 0.0
        for backbone, adapters, mask in self.batches:
            with torch.no_grad():
                states = module(backbone, adapters[module.reads])
            pooled.append(pool(states, mask))
            moved += float(((states - backbone) * mask[..., None]).double().square().sum())
            size += float((backbone * mask[..., None]).double().square().sum())
        return torch.cat(pooled), moved / size


@dataclass
class Reader:
    """Runs models on texts in batches of similar length; what is returned keeps the order of those batches."""

    plain: KAdapterModel
    tokenizer: Any

    def encoder(self, texts: Sequence[str]) -> Tensor:
        """Return the features (texts, hidden) of the encoder alone."""
        return torch.cat([pool(states, mask) for states, _, mask in self.read(self.plain, texts).batches])

    def read(self, model: KAdapterModel, texts: Sequence[str]) -> Features:
        """Return what is fused of each text."""
        batches = []
        for inputs in self._inputs(texts):
            with torch.no_grad():
                mask, states = inputs["attention_mask"], model.tap(**inputs)
                backbone, outputs = model.encode(None, mask, hidden_states=dict(states))
                _, contributions = model.contributions(None, mask, hidden_states=states)
            read = {"adapters": outputs, "contributions": contributions}
            batches.append((backbone, read, mask))
        return Features(model, batches)

    def order(self, texts: Sequence[str]) -> list[int]:
        """Return the texts' numbers in the order of their features."""
        return sorted(range(len(texts)), key=lambda number: -len(texts[number]))

    def _inputs(self, texts: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        order = self.order(texts)
        for first in range(0, len(order), BATCH):
            chosen = [texts[number] for number in order[first : first + BATCH]]
            options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
            inputs = self.tokenizer(chosen, **options)
            yield {name: inputs[name] for name in ("input_ids", "attention_mask")}


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (batch, hidden) of states (batch, sequence, hidden) over tokens."""
    return (states.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def rows(backbone: str, artifacts: list[str], seeds: int, alone: bool) -> Iterator[tuple[str, range, Any]]:
    """Yield the rows: a name, the seeds that make a difference, and a function of the seed that returns the model."""
    for name, changes in NEW.items():
        yield name, range(seeds), partial(_new_model, backbone, changes)
    names = {artifact: list(KAdapterModel.from_pretrained(artifact).config.adapters) for artifact in artifacts}
    together = [artifacts] if len(artifacts) > 1 and not alone else []
    for chosen in (*([artifact] for artifact in artifacts), *together):
        name = " + ".join(adapter for artifact in chosen for adapter in names[artifact])
        model = KAdapterModel.from_pretrained(chosen, backbone=backbone, fusion="add").eval()
        yield name, range(seeds), lambda seed, model=model: model


def _new_model(backbone: str, changes: dict[str, Any], seed: int) -> KAdapterModel:
    torch.manual_seed(seed)
    model = KAdapterModel.from_backbone(backbone)
    model.add_adapter("new", KnowledgeAdapterConfig(**changes))
    return model.eval()


# ---- measures -------------------------------------------------------------------------------------------------------


def compare(before: Tensor, neighbours: int, probe: Any, fused: tuple[Tensor, float]) -> dict[str, float]:
    """Return the measures of fused features (texts, hidden) against those of the encoder alone."""
    after, moved = fused
    result = {"neighbours": kept(before, after, neighbours), "rank": rank_correlation(before, after), "moved": moved}
    if probe is not None:
        accuracy = probe(after)
        result.update(probe=accuracy, lost=probe(before) - accuracy)
    return result


def cosines(features: Tensor) -> Tensor:
    """Return the cosine (texts, texts) of each pair of features (texts, hidden)."""
    unit = F.normalize(features.double(), dim=-1)
    return unit @ unit.T


def kept(before: Tensor, after: Tensor, neighbours: int) -> float:
    """Return the mean share of a text's nearest neighbours before that are among them after."""
    nearest = []
    for features in (before, after):
        similar = cosines(features).fill_diagonal_(-2.0)
        chosen = similar.topk(neighbours, dim=1).indices
        nearest.append(torch.zeros_like(similar).scatter_(1, chosen, 1.0))
    return float((nearest[0] * nearest[1]).sum() / (neighbours * len(before)))


def rank_correlation(before: Tensor, after: Tensor) -> float:
    """Return Spearman's correlation of the cosines of all pairs of texts."""
    pairs = torch.triu_indices(len(before), len(before), offset=1)
    ranks = [cosines(features)[*pairs].argsort().argsort().double() for features in (before, after)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _probe(reader: Reader, records: Records) -> Any:
    """Return a function of the texts' features that returns the accuracy of a probe trained on other texts.

    Features are scaled as a whole: some dimensions of an encoder are all but constant, and would be blown up alone.
    """
    if len(set(records.other_labels)) < 2:
        return None
    order = reader.order(records.other_texts)
    features = reader.encoder(records.other_texts)
    scale = float(features.std())
    classifier = LogisticRegression(C=0.01, max_iter=1000)
    classifier.fit((features / scale).numpy(), [records.other_labels[number] for number in order])
    labels = [records.labels[number] for number in reader.order(records.texts)]
    return lambda read: float(classifier.score((read / scale).numpy(), labels))


if __name__ == "__main__":
    run_program(partial(typer.run, main))
