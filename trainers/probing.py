"""Measure what a frozen model's features are worth: train the same new head on them and evaluate held-out records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import data_builders
from ..configuration_kadapter import KAdapterConfig
from ..fusion_kadapter import new_fusion
from ..heads_kadapter import ArcHead
from ..modeling_kadapter import KAdapterModel
from ..trainers import pretraining
from .common.arguments import AdapterArguments
from .common.collator import PadToBatch

__all__ = ["Probe"]

IGNORED, BATCH, MAX_LENGTH = -100, 32, 96
States = list[dict[str, Tensor]]  # (positions, hidden) for each example and source


@dataclass
class Probe:
    """A task: held-out records, and the objective whose head is trained on frozen features by cross-validation.

    No adapter has seen any of these records, and no head has seen those that it is evaluated on.

    Args:
        objective: name of the objective.
        corpus: name of the corpus.
        data_dir: its directory, with the splits train and test.
        folds: number of shares of the test split; each is evaluated by a head that was trained on the others.
        epochs: passes over the features.
        learning_rate: peak learning rate, falling linearly to zero; that of the gates is ten times as high.
        max_steps: maximum number of steps of each head, for a trial run; -1 for all.
    """

    objective: str
    corpus: str
    data_dir: Path
    folds: int = 5
    epochs: int = 20
    learning_rate: float = 1e-3
    max_steps: int = -1

    def read(self, model: KAdapterModel, tokenizer: Any, label: str) -> Features:
        """Encode every held-out record once, with all adapters of the model."""
        arguments = AdapterArguments(objective=self.objective, backbone="", adapter_name="any")
        objective = pretraining.load(self.objective)(tokenizer, MAX_LENGTH, arguments)
        splits: Any = data_builders.load(self.corpus, self.data_dir)
        fields = objective.learn(splits["train"])
        test = splits["test"]
        test = test.map(objective.encode, batched=True, remove_columns=test.column_names)
        config = KAdapterConfig(**{**model.config.to_dict(), **fields, "fusion": "gated"})
        return Features(self, objective, config, test, _read(model, objective, test, label), _labels(test))


@dataclass
class Features:
    """A frozen model's features of the held-out records of a task, and the heads that are trained on them."""

    probe: Probe
    objective: Any
    config: KAdapterConfig
    examples: Dataset
    states: States
    labels: Tensor

    def scores(self, adapters: Sequence[str], seeds: Sequence[int]) -> list[float]:
        """Return for each seed the objective's metric of new heads on the gated fusion of these adapters.

        The seed determines head, fusion, folds and order, which are the same for every model that is compared.
        """
        states = [{name: example[name] for name in ("backbone", *adapters)} for example in self.states]
        results = []
        for seed in seeds:
            predictions = self._predict(states, seed).numpy()
            results.append(
                self.objective.measure(predictions, self.labels.numpy(), self.examples)[self.objective.metric]
            )
        return results

    def _predict(self, states: States, seed: int) -> Tensor:
        """Predict every example with a head that was trained on the other folds, padded like the labels."""
        labels, build = self.labels, self.objective.model_class.build_head
        order, predictions = torch.Generator().manual_seed(seed), torch.zeros_like(labels)
        names = [name for name in states[0] if name != "backbone"]
        for fold in torch.randperm(len(states), generator=order).chunk(self.probe.folds):
            others = torch.ones(len(states), dtype=torch.bool).index_fill(0, fold, False).nonzero()[:, 0]
            torch.manual_seed(seed)
            fusion = new_fusion(self.config, names)
            torch.manual_seed(seed)  # independent of what the fusion drew
            fresh = Fresh(fusion, build(self.config))
            self._train(fresh, states, others, order)
            with torch.no_grad():
                answers = fresh.eval()([states[index] for index in fold]).argmax(dim=-1)
            missing = 0 if labels.dim() == 1 else labels.shape[1] - answers.shape[1]
            predictions[fold] = pad(answers, (0, missing)) if missing else answers
        return predictions

    def _train(self, fresh: Fresh, states: States, used: Tensor, order: torch.Generator) -> None:
        probe = self.probe
        gates = [weight for name, weight in fresh.named_parameters() if name.endswith(".gate")]
        others = [weight for name, weight in fresh.named_parameters() if not name.endswith(".gate")]
        groups: list[dict[str, Any]] = [{"params": others}]
        if gates:
            groups.append({"params": gates, "lr": 10 * probe.learning_rate})
        optimizer = torch.optim.AdamW(groups, lr=probe.learning_rate)
        steps = probe.epochs * -(-len(used) // BATCH)
        steps = min(steps, probe.max_steps) if probe.max_steps > 0 else steps
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        epochs = (used[torch.randperm(len(used), generator=order)].split(BATCH) for _ in range(probe.epochs))
        for batch in islice(chain.from_iterable(epochs), steps):
            logits = fresh.train()([states[index] for index in batch])
            loss = cross_entropy(logits.flatten(0, -2), _fit(self.labels[batch], logits).flatten())
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


class Fresh(nn.Module):
    """A new fusion and a new head on states that are already encoded."""

    def __init__(self, fusion: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.fusion, self.head = fusion, head

    def forward(self, states: States) -> Tensor:
        """Return the logits of examples, each given by the states (positions, hidden) of its sources."""
        lengths = torch.tensor([len(example["backbone"]) for example in states])
        padded = {
            name: pad_sequence([example[name] for example in states], True) for name in states[0]
        }  # (B, n, H) each
        fused = self.fusion(padded.pop("backbone"), padded)  # (B, n, H)
        if isinstance(self.head, ArcHead):
            return self.head(fused, torch.arange(fused.shape[1]) < lengths[:, None])
        return self.head(fused)


def _read(model: KAdapterModel, objective: Any, examples: Dataset, label: str) -> States:
    """Encode every example once, and return the states, (positions, hidden), that the head reads of each source."""
    states: States = []
    loader = DataLoader(examples, BATCH, collate_fn=PadToBatch(objective.padding))
    with torch.no_grad():
        for batch in tqdm(loader, desc=label):
            backbone, adapters = model.encode(batch["input_ids"], batch["attention_mask"])  # (B, S, H) each
            positions = batch["entity_positions" if "entity_positions" in batch else "word_positions"]
            for number, padded in enumerate(positions):
                own, sources = padded[padded >= 0], {"backbone": backbone, **adapters}
                states.append({name: tensor[number][own].float() for name, tensor in sources.items()})
    return states


def _fit(labels: Tensor, logits: Tensor) -> Tensor:
    return labels[:, : logits.shape[1]] if labels.dim() == 2 else labels


def _labels(examples: Dataset) -> Tensor:
    labels = [torch.as_tensor(label) for label in examples["labels"]]
    return torch.stack(labels) if labels[0].dim() == 0 else pad_sequence(labels, True, padding_value=IGNORED)
