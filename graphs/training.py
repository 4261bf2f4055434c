"""Train embeddings of a graph's entities by PyKEEN.

PyKEEN is given numbers alone, those of our own ids: by names it sorts and renumbers entities, reads quotation marks as
CSV does, and leaves no way to say which row is whose but a second file. The triples on which links are predicted are
held out such that every entity and relation is still trained on.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..embeddings_kadapter import EntityEmbeddings
from .formats import FIGURES, numbered_lines

__all__ = ["Graph", "Training", "hold_out", "read_triples", "train"]

RANKED = 2**25  # values that a difference of entities may have: 128 MiB, of which PyKEEN makes some four


@dataclass
class Training:
    """How embeddings are trained: a model of PyKEEN, its dimension and the values of its optimizer, Adam."""

    model: str = "TransE"
    dimension: int = 128
    epochs: int = 100
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"


@dataclass
class Graph:
    """The names of entities and relations, and the distinct triples (triples, 3) of their numbers."""

    entities: list[str]
    relations: list[str]
    triples: Tensor


def read_triples(files: Sequence[Path]) -> Graph:
    """Read "head TAB relation TAB tail" from each line of files; a triple that repeats counts once.

    Raises:
        OSError: a file is missing.
        ValueError: a line is malformed, or there are none; the sentence names it.
    """
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    triples: dict[tuple[int, int, int], None] = {}
    for path in files:
        if not path.is_file():
            raise OSError(f"there is no file {str(path)!r}; name a file of triples")
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            fields = [text.strip() for text in line.split("\t")]
            if len(fields) != 3 or not all(fields):
                raise ValueError(
                    f"{path}, line {number}: {line[:80]!r} is no triple; write head, relation and tail, separated by "
                    "tabs"
                )
            head, tail = (entities.setdefault(fields[end], len(entities)) for end in (0, 2))
            triples[head, relations.setdefault(fields[1], len(relations)), tail] = None
    if not triples:
        raise ValueError(f"{', '.join(map(str, files))}: there are no triples; name a file that has some")
    return Graph(list(entities), list(relations), torch.tensor(list(triples), dtype=torch.int64))


def hold_out(graph: Graph, number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the triples that are trained on and those held out, at most that number, chosen at random.

    A triple is held out only if all that it is made of stands in others that are trained on, so where most entities
    have a single triple fewer are held out.
    """
    order = torch.randperm(len(graph.triples), generator=torch.Generator().manual_seed(seed)).tolist()
    entities = torch.bincount(graph.triples[:, [0, 2]].flatten(), minlength=len(graph.entities)).tolist()
    relations = torch.bincount(graph.triples[:, 1], minlength=len(graph.relations)).tolist()
    held = torch.zeros(len(order), dtype=torch.bool)
    triples = graph.triples.tolist()
    wanted = number
    for position in order if number else ():
        head, relation, tail = triples[position]
        needed = 3 if head == tail else 2  # a loop stands for two of its entity's mentions
        if min(entities[head], entities[tail]) >= needed and relations[relation] >= 2:
            for entity in (head, tail):
                entities[entity] -= 1
            relations[relation] -= 1
            held[position], wanted = True, wanted - 1
            if wanted == 0:
                break
    return graph.triples[~held], graph.triples[held]


def train(
    graph: Graph,
    training: Training,
    knowledge_base: str,
    *,
    held_out: int = 1000,
    log: Callable[[str], None] = lambda line: None,
) -> EntityEmbeddings:
    """Train a model of PyKEEN on a graph, predict links of it, and return the entities' embeddings.

    So many triples are held out, at most a tenth, since for each all entities are ranked as its head and its tail.
    Progress is shown on stderr. The figures are those of PyKEEN's filtered ranking of heads and tails.

    Raises:
        ModuleNotFoundError: PyKEEN is not installed.
        ValueError: it has no such model.
    """
    pipeline, factory = _pykeen(training.model)
    known, tested = hold_out(graph, min(held_out, len(graph.triples) // 10), training.seed)
    log(
        f"{len(graph.entities)} entities, {len(graph.relations)} relations, {len(known)} triples to train on, "
        f"{len(tested)} held out"
    )
    counts = {"num_entities": len(graph.entities), "num_relations": len(graph.relations)}
    started = time.monotonic()
    with _quietly():
        result = pipeline(
            training=factory.create(known, **counts),
            testing=factory.create(tested if len(tested) else known[:1], **counts),
            **_settings(training, len(graph.entities)),
        )
    embeddings = _real(result.model.entity_representations[0](indices=None).detach().cpu())
    log(f"trained and evaluated in {time.monotonic() - started:.0f} s")
    origin = {
        "trained by": "PyKEEN",
        "model": training.model,
        "triples": len(known),
        "relations": len(graph.relations),
        "epochs": training.epochs,
        "batch size": training.batch_size,
        "learning rate": str(training.learning_rate),
        "seed": training.seed,
        **_figures(result.metric_results, len(tested)),
    }
    for name in FIGURES:
        if name in origin:
            log(f"{name} {origin[name]:.4f}")
    return EntityEmbeddings(graph.entities, embeddings, knowledge_base, origin)


def _pykeen(model: str) -> tuple[Any, Any]:
    """Return PyKEEN's pipeline and its class of triples, after checking that it has such a model."""
    from pykeen.models import model_resolver
    from pykeen.pipeline import pipeline
    from pykeen.triples import CoreTriplesFactory

    try:
        model_resolver.lookup(model)
    except KeyError as error:
        raise ValueError(
            f"PyKEEN has no model {model!r}; it has {', '.join(sorted(model_resolver.options))}"
        ) from error
    return pipeline, CoreTriplesFactory


def _settings(training: Training, entities: int) -> dict[str, Any]:
    return {
        "model": training.model,
        "model_kwargs": {"embedding_dim": training.dimension},
        "optimizer": "Adam",
        "optimizer_kwargs": {"lr": training.learning_rate},
        "evaluation_kwargs": _ranking(entities, training.dimension),
        "training_kwargs": {"num_epochs": training.epochs, "batch_size": training.batch_size, "pin_memory": False},
        "random_seed": training.seed,
        "device": training.device,
    }


def _ranking(entities: int, dimension: int) -> dict[str, int]:
    """Return how many triples are ranked at once, and among how many entities: PyKEEN holds all their differences."""
    slices = max(1, min(entities, RANKED // dimension))
    return {"batch_size": max(1, min(32, RANKED // (slices * dimension))), "slice_size": slices}


def _real(embeddings: Tensor) -> Tensor:
    """Return the vectors (E, D) in float32; of complex ones the real parts, then the imaginary ones."""
    parts = [embeddings.real, embeddings.imag] if embeddings.is_complex() else [embeddings]
    return torch.cat([vectors.reshape(len(embeddings), -1) for vectors in parts], dim=1).float().contiguous()


def _figures(results: Any, held_out: int) -> dict[str, Any]:
    metrics = {name: float(results.get_metric(f"both.realistic.{key}")) for name, key in FIGURES.items()}
    return {"held-out triples": held_out, **(metrics if held_out else {})}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let PyKEEN not warn of what it does itself, nor log what the card says; its progress bars stay."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
