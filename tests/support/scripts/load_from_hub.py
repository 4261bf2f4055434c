"""Load by transformers alone what was pushed; argv names two commits of the backbone and one of an adapter."""

import sys

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

first, second, pushed = sys.argv[1:]
trust = {"trust_remote_code": True}
inputs = torch.load("inputs.pt", weights_only=True)
found = {}
with torch.no_grad():
    model = AutoModel.from_pretrained("org/kadapter-fac", **trust)
    assert model.config.backbone_revision == first
    found["fac"] = model(**inputs).last_hidden_state
    both = AutoModel.from_pretrained("org/kadapter-fac", compose_with=["org/kadapter-lin"], **trust)
    found["compose_with"] = both(**inputs).last_hidden_state
    found["plus"] = type(model).from_pretrained("org/kadapter-fac+lin")(**inputs).last_hidden_state
    found["list"] = type(model).from_pretrained(["org/kadapter-fac", "org/kadapter-lin"])(**inputs).last_hidden_state
    found["both"] = AutoModel.from_pretrained("org/kadapter-both", **trust)(**inputs).last_hidden_state
    found["revision"] = AutoModel.from_pretrained("org/kadapter-fac", revision=pushed, **trust)(
        **inputs
    ).last_hidden_state
    pairs = torch.tensor([[1, 2]] * 3)
    head = AutoModelForSequenceClassification.from_pretrained("org/kadapter-pair", **trust)
    found["pair"] = head(**inputs, entity_positions=pairs).logits
    model.load_adapter("org/kadapter-lin")
    found["loaded"] = model(**inputs).last_hidden_state
    try:
        AutoModel.from_pretrained("org/kadapter-fac", backbone_kwargs={"revision": second}, **trust)
    except ValueError as error:
        assert "has fingerprint" in str(error), error
    else:
        raise SystemExit("another revision of the backbone was taken in silence")
torch.save(found, "found.pt")
