"""Load artifacts of every kind by transformers alone, offline, and keep what they give."""

import torch
import transformers
from transformers import AutoConfig, AutoModel, pipeline

inputs, heads = torch.load("inputs.pt", weights_only=True)
try:
    AutoModel.from_pretrained("fac", trust_remote_code=False)
except ValueError as error:
    assert "contains custom code which must be executed" in str(error), error
else:
    raise SystemExit("code was run without trust")
trust, found = {"trust_remote_code": True}, {}
with torch.no_grad():
    model, info = AutoModel.from_pretrained("fac", output_loading_info=True, **trust)
    assert not any(info.values()) and not model.training and model.backbone.dtype == torch.float32
    assert type(model).__module__.startswith("transformers_modules.")
    found["fac"] = model(**inputs).last_hidden_state
    found["fac of pair"] = AutoModel.from_pretrained("pair", **trust)(**inputs).last_hidden_state
    found["composed"] = AutoModel.from_pretrained("fac", compose_with=["lin"], **trust)(**inputs).last_hidden_state
    found["list"] = type(model).from_pretrained(["fac", "lin"])(**inputs).last_hidden_state
    found["written"] = AutoModel.from_pretrained("org/kadapter-fac+lin", **trust)(**inputs).last_hidden_state
    found["below"] = type(model).from_pretrained("below", subfolder="one")(**inputs).last_hidden_state
    found["wide"] = AutoModel.from_pretrained("wide", **trust)(**inputs).last_hidden_state
    for name, (kind, auto, given) in heads.items():
        head = getattr(transformers, "AutoModelFor" + auto).from_pretrained(name, **trust)
        assert type(head).__name__ == kind
        found[name] = head(**given)[0]
    found["root"] = AutoModel.from_pretrained("repository", subfolder="one", **trust)(**inputs).last_hidden_state
    keywords = {"attn_implementation": "eager", "device_map": "cpu", "backbone_kwargs": {"output_attentions": True}}
    small = AutoModel.from_pretrained("fac", dtype=torch.bfloat16, **keywords, **trust)
    assert {one.dtype for one in small.parameters()} == {torch.bfloat16}
    assert small.backbone.config._attn_implementation == "eager" and small(**inputs).attentions is not None
    random = AutoModel.from_config(AutoConfig.from_pretrained("fac", **trust), **trust)
    assert random(**inputs).last_hidden_state.shape == found["fac"].shape
    for keyword in ({"adapters": {}}, {"hidden_size": 64}, {"nonsense": 1}):
        try:
            AutoModel.from_pretrained("fac", **keyword, **trust)
        except (TypeError, ValueError) as error:
            assert next(iter(keyword)) in str(error), error
        else:
            raise SystemExit(f"{keyword} was taken in silence")
    features = pipeline("feature-extraction", model="fac", **trust)("ada wrote to paris")
    found["features"] = torch.tensor(features)
    answer = pipeline("text-classification", model="text", top_k=None, **trust)("ada wrote to paris")
    answer = sorted(answer[0] if isinstance(answer[0], list) else answer, key=lambda one: one["label"])
    tagged = pipeline("token-classification", model="tokens", ignore_labels=[], **trust)("ada wrote to paris")
    found["scores"] = torch.tensor([one["score"] for one in (*answer, *tagged)])
    model.save_pretrained("again")
    found["again"] = AutoModel.from_pretrained("again", **trust)(**inputs).last_hidden_state
torch.save(found, "found.pt")
