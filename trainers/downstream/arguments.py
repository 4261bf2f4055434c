"""Flags of a downstream run in addition to those of every run: the task, the row of the results table, the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...configuration_kadapter import FUSIONS
from ...processing_kadapter import MISSING_ENTITIES
from ..common.arguments import CorpusArguments, RunArguments, parse_arguments

__all__ = ["RowArguments", "TaskArguments", "TaskCorpusArguments", "TaskRunArguments", "parse_task_arguments"]

HEADLINE = "headline"  # stands for the task's main metric until the task is known


@dataclass(kw_only=True)
class TaskCorpusArguments(CorpusArguments):
    """Which records are trained and evaluated on."""

    corpus: str | None = field(  # type: ignore[assignment]  # `open_task` sets the task's own
        default=None, metadata={"help": "Name of the corpus; by default the task's own."}
    )
    eval_split: str = field(
        default="validation",
        metadata={
            "choices": ["validation", "test"],
            "help": "Split of the results; checkpoints are always compared on validation.",
        },
    )
    train_fraction: float = field(
        default=1.0, metadata={"help": "Share of the training records, drawn by the seed, the same for each label."}
    )
    exclude: list[str] = field(
        default_factory=list,
        metadata={"help": "CORPUS=DIR, other corpora; records with a sentence that occurs in them are left out."},
    )
    fold: int | None = field(default=None, metadata={"help": "Round of cross-validation over all files, 0 to 4."})
    max_passages: int | None = field(
        default=None, metadata={"help": "Read only this many passages of a question, the first ones; by default all."}
    )
    max_answer_length: int = field(default=20, metadata={"help": "Longest answer in tokens."})
    way: int = field(default=5, metadata={"help": "Classes of an episode."})
    shot: int = field(default=1, metadata={"help": "Labelled examples of each class in an episode."})
    queries: int = field(default=5, metadata={"help": "fewrel_pairs: queries of each class in an episode."})
    train_episodes: int = field(default=3000, metadata={"help": "fewrel_pairs: episodes of an epoch."})
    first_episode: int = field(
        default=0, metadata={"help": "fewrel_pairs: seed of the first training episode; the others count on from it."}
    )
    eval_episodes: int = field(default=200, metadata={"help": "fewrel_pairs: episodes that are evaluated."})
    aliases: str | None = field(
        default=None,
        metadata={"help": "entity_questions: file of mention TAB id; without it a mention is its own id."},
    )
    closed_answers: bool = field(
        default=False,
        metadata={"help": "entity_questions: choose among the answers of the relation that are asked for."},
    )
    lm_head: str | None = field(
        default=None,
        metadata={
            "help": "entity_questions: the LM head: backbone (the default), transform, linear, or the artifact of a "
            "trained one."
        },
    )
    negative_sample: int | None = field(
        default=None, metadata={"help": "TACRED: keep the first N - 1 training records without a relation."}
    )


@dataclass(kw_only=True)
class RowArguments:
    """Which adapters on which backbone: a row of the results table."""

    backbone: str = field(metadata={"help": "Hub id or directory of the encoder."})
    backbone_revision: str | None = field(default=None, metadata={"help": "Revision of the backbone on the Hub."})
    adapters: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Artifacts of adapters; none; taps (the sum of the tapped states); random ARTIFACTS (only their "
            "shapes, initialised at random). By default none, or those of the trained model."
        },
    )
    layers: list[int] | None = field(
        default=None, metadata={"help": "States that `taps` sums; by default those that an adapter taps."}
    )
    row: str | None = field(
        default=None, metadata={"help": "Name of the row in reports; by default derived from the adapters."}
    )
    trained_model: ClassVar[str | None] = None  # of rows whose head an earlier run trained


@dataclass(kw_only=True)
class TaskArguments(RowArguments):
    """Which task, and which adapters on which backbone: a row of the results table."""

    task: str = field(metadata={"help": "Name of the task: a file of trainers/tasks/."})
    fusion: str | None = field(
        default=None,
        metadata={"choices": list(FUSIONS), "help": "How outputs are fused; by default concat."},
    )
    freeze_backbone: bool = field(default=True, metadata={"help": "Whether the encoder is frozen."})
    freeze_adapters: bool = field(default=True, metadata={"help": "Whether the adapters are frozen."})
    freeze_head: bool = field(
        default=False, metadata={"help": "Whether head and fusion are frozen, those of --trained_model."}
    )
    freeze_map: bool = field(default=True, metadata={"help": "Whether the knowledge map is frozen."})
    classifier_dropout: float | None = field(
        default=None, metadata={"help": "Dropout in the task's head; by default 0.1, or that of --trained_model."}
    )
    backbone_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout of the encoder while it, or a map before it, is trained; 0 for none, and by default what "
            "the encoder is configured with."
        },
    )
    trained_model: str | None = field(  # type: ignore[misc]  # what a row in general has not
        default=None,
        metadata={
            "help": "Output directory of an earlier run, with whose model and head this run begins; in a sweep the "
            "trial of the same seed, if it has trials. --adapters then names the map to plug in."
        },
    )
    entity_embeddings: str | None = field(
        default=None, metadata={"help": "Entity embeddings of the knowledge map, by id or directory."}
    )
    missing_entity: str | None = field(
        default=None,
        metadata={
            "choices": list(MISSING_ENTITIES),
            "help": "What an entity that the table lacks becomes: nothing, or the bias of the map, as in the official "
            "tasks; by default as the map says.",
        },
    )
    shuffle_entities: int | None = field(
        default=None, metadata={"help": "Exchange the vectors among all entities by this seed, for a control."}
    )
    keep_states: bool = field(
        default=True, metadata={"help": "Encode each example only once if backbone and adapters are frozen."}
    )
    states_dir: str | None = field(
        default=None, metadata={"help": "Where these states are kept; by default in the Hugging Face cache."}
    )
    cache_budget: str | None = field(
        default=None, metadata={"help": "Maximum size of that directory, such as 50GB; the rest is not kept."}
    )
    bundle_adapters: bool | None = field(
        default=None, metadata={"help": "Save adapters with the artifact; by default those that are not on a Hub."}
    )
    save_artifact: bool = field(default=True, metadata={"help": "Save the model; it can be left out in large sweeps."})
    episodes: int = field(
        default=0,
        metadata={
            "help": "Evaluate this many few-shot episodes by the nearest prototype, without training or fusion; the "
            "seed draws the labelled examples."
        },
    )


@dataclass
class TaskRunArguments(RunArguments):
    """The arguments of training, for one trial or a sweep over seeds and learning rates in one process."""

    do_predict: str | None = field(  # type: ignore[assignment]  # a file, where transformers has a switch
        default=None,
        metadata={"help": "Predict this file (same layout as the corpus, labels optional) to predicted.jsonl."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations without improvement, and keep the best."},
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "Run once with each seed, into OUT/seed-N; by default with --seed, into OUT."}
    )
    learning_rates: list[float] | None = field(
        default=None, metadata={"help": "Run once with each learning rate, into OUT/lr-N."}
    )

    save_strategy: str | None = field(  # type: ignore[assignment]  # None until `__post_init__`
        default=None,
        metadata={
            "choices": ["no", "steps", "epoch", "best"],
            "help": "When to save; by default as --eval_strategy if the best checkpoint is kept, else by steps.",
        },
    )
    save_steps: float | None = field(  # type: ignore[assignment]  # None until `__post_init__`
        default=None,
        metadata={"help": "Steps between checkpoints; by default --eval_steps in that case, else 500."},
    )

    def __post_init__(self) -> None:
        """Set the flags that early stopping and keeping the best checkpoint require."""
        if self.early_stopping_patience is not None:
            self.load_best_model_at_end = True
        if self.load_best_model_at_end:
            self._keep_the_best()
        self.save_strategy = self.save_strategy or "steps"
        self.save_steps = 500 if self.save_steps is None else self.save_steps
        super().__post_init__()

    def _keep_the_best(self) -> None:
        """Evaluate every epoch by default, and save at each evaluation, as comparing checkpoints requires."""
        if self.eval_strategy == "no":
            self.eval_strategy = self.save_strategy = "epoch"
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy
            if self.eval_strategy == "steps":
                self.save_steps = self.save_steps or self.eval_steps or self.logging_steps
        if self.metric_for_best_model is None:
            self.metric_for_best_model = HEADLINE


def parse_task_arguments(argv: list[str] | None = None) -> tuple[TaskCorpusArguments, TaskArguments, TaskRunArguments]:
    """Parse the flags of a downstream run, and check those that can be checked without the task.

    Raises:
        ValueError: a flag is unknown, or its value can't be used.
    """
    corpus, task, run = parse_arguments(argv, (TaskCorpusArguments, TaskArguments, TaskRunArguments))
    if not 0 < corpus.train_fraction <= 1:
        raise ValueError(f"--train_fraction {corpus.train_fraction} must lie in (0, 1]")
    for name in ("max_passages", "way", "shot", "queries", "train_episodes", "eval_episodes"):
        value = getattr(corpus, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    for name in ("seeds", "learning_rates"):
        values = getattr(run, name) or []
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} {' '.join(map(str, values))} names a trial twice; name each once")
    if not (run.do_train or run.do_eval or run.do_predict or task.episodes):
        raise ValueError("there is nothing to do; give --do_train, --do_eval, --do_predict FILE or --episodes N")
    if task.episodes:
        _check_episodes(task, run)
    _check_frozen(task, run)
    if (run.do_train and task.trained_model is None) or task.episodes:
        task.fusion = task.fusion or "concat"
        task.classifier_dropout = 0.1 if task.classifier_dropout is None else task.classifier_dropout
    return corpus, task, run


def _check_frozen(task: TaskArguments, run: TaskRunArguments) -> None:
    """Refuse flags of freezing and dropout under which nothing would train, or which would have no effect."""
    if task.freeze_head and task.trained_model is None:
        raise ValueError("--freeze_head would leave a new head untrained; name a trained one by --trained_model OUT")
    if task.freeze_head and run.do_train and task.freeze_backbone and task.freeze_adapters and task.freeze_map:
        raise ValueError(
            "--freeze_head leaves nothing to train, since encoder, adapters and map are frozen too; give --freeze_map "
            "false to train the map"
        )
    if task.backbone_dropout is not None and (not run.do_train or (task.freeze_backbone and task.freeze_map)):
        raise ValueError(
            f"--backbone_dropout {task.backbone_dropout} is of an encoder that trains, or of a map that trains before "
            "it; leave it out, or give --freeze_map false or --freeze_backbone false"
        )
    if task.backbone_dropout is not None and not 0 <= task.backbone_dropout < 1:
        raise ValueError(f"--backbone_dropout {task.backbone_dropout} must lie in [0, 1)")
    if task.shuffle_entities is not None and not run.do_train and not task.trained_model and not task.episodes:
        raise ValueError(
            "--shuffle_entities would replace the results of the model at --output_dir; name that model by "
            "--trained_model, and another --output_dir"
        )


def _check_episodes(task: TaskArguments, run: TaskRunArguments) -> None:
    flags = {"--do_train": run.do_train, "--do_predict": run.do_predict, f"--fusion {task.fusion}": task.fusion}
    flags |= {"--trained_model": task.trained_model}
    for flag, value in flags.items():
        if value:
            raise ValueError(
                f"{flag} can't be combined with --episodes, in which nothing is trained, predicted or fused; leave "
                "either out"
            )
