"""Ask a language model for facts: what does it know with an adapter, and what without?

python trainers/run_probe.py --probe NAME --data_dir DIR --backbone ID_OR_PATH --lm_head LM_HEAD
    --adapters OUT_FAC OUT_LIN --output_dir OUT

`--adapters`: artifacts, added up; `none`, the backbone with its LM head; `taps`, the sum of the tapped states without
any adapter; `random ARTIFACTS`, their shapes initialised at random. A single artifact of a whole masked-LM model keeps
its fusion and LM head. `--lm_head` is the artifact of a trained LM head, or `backbone`, the backbone's own. A decoder
is asked through its own, how the text before the answer goes on.
OUT gets predictions.jsonl (the rank of each answer and the best candidates), all_results.json, run.json, and results
by relation as relations.csv, .png and .svg. `--against OUT_OTHER` compares with earlier runs by relation, and
`kadapter report OUT OUT_OTHER` tabulates rows with paired intervals. Facts that can't be asked are counted by reason.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)
if __name__ == "__main__":  # before the libraries, which take seconds to import
    import sys

    from kadapter.trainers.common import usage

    usage.answer("run_probe", sys.argv[1:])

from datasets import concatenate_datasets
from tqdm import tqdm

from kadapter import data_builders
from kadapter.artifacts_kadapter import WEIGHTS
from kadapter.trainers import probes
from kadapter.trainers.common.encoding import writing_the_cache
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.output_directory import RUN, check_output_directory, clear, in_use
from kadapter.trainers.downstream.model import TAPS
from kadapter.trainers.fact_probing.arguments import ProbeArguments, parse_probe_arguments
from kadapter.trainers.fact_probing.candidates import common_words, vocabulary, words_as_tokens
from kadapter.trainers.fact_probing.facts import Asked, draw, facts_of, without_repeated, without_unaskable
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.model import (
    OWN,
    check_lm_head,
    guesser_of,
    is_causal,
    language_model,
    without_adapters,
)
from kadapter.trainers.fact_probing.results import write_results
from kadapter.trainers.fact_probing.scoring import Answered, ListScorer, Scorer, VocabularyScorer
from kadapter.trainers.fact_probing.unhelpful_names import drop_guessed, drop_matching


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Ask the facts of a probe, write what came out, and return the results.

    Raises:
        ValueError: a flag, the facts, an adapter, the LM head or the output directory can't be used; the message says
            why.
        OSError: the facts, the backbone, an adapter or the LM head can't be read, or the results can't be written.
    """
    flags, probe = parse_probe_arguments(argv)
    with in_use([flags.output_dir]):
        _check_output(flags)
        _check_way(flags)
        asked, split = _facts(flags, probe)
        answers = _answers_of(asked)
        model = language_model(flags, flags.lm_head, flags.fusion, flags.seed, flags.max_length, flags.batch_tokens)
        _filter(flags, asked, model)
        answered = _ask(flags, model, asked, answers)
        print(f"facts: {asked.read.total()} read, {len(answered)} asked; {_reasons(asked)}")
        if silent := sorted(asked.read.keys() - {each.fact.relation for each in answered}):
            print(f"relations of which no fact could be asked: {', '.join(silent)}")
        clear(flags.output_dir, resume=False)
        return write_results(flags, model.model, answered, asked, split)


def _check_output(flags: ProbeArguments) -> None:
    """Refuse an output directory with files of others, a trained model, or results that are not to be replaced."""
    folder = Path(flags.output_dir)
    if (folder / WEIGHTS).exists():
        raise ValueError(f"--output_dir {flags.output_dir!r} holds a trained model; choose another directory")
    if (folder / RUN).exists() and not flags.overwrite_output_dir:
        raise ValueError(
            f"--output_dir {flags.output_dir!r} holds earlier results; replace them with --overwrite_output_dir, or "
            "choose another directory"
        )
    read = [*flags.adapters, *filter(None, [flags.lm_head])]
    check_output_directory(flags.output_dir, False, True, flags.backbone, read)


def _check_way(flags: ProbeArguments) -> None:
    """Refuse for a decoder what only a model that fills masks can do."""
    check_lm_head(flags.lm_head, flags.backbone, flags.backbone_revision)
    if not is_causal(flags.backbone, flags.backbone_revision):
        return
    if TAPS in flags.adapters:
        raise ValueError(
            f"--adapters {TAPS} adds up states, and the LM head of the decoder {flags.backbone!r} reads only what "
            "adapters contribute; leave it out"
        )
    if flags.multi_token == "pll":
        raise ValueError(
            f"--multi_token pll masks tokens in turn, and {flags.backbone!r} is a decoder, which has no mask; give "
            "closed, which adds up the log-probabilities of an answer's tokens"
        )


def _facts(flags: ProbeArguments, probe: type[probes.Probe]) -> tuple[Asked, str]:
    """Return the facts of the splits that are asked, and the names of these splits."""
    with writing_the_cache(f"the facts in {flags.data_dir!r}"):
        splits = data_builders.load(
            probe.corpus, flags.data_dir, num_proc=flags.num_proc, on_bad_record=flags.on_bad_record
        )
    for split, counts in data_builders.counts(splits).items():
        print(f"corpus {probe.corpus}, {split}: {data_builders.listed(counts)}")
    held_out = [name for name in splits if name != "train"] or list(splits)
    names = [flags.split] if flags.split else held_out
    if names[0] not in splits:
        raise ValueError(
            f"--split {flags.split}: {flags.data_dir!r} has the splits {list(splits)}; choose one of these"
        )
    asked = facts_of(concatenate_datasets([splits[name] for name in names]), str(flags.prompts))
    return asked, "+".join(names)


def _answers_of(asked: Asked) -> dict[str, list[str]]:
    """Return all answers of each relation, before any of its facts is filtered out."""
    return {
        relation: list(dict.fromkeys(answer for fact in facts for answer in fact.answers))
        for relation, facts in asked.by_relation().items()
    }


def _filter(flags: ProbeArguments, asked: Asked, model: LanguageModel) -> None:
    without_unaskable(asked, model.prompter.unaskable)
    without_repeated(asked)
    if "string_match" in flags.uhn:
        drop_matching(asked)
    if "person_name" in flags.uhn:
        guesser = guesser_of(flags.uhn_model, model)
        with without_adapters(model.model) if flags.uhn_model == OWN else nullcontext():
            drop_guessed(asked, guesser)
    draw(asked, flags.max_facts)


def _ask(flags: ProbeArguments, model: LanguageModel, asked: Asked, answers: dict[str, list[str]]) -> list[Answered]:
    """Ask all facts and return the answered, in the order of relations.

    Raises:
        ValueError: no fact is left.
    """
    whole = _vocabulary_scorer(flags, model)
    answered: list[Answered] = []
    with tqdm(total=len(asked.facts), desc=flags.probe, disable=None) as progress:
        for relation, facts in asked.by_relation().items():
            scorer: Scorer = whole or ListScorer(model, answers[relation], str(flags.multi_token))
            order = {fact.id: number for number, fact in enumerate(facts)}
            answered += sorted(scorer.answers(facts, asked), key=lambda each: order[each.fact.id])
            progress.update(len(facts))
    if not answered:
        raise ValueError(
            f"none of the {asked.read.total()} facts in {flags.data_dir!r} could be asked: {_reasons(asked)}; choose "
            "other --prompts, --candidates or --multi_token"
        )
    return answered


def _vocabulary_scorer(flags: ProbeArguments, model: LanguageModel) -> VocabularyScorer | None:
    if flags.candidates == "relation":
        return None
    if flags.candidates == "vocabulary":
        return VocabularyScorer(model, vocabulary(model.prompter))
    words = common_words(model.prompter, flags.common_with)
    print(f"common vocabulary: {len(words)} words of {model.prompter.tokenizer.name_or_path} and {flags.common_with}")
    return VocabularyScorer(model, words_as_tokens(model.prompter, words))


def _reasons(asked: Asked) -> str:
    reasons = asked.reasons()
    return "left out: " + (", ".join(f"{number} {reason}" for reason, number in reasons.items()) or "none")


if __name__ == "__main__":
    run_program(main)
