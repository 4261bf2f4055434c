"""Artifacts in a process that has never heard of kadapter: offline, by the Auto classes and pipelines alone."""

import pytest
import torch
from helpers import batch, make_model, run_python, save_backbone, script, small_adapter, tiny_tokenizer

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterForQuestionAnswering,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
    KAdapterModel,
)

pytestmark = pytest.mark.slow

PAIRS = torch.tensor([[1, 4], [2, 3], [0, 2]])
# Each head with what it reads besides tokens; "AutoModelFor" + its third entry loads it.
HEADS = {
    "pair": (KAdapterForEntityPairClassification, {"entity_positions": PAIRS}, "SequenceClassification"),
    "typing": (KAdapterForEntityClassification, {"entity_positions": PAIRS[:, :1]}, "SequenceClassification"),
    "parse": (KAdapterForDependencyParsing, {"word_positions": PAIRS}, "TokenClassification"),
    "text": (KAdapterForSequenceClassification, {}, "SequenceClassification"),
    "tokens": (KAdapterForTokenClassification, {}, "TokenClassification"),
    "answer": (KAdapterForQuestionAnswering, {}, "QuestionAnswering"),
    "choice": (KAdapterForMultipleChoice, {}, "MultipleChoice"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with artifacts of every kind, and what they give here."""
    folder = tmp_path_factory.mktemp("remote")
    backbone = save_backbone(folder / "backbone")
    tiny_tokenizer(backbone)
    both = make_model(backbone, "fac", "lin")
    both.save_pretrained(folder / "org" / "kadapter-fac+lin")
    for name in ("fac", "lin"):
        both.save_adapter(folder / name, name)
    for place in ("below", "repository"):
        both.save_adapter(folder / place / "one", "fac")
    for path in (folder / "repository" / "one").glob("*_kadapter.py"):  # code is looked for at the root
        path.rename(folder / "repository" / path.name)
    expected = {}
    with torch.no_grad():
        for name in ("composed", "list", "written"):
            expected[name] = both(**batch()).last_hidden_state
        both.set_adapter("fac")
        expected.update({name: both(**batch()).last_hidden_state for name in ("fac", "below", "root", "again")})
        tokens = tiny_tokenizer()(["ada wrote to paris"], return_tensors="pt", return_token_type_ids=False)
        expected["features"] = both(**tokens).last_hidden_state
        scores, heads = {}, {}
        for name, (head, beside, auto) in HEADS.items():
            model = make_model(backbone, "fac", model_class=head, fusion="concat", num_labels=3, arc_size=8)
            model.save_pretrained(folder / name)
            inputs = {**batch(), **beside}
            if name == "choice":
                inputs = {key: torch.stack([one, one.flip(0)], dim=1) for key, one in inputs.items()}
            heads[name] = (head.__name__, auto, inputs)
            expected[name] = model(**inputs)[0]
            if name == "pair":
                expected["fac of pair"] = model.base_model(**batch()).last_hidden_state
            if name in ("text", "tokens"):
                scores[name] = model(**tokens).logits[0].softmax(dim=-1)
        expected["scores"] = torch.cat([scores["text"], scores["tokens"][1:-1].amax(dim=-1)])
        other = save_backbone(folder / "other", "distilbert")
        wide = KAdapterModel.from_backbone(other, adapters={"wide": small_adapter(hidden_size=40, layers=[4])}).eval()
        wide.save_pretrained(folder / "wide")
        expected["wide"] = wide(**batch()).last_hidden_state
    torch.save((batch(), heads), folder / "inputs.pt")
    torch.save(expected, folder / "expected.pt")
    return folder


def test_auto_classes_and_pipelines_in_a_fresh_process_give_the_same_bits_but_only_with_trust(folder):
    run_python(script("load_artifacts"), folder)
    found, expected = (torch.load(folder / name, weights_only=True) for name in ("found.pt", "expected.pt"))
    assert found.keys() == expected.keys()
    scores = found.pop("scores")  # through Python floats and a softmax in another library
    torch.testing.assert_close(scores, expected.pop("scores"))
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_importing_the_package_imports_no_torch_and_a_name_registers_the_auto_classes(folder):
    code = """
import sys
import kadapter
assert not {"torch", "transformers"} & set(sys.modules), "the bare package imports more than itself"
assert "KAdapterModel" in dir(kadapter)
try:
    kadapter.Nonsense
except AttributeError as error:
    assert "KAdapterModel" in str(error)
from kadapter import KAdapterConfig  # any name of it
import torch, transformers
from transformers import AutoModel
assert type(AutoModel.from_pretrained("fac")).__module__ == "kadapter.modeling_kadapter"
from kadapter import KAdapterModel
assert type(AutoModel.from_pretrained("fac")) is KAdapterModel
assert type(AutoModel.from_pretrained("fac", trust_remote_code=True)) is KAdapterModel
for name, (kind, auto, _) in torch.load("inputs.pt", weights_only=True)[1].items():
    model = getattr(transformers, "AutoModelFor" + auto).from_pretrained(name)
    assert [type(model).__name__] == model.config.architectures == [kind], name
"""
    assert run_python(code, folder, package=True, bare=True).returncode == 0


@pytest.mark.thorough
def test_what_remote_code_saves_again_has_heads_for_the_auto_classes_though_it_never_read_them(folder):
    code = """
import sys
from transformers import AutoModel, AutoModelForSequenceClassification
model = AutoModel.from_pretrained("fac", trust_remote_code=True)
assert not [name for name in sys.modules if name.endswith("heads_kadapter")]
model.save_pretrained("saved-again")
head = AutoModelForSequenceClassification.from_pretrained("saved-again", num_labels=2, trust_remote_code=True)
assert type(head).__name__ == "KAdapterForSequenceClassification"
"""
    run_python(code, folder)
    same = (folder / "saved-again" / "heads_kadapter.py").read_bytes()
    assert same == (folder / "fac" / "heads_kadapter.py").read_bytes()
