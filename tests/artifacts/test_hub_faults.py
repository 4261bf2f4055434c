"""A Hub that fails (one on the loopback): the remote is as it was or complete, and errors are sentences."""

import json

import pytest
import torch
from helpers import batch, make_model, run_python, save_backbone, script
from hub_server import running_hub
from huggingface_hub import ModelCard

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TOKEN = "hf_loopbackloopbackloopback"
BROKEN_CARD = b"---\ntags: [mine\n---\n# My own card"
OFFLINE = """
from kadapter import KAdapterModel
model = KAdapterModel.from_pretrained("org/fac")
print(model.active_adapters())
try:
    KAdapterModel.from_pretrained("org/head")
except OSError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What every step gave, what was printed, the Hub, and what a process said that was offline afterwards."""
    folder = tmp_path_factory.mktemp("hub")
    backbone = save_backbone(folder / "backbone")
    make_model(backbone, "fac").save_pretrained(folder / "fac")
    torch.save(batch(), folder / "inputs.pt")
    with running_hub() as hub:
        hub.commit("org/own-card", {"README.md": BROKEN_CARD})
        hub.commit("org/gated", {path.name: path.read_bytes() for path in (folder / "fac").iterdir()})
        hub.gated.add("org/gated")
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "offline": False}
        ran = run_python(script("hub_faults"), folder, backbone, package=True, **online)
        asked = len(hub.asked)
        offline = run_python(OFFLINE, folder, package=True, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN).stdout
        assert len(hub.asked) == asked
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    return done, ran.stdout + ran.stderr, hub, offline


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("refused", "could not push to 'org/fac' (403 Forbidden"),
        ("no repository", "could not push to 'org/new' (Server error '500 Internal Server Error'"),
        ("not sent", "could not push to 'org/fac' ("),
        ("no commit", "could not push to 'org/fac' (429 Too Many Requests"),
        ("pushed by nobody", "could not push to 'org/nobody' (401"),
        ("broken", "no config.json of a K-Adapter artifact at 'org/fac' ("),
        ("no revision", "no config.json of a K-Adapter artifact at 'org/fac' (v9 is not a valid git identifier"),
        ("secret to others", "no config.json of a K-Adapter artifact at 'org/secret' ("),
        ("gated to others", "no config.json of a K-Adapter artifact at 'org/gated' (You are trying to access a gated"),
        ("wrong bytes", "fetch or save the artifact again"),
        ("still wrong", "fetch or save the artifact again"),
        ("head without its adapter", "adapter 'fac', with which org/head was trained, can't be read from 'org/fac'"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(story, step, said):
    assert said in story[0][step] and "\n" not in story[0][step]


def test_a_push_is_a_commit_or_nothing_and_goes_on_where_it_stopped(story):
    done, _, hub, _ = story
    assert done["unchanged"] == done["first"] != done["second"]
    # .gitattributes, and a commit for each push that did not fail, none of them in pieces
    assert len(hub.repositories["org/fac"]) == 1 + 5
    assert {"org/new", "org/nobody"}.isdisjoint(hub.repositories)
    sent = [request for request in hub.asked if request.startswith("PUT /blobs/")]
    stopped = 1  # the weights that were refused half way are sent again, those whose commit failed are not
    assert len(sent) == len(hub.blobs) + stopped


def test_a_hub_that_is_busy_slow_or_breaks_off_is_asked_again(story):
    done = story[0]
    assert done["sent in the end"].startswith("http") and done["too many"].startswith("http")
    assert done["cut"] == done["slow"] == done["too many loads"] == done["last"] != done["second"]
    assert done["fetched again"] == "KAdapterModel"


def test_tags_and_tokens_open_what_they_name(story):
    done = story[0]
    assert done["tag"] == done["first"] == done["gated"] != done["last"]
    assert done["secret"] == done["last"]


def test_a_head_keeps_the_adapter_that_it_was_trained_with_whatever_is_pushed_there(story):
    done, _, hub, _ = story
    config = json.loads(hub.repositories["org/head"][-1][1]["config.json"])
    source = config["adapters"]["fac"]["source"]
    commits = [sha for sha, _ in hub.repositories["org/fac"]]
    assert source["name_or_path"] == "org/fac" and source["revision"] == commits[-2] and len(source["hash"]) == 64
    assert b"adapters.fac" not in hub.repositories["org/head"][-1][1]["model.safetensors"].partition(b"__meta")[0]
    assert done["head"] == done["head afterwards"] == done["last"]


def test_a_card_with_broken_metadata_stays_on_the_hub_and_is_reported(story):
    done, printed, hub, _ = story
    files = hub.repositories["org/own-card"][-1][1]
    assert done["own card"].startswith("http") and files["README.md"] == BROKEN_CARD and "model.safetensors" in files
    assert "the metadata of README.md of org/own-card is no YAML" in printed


def test_a_pushed_card_names_its_repository_in_its_lines(story):
    card = story[2].repositories["org/fac"][-1][1]["README.md"].decode()
    assert 'AutoModel.from_pretrained("org/fac", trust_remote_code=True)' in card and "REPO_OR" not in card
    assert ModelCard(card).data.library_name == "transformers"


def test_offline_what_is_cached_loads_and_the_rest_is_a_sentence(story):
    lines = story[3].strip().splitlines()
    assert lines[0] == "['fac']" and "no config.json of a K-Adapter artifact at 'org/head'" in lines[-1]


def test_no_token_is_in_what_is_printed_said_or_pushed(story):
    done, printed, hub, offline = story
    assert TOKEN not in json.dumps(done) + printed + offline
    pushed = [data for commits in hub.repositories.values() for _, files in commits for data in files.values()]
    assert not [data for data in pushed if TOKEN.encode() in data]
