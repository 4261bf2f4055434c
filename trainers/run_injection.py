"""Teach a language model facts that it does not know, and measure what was gained and what it cost.

python trainers/run_injection.py --corpus NAME --data_dir DIR --templates PHRASINGS.jsonl --backbone ID_OR_PATH
    --lm_head LM_HEAD --output_dir OUT --rows adapter lora full --seeds 0 1 2

The facts that the frozen model answers in no phrasing are taught with `--taught_phrasings`. Reliability is measured in
these, generality in the other phrasings, and locality on all else: facts that it knew, questions about facts that were
not taught, and the text of `--text_corpus`. The rows differ only in what trains: an adapter, PEFT's LoRA weights, or
every weight. `--learning_rate` is the adapter's. OUT gets all_results.json, injection.csv, injection.svg and
predictions.jsonl. docs/injection.md says how everything is defined.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)
if __name__ == "__main__":  # before the libraries, which take seconds to import
    import sys

    from kadapter.trainers.common import usage

    usage.answer("run_injection", sys.argv[1:])

import numpy as np
from datasets import Dataset, concatenate_datasets

from kadapter import data_builders
from kadapter.reports.comparison import Resampling
from kadapter.trainers.common.encoding import sample, writing_the_cache
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.locality import other_texts, read_sources, read_texts
from kadapter.trainers.common.output_directory import check_output_directory, clear, in_use, mark_finished
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.model import prompter_of
from kadapter.trainers.fact_probing.prompts import Prompter
from kadapter.trainers.injection.arguments import InjectionArguments, parse_injection_arguments
from kadapter.trainers.injection.measures import compare, losses, perplexity, values_of
from kadapter.trainers.injection.questions import Plan, phrasings_of, plan_of, questions_of, taught_texts
from kadapter.trainers.injection.results import PICTURE, TABLE, RowResult, table, write
from kadapter.trainers.injection.rows import base_model, check_rows, lesson_of, model_of, teach
from kadapter.trainers.injection.texts import asked_texts


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run an injection as the flags say, and return the results by row.

    Raises:
        ValueError: a flag, the facts, the phrasings or the output directory can't be used; the message says why.
        OSError: the backbone, the LM head or a file can't be read, or the results can't be written.
        FloatingPointError: the loss of a row became NaN.
    """
    settings = parse_injection_arguments(argv)
    flags, locality, run = settings
    with in_use([run.output_dir]):
        check_rows(flags)
        check_output_directory(run.output_dir, False, run.overwrite_output_dir, flags.backbone, [flags.lm_head])
        prompter = prompter_of(flags.backbone, flags.backbone_revision, flags.max_length)
        texts, sources = _texts(flags, prompter), read_sources(locality)  # before asking, which takes long
        plan = _plan(flags, run, prompter)
        mask = None if prompter.causal else prompter.tokenizer.mask_token
        other = other_texts(locality, sources, taught_texts(plan, flags.taught_phrasings, mask), verbose=True)
        clear(run.output_dir, resume=False)
        rows = [_row(name, settings, prompter, plan, texts, other) for name in flags.rows]
        described = {
            **{name: getattr(flags, name) for name in vars(flags)},
            "counts": plan.counts,
            "texts": len(texts),
        }
        described["locality"] = asdict(locality)
        results = write(Path(run.output_dir), rows, flags.seeds, described, Resampling(flags.resamples))
        mark_finished(run, described, [TABLE, PICTURE])
    for line in table(results):
        print(" | ".join(line))
    return results


def _plan(flags: InjectionArguments, run: Any, prompter: Prompter) -> Plan:
    """Read the facts, ask the frozen model, and choose what is taught."""
    rows = _facts(flags)
    phrasings = phrasings_of(flags.templates, rows.unique("relation"), flags.taught_phrasings)
    closed = flags.candidates == "relation"
    facts, dropped = questions_of(list(rows), phrasings, prompter, closed, flags.taught_phrasings)
    if not facts:
        raise ValueError(f"none of the {len(rows)} facts in {flags.data_dir!r} can be asked: {dict(dropped)}")
    frozen = LanguageModel(base_model(flags, run), prompter)
    plan = plan_of(facts, frozen, flags.taught_phrasings, flags.max_taught, flags.max_others)
    plan.counts |= {"read": len(rows), **dropped}
    print("facts: " + ", ".join(f"{number} {name}" for name, number in plan.counts.items()))
    return plan


def _facts(flags: InjectionArguments) -> Dataset:
    """Return the facts of the corpus, those of each relation sampled if so asked."""
    record_type = data_builders.get_builder(flags.corpus).record_type
    if record_type != "fact":
        raise ValueError(f"corpus {flags.corpus!r} has {record_type} records, and an injection needs facts")
    with writing_the_cache(f"the facts in {flags.data_dir!r}"):
        splits: Any = data_builders.load(flags.corpus, flags.data_dir)
    if flags.split is not None and flags.split not in splits:
        raise ValueError(
            f"--split {flags.split}: {flags.data_dir!r} has the splits {list(splits)}; choose one of these"
        )
    rows = concatenate_datasets([splits[name] for name in splits if flags.split in (None, name)])
    relations = np.asarray(rows["relation"])
    by_relation = (np.flatnonzero(relations == name) for name in sorted(set(relations.tolist())))
    return concatenate_datasets([sample(rows.select(own), flags.max_facts) for own in by_relation])


def _texts(flags: InjectionArguments, prompter: Prompter) -> list[dict[str, Any]]:
    """Return the texts that nothing trains on, with what is always asked of them; none if none are named."""
    if flags.text_corpus is None:
        return []
    texts = read_texts(flags.text_corpus, str(flags.text_data_dir), flags.text_split, flags.max_texts)
    return asked_texts(prompter, texts, flags.max_length)


def _row(
    name: str, settings: Any, prompter: Prompter, plan: Plan, texts: list[dict[str, Any]], other: list[str]
) -> RowResult:
    """Teach a row with each seed, and measure it."""
    flags, _, run = settings
    row, taught = RowResult(name), flags.taught_phrasings
    lesson = lesson_of(prompter, flags.max_length, [each for each in plan.taught if each.number in taught])
    numbers = np.array([len(text["labels"]) for text in texts], dtype=float)
    for seed in flags.seeds:
        print(f"{name}, seed {seed}")
        model = model_of(name, settings, seed)
        cost, model = teach(name, model, lesson, settings, seed, other)
        row.costs.append(cost)
        after, before = (LanguageModel(each, prompter) for each in (model, base_model(flags, run)))
        asked = {"taught": plan.taught, "known": plan.known, "untaught": plan.untaught}
        row.outcomes.append({kind: compare(after, before, questions) for kind, questions in asked.items()})
        lost = [losses(each, texts) for each in (before, after)]
        row.moved.append(lost[0] - lost[1])
        if texts:
            old, new = (perplexity(own, numbers) for own in lost)
            row.perplexities.append((old, new))
    row.values = values_of(taught, row.outcomes, np.stack(row.moved), numbers)
    return row


if __name__ == "__main__":
    run_program(main)
