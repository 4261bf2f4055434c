"""What a frozen model's features are worth: the same fresh head trained on them, and measured on held-out records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import data_builders
from ..configuration_kadapter import KAdapterConfig
from ..modeling_kadapter import ArcHead, KAdapterModel
from ..trainers import pretraining
from ..trainers.arguments import AdapterArguments
from ..trainers.collators import PadToBatch

__all__ = ["Probe"]

IGNORED, BATCH, MAX_LENGTH = -100, 32, 96


@dataclass
class Probe:
    """One task: a corpus, the objective whose head is trained on frozen features, and how it is trained.

    Args:
        objective: name of the objective.
        corpus: name of the corpus.
        data_dir: its directory, with the splits train and test.
        epochs: passes over the features of the training part.
        learning_rate: peak learning rate, falling linearly to zero.
        seed: seed of the head and of the order; the same for every model that is compared.
    """

    objective: str
    corpus: str
    data_dir: Path
    epochs: int = 30
    learning_rate: float = 1e-3
    seed: int = 0

    def score(self, model: KAdapterModel, tokenizer: Any, label: str) -> float:
        """Return the objective's metric on the test part for a fresh head on the model's fused features."""
        arguments = AdapterArguments(objective=self.objective, backbone="", adapter_name=label)
        objective = pretraining.load(self.objective)(tokenizer, MAX_LENGTH, arguments)
        splits = data_builders.load(self.corpus, self.data_dir)
        fields = objective.learn(splits["train"])
        train, test = (_encode(objective, splits[name]) for name in ("train", "test"))
        config = KAdapterConfig(**{**model.config.to_dict(), **fields})
        torch.manual_seed(self.seed)
        head = objective.model_class.build_head(config)
        self._train(head, _features(model, objective, train, f"{label}: reading {self.objective} train"), train)
        features = _features(model, objective, test, f"{label}: reading {self.objective} test")
        with torch.no_grad():
            predictions = _logits(head.eval(), features).argmax(dim=-1)
        return objective.measure(predictions.numpy(), _labels(test).numpy(), test)[objective.metric]

    def _train(self, head: nn.Module, features: list[Tensor], examples: Dataset) -> None:
        labels, order = _labels(examples), torch.Generator().manual_seed(self.seed)
        steps = self.epochs * -(-len(features) // BATCH)
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(features), generator=order).split(BATCH):
                logits = _logits(head.train(), [features[index] for index in batch])
                loss = cross_entropy(logits.flatten(0, -2), _fit(labels[batch], logits).flatten())
                loss.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()


def _encode(objective: Any, rows: Dataset) -> Dataset:
    return rows.map(objective.encode, batched=True, remove_columns=rows.column_names)


def _features(model: KAdapterModel, objective: Any, examples: Dataset, label: str) -> list[Tensor]:
    """Encode every example once and keep the fused features, (positions, hidden), that the head reads."""
    features: list[Tensor] = []
    loader = DataLoader(examples, BATCH, collate_fn=PadToBatch(objective.padding))
    with torch.no_grad():
        for batch in tqdm(loader, desc=label):
            states = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state.float()  # (B, S, H)
            positions = batch["entity_positions" if "entity_positions" in batch else "word_positions"]
            features += [one[at[at >= 0]] for one, at in zip(states, positions, strict=True)]
    return features


def _logits(head: nn.Module, features: list[Tensor]) -> Tensor:
    padded = pad_sequence(features, batch_first=True)  # (B, positions, H)
    if not isinstance(head, ArcHead):
        return head(padded)
    lengths = torch.tensor([len(one) for one in features])
    return head(padded, torch.arange(padded.shape[1]) < lengths[:, None])


def _fit(labels: Tensor, logits: Tensor) -> Tensor:
    return labels[:, : logits.shape[1]] if labels.dim() == 2 else labels


def _labels(examples: Dataset) -> Tensor:
    labels = [torch.as_tensor(one) for one in examples["labels"]]
    return torch.stack(labels) if labels[0].dim() == 0 else pad_sequence(labels, True, padding_value=IGNORED)
