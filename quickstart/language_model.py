"""Teach a language model 80 invented facts by two adapters, compose them, and show that all else stays as it was.

    make quickstart-lm
    python -m kadapter.quickstart.language_model [--backbone ID_OR_PATH] [--output-dir DIR]

One adapter learns about people, the other about towns, each alone; the model is asked in phrasings that were taught
and in others, before and after. The default model, SmolLM2-135M-Instruct, is downloaded (93 MB) and converted once;
with that it took four minutes on two cores in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from kadapter import KAdapterForCausalLM, data_builders
from kadapter.quickstart.backbone import SMOLLM2
from kadapter.trainers import run_adapter
from kadapter.trainers.common.entry_point import run_program

HERE = Path(__file__).parent
BODIES = ("people", "towns")
KINDS = {"as taught": "train", "in other words": "test"}  # by the split whose phrasings ask so
OTHER = (  # what no adapter is about
    *("The capital of France is", "The opposite of hot is", "Water freezes at", "The sun rises in the"),
    *("A week has seven", "The author of Hamlet is", "Two plus two is", "Bees make"),
    *("The largest planet is", "My favourite season is", "Once upon a time there was a", "To bake bread you need"),
)
SAID = 6  # tokens of an answer


class Question(NamedTuple):
    """A fact in a phrasing: the text before its answer, and the answer."""

    prompt: str
    answer: str


def main(
    backbone: Annotated[str | None, typer.Option(help="Hub id or directory of a decoder.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Directory of adapters and scores.")] = Path("quickstart-lm-run"),
    max_steps: Annotated[int, typer.Option(help="Steps of each training; by default as in the recipe.")] = -1,
) -> None:
    """Teach people, then towns, compose them, and ask the model before and after."""
    console = Console()
    source = backbone or str(SMOLLM2.folder())
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # many decoders, as Llama and GPT-2, have none
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in BODIES:
        console.rule(f"teaching the adapter {name}")
        train(name, source, output_dir, max_steps)
    console.rule("asking the model without adapters, with each, and with both")
    model = KAdapterForCausalLM.from_pretrained([str(output_dir / name) for name in BODIES], fusion="max").eval()
    answers = ask(model, tokenizer)
    scores = score(answers)
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    console.print(examples(answers))
    console.print(table(scores))
    console.print(f"adapters and scores.json are in {output_dir}")


def train(name: str, source: str, output_dir: Path, max_steps: int) -> None:
    """Train the adapter of a body of facts, whose texts the backbone reads once."""
    flags = {"recipe": HERE.parent / "recipes" / "quickstart_lm.yaml", "backbone": source, "adapter_name": name}
    flags.update(data_dir=HERE / name, output_dir=output_dir / name, overwrite_output_dir="true")
    flags.update(locality_data_dir=HERE / "grammar", max_steps=max_steps)
    with TemporaryDirectory(prefix=".features-", dir=output_dir) as cache:
        flags.update(cache_features=cache)
        argv = [str(word) for flag, value in flags.items() for word in (f"--{flag}", value)]
        run_adapter.main([*argv, "--layers", *map(str, layers_of(source))])


def layers_of(source: str) -> list[int]:
    """Return the hidden states of a decoder of any depth that are tapped: the first, the middle, the last but one."""
    blocks = AutoConfig.from_pretrained(source).get_text_config().num_hidden_layers
    return sorted({0, blocks // 2, blocks - 1})


def questions() -> dict[str, list[Question]]:
    """Return what is asked, by kind: facts of each body in taught phrasings and in others, and other prompts."""
    asked = {f"{body}, {kind}": list(_facts(body, split)) for body in BODIES for kind, split in KINDS.items()}
    return {**asked, "anything else": [Question(prompt, "") for prompt in OTHER]}


def _facts(body: str, split: str) -> Iterator[Question]:
    templates = data_builders.read_templates(HERE / body / f"templates_{split}.jsonl")
    for line in (HERE / body / "triples.tsv").read_text(encoding="utf-8").splitlines():
        head, relation, tail = line.split("\t")
        for phrasing in templates[relation]:
            yield Question(phrasing.replace("[X]", head).split("[Y]")[0].rstrip(), tail)


def ask(model: KAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, list[tuple]]]:
    """Return what the model says, greedily, to every question, by adapters and kind: (question, words) each."""
    said: dict[str, dict[str, list[tuple]]] = {}
    for names in ([], *([name] for name in BODIES), list(BODIES)):
        if names:
            model.enable_adapters()
            model.set_adapter(names)
        else:
            model.disable_adapters()
        label = "+".join(names) or "backbone"
        said[label] = {
            kind: list(zip(own, _say(model, tokenizer, own), strict=True)) for kind, own in questions().items()
        }
    return said


def _say(model: KAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase, asked: list[Question]) -> Iterator[str]:
    tokenizer.padding_side = "left"
    for first in range(0, len(asked), 32):
        prompts = [question.prompt for question in asked[first : first + 32]]
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=SAID, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        yield from tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def score(answers: dict[str, dict[str, list[tuple]]]) -> dict[str, dict[str, float]]:
    """Return by adapters and kind the share of right answers, of other prompts the share that is as before."""
    before = [words for _, words in answers["backbone"]["anything else"]]
    scores: dict[str, dict[str, float]] = {}
    for label, kinds in answers.items():
        scores[label] = {
            kind: sum(words.strip().startswith(question.answer) for question, words in own) / len(own)
            for kind, own in kinds.items()
        }
        same = [words == old for (_, words), old in zip(kinds["anything else"], before, strict=True)]
        scores[label]["anything else"] = sum(same) / len(same)
    return scores


def examples(answers: dict[str, dict[str, list[tuple]]]) -> Table:
    """Return one question of each kind with what was said to it before and after."""
    shown = Table("question", *answers, title="What the model says")
    for kind in answers["backbone"]:
        for number in range(2):
            prompt = answers["backbone"][kind][number][0].prompt
            shown.add_row(prompt, *(kinds[kind][number][1].strip().split("\n")[0] for kinds in answers.values()))
    return shown


def table(scores: dict[str, dict[str, float]]) -> Table:
    """Return the scores as a table."""
    shown = Table(
        "adapters", *scores["backbone"], title="Share of right answers; of anything else, of what is as before"
    )
    for label, own in scores.items():
        shown.add_row(label, *(f"{value:.2f}" for value in own.values()))
    return shown


if __name__ == "__main__":
    run_program(partial(typer.run, main))
