"""How an artifact is written, at once or not at all: config.json, model.safetensors, the Python files, README.md."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import tempfile
import textwrap
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor
from transformers.dynamic_module_utils import get_relative_import_files

from .configuration_kadapter import KAdapterConfig
from .destination_kadapter import CARD, CARD_MARK, CONFIG, WEIGHTS, check_destination, is_generated, write_directory
from .sources_kadapter import adapter_hash, checksum, tensors_under
from .tokenizer_kadapter import put_tokenizer

__all__ = [
    "ALIGNMENT",
    "CARD",
    "CARD_MARK",
    "CONFIG",
    "STRUCTURE",
    "WEIGHTS",
    "all_finite",
    "as_one",
    "check_destination",
    "drop_backbone",
    "forgive_backbone",
    "model_card",
    "travelling_files",
    "upload",
    "write_artifact",
    "write_directory",
]

REPOSITORY = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"  # the name of one on the Hub
LONGEST_FIELD = 200  # characters of what a card tells of an adapter
ALIGNMENT = 64  # bytes; so a mapped tensor begins where one that PyTorch made does, and multiplies to the same bits
STRUCTURE = (  # the fields that the tensors belong to: nobody changes them without saving again
    *("architectures", "adapters", "fusion", "inner_projections", "dependency_head", "arc_size", "num_positions"),
    *("backbone_config", "backbone_fingerprint", "backbone_modified"),
)
EXAMPLES = {  # what a card shows for each head, from raw text to words; None for a model without a head
    None: """text = "Marie Curie was born in Warsaw."
inputs = model.encode_entities(tokenizer, [text], [[(0, 11), (24, 30)]])  # two mentions, in characters
positions = inputs.pop("entity_positions")  # where the marked mentions begin
head, tail = model(**inputs).last_hidden_state[0, positions[0]]  # features of encoder and adapters, fused
print(head.shape, tail.shape)""",
    "KAdapterForEntityPairClassification": """text = "Marie Curie was born in Warsaw."
inputs = model.encode_entities(tokenizer, [text], [[(0, 11), (24, 30)]])  # head and tail, in characters
logits = model(**inputs).logits
print(model.config.id2label[logits.argmax(-1).item()])  # the relation""",
    "KAdapterForEntityClassification": """text = "Marie Curie was born in Warsaw."
inputs = model.encode_entities(tokenizer, [text], [[(0, 11)]])  # the mention, in characters
scores = model(**inputs).logits.sigmoid()[0].tolist()
print([model.config.id2label[number] for number, score in enumerate(scores) if score > 0.5])  # its types""",
    "KAdapterForDependencyParsing": """words = "Birds sing at dawn .".split()
inputs = model.encode_words(tokenizer, [words])
heads = model(**inputs).logits.argmax(-1)[0].tolist()  # of each word the number of its head, 0 for the root
for word, head in zip(words, heads):
    print(word, "<-", "ROOT" if head == 0 else words[head - 1])""",
    "KAdapterForMultipleChoice": """choices = ["She was ill.", "It was raining."]
inputs = model.encode_choices(tokenizer, ["It rained all day."], ["Why did she stay in?"], [choices])
print(choices[model(**inputs).logits.argmax(-1).item()])""",
    "KAdapterForQuestionAnswering": """passages = ["Marie Curie was born in Warsaw.", "Warsaw lies on the Vistula."]
inputs = model.encode_passages(tokenizer, ["Where was Marie Curie born?"], [passages])
output = model(**inputs)
spans, probabilities = model.best_spans(output.start_logits, output.end_logits)
passage, first, last = spans[0].tolist()
print(tokenizer.decode(inputs["input_ids"][0, passage, first : last + 1]), probabilities[0].item())""",
    "KAdapterForSequenceClassification": """text = "Marie Curie was born in Warsaw."
inputs = tokenizer([text], return_tensors="pt")
logits = model(**inputs).logits
print(model.config.id2label[logits.argmax(-1).item()])""",
    "KAdapterForTokenClassification": """text = "Marie Curie was born in Warsaw."
inputs = tokenizer([text], return_tensors="pt")
logits = model(**inputs).logits
labels = [model.config.id2label[number] for number in logits.argmax(-1)[0].tolist()]
print(list(zip(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), labels)))""",
}
MULTI_LABEL = """inputs = tokenizer(["Marie Curie was born in Warsaw."], return_tensors="pt")
scores = model(**inputs).logits.sigmoid()[0].tolist()
print([model.config.id2label[number] for number, score in enumerate(scores) if score > 0.5])"""
REGRESSION = """inputs = tokenizer(["Marie Curie was born in Warsaw."], return_tensors="pt")
print(model(**inputs).logits[0].tolist())"""
OFFICIAL_PARSER = """words = "Birds sing at dawn .".split()
inputs = model.encode_words(tokenizer, [words])
starts = inputs.pop("word_positions")[0].tolist()  # the tokens of the root and of each word's first sub-token
heads = (model(**inputs).logits.argmax(-1)[0] - 1).tolist()  # of each token the position of its head
for word, start in zip(words, starts[1:]):
    head = heads[start]
    print(word, "<-", "ROOT" if head == starts[0] else words[starts.index(head) - 1] if head in starts else "?")"""


def digest_of(record: dict[str, Any]) -> str:
    """Return the digest by which config.json says to which record it belongs."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def travelling_files(modeling: str | os.PathLike) -> list[Path]:
    """Return the Python files that an artifact brings along: the modeling file and all that it imports relatively."""
    return [Path(modeling), *sorted({Path(path) for path in get_relative_import_files(modeling)})]


def write_artifact(
    directory: str | os.PathLike,
    modeling: str | os.PathLike,
    config: KAdapterConfig,
    tensors: dict[str, Tensor],
    tokenizer: Any = None,
) -> None:
    """Write a whole artifact at once; `modeling` is the Python file that its auto_map names.

    Its tokenizer is the given one, or that of its backbone.

    Raises:
        OSError: the directory holds a model that is not ours, the disk is full or it can't be written; what was
            there before is untouched.
        ValueError: a tensor holds NaN or infinite values; what was there before is untouched.
    """
    directory = Path(directory).expanduser()
    check_destination(directory, sources=[config.backbone_name_or_path, Path(modeling).parent])
    for key, one in tensors.items():
        if not all_finite(one):
            raise ValueError(f"tensor {key!r} holds NaN or infinite values, so nothing was saved to {directory}")
    record = json.loads(config.to_json_string())
    record.pop("record_digest", None)
    record.update({key: getattr(config, key) for key in STRUCTURE})  # in full, and adapters in their own order
    metadata = _metadata(config, tensors, json.dumps(record))

    def fill(folder: Path) -> Collection[str]:
        _save_weights({key: one.contiguous() for key, one in tensors.items()}, folder / WEIGHTS, metadata)
        values = {**record, "record_digest": digest_of(record)}
        text = json.dumps(dict(sorted(values.items())), indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
        shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # save_file leaves it readable to its owner only
        for path in travelling_files(modeling):
            shutil.copyfile(path, folder / path.name)
        (folder / CARD).write_text(model_card(config), encoding="utf-8")
        return put_tokenizer(config, folder, directory, tokenizer)

    write_directory(directory, fill)


def all_finite(one: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinite values, by a sum, which is finite where it holds none."""
    if not one.is_floating_point() or one.itemsize < 2:  # 8-bit floats have no sum, and are refused for that
        return True
    return bool(torch.isfinite(one.sum())) or bool(torch.isfinite(one).all())


def as_one(tensors: Collection[Tensor]) -> Collection[Tensor]:
    """Return tensors of one dtype that lie one after another, as those of a mapped file do, as one long tensor."""
    begin, end = min(one.data_ptr() for one in tensors), max(one.data_ptr() + one.nbytes for one in tensors)
    dtype, *others = {one.dtype for one in tensors}
    if others or end - begin != sum(one.nbytes for one in tensors):
        return tensors
    return [torch.frombuffer((ctypes.c_char * (end - begin)).from_address(begin), dtype=dtype)]


def _metadata(config: KAdapterConfig, tensors: dict[str, Tensor], record: str) -> dict[str, str]:
    """Return what weights tell of themselves: their configuration, adapters' hashes, and checksums of all there is."""
    inside = {key.removeprefix("kadapter."): one for key, one in tensors.items()}
    parts = {name: tensors_under(f"adapters.{name}.", inside) for name in config.adapters}
    hashes = {name: adapter_hash(config.adapters[name], own) for name, own in parts.items() if own}
    checksums = {
        "record": f"{zlib.crc32(record.encode()):08x}",
        **{key: checksum(one) for key, one in tensors.items()},
    }
    return {"format": "pt", "kadapter": record, "hashes": json.dumps(hashes), "checksums": json.dumps(checksums)}


def _save_weights(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors behind a header of such a length that the first of them begins at a multiple of `ALIGNMENT`."""
    save_file(tensors, path, metadata={**metadata, "padding": ""})
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little")).rstrip()
    if missing := -(8 + len(header)) % ALIGNMENT:
        save_file(tensors, path, metadata={**metadata, "padding": " " * missing})


def upload(repo_id: str, save: Callable[[Path], None], **kwargs: Any) -> str:
    """Save an artifact to a temporary directory, upload it as one commit and return the commit's address.

    Raises:
        ValueError: the name holds a "+", which the Hub refuses.
    """
    if "+" in repo_id:
        raise ValueError(f"the Hub takes no '+' in a name, so not {repo_id!r}; push to {repo_id.replace('+', '-')!r}")
    api = HfApi(token=kwargs.pop("token", None))
    repo_id = api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        save(artifact)
        try:  # a card that somebody made his own stays
            if not is_generated(Path(api.hf_hub_download(repo_id, CARD, revision=kwargs.get("revision")))):
                (artifact / CARD).unlink()
        except EntryNotFoundError:
            pass
        kwargs.setdefault("commit_message", "Upload K-Adapter artifact")
        return str(api.upload_folder(repo_id=repo_id, folder_path=artifact, **kwargs))


def drop_backbone(module: Any, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take a frozen backbone out of a state dict, as a hook after it was made."""
    module._notice_training()
    if not module.config.backbone_modified:
        for key in [key for key in state_dict if key.startswith(f"{prefix}backbone.")]:
            del state_dict[key]


def forgive_backbone(module: Any, incompatible: Any) -> None:
    """Miss no tensors of a frozen backbone, as a hook after a state dict was loaded."""
    if not module.config.backbone_modified:
        names = tuple(f"backbone.{key}" for key in module.backbone.state_dict())
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith(names)]


def model_card(config: KAdapterConfig) -> str:
    """Return the text of an artifact's README.md: what it is, on which backbone and data, with which result."""
    backbone, names = config.backbone_name_or_path, list(config.adapters)
    local = backbone is None or not re.fullmatch(REPOSITORY, backbone)
    data = ModelCardData(
        library_name="transformers",
        tags=["kadapter", "adapter", *names],
        base_model=None if local else backbone,
        base_model_relation=None if local else "adapter",
    )
    shown = _code(Path(backbone).name if local else backbone) if backbone else "a backbone that exists only in memory"
    lines = ["---", data.to_yaml(), "---", CARD_MARK, f"# {_title(config)}", ""]
    lines += [
        f"For the encoder {shown} (revision {_code(config.backbone_revision or '-')}, fingerprint "
        f"{_code((config.backbone_fingerprint or '-')[:12])}), after K-Adapter (Wang et al., Findings of ACL 2021).",
        f"Outputs are fused by `{config.fusion}`.",
        "The backbone was changed along and is part of this artifact."
        if config.backbone_modified
        else "The encoder is frozen and comes from its own repository.",
        "",
        *("| adapter | layers | inner width | trained on | objective | result |", "|---|---|---|---|---|---|"),
        *(_row(name, one) for name, one in config.adapters.items()),
        *_usage(config),
        "Where this stands in a `subfolder` of a repository, put a copy of the `*_kadapter.py` files at its root too:",
        *("transformers looks for code there. With the package `kadapter` installed none is needed.", ""),
    ]
    return str(ModelCard("\n".join(lines), ignore_metadata_errors=True))


def _title(config: KAdapterConfig) -> str:
    """Return what an artifact is called: by its head's task, if it has one, and by its adapters."""
    task = re.sub("(?<=[a-z])(?=[A-Z])", " ", (_head(config) or "").removeprefix("KAdapterFor")).capitalize()
    adapters = f"knowledge adapter {' + '.join(config.adapters)}" if config.adapters else ""
    title = " with ".join(part for part in (task, adapters) if part) or "encoder without adapters"
    return title[0].upper() + title[1:]


def _head(config: KAdapterConfig) -> str | None:
    kind = (config.architectures or ["KAdapterModel"])[0]
    return None if kind == "KAdapterModel" else kind


def _usage(config: KAdapterConfig) -> list[str]:
    """Return how an artifact is loaded, and how its head turns raw text into words."""
    head = _head(config)
    own = [name for name, target in (config.auto_map or {}).items() if target == f"modeling_kadapter.{head}"]
    loader = own[0] if head and own else "AutoModel"
    lines = ["", "```python", f"from transformers import {loader}, AutoTokenizer", ""]
    lines += [f'model = {loader}.from_pretrained("REPO_OR_DIRECTORY", trust_remote_code=True)']
    lines += ['tokenizer = AutoTokenizer.from_pretrained("REPO_OR_DIRECTORY", trust_remote_code=True)']
    lines += [_example(config, head), "```", ""]
    if head:
        lines += [f"The model with its head is a `{head}`; `AutoModel` gives the encoder and its adapters alone.", ""]
    return lines


def _example(config: KAdapterConfig, head: str | None) -> str:
    if head == "KAdapterForDependencyParsing" and config.dependency_head == "official":
        return OFFICIAL_PARSER
    if head == "KAdapterForSequenceClassification":
        others = {"multi_label_classification": MULTI_LABEL, "regression": REGRESSION}
        return others.get(config.problem_type, EXAMPLES[head])
    return EXAMPLES.get(head, "")


def _row(name: str, adapter: dict[str, Any]) -> str:
    training = adapter.get("training") or {}
    results = (training.get("results") or {}).items()
    shown = ", ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in results)
    told = (training.get("corpus", "-"), training.get("objective", "-"), shown or "-")
    return f"| {name} | {adapter['layers']} | {adapter['hidden_size']} | {' | '.join(map(_plain, told))} |"


def _plain(value: Any) -> str:
    """Return a value, perhaps of other people's artifacts, as text in which Markdown and HTML mean nothing."""
    text = _one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$!#])|(?<!\w)(_)|(_)(?!\w)", lambda found: f"\\{found.group()}", text)
    return text.replace("://", ":&#47;&#47;")  # no address becomes a link of its own


def _code(value: Any) -> str:
    """Return a value as code within a line, which it can't end."""
    return f"`{_one_line(value).replace('`', '')}`"


def _one_line(value: Any) -> str:
    text = "".join(one if one.isprintable() else " " for one in str(value))
    return textwrap.shorten(text, LONGEST_FIELD, placeholder=" ...") or "-"
