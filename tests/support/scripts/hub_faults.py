"""Push and load over a Hub that fails; each step's answer or error goes to done.json."""

import json
import os
import sys
import urllib.request

import torch
from huggingface_hub import HfApi

from kadapter import KAdapterForEntityPairClassification, KAdapterModel

(backbone,) = sys.argv[1:]
inputs = torch.load("inputs.pt", weights_only=True)
done = {}


def faults(*asked):
    request = urllib.request.Request(os.environ["HF_ENDPOINT"] + "/faults", json.dumps(asked).encode(), method="POST")
    urllib.request.urlopen(request).read()


def step(name, do, *asked):
    faults(*asked)
    try:
        done[name] = do()
    except (OSError, ValueError, TypeError) as error:
        done[name] = f"{type(error).__name__}: {error}"
    faults()


def load(name="org/fac", **options):
    """What an artifact computes, read into a cache of its own."""
    cache = f"cache-{len(done)}"
    with torch.no_grad():
        return KAdapterModel.from_pretrained(name, cache_dir=cache, **options)(**inputs).last_hidden_state.sum().item()


def same(**options):
    """The class of an artifact that is read into one cache again and again."""
    return type(KAdapterModel.from_pretrained("org/fac", cache_dir="same", **options)).__name__


def shift(by):
    with torch.no_grad():
        model.adapters["fac"].layers[0].up_project.bias.add_(by)


def push():
    return model.push_adapter_to_hub("org/fac", "fac")


BATCH = "POST /org/fac.git/info/lfs/objects/batch"
COMMIT, WEIGHTS = "POST /api/models/org/fac/commit/main", "GET /org/fac/resolve/.*/model.safetensors"
model = KAdapterModel.from_pretrained("fac", backbone=backbone)
step("pushed", push)
step("first", load)
HfApi().create_tag("org/fac", tag="v1")
shift(0.5)
step("refused", push, [COMMIT, 1, {"status": 403}])
step("unchanged", load)
step("no repository", lambda: model.push_to_hub("org/new"), ["POST /api/repos/create", 1, {"status": 500}])
step("resumed", push)
step("second", load)
shift(0.5)
step("not sent", push, ["PUT /blobs/.*", 1, {"status": 403}])
step("no commit", push, [COMMIT, 1, {"status": 429, "headers": {"Retry-After": "1"}}])
step("sent in the end", push)
shift(0.5)
step("too many", push, [BATCH, 1, {"status": 500}], [BATCH, 1, {"status": 429, "headers": {"Retry-After": "1"}}])
step("last", load)
step("cut", load, [WEIGHTS, 1, {"cut": True}])
step("slow", load, [WEIGHTS, 1, {"slow": 0.5}])
step("too many loads", load, [WEIGHTS, 1, {"status": 429, "headers": {"Retry-After": "1"}}])
step("broken", load, ["HEAD /org/fac/resolve/.*", 9, {"status": 500}])
step("wrong bytes", same, [WEIGHTS, 1, {"corrupt": True}])
step("still wrong", same)
step("fetched again", lambda: same(force_download=True))
step("tag", lambda: load(revision="v1"))
step("no revision", lambda: load(revision="v9"))
step("secret pushed", lambda: model.push_to_hub("org/secret", private=True))
step("secret", lambda: load("org/secret"))
step("secret to others", lambda: load("org/secret", token=False))
step("gated", lambda: load("org/gated"))
step("gated to others", lambda: load("org/gated", token=False))
step("pushed by nobody", lambda: model.push_to_hub("org/nobody", token=False))
step("own card", lambda: model.push_to_hub("org/own-card"))
head = KAdapterForEntityPairClassification.from_pretrained("org/fac", backbone=backbone, num_labels=3)
step("head pushed", lambda: head.push_to_hub("org/head"))
step("head", lambda: load("org/head"))
shift(3.0)
step("pushed over", push)
step("head afterwards", lambda: load("org/head"))
step("head without its adapter", lambda: load("org/head"), ["(HEAD|GET) /org/fac/.*", 99, {"status": 404}])
KAdapterModel.from_pretrained("org/fac")  # into the usual cache, for a process that is offline
with open("done.json", "w", encoding="utf-8") as file:
    json.dump(done, file)
