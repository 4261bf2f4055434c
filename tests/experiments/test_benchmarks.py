"""Every benchmark runs completely at a tiny size, and reports what it must. Nothing here asserts a time."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import typer
from helpers import COMPILER, ROOT, tiny_tokenizer
from huggingface_hub import constants
from processes import measure_nothing
from tiny_runs import write_ground
from tiny_tasks import write_corpus
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from kadapter import backbone_kadapter

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

FOLDER = ROOT / "benchmarks"
TRAINING = ["--steps", "1", "--warmup", "1", "--batch", "4"]
TOLD_OF_TRAINING = {"tokens_per_second", "tokens_per_cpu_second", "peak_rss_mib", "peak_anonymous_mib"}
LIMIT = {"fraction_of_limit", "fraction_of_limit_by_cpu"}


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Run a benchmark in this process, its contestants in fresh ones; return the JSON and what it printed."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(__import__("_lengths"), "SHARED", tmp_path / "shared")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(name, *arguments):
        module = __import__(name)
        commands = sys.modules["_commands"]
        path = tmp_path / f"{name}.json"
        given = commands.spread([*arguments, "--size", "tiny", "--rounds", "1", "--json", str(path)])
        done = CliRunner().invoke(commands.app_of(module.main), given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(path.read_text(encoding="utf-8")), done.output

    return run


def numbers_of(value):
    """All numbers in nested lists and dicts."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers_of(one)
    elif not isinstance(value, str):
        yield value


def assert_drawn(picture, *words):
    text = picture.read_text(encoding="utf-8")
    assert [word for word in words if f">{word}</text>" not in text] == []


def assert_told(results, names, keys):
    assert list(results) == names
    for one in results.values():
        assert set(keys) <= set(one)
        assert all(isinstance(number, int | float) and math.isfinite(number) for number in numbers_of(one))
        assert one["peak_rss_mib"] >= one["peak_anonymous_mib"] > 0


def test_training_steps_of_the_official_procedure_and_of_ours_are_compared_and_drawn(benchmark, tmp_path):
    picture = tmp_path / "rates.svg"
    names = ["--contestants", "official", "ours"]
    results, printed = benchmark("train_step", *TRAINING, *names, "--plot", str(picture))
    assert_drawn(picture, "tokens/s", "peak anonymous memory (MiB)", "official", "ours")
    assert_told(results, ["official", "ours"], TOLD_OF_TRAINING | LIMIT)
    assert all(len(one["tokens_per_second"]) == 1 for one in results.values())
    assert "| official |" in printed and "| ours |" in printed and "torch" in printed
    assert "lengths recorded of FewRel" in printed and "lengths recorded of FewRel" in results["ours"]["sentences"]


def test_where_the_time_of_training_goes_is_told_by_operation(benchmark, tmp_path):
    path = tmp_path / "profile.md"
    names = ["--contestants", "official", "ours-cached"]
    results, printed = benchmark("train_step", *TRAINING, *names, "--profile", str(path))
    written = path.read_text(encoding="utf-8")
    assert written in printed and all("shares" not in one for one in results.values())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("| ")]
    assert rows[0] == ["operation", "official", "ours-cached"] and rows[-1][0] == "all others"
    shares = {name: [float(cell.rstrip("%")) for cell in cells] for name, *cells in rows[1:]}
    assert shares["aten::mm"][0] > 0 and shares["aten::addmm"][0] > 0  # what takes 1% of so little varies
    for column in zip(*shares.values(), strict=True):
        assert sum(column) == pytest.approx(100, abs=0.1 * len(shares))


def test_lengths_are_those_of_the_release_beside_the_repository_where_there_is_one(benchmark, tmp_path):
    shared = tmp_path / "shared"
    write_corpus(shared / "data/fewrel", "fewrel")
    tiny_tokenizer(shared / "models/all-MiniLM-L6-v2")
    results, printed = benchmark("inference", "--adapters", "0", "--batches", "1", "--repeats", "1")
    assert results["backbone"]["sentences"] == "lengths read from fewrel by all-MiniLM-L6-v2"
    assert results["backbone"]["sentences"] in printed


def test_training_on_kept_states_is_measured_where_the_backbone_is_gone(benchmark):
    names = ["ours-cached", "ours-cached-8bit"]
    results, _ = benchmark("train_step", *TRAINING, "--contestants", *names)
    assert_told(results, names, TOLD_OF_TRAINING | LIMIT)


def test_training_beside_a_backbone_in_8_bits_is_measured_where_torchao_is_installed(benchmark):
    pytest.importorskip("torchao", reason="torchao comes with the extra quantization")
    name = "ours-8bit-compiled" if COMPILER else "ours-8bit-backbone"
    results, _ = benchmark("train_step", *TRAINING, "--contestants", name)
    assert_told(results, [name], TOLD_OF_TRAINING | LIMIT)


def test_a_contestant_that_needs_torchao_is_left_out_with_a_sentence_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = __import__("train_step")
    assert "ours-8bit-backbone" not in module.ALL
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module.able(["ours", "ours-8bit-backbone"]) == ["ours"]
    assert "ours-8bit-backbone left out, since torchao is needed" in capsys.readouterr().err
    with pytest.raises(ValueError, match="torchao is needed"):
        module.able(["ours-8bit-backbone"])


def test_low_rank_and_full_training_are_compared_where_peft_is_installed(benchmark):
    pytest.importorskip("peft", reason="peft comes with the extras benchmarks and test")
    names = ["lora", "bottleneck", "full"]
    results, printed = benchmark("train_step", *TRAINING, "--no-bf16", "--contestants", *names)
    assert_told(results, names, TOLD_OF_TRAINING | LIMIT)
    head, _, *rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert {row["dtype"] for row in cells.values()} == {"float32"} and "against official" not in head
    for name in ("lora", "full"):
        ratio = results["bottleneck"]["tokens_per_second"][0] / results[name]["tokens_per_second"][0]
        assert cells["bottleneck"][f"against {name}"].startswith(f"{ratio:.2f}x ({ratio:.2f}x to {ratio:.2f}x")
        assert cells[name][f"memory against {name}"] == "1.00"


def test_training_in_little_memory_is_measured_on_request(benchmark):
    names = ["ours-frugal", "ours-cached-frugal"]
    results, _ = benchmark("train_step", *TRAINING, "--contestants", *names)
    assert_told(results, names, TOLD_OF_TRAINING | LIMIT)
    assert not {*names} & {*__import__("train_step").ALL}


def test_reading_is_compared_with_and_without_adapters_at_each_batch_size(benchmark, tmp_path):
    picture, axes = tmp_path / "latency.svg", ["--adapters", "0", "2", "--batches", "1", "4"]
    results, printed = benchmark("inference", *axes, "--repeats", "1", "--plot", str(picture))
    assert_drawn(picture, "latency (ms)", "tokens/s", "backbone", "+2", "1", "4")
    assert_told(results, ["backbone", "+2"], {"latency_ms", "tokens_per_second"} | LIMIT)
    assert all(set(one["latency_ms"]) == set(one["fraction_of_limit"]) == {"1", "4"} for one in results.values())
    assert "time against backbone" in printed


def test_loading_is_compared_with_and_without_adapters(benchmark, tmp_path):
    picture = tmp_path / "loading.png"
    results, printed = benchmark("load", "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    names = ["backbone", "+2", "+2, first load"]
    assert_told(results, names, {"seconds", "seconds_to_first_answer", "fraction_of_limit"})
    assert "against backbone" in printed


def test_entity_embeddings_are_compared_with_a_dictionary_over_a_matrix_in_memory(benchmark, tmp_path):
    picture = tmp_path / "tables.svg"
    results, printed = benchmark("entity_embeddings", "--ids", "20", "--dimension", "4", "--plot", str(picture))
    names = ["mapped", "mapped, first", "dictionary"]
    assert_told(results, names, {"seconds", "milliseconds_of_lookup", "anonymous_mib"})
    assert "Entity embeddings, 2000 x 4, 20 ids at a time" in printed and "against mapped" in printed
    assert_drawn(picture, "dictionary")


def test_a_plugged_map_is_compared_with_the_model_alone_and_its_training_with_the_official_one(benchmark, tmp_path):
    picture = tmp_path / "maps.svg"
    results, printed = benchmark(
        "plugging", "--batch", "2", "--length", "16", "--repeats", "1", "--plot", str(picture)
    )
    names = ["alone", "plugged", "official", "ours", "official-inputs", "ours-inputs"]
    assert_told(results, names, {"milliseconds", "cpu_milliseconds"})
    assert "against" in printed and "2 sentences of up to 16 tokens" in printed
    assert_drawn(picture, "plugged", "official")


def test_a_mixed_batch_is_compared_with_one_adapter_on_all_rows_and_with_those_of_peft(benchmark, tmp_path):
    pytest.importorskip("peft", reason="peft comes with the extras benchmarks and test")
    picture = tmp_path / "mixed.svg"
    rows = ["--adapters", "3", "--batch", "4", "--length", "8", "--repeats", "1"]
    results, printed = benchmark("mixed_batches", *rows, "--plot", str(picture))
    assert_told(
        results,
        ["backbone", *(f"{kind}-{way}" for kind in ("ours", "lean", "lora") for way in ("one", "mixed"))],
        {"milliseconds"},
    )
    assert "ours-mixed against it" in printed and "lean-mixed in CPU time" in printed
    assert "3 adapters over 4 rows" in printed
    assert_drawn(picture, "ours-mixed", "lora-mixed")


def test_generating_with_adapters_and_training_one_are_compared_beside_a_language_model(benchmark, tmp_path):
    pytest.importorskip("peft", reason="peft comes with the extras benchmarks and test")
    picture = tmp_path / "language_model.svg"
    shape = ["--batch", "2", "--length", "6", "--new-tokens", "3", "--repeats", "1"]
    results, printed = benchmark("language_model", *shape, "--plot", str(picture))
    names = ["generate-1", "ours-1", "generate-8", "ours-8", "lora", "ours", "ours-held-back"]
    assert_told(results, names, {"milliseconds", "cpu_milliseconds"})
    assert "2 texts of 6 tokens a step, 3 new tokens" in printed
    assert_drawn(picture, "ours-8", "ours-held-back")


def test_a_backbone_is_hashed_at_a_first_load_alone(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(constants, "HF_HOME", constants.HF_HOME)
    loading, hashed = __import__("_loading"), []
    monkeypatch.setattr(backbone_kadapter, "digest_of_tensor", lambda key, one: hashed.append(key) or b"")
    job = {"folder": str(tmp_path), "size": "tiny", "threads": torch.get_num_threads(), "round": 0, "adapters": 1}
    loading.write({**job, "number": 1})
    counts = []
    for first in (False, True):
        hashed.clear()
        loading.contest({**job, "first": first}, SimpleNamespace(begin=list, end=list))
        counts.append(len(hashed))
    assert counts[0] == 0 < counts[1]


def test_scaling_varies_one_thing_at_a_time_and_draws_a_panel_for_each(benchmark, tmp_path):
    picture = tmp_path / "scaling.svg"
    one = ["--lengths", "8", "--batches", "1", "--adapters", "2", "--processes", "2", "--corpora", "50"]
    results, _ = benchmark("scaling", *one, *TRAINING, "--plot", str(picture))
    names = ["length 8", "batch 1", "adapters 2", "processes 2", "corpus 50"]
    assert_told(results, names, {"seconds_per_step"} | LIMIT)
    assert_drawn(picture, "length (ours)", "batch (ours)", "adapters (ours)", "processes (ours)", "8", "50")
    assert_drawn(picture, "corpus (ours-cached)", "seconds a step", "anonymous MiB")
    assert results["length 8"]["sentences"] == "8 tokens each" != results["corpus 50"]["sentences"]
    alone, both = (results[name]["peak_anonymous_mib"] for name in ("batch 1", "processes 2"))
    assert both > 1.5 * alone  # each has libraries and a model of its own


def test_a_contestant_that_does_not_exist_and_lengths_without_a_tokenizer_are_refused_in_a_sentence(benchmark):
    with pytest.raises(AssertionError, match="no contestant"):
        benchmark("train_step", "--contestants", "theirs")
    with pytest.raises(ValueError, match="go together"):
        benchmark("train_step", "--data-dir", ".")


def test_processes_that_can_not_share_a_batch_and_corpora_below_the_steps_are_refused_in_a_sentence(benchmark):
    with pytest.raises(AssertionError, match="3 can't share --batch 16"):
        benchmark("scaling", "--processes", "3")
    with pytest.raises(AssertionError, match="take 8 sentences"):
        benchmark("scaling", *TRAINING, "--corpora", "7")


def test_a_picture_of_an_unknown_kind_is_refused_before_anything_runs(benchmark, tmp_path):
    with pytest.raises(AssertionError, match=r"ends in none of \.svg \.png"):
        benchmark("load", "--plot", "loads.pdf")
    assert not (tmp_path / "load.json").exists()


def test_a_contestant_that_fails_ends_the_benchmark_with_its_reason(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    play = __import__("_rounds").play
    with pytest.raises(RuntimeError, match=r"(?s)broken failed.*TypeError"):
        play(os.path.join, {"broken": {}}, 1, "cpu", print)


def test_the_memory_of_what_takes_no_time_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    rounds = __import__("_rounds").play(measure_nothing, {"nothing": {}}, 20, "cpu", lambda results: None)["nothing"]
    assert len(rounds) == 20 and all(one["peak_rss_mib"] >= one["peak_anonymous_mib"] > 0 for one in rounds)


def test_the_limit_of_a_gpu_is_taken_from_large_products_and_many_between_two_waits(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    limit, waits = __import__("_limit"), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    with FlopCounterMode(display=False) as counted:
        limit.matrix_peak(128, torch.bfloat16, "meta")
    assert counted.get_total_flops() / (len(waits) / 2) >= 4 * 2 * 8192**3


def test_memory_of_a_gpu_counts_from_begin_to_end_alone(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    told, peak = [], [9]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    marks = __import__("_rounds").Marks(SimpleNamespace(send=told.append, recv=lambda: "seen"), "cuda")
    marks.begin()
    peak[0] += 3
    marks.end()
    peak[0] += 5
    assert (told, marks.device_bytes) == (["begin", "end"], 3)


def test_no_column_tells_cpu_time_of_what_a_gpu_computes(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    commands, module = __import__("_commands"), __import__("train_step")
    one = dict.fromkeys((*module.RATES, *module.MEDIANS, *module.PEAKS), 1.0) | {"bits": 16}
    monkeypatch.setattr(commands, "play", lambda *arguments: {"ours": [one]})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    jobs = {"ours": {"device": "cuda", "threads": 1}}
    commands.compare(module.BENCHMARK, jobs, 1, "Training", commands.Files(None, None, None))
    printed = capsys.readouterr().out
    assert "| tokens/s |" in printed and "of the limit" in printed and "CPU" not in printed


def test_every_benchmark_tells_its_options(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    for name in ("train_step", "inference", "scaling", "load", "entity_embeddings", "mixed_batches"):
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--help"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert "--rounds" in done.stdout and "--json" in done.stdout and f"benchmarks/{name}.py" in done.stdout


def test_values_after_one_option_are_spread_over_it(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spread = __import__("_commands").spread
    assert spread(["--a", "1", "2", "--b", "x", "--a=3", "4"]) == "--a 1 --a 2 --b x --a=3 --a 4".split()


def test_an_uncached_step_at_the_size_of_roberta_large_needs_what_its_weights_say(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    work = __import__("_work")
    large, one = work.SIZES["large"], [1]
    backbone, adapter = 302_000_000, 47_200_000  # weights in matrix products
    assert work.training_step("ours", large, one) == pytest.approx(2 * backbone + 6 * adapter, rel=0.01)
    assert work.training_step("ours-cached", large, one) == pytest.approx(6 * adapter, rel=0.01)
    assert work.training_step("full", large, one) == pytest.approx(6 * backbone, rel=0.01)
    assert work.training_step("lora", large, one) == pytest.approx(4 * backbone, rel=0.02)
    assert work.training_step("ours", large, [9], adapters=2) > work.training_step("ours", large, [9])


def test_recorded_lengths_are_those_of_all_sentences_and_draws_repeat(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    lengths = __import__("_lengths")
    recorded = lengths.recorded()
    assert len(recorded) == 21_000 and 34 < sum(recorded) / len(recorded) < 36
    drawn = lengths.draw(recorded, 50, 40, seed=1)
    assert drawn == lengths.draw(recorded, 50, 40, seed=1) != lengths.draw(recorded, 50, 40, seed=2)
    assert max(drawn) <= 40


def test_exported_graphs_are_compared_with_pytorch(benchmark):
    pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
    names = ["eager", "onnx-fp32", "onnx-int8"]
    results, printed = benchmark("export", "--contestants", *names, "--batches", "1", "2", "--repeats", "1")
    assert list(results) == names
    assert all(one[key][0] > 0 for one in results.values() for key in ("ms_1", "ms_2", "cpu_ms_1", "cpu_ms_2"))
    assert results["onnx-fp32"]["cosine"] > 0.99999
    assert 0.99 < results["onnx-int8"]["cosine"] < results["onnx-fp32"]["cosine"]
    assert all(results[name][key][0] > 0 for name in names[1:] for key in ("adding_ms", "loading_ms"))
    assert "| onnx-int8 | 2 |" in printed and "random" not in printed


def test_adapters_of_one_exported_encoder_are_compared_with_as_many_merged_models(benchmark):
    pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
    results, printed = benchmark("exported_tasks", "--tasks", "3", "--batches", "1", "2", "--repeats", "1")
    assert list(results) == ["merged", "one encoder"]
    keys = ("ms_1", "ms_2", "cpu_ms_1", "cpu_ms_2", "adding_ms", "peak_anonymous_mib")
    assert all(value > 0 for one in results.values() for key in keys for value in numbers_of(one[key]))
    assert "| one encoder | 2 |" in printed and "3 tasks" in printed


@pytest.mark.parametrize(("objective", "corpus"), [("factual", "trex"), ("linguistic", "conllu")])
def test_quality_at_equal_cpu_time_is_compared_of_ours_lora_and_the_whole_encoder(
    monkeypatch, tmp_path, objective, corpus
):
    pytest.importorskip("peft", reason="LoRA is trained where PEFT is installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    ground = write_ground(tmp_path / "ground")
    names = ["ours-top-2", "lora-4", "full"]
    flags = ["--objective", objective, "--corpus", corpus, "--data-dir", ground / corpus]
    flags += ["--backbone", ground / "backbone", "--budget", "0.5", "--max-length", "40", "--rounds", "2"]
    flags += ["--sentences", "30", "--held-out", "8", "--batch", "4", "--rates", "1e-3"]
    flags += ["--json", tmp_path / "frontier.json", "--plot", tmp_path / "frontier.svg", "--contestants", *names]
    main = __import__("frontier").main
    commands = sys.modules["_commands"]
    given = commands.spread(list(map(str, flags)))
    done = CliRunner().invoke(commands.app_of(main), given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "frontier.json").read_text(encoding="utf-8"))
    assert [name.partition(" ")[0] for name in results] == names
    chosen = [one["runs"] for one in results.values()]
    assert [len(runs) for runs in chosen] == [2, 2, 2]  # a run that chooses the rate, and a second seed
    for run in (run for runs in chosen for run in runs):
        seconds = [point["seconds"] for point in run["points"]]
        assert len(seconds) == 5 and seconds == sorted(seconds) and seconds[-1] >= 0.5
        assert all(0 <= point[half] <= 1 for point in run["points"] for half in ("validation", "test"))
    assert_drawn(tmp_path / "frontier.svg", "CPU seconds", *names)


def test_a_server_under_load_is_compared_in_batches_and_one_by_one(benchmark):
    pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
    pytest.importorskip("fastapi", reason="serving needs fastapi: pip install 'kadapter[server]'")
    loaded = ["--requests", "40", "--warmup", "8", "--clients", "4", "--threads", "1"]
    results, printed = benchmark("serving", *loaded)
    assert list(results) == ["single", "batched"]
    assert results["single"]["requests_per_pass"] == [1] and results["batched"]["requests_per_pass"][0] >= 1
    assert all(one["late_ms"][0] >= one["median_ms"][0] > 0 for one in results.values())
    assert "| batched |" in printed and "4 clients" in printed


@pytest.mark.parametrize("name", ["ours-foo", "ours-top-4", "lora-x", "lora-0", "fullish", "full-uncached"])
def test_a_contestant_that_there_is_not_is_refused_by_its_whole_name(monkeypatch, name):
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(typer.BadParameter, match=f"no contestant '{name}'; there are ours-published, ours-lean"):
        __import__("frontier").family_of(name)


def test_of_each_contestant_the_rate_with_the_best_score_for_choosing_is_taken(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    best = __import__("frontier").best
    scores = {"lora-16 0.001": 0.7, "lora-16 0.002": 0.6, "lora-1 0.001": 0.9, "full 0.0001": 0.8}
    results = {
        name: [{"points": [{"validation": 1.0, "test": 0.0}, {"validation": score, "test": 1 - score}]}]
        for name, score in scores.items()
    }
    assert [best(name, results) for name in ("lora-16", "lora-1", "full")] == [
        "lora-16 0.001",
        "lora-1 0.001",
        "full 0.0001",
    ]
