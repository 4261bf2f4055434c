"""Runs of trainers/run_multitask.py: the whole encoder learns all objectives, and serves as a row of the table."""

import json
import shutil

import pytest
import torch
from processes import run_processes
from tiny_runs import (
    ROOT,
    SPECIAL,
    digest,
    losses,
    results,
    same_tensors,
    tensors,
    write_ground,
)
from tiny_tasks import run_of, task_flags, write_corpus
from transformers import AutoModel, AutoTokenizer

from kadapter.trainers import run_adapter, run_multitask, run_task
from kadapter.trainers.common.sampler import GlobalBatchSampler
from kadapter.trainers.multitask.dataset import MixedExamples, MixedSampler

pytestmark = pytest.mark.slow

TASK = "relation_classification"
RESULTS = {"eval_factual_micro_f1", "eval_linguistic_uas", "eval_factual_loss", "eval_linguistic_loss", "train_loss"}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = write_ground(tmp_path_factory.mktemp("ground"))
    write_corpus(folder / TASK, TASK)
    return folder


def flags(ground, output, *more):
    """The flags of one small run of both objectives."""
    given = ["--objectives", "factual", "linguistic", "--corpora", "trex", "conllu"]
    given += ["--data_dirs", ground / "trex", ground / "conllu", "--backbone", ground / "backbone"]
    given += ["--output_dir", output, "--max_length", "40", "--do_train", "--do_eval", "--logging_steps", "1"]
    given += ["--learning_rate", "3e-3", "--num_train_epochs", "2", "--save_steps", "4", "--report_to", "none"]
    return [*map(str, given), "--bf16", "False", "--disable_tqdm", "True", *map(str, more)]


@pytest.fixture(scope="module")
def trained(ground, tmp_path_factory):
    output, before = tmp_path_factory.mktemp("runs") / "out", digest(ground)
    run_multitask.main(flags(ground, output))
    assert digest(ground) == before
    return output


def test_the_whole_encoder_has_learned_and_stands_alone(ground, trained):
    ours, before = tensors(trained), tensors(ground / "backbone")
    learned = [key for key, one in ours.items() if not torch.equal(one, before[key])]
    assert len(learned) > 60 and any("embeddings.word" in key for key in learned)
    assert all(any(f"layer.{block}." in key for key in learned) for block in range(4))
    assert not [key for key in ours if "head" in key or "kadapter" in key]
    model = AutoModel.from_pretrained(trained)
    assert type(model).__name__ == "RobertaModel"
    assert torch.equal(model.embeddings.word_embeddings.weight, ours["embeddings.word_embeddings.weight"])
    assert AutoTokenizer.from_pretrained(trained).convert_tokens_to_ids(SPECIAL) == [0, 1, 2, 3, 4]


def test_each_objective_is_measured_on_its_own_and_written_down(trained):
    found = results(trained)
    assert found.keys() >= RESULTS
    assert 0 <= found["eval_linguistic_uas"] <= 1 and found["eval_factual_micro_f1"] == found["eval_factual_accuracy"]
    told = json.loads((trained / "multitask.json").read_text(encoding="utf-8"))
    assert told["objectives"] == {"factual": "trex", "linguistic": "conllu"}
    assert told["results"]["eval_factual_micro_f1"] == found["eval_factual_micro_f1"] and told["steps"] == 20


def test_it_is_the_row_multitask_of_a_task(ground, trained, tmp_path):
    given = task_flags(ground, tmp_path / "out", adapters=("none",))
    given[given.index("--backbone") + 1] = str(trained)
    run_task.main(given)
    assert (run_of(tmp_path / "out")["row"], run_of(tmp_path / "out")["adapters"]) == ("multitask", [])


def test_one_objective_alone_is_full_fine_tuning_on_it(ground, tmp_path):
    given = flags(ground, tmp_path / "out", "--num_train_epochs", "6")
    for flag, chosen in (("--objectives", "factual"), ("--corpora", "trex"), ("--data_dirs", str(ground / "trex"))):
        at = given.index(flag)
        given[at : at + 3] = [flag, chosen]
    found = run_multitask.main(given)
    assert not [key for key in found if "linguistic" in key]
    steps = losses(tmp_path / "out")
    assert sum(steps[step] for step in list(steps)[-5:]) < 0.8 * sum(steps[step] for step in list(steps)[:5])


def test_a_killed_run_goes_on_as_if_nothing_had_happened(ground, trained, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(trained / "checkpoint-8", killed / "checkpoint-8")
    assert "models.factual.head.out_proj.weight" in tensors(killed / "checkpoint-8")
    again = run_multitask.main(flags(ground, killed, "--resume_from_checkpoint", "last"))
    assert same_tensors(trained, killed)
    assert {key: again[key] for key in again if "_f1" in key or "uas" in key}.items() <= results(trained).items()


@pytest.mark.thorough
def test_two_processes_equal_one(ground, tmp_path):
    given = ["--classifier_dropout", "0", "--learning_rate", "1e-4", "--max_steps", "6"]
    backbone = tmp_path / "backbone"
    shutil.copytree(ground / "backbone", backbone)
    config = json.loads((backbone / "config.json").read_text(encoding="utf-8"))
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (backbone / "config.json").write_text(json.dumps({**config, **none}), encoding="utf-8")
    given += ["--backbone", backbone]
    run_multitask.main(flags(ground, tmp_path / "one", *given))
    halves = ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "3"]
    run_processes(run_multitask.main, flags(ground, tmp_path / "two", *given, *halves), tmp_path / "printed", number=2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-4
    for key in ("eval_factual_loss", "eval_linguistic_loss", "eval_factual_micro_f1", "eval_linguistic_uas"):
        assert results(tmp_path / "two")[key] == pytest.approx(results(tmp_path / "one")[key], abs=1e-4)


def test_batches_are_of_one_objective_each_and_spread_evenly():
    samplers = [GlobalBatchSampler([1] * number, 4, False, 0) for number in (17, 8)]
    order = MixedSampler(samplers, [0, 17])
    order.set_epoch(1)
    drawn = list(order)
    assert len(drawn) == len(order) == 24 and len(set(drawn)) == 24
    batches = [drawn[start : start + 4] for start in range(0, 24, 4)]
    assert ["".join(sorted({"fl"[one >= 17] for one in batch})) for batch in batches] == [*"fl", *"ff", *"lf"]
    first = list(MixedSampler(samplers, [0, 17]))
    order.set_epoch(2)
    assert first == drawn != list(order)


def test_examples_know_their_objective():
    examples = MixedExamples({"a": Columns([1, 2]), "b": Columns([3])})
    assert [examples[place]["objective"] for place in range(3)] == ["a", "a", "b"]


class Columns(list):
    """Examples of given lengths."""

    def __getitem__(self, index):
        return {"length": super().__getitem__(index)}

    def column(self, name):
        return torch.tensor(list(self)).numpy()


def test_the_recipe_runs_on_a_tiny_backbone(ground, tmp_path):
    write_corpus(ground / "fewrel", "fewrel")
    given = [
        "--recipe",
        ROOT / "recipes" / "multitask_minilm.yaml",
        "--data_dirs",
        ground / "fewrel",
        ground / "conllu",
    ]
    given += ["--backbone", ground / "backbone", "--output_dir", tmp_path / "out", "--report_to", "none"]
    given += ["--max_length", "40", "--max_steps", "2", "--per_device_train_batch_size", "8"]
    assert run_multitask.main([*map(str, given)]).keys() >= RESULTS - {"train_loss"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--corpora", "trex"], r"--objectives has 2, --corpora has 1, --data_dirs has 2; give each objective one"),
        (
            ["--objectives", "factual", "factual"],
            r"--objectives factual factual names an objective twice; name each once",
        ),
        (["--objectives", "factual", "lingistic"], r"no objective 'lingistic'; .* did you mean 'linguistic'"),
        (
            ["--corpora", "conllu", "trex"],
            r"corpus 'conllu' has dependency records, and this objective needs relation",
        ),
        (["--do_train", "false"], r"there is nothing to do; give --do_train"),
        (["--max_length", "61"], r"--max_length 61 is more than the 60 tokens"),
        (
            ["--per_device_train_batch_size", "41"],
            r"'factual' has 40 training examples, fewer than the 41",
        ),
        (["--corpus", "trex"], r"'--corpus' is no flag; did you mean '--corpora'"),
        (["--adapter_name", "fac"], r"'--adapter_name' is no flag"),
        (["--resume_from_checkpoint", "nowhere"], r"'nowhere' is no complete checkpoint"),
    ],
)
def test_bad_flags_are_told_in_one_sentence(ground, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_multitask.main(flags(ground, tmp_path / "out", *more))
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_used_directory_and_a_missing_backbone_are_told(ground, trained, tmp_path):
    with pytest.raises(ValueError, match="holds another run"):
        run_multitask.main(flags(ground, trained))
    with pytest.raises(OSError, match="nowhere"):
        run_multitask.main(flags(ground, tmp_path / "out", "--backbone", str(tmp_path / "nowhere")))


def test_an_adapter_can_be_trained_beside_it(ground, trained, tmp_path):
    given = ["--objective", "factual", "--corpus", "trex", "--data_dir", str(ground / "trex"), "--layers", "0", "4"]
    given += ["--backbone", str(trained), "--adapter_name", "fac", "--output_dir", str(tmp_path / "out")]
    given += ["--adapter_hidden_size", "12", "--adapter_num_attention_heads", "2", "--max_length", "40"]
    run_adapter.main([*given, "--do_train", "--max_steps", "1", "--report_to", "none", "--disable_tqdm", "True"])
    assert AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True).active_adapters() == ["fac"]
