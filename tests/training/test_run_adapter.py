"""One run of trainers/run_adapter.py from flags to artifacts, in this process: what it writes, prints and refuses."""

import json
import random
import resource
import shutil
import sys

import pytest
import torch
import yaml
from helpers import run_python
from tiny_runs import (
    CORPORA,
    ROOT,
    backbone_tensors_in,
    digest,
    flags,
    losses,
    results,
    run_command,
    same_tensors,
    tensors,
    trainable_told,
    write_ground,
)
from transformers import AutoModel, RobertaModel

from kadapter import KAdapterForDependencyParsing, KAdapterModel
from kadapter.trainers import run_adapter
from kadapter.trainers.common.arguments import parse_arguments, shape_of
from kadapter.trainers.common.checkpoints import last_complete_checkpoint
from kadapter.trainers.common.encoding import encode, load_splits, sample
from kadapter.trainers.many_adapters.variants import settings_of
from kadapter.trainers.pretraining import linguistic

pytestmark = pytest.mark.slow

AS_A_MODULE = "import runpy\nrunpy.run_module('kadapter.trainers.run_adapter', run_name='__main__')"  # python -m
QUIET = ("--report_to", "none", "--num_train_epochs", "1", "--save_strategy", "no")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def trained(ground, tmp_path_factory):
    """One run of each objective: its output directory, and what it printed."""
    before, runs = digest(ground / "backbone"), {}
    for objective in CORPORA:
        output = tmp_path_factory.mktemp("runs") / "out"
        command = [ROOT / "trainers" / "run_adapter.py", *flags(ground, objective, output)]
        if objective == "factual":  # as a file, and what is installed, here a broken one, is not used
            broken = tmp_path_factory.mktemp("installed")
            (broken / "kadapter.py").write_text("raise ImportError('the installed kadapter is not this checkout')")
            runs[objective] = (output, run_command([sys.executable, *command], PYTHONPATH=str(broken)))
        else:
            runs[objective] = (output, run_python(AS_A_MODULE, output.parent, *command[1:], package=True).stdout)
    assert digest(ground / "backbone") == before
    return runs


def run(ground, objective, output, *more):
    return run_adapter.main(flags(ground, objective, output, *more))


# --- what a run leaves


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("linguistic", {"eval_uas"}), ("factual", {"eval_micro_f1", "eval_macro_f1", "eval_accuracy"})],
)
def test_the_results_and_the_logs_are_written(trained, objective, expected):
    output, printed = trained[objective]
    assert expected <= results(output).keys()
    assert {"train_loss", "eval_loss"} <= results(output).keys()
    assert list((output / "runs").rglob("events.out.tfevents*"))
    assert sorted(losses(output)) == list(range(1, 11))
    assert not list(output.rglob("*partial*"))
    assert trainable_told(printed) == sum(one.numel() for one in tensors(output / "pretraining_head").values())
    assert "processes: 1, device: cpu, examples in one step: 8" in printed


def test_what_was_kept_dropped_and_truncated_is_printed(trained):
    printed = trained["factual"][1]
    assert "corpus trex, train: 40 records, 40 rows" in printed
    assert "train: 40 examples kept, 0 dropped, 0 of the kept truncated" in printed
    assert "eval: 13 examples kept, 0 dropped, 0 of the kept truncated" in printed


@pytest.mark.parametrize("objective", CORPORA)
def test_the_card_says_backbone_corpus_objective_and_result(trained, objective):
    output, _ = trained[objective]
    card = (output / "README.md").read_text(encoding="utf-8")
    metric = {"linguistic": "uas", "factual": "micro_f1"}[objective]
    for part in ("backbone", objective, CORPORA[objective], f"{metric} {results(output)[f'eval_{metric}']:.4f}"):
        assert part in card, part
    assert "runtime" not in card and "loss" not in card


@pytest.mark.parametrize("objective", CORPORA)
def test_out_is_the_adapter_and_pretraining_head_the_whole_model(trained, objective):
    output, _ = trained[objective]
    name = {"linguistic": "lin", "factual": "fac"}[objective]
    assert all(key.startswith(f"adapters.{name}.") for key in tensors(output))
    head = tensors(output / "pretraining_head")
    assert {key.split(".")[0] for key in head} == {"head", "kadapter"} or any(key.startswith("head.") for key in head)
    assert not [key for key in head if "backbone" in key]
    inner = {key.removeprefix("kadapter."): one for key, one in head.items()}
    assert all(torch.equal(inner[key], one) for key, one in tensors(output).items())
    model = AutoModel.from_pretrained(output, trust_remote_code=True)
    assert model.active_adapters() == [name]
    assert (output / "tokenizer.json").is_file() and (output / "pretraining_head" / "tokenizer.json").is_file()


def test_the_backbone_in_memory_keeps_every_bit(ground, tmp_path, monkeypatch):
    made, build = [], run_adapter._new_model
    monkeypatch.setattr(run_adapter, "_new_model", lambda *given: made.append(build(*given)) or made[0])
    run(ground, "linguistic", tmp_path / "out", *QUIET)
    before = RobertaModel.from_pretrained(ground / "backbone", add_pooling_layer=False).state_dict()
    after = made[0].kadapter.backbone.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert not any(one.requires_grad or one.grad is not None for one in made[0].kadapter.backbone.parameters())


def test_no_saved_file_holds_a_backbone_tensor(ground, trained):
    assert not [key for output, _ in trained.values() for key in backbone_tensors_in(output, ground)]


# --- evaluation alone


@pytest.mark.parametrize("objective", CORPORA)
def test_evaluation_alone_gives_the_results_of_the_trained_model(ground, trained, objective, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(trained[objective][0], output)
    before = digest(output / "pretraining_head")
    shutil.rmtree(output / "runs")
    given = [one for one in flags(ground, objective, output, "--report_to", "none") if one != "--do_train"]
    again = run_adapter.main(given)
    for key, value in results(trained[objective][0]).items():
        if key.startswith("eval_") and not key.endswith(("runtime", "second")):
            assert again[key] == pytest.approx(value, abs=1e-6), key
    assert digest(output / "pretraining_head") == before and same_tensors(output, trained[objective][0])


def test_an_adapter_that_attends_to_padding_is_measured_alike_in_batches_of_any_size(ground, tmp_path):
    given = flags(ground, "factual", tmp_path / "out", *QUIET, "--mask_padding", "false")
    found = [run_adapter.main([*given, "--per_device_eval_batch_size", "8"])["eval_loss"]]
    for size in ("1", "3"):
        alone = [one for one in given if one != "--do_train"]
        found.append(run_adapter.main([*alone, "--per_device_eval_batch_size", size])["eval_loss"])
    assert found == pytest.approx(found[:1] * 3, abs=1e-6)


def test_evaluation_alone_refuses_what_it_was_not_trained_for(ground, trained, tmp_path):
    def evaluate(objective, output, *more):
        return run_adapter.main([one for one in flags(ground, objective, output, *more) if one != "--do_train"])

    with pytest.raises(ValueError, match=r"there is no trained model in .*pretraining_head.*; train it with"):
        evaluate("linguistic", tmp_path / "none")
    output = trained["linguistic"][0]
    with pytest.raises(ValueError, match=r"holds a KAdapterForDependencyParsing with the adapters .*'lin'"):
        evaluate("factual", output)
    with pytest.raises(ValueError, match="dependency_head='arc', and these flags ask for 'official'"):
        evaluate("linguistic", output, "--head", "official")


def test_the_reported_score_is_that_of_the_model_over_all_words(ground, trained):
    output, _ = trained["linguistic"]
    corpus, adapter, run_arguments = parse_arguments(flags(ground, "linguistic", output))
    objective = run_adapter._objective(corpus, adapter, run_arguments)
    rows = load_splits(corpus, train=False, evaluate=True, verbose=False)["eval"]
    model = KAdapterForDependencyParsing.from_pretrained(output / "pretraining_head")
    right = total = 0
    for example, heads in zip(encode("eval", rows, objective, corpus, verbose=False), rows["heads"], strict=True):
        inputs = {key: torch.tensor([example[key]]) for key in ("input_ids", "word_positions")}
        guessed = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits.argmax(-1)[0]
        right += sum(int(guess) == head for guess, head in zip(guessed, heads, strict=True))
        total += len(heads)
    assert results(output)["eval_uas"] == pytest.approx(right / total)


# --- flags


def test_options_do_what_they_say(ground, tmp_path, capsys):
    run(ground, "linguistic", tmp_path / "official", *QUIET, "--head", "official", "--max_train_samples", "16")
    printed = capsys.readouterr().out
    assert "train: 16 examples kept" in printed and "eval: 13 examples kept" in printed
    config = json.loads((tmp_path / "official/pretraining_head/config.json").read_text(encoding="utf-8"))
    assert (config["dependency_head"], config["num_positions"], config["fusion"]) == ("official", 40, "concat")
    run(ground, "factual", tmp_path / "add", *QUIET, "--fusion", "add", "--max_eval_samples", "5", "--bf16")
    assert "eval: 5 examples kept" in capsys.readouterr().out
    head = tensors(tmp_path / "add/pretraining_head")
    assert not [key for key in head if "fusion" in key]
    assert {one.dtype for one in head.values()} == {torch.float32}


def test_the_best_checkpoint_becomes_the_artifact_if_asked(ground, tmp_path):
    output = tmp_path / "out"
    best = ["--load_best_model_at_end", "--metric_for_best_model", "uas", "--eval_strategy", "steps"]
    workers = ["--eval_steps", "2", "--save_total_limit", "1", "--num_proc", "2", "--report_to", "none"]
    reached = run(ground, "linguistic", output, *best, *workers)["eval_uas"]
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    assert reached == state["best_metric"] == max(one.get("eval_uas", 0) for one in state["log_history"])
    assert same_tensors(output / f"checkpoint-{state['best_global_step']}", output / "pretraining_head")


def test_a_baseline_without_adapter_is_a_head_alone_and_can_be_evaluated(ground, tmp_path):
    given = flags(ground, "factual", tmp_path / "out", *QUIET, "--without_adapter")
    trained = run_adapter.main(given)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert {key.split(".")[0] for key in tensors(tmp_path / "out/pretraining_head")} == {"head"}
    again = run_adapter.main([one for one in given if one != "--do_train"])
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-6)


def test_a_malformed_record_stops_the_run_or_is_skipped_and_counted(ground, tmp_path, capsys):
    folder = tmp_path / "conllu"
    shutil.copytree(ground / "conllu", folder)
    with (folder / "train.conllu").open("a", encoding="utf-8") as file:
        file.write("1\tloop\t_\t_\t_\t_\t1\tdep\t_\t_\n\n")
    with pytest.raises(ValueError, match=r"train\.conllu, record 41: "):
        run(ground, "linguistic", tmp_path / "out", *QUIET, "--data_dir", folder)
    assert not (tmp_path / "out").exists()
    run(ground, "linguistic", tmp_path / "out", *QUIET, "--data_dir", folder, "--on_bad_record", "skip")
    assert "corpus conllu, train: 1 bad_records, 40 records, 40 rows" in capsys.readouterr().out


def recipe(folder, text):
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return str(folder / "recipe.yaml")


def test_flags_override_a_recipe(ground, tmp_path):
    path = recipe(tmp_path, "layers: [0, 1]\nadapter_dropout: 0.3\nmask_padding: false\nseed: 7\nrun_name: null\n")
    given = flags(ground, "linguistic", tmp_path / "out")
    _, adapter, arguments = parse_arguments([*given, "--recipe", path])
    assert (adapter.layers, adapter.adapter_dropout, adapter.mask_padding) == ([0, 2, 4], 0.3, False)
    assert arguments.seed == 7
    _, adapter, arguments = parse_arguments([f"--recipe={path}", *given, "--seed", "9", "--mask_padding", "True"])
    assert arguments.seed == 9 and adapter.mask_padding is True


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("layres: [0]", "'layres' is no flag; did you mean 'layers'?"),
        ("- layers", "must be a mapping of flags to values, not list"),
        ("layers: [0", "can't be read"),
    ],
)
def test_a_bad_recipe_is_told_in_a_sentence(tmp_path, text, problem):
    with pytest.raises(ValueError, match=r"recipe '.*recipe.yaml'") as error:
        parse_arguments(["--recipe", recipe(tmp_path, text)])
    assert problem in str(error.value)


RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if "\nobjective:" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_names_what_there_is(path, tmp_path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    given = ["--recipe", str(path), "--backbone", "b", "--data_dir", "d", "--output_dir", str(tmp_path)]
    (own,), _ = settings_of([*given, *([] if "adapter_name" in values else ["--adapter_name", "own"])])
    assert all(any(getattr(one, key, None) is not None for one in own) for key in values)
    assert (ROOT / "data_builders" / f"{own.corpus.corpus}.py").is_file()
    assert (ROOT / "trainers" / "pretraining" / f"{own.adapter.objective}.py").is_file()
    assert shape_of(own.adapter)


# --- bad input


@pytest.mark.parametrize(
    ("objective", "more", "sentence"),
    [
        ("linguistic", ["--objective", "linguist"], r"no objective 'linguist'; .* did you mean 'linguistic'\?"),
        ("linguistic", ["--corpus", "conlu"], r"no corpus 'conlu'; .* did you mean 'conllu'\?"),
        (
            "linguistic",
            ["--corpus", "trex"],
            r"corpus 'trex' has relation records, and this objective needs dep",
        ),
        ("linguistic", ["--layers", "0", "5"], r"layers=\[0, 5\] must lie in 0\.\.4"),
        ("linguistic", ["--layers", "2", "0"], r"layers=\[2, 0\] must be .* strictly increasing"),
        ("linguistic", ["--layers", "2", "2"], r"layers=\[2, 2\] must be .* without repeats"),
        ("linguistic", ["--adapter_name", "a.b"], r"adapter name 'a\.b'"),
        ("linguistic", ["--adapter_hidden_size", "13"], r"hidden_size=13 .* must be divisible by"),
        ("linguistic", ["--max_length", "61"], r"--max_length 61 is more than the 60 tokens"),
        ("linguistic", ["--max_length", "0"], r"--max_length 0 must be at least 1"),
        ("linguistic", ["--max_length", "-1"], r"--max_length -1 must be at least 1"),
        (
            "linguistic",
            ["--max_length", "2"],
            r"every train example was dropped: .* --max_length 2.*; raise it, .* at record invented-train-0$",
        ),
        (
            "factual",
            ["--max_length", "4"],
            r"every train example was dropped: .* --max_length 4.*; raise it, .* at record \S+$",
        ),
        ("factual", ["--resume_from_checkpoint", "nowhere"], r"'nowhere' is no complete checkpoint"),
        ("factual", ["--max_trian_samples", "4"], r"'--max_trian_samples' is no flag; did you mean '--max_train_sam"),
        ("factual", ["--do_train", "false", "--do_eval", "false"], r"there is nothing to do; give --do_train"),
    ],
)
def test_bad_flags_are_told_before_anything_is_written(ground, tmp_path, objective, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(ground, objective, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists(), list((tmp_path / "out").iterdir())


def test_a_relation_unseen_in_training_is_named_with_its_record(ground, tmp_path):
    folder = tmp_path / "trex"
    shutil.copytree(ground / "trex", folder)
    records = json.loads((folder / "dev.json").read_text(encoding="utf-8"))
    records[3]["relation"] = "P999"
    (folder / "dev.json").write_text(json.dumps(records), encoding="utf-8")
    with pytest.raises(ValueError, match=r"record 'dev\.json:4' has the relation 'P999', which no training"):
        run(ground, "factual", tmp_path / "out", *QUIET, "--data_dir", folder)


def test_a_used_output_directory_is_refused_and_nothing_in_it_changes(ground, trained, tmp_path):
    output = trained["linguistic"][0]
    before = digest(output)
    with pytest.raises(ValueError, match=r"another run; resume it with --resume_from_checkpoint last, replace it"):
        run(ground, "linguistic", output)
    wrong = ["--overwrite_output_dir", "--data_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="holds no file named"):
        run(ground, "linguistic", output, *wrong)
    assert digest(output) == before
    without = tmp_path / "out"
    shutil.copytree(output, without, ignore=shutil.ignore_patterns("checkpoint-*", "finished.json"))
    with pytest.raises(ValueError, match="holds another run; it has no checkpoint to resume from"):
        run(ground, "linguistic", without, "--resume_from_checkpoint", "last")
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file; name a directory"):
        run(ground, "linguistic", file)


def test_an_overwritten_run_leaves_nothing_of_the_old_one(ground, trained, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(trained["factual"][0], output)
    old = digest(output / "runs")
    run(ground, "linguistic", output, "--overwrite_output_dir", "--max_steps", "2", "--seed", "3")
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    assert "eval_uas" in results(output) and "eval_micro_f1" not in results(output)
    assert digest(output / "runs") != old
    assert list(KAdapterModel.from_pretrained(output).config.adapters) == ["lin"]


def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(ground, tmp_path):
    output = tmp_path / "out"
    more = ["--report_to", "none", "--save_steps", "1", "--learning_rate", "1e37", "--max_grad_norm", "0"]
    with pytest.raises(FloatingPointError, match=r"NaN or infinite by step \d+; the last good checkpoint is .*-\d+\."):
        run(ground, "linguistic", output, *more)
    last = last_complete_checkpoint(output)
    assert last and all(torch.isfinite(one).all() for one in tensors(last).values())
    assert not (output / "model.safetensors").exists()


def test_weights_that_became_nan_in_the_last_step_are_not_saved(ground, tmp_path, monkeypatch):
    real = run_adapter.KAdapterTrainer.train

    def train(self, **kwargs):
        outcome = real(self, **kwargs)
        next(one for one in self.model.parameters() if one.requires_grad).data[0] = float("nan")
        return outcome

    monkeypatch.setattr(run_adapter.KAdapterTrainer, "train", train)
    with pytest.raises(FloatingPointError, match="there is no checkpoint yet"):
        run(ground, "linguistic", tmp_path / "out", *QUIET)
    assert not list((tmp_path / "out").rglob("model.safetensors"))


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_the_checkpoints_there_were_and_the_run_goes_on_later(ground, tmp_path, file):
    output = tmp_path / "out"
    run(ground, "linguistic", output, "--report_to", "none", "--max_steps", "2", "--lr_scheduler_type", "constant")
    before, limit = digest(output / "checkpoint-2"), sizes(output / "checkpoint-2")[file] - 1
    artifact = digest(output / "pretraining_head")
    go_on = ["--report_to", "none", "--lr_scheduler_type", "constant", "--resume_from_checkpoint", "last"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a file of that size can't be written, as on a full disk
    try:
        with pytest.raises(OSError, match=r"could not .*free some space") as error:
            run(ground, "linguistic", output, *go_on, "--max_steps", "4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint-4" in str(error.value)
    assert digest(output / "checkpoint-2") == before and digest(output / "pretraining_head") == artifact
    assert last_complete_checkpoint(output).endswith("checkpoint-2") and not list(output.rglob("*partial*"))
    run(ground, "linguistic", output, *go_on, "--max_steps", "4")
    assert last_complete_checkpoint(output).endswith("checkpoint-4")


def test_samples_are_drawn_from_all_records_and_always_the_same(ground):
    corpus, *_ = parse_arguments(flags(ground, "factual", "unused"))
    rows = load_splits(corpus, train=True, evaluate=False, verbose=False)["train"]
    drawn = sample(rows, 12)["id"][:]
    assert drawn == sample(rows, 12)["id"][:] and len(set(drawn)) == 12
    assert drawn != rows["id"][:12] and [one for one in rows["id"] if one in drawn] == drawn
    assert sample(rows, None) is rows and sample(rows, random.randint(40, 99)) is rows


def test_what_is_encoded_once_is_used_again_but_never_under_other_flags(ground, tmp_path, monkeypatch):
    def encoded(*more):
        corpus, adapter, arguments = parse_arguments(flags(ground, "linguistic", tmp_path, *more))
        objective = run_adapter._objective(corpus, adapter, arguments)
        rows = load_splits(corpus, train=True, evaluate=False, verbose=False)["train"]
        return encode("train", rows, objective, corpus, verbose=False)

    calls, encode_batch = [], linguistic.Objective.encode

    def watch(objective, *given, **options):
        calls.append((objective.max_length, objective.official))
        return encode_batch(objective, *given, **options)

    monkeypatch.setattr(linguistic.Objective, "encode", watch)
    first = encoded("--max_length", "39")
    assert calls == [(39, False)]
    assert encoded("--max_length", "39", "--adapter_hidden_size", "24")[:] == first[:]
    assert calls == [(39, False)]
    encoded("--max_length", "38")
    encoded("--max_length", "39", "--head", "official")
    assert calls == [(39, False), (38, False), (39, True)]
