"""Flags of transformers' TrainingArguments that no training here can follow, and values of them that mean nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.integrations import get_available_reporting_integrations

from ...heads_kadapter import KAdapterForEntityPairClassification, KAdapterForMultipleChoice
from ...language_modeling_kadapter import KAdapterForMaskedLM

__all__ = ["check_at_least_one", "check_lesson", "check_usable"]

COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
UNUSABLE = {
    "remove_unused_columns": "the collator chooses its columns",
    "batch_eval_metrics": "results are computed from all predictions together",
    "use_liger_kernel": "its kernels are for models of transformers alone",
}
OF_CLASSES = (KAdapterForEntityPairClassification, KAdapterForMultipleChoice, KAdapterForMaskedLM)


def check_at_least_one(flags: Any, names: Iterable[str]) -> None:
    """Refuse numbers below one; None is no number.

    Raises:
        ValueError: there is one.
    """
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")


def check_usable(run: Any) -> None:
    """Refuse flags that would fail later, or have no effect.

    Raises:
        ValueError: there is one.
    """
    check_at_least_one(run, COUNTS)
    if run.do_train and run.max_steps <= 0 and run.num_train_epochs <= 0:
        epochs = f"{run.num_train_epochs:g}"
        raise ValueError(f"--num_train_epochs {epochs} trains nothing; give a number above 0, or --max_steps")
    if not 0 <= run.label_smoothing_factor < 1:
        raise ValueError(f"--label_smoothing_factor {run.label_smoothing_factor} must lie in [0, 1)")
    for name, why in UNUSABLE.items():
        if getattr(run, name):
            raise ValueError(f"--{name} can't be used, since {why}; leave it out")
    there = get_available_reporting_integrations()
    for name in run.report_to:
        if name not in there:
            raise ValueError(
                f"--report_to {name} is none of those that are installed ({', '.join(there)}); install its library, "
                "or choose one of these or none"
            )


def check_lesson(run: Any, lessons: Iterable[Any], frozen: bool) -> None:
    """Refuse flags that have no effect on what is learned; `frozen` says whether the encoder is.

    Raises:
        ValueError: noise would be added to embeddings that are frozen, or labels that are no classes be smoothed.
    """
    if frozen and run.neftune_noise_alpha is not None:
        raise ValueError(
            f"--neftune_noise_alpha {run.neftune_noise_alpha} adds noise to the embeddings of an encoder that trains, "
            "and this one is frozen; leave it out"
        )
    for lesson in lessons:
        if run.label_smoothing_factor and not issubclass(lesson.model_class, OF_CLASSES):
            raise ValueError(
                f"--label_smoothing_factor {run.label_smoothing_factor} smooths labels that are one class each, and "
                f"those of {lesson.model_class.__name__} are not; leave it out"
            )
