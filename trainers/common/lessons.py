"""What an adapter was taught: the record that its configuration keeps of it, and the card that tells it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ... import data_builders
from .cards import results_of, training_of, update_card
from .progress import reported

__all__ = ["describe_lesson", "write_card_of_lesson"]


def describe_lesson(trainer: Any, objective: str, corpus: str, results: dict[str, float]) -> dict[str, Any]:
    """Return what an adapter's configuration keeps of its training: nothing that differs between two equal runs."""
    described = inspect.getmodule(type(trainer.objective)).__doc__ or ""  # type: ignore[union-attr]  # it has a file
    return {
        "objective": objective,
        "knowledge": described.partition("\n")[0].rstrip("."),
        "corpus": corpus,
        "licence": data_builders.get_builder(corpus).licence,
        "examples": len(trainer.train_dataset),
        "epochs": round(trainer.state.epoch or 0, 2),
        "steps": trainer.state.global_step,
        "learning_rate": trainer.args.learning_rate,
        "seed": trainer.args.seed,
        "results": reported(results),
    }


def write_card_of_lesson(folder: Path, trainer: Any, objective: str, corpus: str, results: dict[str, float]) -> None:
    """Write the card of an artifact that a training wrote, with command, hardware, time, curve and results.

    Raises:
        OSError: it can't be written; what was there before is untouched.
    """
    measured = [results_of(objective, corpus, "held out", results)] if results else []
    update_card(folder, training=training_of(trainer, "run_adapter"), results=measured)
