"""Train one encoder on several objectives, in batches of one objective each."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Sampler
from transformers import EvalPrediction

from ..common.measured import measured
from ..common.sampler import GlobalBatchSampler, InOrder
from ..common.trainable_checkpoints import TrainableOnlyTrainer
from .dataset import MixedSampler

__all__ = ["MultitaskTrainer"]


class MultitaskTrainer(TrainableOnlyTrainer):
    """A trainer whose batches each belong to one objective, and which evaluates each objective separately.

    `objective` is a dict of objectives by name, `train_dataset` a `MixedExamples`, `eval_dataset` a dict of
    `Labelled`.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        args, examples = self.args, self.train_dataset
        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        for dataset in examples.labelled:
            if len(dataset) < size:
                raise ValueError(
                    f"the objective {dataset.objective!r} has {len(dataset)} training examples, fewer than the {size} "
                    "of one step; lower --per_device_train_batch_size or --gradient_accumulation_steps"
                )
        grouped, in_order = (args.train_sampling_strategy == name for name in ("group_by_length", "sequential"))
        seed = args.seed if args.data_seed is None else args.data_seed
        samplers = [GlobalBatchSampler(lengths, size, grouped, seed, in_order) for lengths in examples.lengths]
        self.order = MixedSampler(samplers, [0, *examples.cumulative_sizes[:-1]])
        return self.order

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        return InOrder((-eval_dataset.column("length")).argsort(kind="stable").tolist())

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the results of the evaluated objective, and its mean loss over all labels."""
        return measured(self.objective[self.evaluated.objective], prediction, self.evaluated.examples)
