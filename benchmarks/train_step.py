"""Trains a knowledge adapter beside what else one could run, and compares tokens a second and memory.

    python benchmarks/train_step.py --contestants official lora ours ours-cached --rounds 3 --json FILE

official: the published procedure, float32, padded to --max-length. lora: PEFT's, rank 8 on query and value.
bottleneck: a LoRA as wide as bottleneck adapters, at their places. full: the whole encoder. ours: one adapter beside a
frozen backbone. ours-cached: its tapped states kept. ours-cached-8bit: kept in 8 bits. Only where they are asked
for: ours-8bit-backbone, beside a backbone that multiplies in 8 bits, and ours-8bit-compiled, its blocks compiled too.
All but the first train in the same batches of like length, and in bfloat16 where this machine is faster in it or
--bf16 is given. Weights are random.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from statistics import median
from typing import Annotated, Any

import _commands as told
import typer
from _plots import Bars
from _rounds import Results
from _tables import times
from _work import CONTESTANTS, QUANTIZED

ALL = [one for one in CONTESTANTS if one not in QUANTIZED]
RATES = ("tokens_per_second", "tokens_per_cpu_second")
LIMITS = ("fraction_of_limit", "fraction_of_limit_by_cpu", "matrix_peak_gflops")
MEDIANS = (*LIMITS, "mflop_per_token", "seconds_per_step")
PEAKS = ("peak_rss_mib", "peak_anonymous_mib", "peak_device_mib")


def main(
    contestants: Annotated[list[str], typer.Option(help=f"Any of {' '.join(CONTESTANTS)}.")] = ALL,
    size: told.SizeOption = "large",
    rounds: told.Rounds = 5,
    steps: told.Steps = 6,
    warmup: told.Warmup = 2,
    batch: told.Batch = 16,
    max_length: told.MaxLength = 64,
    fill: Annotated[bool, typer.Option("--fill", help="Make every sentence as long as --max-length.")] = False,
    bf16: told.Bf16 = None,
    device: told.Device = "cpu",
    threads: told.Threads = told.CORES,
    data_dir: told.DataDir = None,
    tokenizer: told.Tokenizer = None,
    json_file: told.Json = None,
    markdown: told.Markdown = None,
    plot: told.Plot = None,
    profile: told.Profile = None,
) -> None:
    """Train every contestant in each round and compare."""
    for one in contestants:
        if one not in CONTESTANTS:
            raise typer.BadParameter(f"no contestant {one!r}; there are {', '.join(CONTESTANTS)}")
    shared = {"size": size, "batch": batch, "steps": steps, "warmup": warmup, "longest": max_length, "adapters": 1}
    shared |= {
        "bf16": told.in_bfloat16(bf16, device),
        "device": device,
        "threads": threads,
        **(told.sentences_alike(max_length) if fill else told.sentences_of(data_dir, tokenizer)),
    }
    jobs = {one: {**shared, "contestant": one} for one in able(contestants)}
    title = f"Training, RoBERTa-{size} sizes, batches of {batch} sentences, {shared['sentences']}"
    told.compare(BENCHMARK, jobs, rounds, title, told.Files(json_file, markdown, plot))
    if profile is not None:
        told.profile(BENCHMARK, jobs, title, profile)


def able(contestants: list[str]) -> list[str]:
    """Return the contestants that can train here, and say which one can't.

    Raises:
        ValueError: none is left.
    """
    rest = [one for one in contestants if one not in QUANTIZED]
    if rest == contestants or find_spec("torchao") is not None:
        return contestants
    sentence = f"{' and '.join(one for one in contestants if one in QUANTIZED)} left out, since torchao is needed; "
    sentence += "pip install 'kadapter[quantization]'"
    if not rest:
        raise ValueError(sentence)
    print(sentence, file=sys.stderr)
    return rest


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return rates by round, largest memory, and the median share of the limit of each contestant."""
    return {
        name: {
            **{key: [one[key] for one in runs] for key in RATES},
            **{key: median(one[key] for one in runs) for key in MEDIANS},
            **{key: max(one[key] for one in runs) for key in PEAKS},
        }
        for name, runs in results.items()
        if runs
    }


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a row for each contestant, its rate beside that of the first."""
    first = next(iter(summary))
    return [
        {
            "contestant": name,
            "tokens/s": f"{median(rates := one['tokens_per_second']):.0f}",
            "tokens/CPU s": f"{median(one['tokens_per_cpu_second']):.0f}",
            "lowest to highest": f"{min(rates):.0f} to {max(rates):.0f}",
            f"against {first}": f"{times(rates, summary[first]['tokens_per_second']):.2f}x",
            "MFLOP/token": f"{one['mflop_per_token']:.4g}",
            "of the limit": f"{one['fraction_of_limit']:.1%}",
            "by CPU time": f"{one['fraction_of_limit_by_cpu']:.1%}",
            "anonymous MiB": f"{one['peak_anonymous_mib']:.0f}",
            "resident MiB": f"{one['peak_rss_mib']:.0f}",
            "device MiB": f"{one['peak_device_mib']:.0f}",
        }
        for name, one in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of rates and one of memory."""
    rates = {name: one["tokens_per_second"] for name, one in summary.items()}
    memory = {name: [one["peak_anonymous_mib"]] for name, one in summary.items()}
    return [[Bars("tokens/s", rates), Bars("peak anonymous memory (MiB)", memory)]]


BENCHMARK = told.Benchmark("_training", summary, table, panels)

if __name__ == "__main__":
    told.start(main)
