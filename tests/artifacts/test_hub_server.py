"""Sharing over a Hub (one on the loopback): pushing, and loading in a process that has never heard of kadapter."""

import pytest
import torch
from helpers import batch, make_model, run_python, save_backbone, script, tiny_backbone, tiny_tokenizer
from hub_server import running_hub

from kadapter import KAdapterForEntityPairClassification

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Push in one process, load in another; what was printed, what was found and what was expected."""
    folder = tmp_path_factory.mktemp("hub")
    backbone = save_backbone(folder / "backbone")
    tiny_tokenizer(backbone)
    model = make_model(backbone, "fac", "lin")
    model.save_pretrained(folder / "local")
    head = make_model(backbone, "fac", model_class=KAdapterForEntityPairClassification, fusion="concat", num_labels=3)
    head.save_pretrained(folder / "head")
    torch.save(batch(), folder / "inputs.pt")
    with running_hub() as hub, torch.no_grad():
        first = hub.commit("org/encoder", {one.name: one.read_bytes() for one in (folder / "backbone").iterdir()})
        hub.commit("org/own-card", {"README.md": b"# My own card"})
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "offline": False}
        pushed = run_python(script("push_to_hub"), folder, first, package=True, **online).stdout
        tiny_backbone(seed=9).save_pretrained(folder / "newer")
        newer = {one.name: one.read_bytes() for one in (folder / "newer").iterdir()}
        commits = first, hub.commit("org/encoder", newer), hub.repositories["org/kadapter-fac"][-1][0]
        run_python(script("load_from_hub"), folder, *commits, **{**online, "HF_HUB_CACHE": str(folder / "fresh")})
        expected = {name: model(**batch()).last_hidden_state for name in ("compose_with", "plus", "list", "both")}
        expected["loaded"] = expected["both"]
        expected["pair"] = head(**batch(), entity_positions=torch.tensor([[1, 2]] * 3)).logits
        model.set_adapter("fac")
        expected.update({name: model(**batch()).last_hidden_state for name in ("fac", "revision")})
    files = {repo: commits[-1][1] for repo, commits in hub.repositories.items()}
    return pushed, files, torch.load(folder / "found.pt", weights_only=True), expected


def test_what_was_pushed_loads_elsewhere_bit_equal_on_the_pinned_backbone(story):
    _, _, found, expected = story
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_a_pushed_adapter_is_a_complete_repository_without_the_backbone(story):
    pushed, files, _, _ = story
    repository = files["org/kadapter-fac"]
    assert {"config.json", "model.safetensors", "README.md", "modeling_kadapter.py"} <= repository.keys()
    assert b"adapters.lin" not in repository["model.safetensors"] and "/org/kadapter-fac/commit/" in pushed
    card = repository["README.md"].decode()
    assert "base_model: org/encoder" in card and "base_model_relation: adapter" in card


def test_a_plus_in_a_name_stops_with_an_offer_and_unknown_keywords_stop_too(story):
    pushed, files, _, _ = story
    assert pushed.count("push to 'org/kadapter-fac-lin'") == 2 and "org/kadapter-fac+lin" not in files
    assert "push_to_hub has no keyword 'nonsense'" in pushed


def test_a_card_that_somebody_made_his_own_stays_on_the_hub(story):
    files = story[1]["org/own-card"]
    assert files["README.md"] == b"# My own card" and "model.safetensors" in files


COUNTING = """
from transformers import AutoModel
AutoModel.from_pretrained("org/kadapter-fac", trust_remote_code=True)
"""


def test_the_first_load_of_an_adapter_asks_the_hub_little_and_shows_few_files_for_review(tmp_path):
    model = make_model(save_backbone(tmp_path / "backbone"), "fac")
    model.save_pretrained(tmp_path / "fac")
    with running_hub() as hub:
        hub.commit("org/encoder", {path.name: path.read_bytes() for path in (tmp_path / "backbone").iterdir()})
        files = {path.name: path.read_bytes() for path in (tmp_path / "fac").iterdir()}
        written = files["config.json"].decode().replace(str(tmp_path / "backbone"), "org/encoder")
        record = files["model.safetensors"]
        hub.commit("org/kadapter-fac", {**files, "config.json": written.encode(), "model.safetensors": record})
        hub.asked.clear()
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "offline": False}
        done = run_python(COUNTING, tmp_path, **online, HF_HUB_CACHE=str(tmp_path / "fresh"))
        assert [one for one in hub.asked if one.endswith("heads_kadapter.py")] == []
        assert len(hub.asked) <= 28, "\n".join(hub.asked)
    assert done.stderr.count("A new version of the following files was downloaded") <= 8
