"""`kadapter push` and `list`, and the commands that take a Hub id, against a Hub on the loopback."""

import json

import pytest
from helpers import make_model, run_python, save_backbone, shake
from hub_server import running_hub
from tiny_runs import tokenizer_of
from typer.testing import CliRunner

from kadapter import KAdapterForEntityPairClassification
from kadapter.commands import app

pytestmark = pytest.mark.slow

LABELS = {"id2label": {0: "born", 1: "died"}, "label2id": {"born": 0, "died": 1}}
MARKED = "[[Mira Voss]] was born in [[Tarnstad]]."
TOKEN = "hf_loopbackloopbackloopback"
SHARED = {"config.json", "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json"}
# Runs command lines one after another, in one process, and prints what became of each.
COMMANDS = """
import json
from typer.testing import CliRunner
from kadapter.commands import app
done = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    done.append([result.exit_code, result.stdout, result.stderr])
print(json.dumps(done))
"""
STORY = {
    "pushed": ["push", "fac", "org/kadapter-fac", "--message", "The facts"],
    "again": ["push", "fac", "org/kadapter-fac", "--revision", "next", "--json"],
    "private": ["push", "pair", "org/relations", "--private"],
    "all": ["list", "--json"],
    "by backbone": ["list", "--backbone", "org/encoder", "--json"],
    "by tag": ["list", "--author", "org", "--tag", "lin", "--json"],
    "as a table": ["list", "--author", "other"],
    "of nobody": ["list", "--author", "nobody"],
    "plus": ["push", "fac", "org/kadapter-fac+lin"],
    "no name": ["push", "fac", "a//b"],
    "no directory": ["push", "nowhere", "org/kadapter-fac"],
    "damaged": ["push", "cut", "org/cut"],
    "header": ["inspect", "org/relations", "--json"],
    "branch": ["inspect", "org/kadapter-fac", "--revision", "next"],
    "no branch": ["inspect", "org/kadapter-fac", "--revision", "nowhere"],
    "verified": ["verify", "org/relations", "--backbone", "org/encoder", "--json"],
    "predicted": ["predict", "org/relations", MARKED, "--json"],
    "no artifact": ["predict", "org/nowhere", MARKED],
}


def at_hub(model, folder, first):
    """Save a model that stands beside org/encoder."""
    model.config.backbone_name_or_path, model.config.backbone_revision = "org/encoder", first
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """All commands in turn: exit code, stdout and stderr of each, and what the Hub holds and was asked."""
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = tokenizer_of([MARKED] * 4)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    with running_hub() as hub:
        first = hub.commit("org/encoder", {one.name: one.read_bytes() for one in (folder / "backbone").iterdir()})
        fac, lin = make_model(backbone, "fac"), make_model(backbone, "lin")
        at_hub(fac, folder / "fac", first)
        tokenizer.save_pretrained(folder / "fac")
        (folder / "fac" / "training_args.bin").write_bytes(b"a pickle")
        (folder / "fac" / "checkpoint-7").mkdir()
        at_hub(lin, folder / "lin", first)
        hub.commit("other/kadapter-lin", {one.name: one.read_bytes() for one in (folder / "lin").iterdir()})
        pair = make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification, **LABELS)
        at_hub(shake(pair, std=0.1), folder / "pair", first)
        at_hub(fac, folder / "cut", first)
        weights = (folder / "cut" / "model.safetensors").read_bytes()
        (folder / "cut" / "model.safetensors").write_bytes(weights[:-64] + bytes(64))
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "offline": False}
        lines = json.dumps(list(STORY.values()))
        printed = run_python(COMMANDS, folder, lines, package=True, **online).stdout
        done = dict(zip(STORY, json.loads(printed[printed.index("[[") :]), strict=True))
        return folder, hub, done


def refusal(story, name):
    code, _, told = story[2][name]
    assert code == 1 and "Traceback" not in told
    return told.strip().splitlines()[-1]


def answer(story, name):
    code, printed, told = story[2][name]
    assert code == 0, told
    return json.loads(printed)


def test_a_push_is_one_commit_of_the_artifact_and_of_nothing_that_training_left(story):
    _, hub, done = story
    (_, _), (sha, files) = hub.repositories["org/kadapter-fac"]  # .gitattributes and the push
    assert set(files) >= SHARED | {"modeling_kadapter.py"}
    assert not {"training_args.bin", "checkpoint-7"} & set(files)
    code, printed, told = done["pushed"]
    assert code == 0 and printed == f"pushed fac to {hub.endpoint}/org/kadapter-fac/commit/{sha}\n"
    assert "not pushed: checkpoint-7, training_args.bin" in told


def test_a_branch_and_a_private_repository_are_made(story):
    _, hub, _ = story
    assert answer(story, "again")["commit"].endswith(hub.branches["org/kadapter-fac", "next"][-1][0])
    assert hub.private == {"org/relations"}


def test_artifacts_are_listed_by_backbone_author_and_tag(story):
    names = {"org/kadapter-fac", "org/relations", "other/kadapter-lin"}
    assert {one["id"] for one in answer(story, "all")} == names
    of_backbone = answer(story, "by backbone")
    assert [one["id"] for one in of_backbone] == sorted(names)
    assert {one["backbone"] for one in of_backbone} == {"org/encoder"} and of_backbone[0]["tags"] == ["fac"]
    assert answer(story, "by tag") == []
    heading, line = story[2]["as a table"][1].splitlines()
    assert heading.split() == ["artifact", "backbone", "tags", "downloads", "modified"]
    assert line.split() == ["other/kadapter-lin", "org/encoder", "lin", "3", "2026-11-29"]
    assert "no artifact on the Hub is listed so" in story[2]["of nobody"][2]


def test_what_can_not_be_pushed_is_refused_and_leaves_nothing(story):
    _, hub, _ = story
    assert "the Hub takes no '+' in a name" in refusal(story, "plus")
    assert "push to 'org/kadapter-fac-lin'" in refusal(story, "plus")
    assert "'a//b' is no name of a repository" in refusal(story, "no name")
    assert "there is no directory 'nowhere'" in refusal(story, "no directory")
    assert "are not those that were saved" in refusal(story, "damaged")
    assert set(hub.repositories) == {"org/encoder", "org/kadapter-fac", "org/relations", "other/kadapter-lin"}


def test_an_artifact_of_the_hub_is_inspected_by_the_header_of_its_weights_alone(story):
    _, hub, done = story
    local = CliRunner().invoke(app, ["inspect", str(story[0] / "pair"), "--json"])
    here, there = json.loads(local.stdout), answer(story, "header")
    assert there["revision"] == hub.repositories["org/relations"][-1][0]
    own = ("artifact", "revision")
    assert {key: here[key] for key in here if key not in own} == {key: there[key] for key in there if key not in own}
    of_weights = [one for one in hub.asked if one.startswith("GET /org/relations/") and "model.safetensors" in one]
    assert of_weights[0].endswith("/model.safetensors bytes=0-100000")  # before verify, which reads all of it
    assert hub.branches["org/kadapter-fac", "next"][-1][0] in done["branch"][1].splitlines()[0]
    assert "no config.json of a K-Adapter artifact at 'org/kadapter-fac'" in refusal(story, "no branch")


def test_an_artifact_of_the_hub_is_verified_and_asked(story):
    verified = answer(story, "verified")
    assert {check["check"]: check["result"] for check in verified["checks"]} == dict.fromkeys(
        ("record", "tensors", "code", "backbone"), "ok"
    )
    told = answer(story, "predicted")
    assert told["text"] == "Mira Voss was born in Tarnstad." and told["answers"][0]["label"] in ("born", "died")
    assert "no config.json of a K-Adapter artifact at 'org/nowhere'" in refusal(story, "no artifact")


def test_no_token_is_printed(story):
    assert TOKEN not in json.dumps(story[2])
