"""`kadapter card`: an artifact's card beside baseline and controls, and its results in the Hub's present form."""

import json

import pytest
import yaml
from helpers import make_model, save_backbone
from huggingface_hub import ModelCard
from huggingface_hub import parse_eval_result_entries as parsed
from typer.testing import CliRunner

from kadapter import KAdapterModel
from kadapter.commands import app
from kadapter.trainers.common.cards import results_of, update_card


@pytest.fixture
def artifact(tmp_path):
    """An adapter, with the results of a run in its record."""
    make_model(save_backbone(tmp_path / "backbone"), "fac").save_pretrained(tmp_path / "fac")
    results = {"eval_accuracy": 0.75, "eval_loss": 1.0, "eval_runtime": 3.0}
    training = {"command": "accelerate launch trainers/run_task.py --task colours", "versions": {"torch": "2.13"}}
    training |= {"hardware": "CPU", "seconds": 12.0, "seed": 3, "curve": [[1, 2.0], [2, 1.0]]}
    measured = [results_of("colours", "rainbow", "test", results, "text-classification")]
    update_card(tmp_path / "fac", title="colours: fac", results=measured, training=training)
    return tmp_path / "fac"


@pytest.fixture
def runs(tmp_path):
    """Runs of the adapter, and of the encoder alone over two seeds, on four examples each."""
    for row, seed, answers in (("backbone", 0, "rrww"), ("backbone", 1, "rwww"), ("fac", 0, "rrrw")):
        folder = tmp_path / "runs" / f"{row}-{seed}"
        folder.mkdir(parents=True)
        record = {"task": "colours", "row": row, "adapters": [] if row == "backbone" else [row], "fusion": "concat"}
        record |= {"backbone": "hub/encoder", "freeze_backbone": True, "freeze_adapters": True, "train_fraction": 1.0}
        record |= {"seed": seed, "split": "test", "gates": {}}
        record |= {"metric": {"name": "accuracy", "key": "accuracy", "settings": {}}}
        (folder / "run.json").write_text(json.dumps(record))
        names = {"r": "right", "w": "wrong"}
        lines = [{"id": str(n), "gold": "right", "prediction": names[one]} for n, one in enumerate(answers)]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "runs"


def command(*words):
    return CliRunner().invoke(app, ["card", *map(str, words)])


def test_results_stand_beside_baseline_and_controls_and_go_to_the_hubs_file(artifact, runs):
    words = ["--license", "mit", "--language", "en", "--language", "sv", "--dataset", "org/rainbow"]
    done = command(artifact, "--runs", runs, *words)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {artifact / 'README.md'}\n"
    card = (artifact / "README.md").read_text()
    assert "# colours: fac\n" in card and "| accuracy | 0.7500 |" in card
    assert "| colours 100% (test accuracy) | backbone | 0.3750 | 0.1768 | 2 |" in card
    assert "| colours 100% (test accuracy) | fac | 0.7500 | - | 1 |" in card
    assert "accelerate launch trainers/run_task.py --task colours" in card and "- time of training: 12 seconds" in card
    assert "![The curve of its training](training_curve.png)" in card
    assert (artifact / "training_curve.png").read_bytes()[:4] == b"\x89PNG"
    data = ModelCard(card).data.to_dict()
    assert (data["license"], data["language"], data["datasets"]) == ("mit", ["en", "sv"], ["org/rainbow"])
    assert "model-index" not in data
    (entry,) = parsed(yaml.safe_load((artifact / ".eval_results" / "colours.yaml").read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("org/rainbow", "colours", 0.75)
    assert entry.notes.startswith("accuracy, test; backbone 0.3750 (colours 100% (test accuracy), 2 seeds)")


def test_a_data_set_without_a_name_on_the_hub_is_in_the_model_index_and_a_save_keeps_the_licence(artifact):
    assert (
        command(artifact, "--license", "apache-2.0", "--json").stdout
        == json.dumps({"artifact": str(artifact), "written": True}) + "\n"
    )
    data = ModelCard.load(artifact / "README.md").data
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_name, result.metric_value) == ("rainbow", "colours", 0.75)
    assert not (artifact / ".eval_results").exists()
    KAdapterModel.from_pretrained(artifact).save_pretrained(artifact)
    assert ModelCard.load(artifact / "README.md").data.to_dict()["license"] == "apache-2.0"


@pytest.mark.parametrize("text", ["# Mine\n", "---\nlicense: [mit\n---\n# Mine\n"])
def test_a_card_of_ones_own_is_kept_and_its_results_still_go_to_the_hubs_file(artifact, text):
    (artifact / "README.md").write_text(text)
    done = command(artifact, "--dataset", "rainbow=org/rainbow")
    assert done.exit_code == 0 and done.stdout == f"kept {artifact / 'README.md'}, which is yours\n"
    assert (artifact / "README.md").read_text() == text
    assert (artifact / ".eval_results" / "colours.yaml").is_file()


def test_wrong_input_is_a_sentence_and_changes_nothing(artifact, runs, tmp_path):
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    cases = {
        "there is no directory": [tmp_path / "nowhere"],
        "no config.json of a K-Adapter artifact": [runs],
        "there is no directory '": [artifact, "--runs", tmp_path / "nowhere"],
        "Repo id must": [artifact, "--dataset", "a//b"],
    }
    for said, words in cases.items():
        done = command(*words)
        (line,) = done.stderr.strip().splitlines()
        assert done.exit_code == 1 and said in line and line.startswith("kadapter: "), line
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    (artifact / "card.json").write_text("[]")
    assert "is no record of a run" in command(artifact).stderr
