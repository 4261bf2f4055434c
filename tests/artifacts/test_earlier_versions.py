"""What earlier versions wrote: an adapter, a composite with a head and a checkpoint, kept in golden/earlier.zip."""

import re
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, run_python
from safetensors.torch import load_file
from tiny_runs import flags, losses, write_corpora

from kadapter import KAdapterForEntityPairClassification, KAdapterModel
from kadapter.trainers.run_adapter import main

POSITIONS = torch.tensor([[1, 4], [2, 6], [3, 8]])
LOADING = """
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
ids = torch.load("ids.pt", weights_only=True)
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
trust = {"trust_remote_code": True, "backbone": "backbone"}
with torch.no_grad():
    states = AutoModel.from_pretrained("adapter", **trust)(**inputs).last_hidden_state
    head = AutoModelForSequenceClassification.from_pretrained("head", **trust)
    logits = head(**inputs, entity_positions=torch.tensor([[1, 4], [2, 6], [3, 8]])).logits
torch.save([states, logits], "found.pt")
print(type(head).__module__)
"""


@pytest.fixture
def earlier(tmp_path):
    """The directory that they were unpacked to; the code of an artifact is its own, and the same in all three."""
    with zipfile.ZipFile(GOLDEN / "earlier.zip") as archive:
        archive.extractall(tmp_path)
    for path in (tmp_path / "adapter").glob("*.py"):
        for folder in ("head", "checkpoint-4"):
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    return tmp_path


def expected(earlier):
    return load_file(earlier / "expected.safetensors")


def inputs(earlier):
    ids = expected(earlier)["input_ids"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def test_artifacts_of_earlier_versions_give_their_old_answers_and_are_written_in_the_present_layout(earlier):
    model = KAdapterModel.from_pretrained(earlier / "adapter", backbone=str(earlier / "backbone"))
    head = KAdapterForEntityPairClassification.from_pretrained(earlier / "head", backbone=str(earlier / "backbone"))
    states, logits = model(**inputs(earlier)).last_hidden_state, head(**inputs(earlier), entity_positions=POSITIONS)
    torch.testing.assert_close(states, expected(earlier)["last_hidden_state"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.logits, expected(earlier)["logits"], rtol=1e-5, atol=1e-6)
    model.save_pretrained(earlier / "adapter")
    again = KAdapterModel.from_pretrained(earlier / "adapter", backbone=str(earlier / "backbone"))
    assert torch.equal(again(**inputs(earlier)).last_hidden_state, states)


@pytest.mark.slow
def test_remote_code_of_earlier_versions_runs_as_it_came(earlier):
    torch.save(inputs(earlier)["input_ids"], earlier / "ids.pt")
    printed = run_python(LOADING, earlier).stdout
    states, logits = torch.load(earlier / "found.pt", weights_only=True)
    torch.testing.assert_close(states, expected(earlier)["last_hidden_state"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, expected(earlier)["logits"], rtol=1e-5, atol=1e-6)
    assert re.search(r"transformers_modules\.head.*modeling_kadapter", printed)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_resumed_from_its_checkpoint(earlier):
    write_corpora(earlier)
    output = earlier / "run"
    output.mkdir()
    (earlier / "checkpoint-4").rename(output / "checkpoint-4")
    main(flags(earlier, "factual", output, "--resume_from_checkpoint", "True"))
    assert min(losses(output)) == 1 and max(losses(output)) == 10  # the first four are the earlier version's
    trained = load_file(output / "model.safetensors")
    wanted = {key.removeprefix("trained."): one for key, one in expected(earlier).items() if "trained." in key}
    assert trained.keys() == wanted.keys() and Path(output / "pretraining_head" / "config.json").is_file()
    for key, one in wanted.items():
        torch.testing.assert_close(trained[key], one, rtol=1e-3, atol=1e-4)
