"""Runs that share what they reach: `--push_to_hub` over a Hub on the loopback, and the card that a run writes."""

import json

import pytest
from helpers import run_python
from hub_server import running_hub
from huggingface_hub import ModelCard
from tiny_runs import flags, write_ground

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TOKEN = "hf_loopbackloopbackloopback"
RUNS = """
import json
from kadapter.trainers import run_adapter
said = {}
for name, words in json.loads(sys.argv[1]).items():
    try:
        run_adapter.main(words)
        said[name] = ""
    except (OSError, ValueError) as error:
        said[name] = str(error)
with open("said.json", "w", encoding="utf-8") as file:
    json.dump(said, file)
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run that pushes checkpoints too, one whose Hub takes nothing, and one that may not make its repository."""
    folder = tmp_path_factory.mktemp("shared")
    ground = write_ground(folder / "ground")
    wanted = {"shared": "checkpoint", "refused": "every_save", "barred": "end"}
    words = {
        name: flags(ground, "factual", folder / name, "--push_to_hub", "true", "--hub_model_id", f"org/{name}")
        + ["--hub_strategy", strategy, "--hub_token", TOKEN, "--max_steps", "4", "--save_strategy", "steps"]
        for name, strategy in wanted.items()
    }
    with running_hub() as hub:
        hub.faults = [[".* /api/models/org/refused/commit/main", 99, {"status": 403}]]
        hub.faults += [["POST /api/repos/create", 0, {"status": 403}]]
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "offline": False}
        first = {name: words[name] for name in ("shared", "refused")}
        printed = run_python(RUNS, folder, json.dumps(first), package=True, **online).stdout
        said = json.loads((folder / "said.json").read_text())
        hub.faults[1][1] = 99
        run_python(RUNS, folder, json.dumps({"barred": words["barred"]}), package=True, **online)
        said |= json.loads((folder / "said.json").read_text())
    return folder, hub, printed, said


def test_each_save_is_a_commit_and_the_end_is_the_artifact_alone(story):
    folder, hub, _, said = story
    assert said["shared"] == ""
    steps = [f"Training in progress, step {step}" for step in (2, 4)]
    assert hub.messages["org/shared"] == [steps[0], steps[0], steps[1], steps[1], "End of training"]
    files = hub.repositories["org/shared"][-1][1]
    assert files["model.safetensors"] == (folder / "shared" / "model.safetensors").read_bytes()
    assert "last-checkpoint/trainer_state.json" in files and "training_curve.png" in files
    own = {name for name in files if not name.startswith("last-checkpoint/")}
    assert not own & {"training_args.bin", "card.json", "finished.json"} and not [n for n in own if "pretraining" in n]


def test_a_hub_that_refuses_ends_no_training_and_the_run_says_how_to_push_it(story):
    folder, hub, printed, said = story
    assert printed.count("could not push to 'org/refused'") == 2 and "The training goes on" in printed
    assert (
        f"The run itself is complete; push it by `kadapter push {folder / 'refused'} org/refused`" in said["refused"]
    )
    assert (folder / "refused" / "finished.json").is_file() and len(hub.repositories["org/refused"]) == 1


def test_a_repository_that_can_not_be_made_is_refused_before_training(story):
    folder, hub, _, said = story
    assert "--push_to_hub can't make or find 'org/barred' on the Hub (" in said["barred"]
    assert "\n" not in said["barred"] and "org/barred" not in hub.repositories
    assert not (folder / "barred" / "model.safetensors").exists()


def test_the_card_tells_how_it_was_trained_and_no_token(story):
    folder, hub, printed, said = story
    card = (folder / "shared" / "README.md").read_text()
    assert "accelerate launch trainers/run_adapter.py --objective factual --corpus trex --data_dir trex" in card
    assert "--hub_strategy checkpoint --max_steps 4" in card and "hub_token" not in card and str(folder) not in card
    assert "- versions: python 3." in card and "torch " in card and "- hardware: CPU (" in card
    assert "- time of training: " in card and "- seed: 42" in card
    assert "It was taught by 40 examples of the corpus trex (licence: CC BY-SA 4.0);" in card
    assert "learned: Relation classification on marked entity pairs" in card
    results = {result.metric_type: result.metric_value for result in ModelCard(card).data.eval_results}
    recorded = json.loads((folder / "shared" / "all_results.json").read_text())
    assert results["micro_f1"] == pytest.approx(recorded["eval_micro_f1"])
    head = (folder / "shared" / "pretraining_head" / "README.md").read_text()
    assert "## How it was trained" in head and "## Results on factual, held out" in head
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "script.py"]
    pushed = [data for commits in hub.repositories.values() for _, files in commits for data in files.values()]
    assert not [data for data in texts + pushed if TOKEN.encode() in data]
    assert TOKEN not in printed + json.dumps(said)
