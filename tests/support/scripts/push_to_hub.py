"""Push adapters and models on the backbone org/encoder, of which argv names the commit."""

import sys

from kadapter import KAdapterForEntityPairClassification, KAdapterModel

(first,) = sys.argv[1:]
model = KAdapterModel.from_backbone("org/encoder")
assert model.config.backbone_revision == first, model.config.backbone_revision
model = KAdapterModel.from_pretrained("local", backbone="org/encoder")
model.config.backbone_name_or_path, model.config.backbone_revision = "org/encoder", first
print(model.push_adapter_to_hub("org/kadapter-fac", "fac", commit_message="The facts"))
print(model.push_adapter_to_hub("org/kadapter-lin", "lin"))
model.save_adapter("mine", "fac")
print(model.push_to_hub("org/kadapter-both"))
model.push_adapter_to_hub("org/own-card", "lin")
for push in (model.push_to_hub, lambda name: model.push_adapter_to_hub(name, "fac")):
    try:
        push("org/kadapter-fac+lin")
    except ValueError as error:
        print(error)
try:
    model.push_to_hub("org/kadapter-both", nonsense=1)
except TypeError as error:
    print(error)
head = KAdapterForEntityPairClassification.from_pretrained("head", backbone="org/encoder")
head.config.backbone_name_or_path, head.config.backbone_revision = "org/encoder", first
head.push_to_hub("org/kadapter-pair")
