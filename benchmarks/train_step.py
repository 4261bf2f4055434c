"""Compare training a knowledge adapter with other methods: tokens a second and memory.

    python benchmarks/train_step.py --contestants official lora ours ours-cached --rounds 3 --json FILE

official: the published procedure, float32, padded to --max-length. lora: PEFT's LoRA, rank 8 on query and value.
bottleneck: a LoRA of the width and in the positions of bottleneck adapters. full: the whole encoder. ours: an adapter
on a frozen backbone. ours-cached: the same with cached hidden states. ours-cached-8bit: cached in 8 bits. Only on
request: ours-8bit-backbone, on a backbone that multiplies in 8 bits, and ours-8bit-compiled, with compiled blocks too;
ours-frugal and ours-cached-frugal, with factored optimizer states and gradients freed as they are used. All but
official train in the same batches of similar lengths, and in bfloat16 if this machine is faster in it or with --bf16,
else all in float32. Rates are compared with official, lora and full, as far as they take part. The weights are random.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from statistics import median
from typing import Annotated, Any

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import extremes, gathered, times
from _work import CONTESTANTS, FRUGAL, QUANTIZED

ALL = [name for name in CONTESTANTS if name not in (*QUANTIZED, *FRUGAL)]
REFERENCES = ("official", "lora", "full")  # what the others are compared with
RATES = ("tokens_per_second", "tokens_per_cpu_second")
LIMITS = ("fraction_of_limit", "fraction_of_limit_by_cpu", "matrix_peak_gflops")
MEDIANS = (*LIMITS, "bits", "mflop_per_token", "seconds_per_step")
PEAKS = ("peak_rss_mib", "peak_anonymous_mib", "peak_device_mib")


def main(
    contestants: Annotated[list[str], typer.Option(help=f"Any of {' '.join(CONTESTANTS)}.")] = ALL,
    size: commands.SizeOption = "large",
    rounds: commands.Rounds = 5,
    steps: commands.Steps = 6,
    warmup: commands.Warmup = 2,
    batch: commands.Batch = 16,
    max_length: commands.MaxLength = 64,
    fill: Annotated[bool, typer.Option("--fill", help="Make every sentence as long as --max-length.")] = False,
    bf16: commands.Bf16 = None,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    data_dir: commands.DataDir = None,
    tokenizer: commands.Tokenizer = None,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
    profile: commands.Profile = None,
) -> None:
    """Train every contestant in each round and compare."""
    for name in contestants:
        if name not in CONTESTANTS:
            raise typer.BadParameter(f"no contestant {name!r}; there are {', '.join(CONTESTANTS)}")
    shared = {"size": size, "batch": batch, "steps": steps, "warmup": warmup, "longest": max_length, "adapters": 1}
    shared |= {"bf16": commands.in_bfloat16(bf16, device), "device": device, "threads": threads}
    shared |= commands.sentences_of_length(max_length) if fill else commands.sentences_of(data_dir, tokenizer)
    jobs = {name: {**shared, "contestant": name} for name in able(contestants)}
    title = f"Training, RoBERTa-{size} sizes, batches of {batch} sentences, {shared['sentences']}"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))
    if profile is not None:
        commands.profile(BENCHMARK, jobs, title, profile)


def able(contestants: list[str]) -> list[str]:
    """Return the contestants that can train here, and print those that can't.

    Raises:
        ValueError: no contestant is left.
    """
    rest = [name for name in contestants if name not in QUANTIZED]
    if rest == contestants or find_spec("torchao") is not None:
        return contestants
    message = f"{' and '.join(name for name in contestants if name in QUANTIZED)} left out, since torchao is needed; "
    message += "pip install 'kadapter[quantization]'"
    if not rest:
        raise ValueError(message)
    print(message, file=sys.stderr)
    return rest


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's rates by round, largest memory and median share of the limit."""
    return gathered(results, RATES, MEDIANS, PEAKS)


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its rate and memory relative to those of the references."""
    references = [name for name in REFERENCES if name in summary] or list(summary)[:1]
    return [
        {
            "contestant": name,
            "dtype": {16: "bfloat16", 32: "float32"}[int(result["bits"])],
            "tokens/s": f"{median(rates := result['tokens_per_second']):.0f}",
            "tokens/CPU s": f"{median(result['tokens_per_cpu_second']):.0f}",
            "lowest to highest": f"{min(rates):.0f} to {max(rates):.0f}",
            **against(result, {reference: summary[reference] for reference in references}),
            "MFLOP/token": f"{result['mflop_per_token']:.4g}",
            "of the limit": f"{result['fraction_of_limit']:.1%}",
            "by CPU time": f"{result['fraction_of_limit_by_cpu']:.1%}",
            "anonymous MiB": f"{result['peak_anonymous_mib']:.0f}",
            "resident MiB": f"{result['peak_rss_mib']:.0f}",
            "device MiB": f"{result['peak_device_mib']:.0f}",
        }
        for name, result in summary.items()
    ]


def against(result: dict[str, Any], references: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the cells that compare a contestant with the references: the median of rounds, their extremes, memory."""
    cells, memory = {}, "peak_anonymous_mib"
    for name, other in references.items():
        rates = result["tokens_per_second"], other["tokens_per_second"]
        cpu = times(result["tokens_per_cpu_second"], other["tokens_per_cpu_second"])
        cells[f"against {name}"] = f"{times(*rates):.2f}x ({extremes(*rates)})"
        cells[f"by CPU time against {name}"] = f"{cpu:.2f}x"
        cells[f"memory against {name}"] = f"{result[memory] / other[memory]:.2f}"
    return cells


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of rates and a panel of memory."""
    rates = {name: result["tokens_per_second"] for name, result in summary.items()}
    memory = {name: [result["peak_anonymous_mib"]] for name, result in summary.items()}
    return [[Bars("tokens/s", rates), Bars("peak anonymous memory (MiB)", memory)]]


BENCHMARK = commands.Benchmark("_training", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
