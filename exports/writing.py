"""Write an export: the graphs of a model, its tokenizer, and the manifest that tells what they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, logging

from ..artifacts_kadapter import check_destination, write_directory
from ..backbone_kadapter import digest_of_tensor, fingerprint_of, positions_of
from ..processing_kadapter import marked_tokens, special_tokens
from ..runtime.engines import RUNTIMES, library_of
from ..runtime.manifest import FORMAT_VERSION, MANIFEST, read_export, write_manifest
from . import plans
from .int8 import Calibration, check_labelled, quantize
from .tracing import Traced, check_exporter, check_one_file, shapes_of, trace

__all__ = ["PRECISIONS", "ExportOptions", "export"]

logger = logging.get_logger(__name__)
PRECISIONS = ("fp32", "int8")
VOCABULARY = "tokenizer.json"  # which the tokenizers library reads by itself
LONGEST = 10**6  # beyond which a tokenizer's limit is transformers' word for none


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    Args:
        runtime: "onnx" or "openvino", which runs the graphs by default; both read them.
        precision: "fp32" or "int8".
        calibration: the sentences, and perhaps labelled texts, for int8.
        single: whether all becomes one graph.
        taps: layers whose hidden states the encoder returns beside those that its adapters read.
        adapters_only: whether encoder and head are left out.
    """

    runtime: str = "onnx"
    precision: str = "fp32"
    calibration: Calibration | None = None
    single: bool = False
    taps: Sequence[int] = ()
    adapters_only: bool = False

    def check(self) -> None:
        """Raise ValueError or ImportError, before anything runs, for what can't be exported so."""
        for name, value, known in (("runtime", self.runtime, RUNTIMES), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {list(known)}")
        if self.precision == "int8" and self.calibration is None:
            raise ValueError(
                "precision int8 needs sentences to learn the ranges of values from; give --calibration FILE, a text "
                "file with one of your own sentences in each line, a hundred or more"
            )
        if self.precision != "int8" and self.calibration is not None:
            raise ValueError(
                f"calibration means nothing for precision {self.precision}; leave it out, or ask for int8"
            )
        if self.adapters_only and (self.single or self.precision == "int8" or self.taps):
            raise ValueError("adapters alone are exported in fp32, without single and taps, which are the encoder's")
        if self.single and self.taps:
            raise ValueError(f"taps {list(self.taps)} serve adapters that are added, and a single graph takes none")
        check_exporter()
        library_of(self.runtime)
        if self.calibration is not None:
            self.calibration.check()


def export(
    model: Any,
    directory: str | os.PathLike,
    options: ExportOptions | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    log: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Export a model to a directory, all files at once, and return the manifest.

    Args:
        model: a `KAdapterModel`, or one with a head, in float32.
        directory: what is written; it may hold an older export.
        options: what is exported, and how.
        tokenizer: the tokenizer of the texts that it reads; without any, it takes token ids alone.
        log: function that receives a line for each graph.

    Raises:
        ImportError: onnx, onnxscript or the runtime is not installed.
        OSError: the directory holds a model or an artifact, or can't be written.
        ValueError: the model has no exported form or no adapters to be exported alone, can't be traced, or its graphs
            differ from it; or int8 lacks data, or the model is too large for it.
    """
    options = options or ExportOptions()
    options.check()
    plans.check_model(model, options.single)
    check_destination(directory, sources=[model.config.backbone_name_or_path], marks=(MANIFEST,))
    if Path(directory, CONFIG_NAME).expanduser().is_file():
        raise OSError(
            f"can't save to {str(directory)!r}: it holds an artifact ({CONFIG_NAME}), whose place an export "
            "beside it would take; name another directory"
        )
    if options.adapters_only and not model.base_model.adapters.featured:
        raise ValueError("the model has no adapters that could be exported alone; leave out adapters_only")
    if options.calibration is not None:  # before minutes of tracing
        check_sizes(model, options.single)
        check_calibration(model, options.calibration, tokenizer)
    manifests = []

    def fill(folder: Path) -> Collection[str]:
        manifest = Writer(model, folder, options, tokenizer, log).written()
        if options.calibration is not None:
            quantize(folder, manifest, options.calibration, log)
        manifests.append(manifest)
        return stale(Path(directory).expanduser(), manifest)

    write_directory(directory, fill)
    return manifests[0]


def check_sizes(model: Any, single: bool) -> None:
    """Raise ValueError for a graph that is too large for int8."""
    core = model.base_model
    adapters = [plans.adapter(core, name) for name in core.adapters.featured]
    for traced in [plans.whole(model)] if single else [plans.encoder(core, []), *adapters]:
        check_one_file(traced)


def check_calibration(model: Any, calibration: Calibration, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Raise ValueError for texts that are too long, labelled texts of another head, or no tokenizer for either."""
    if tokenizer is None:
        raise ValueError("calibration reads sentences, and there is no tokenizer; export an artifact that has one")
    labelled = calibration.labelled
    check_labelled(type(model).__name__, list((model.config.id2label or {}).values()), labelled)
    read = tokenizer(list(calibration.sentences), verbose=False)["input_ids"]
    texts = [
        (f"{calibration.where}: sentence {number}", sentence, ids)
        for number, (sentence, ids) in enumerate(zip(calibration.sentences, read, strict=True), start=1)
    ]
    if labelled is not None:
        if labelled.entity_spans is None:
            read = tokenizer(list(labelled.texts), verbose=False)["input_ids"]
        else:
            marked = marked_tokens(tokenizer, labelled.texts, labelled.entity_spans, model.markers)
            read = [each.input_ids for each in marked]
        texts += zip(labelled.places, labelled.texts, read, strict=True)
    limits = (positions_of(model.base_model.backbone).longest, tokenizer.model_max_length)
    longest = min(limit for limit in limits if limit is not None)
    for where, text, ids in texts:
        if len(ids) > longest:
            raise ValueError(
                f"{where}, {text[:40]!r}, has {len(ids)} tokens, more than the {longest} that the encoder takes; cut "
                "it, or leave it out"
            )


class Writer:
    """Writes the graphs of a model to a folder."""

    def __init__(
        self,
        model: Any,
        folder: Path,
        options: ExportOptions,
        tokenizer: PreTrainedTokenizerBase | None,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.core, self.folder, self.options = model, model.base_model, folder, options
        self.tokenizer, self.log = tokenizer, log

    def written(self) -> dict[str, Any]:
        """Write graphs and tokenizer, and return the manifest without the hashes of files."""
        options = self.options
        manifest: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "runtime": options.runtime,
            "precision": "fp32",
            "single": options.single,
            "backbone": backbone_of(self.core),
            "active_adapters": self.core.config.active_adapters if self.core.adapters.enabled else [],
        }
        names = self.core.adapters.fused
        if options.single:
            manifest["encoder"] = {**self.graph("model.onnx", plans.whole(self.model)), "layers": []}
            manifest["adapters"] = {name: self.adapter(name, None) for name in names}
            manifest["head"] = self.head(None)
        else:
            manifest["encoder"] = self.encoder()
            manifest["adapters"] = {
                name: self.adapter(name, f"adapter-{name}.onnx") for name in self.core.adapters.featured
            }
            manifest["head"] = None if options.adapters_only else self.head("head.onnx")
        manifest["tokenizer"] = None if self.tokenizer is None else save_tokenizer(self.tokenizer, self.folder)
        write_manifest(self.folder, manifest)
        return manifest

    def graph(self, file: str, traced: Traced) -> dict[str, Any]:
        """Write a graph, and return what the manifest says of it."""
        trace(traced, self.folder / file, self.options.runtime)
        self.log(f"{file}: {traced.what}, {(self.folder / file).stat().st_size / 1e6:.1f} MB")
        return {"file": file, **shapes_of(traced)}

    def encoder(self) -> dict[str, Any]:
        """Write the encoder with the hidden states that any of the adapters taps."""
        if self.options.adapters_only:
            return {"file": None, "layers": []}
        number = self.core.config.num_hidden_layers
        for layer in self.options.taps:
            if not 0 <= layer <= number:
                raise ValueError(f"tap {layer} is none of the encoder's hidden states, 0 to {number}")
        tapped = {layer for name in self.core.adapters.featured for layer in self.core.adapters[name].tapped_layers}
        layers = sorted(tapped | set(self.options.taps))
        return {**self.graph("encoder.onnx", plans.encoder(self.core, layers)), "layers": layers}

    def adapter(self, name: str, file: str | None) -> dict[str, Any]:
        """Write an adapter, unless it is part of a single graph."""
        own = self.core.adapters[name]
        entry = {
            "kind": own.config.kind,
            "layers": list(own.tapped_layers),
            "features": plans.features_of(self.core, name),
        }
        graph = {"file": None} if file is None else self.graph(file, plans.adapter(self.core, name))
        return {**graph, **entry}

    def head(self, file: str | None) -> dict[str, Any]:
        """Write fusion and head, unless they are part of a single graph."""
        config, name = self.model.config, type(self.model).__name__
        labels = config.id2label or {}
        entry = {
            "class": name,
            "fusion": config.fusion,
            "features": self.core.fusion.reads,
            "adapters": plans.fused_adapters(self.core),
            "reads": plans.reads_of(self.model),
            "mentions": plans.MENTIONS.get(name, 0),
            "problem_type": config.problem_type,
            "markers": marker_ids(self.tokenizer, self.model.markers),
            "labels": [labels[number] for number in sorted(labels)],
        }
        graph = {"file": None} if file is None else self.graph(file, plans.fusion(self.model))
        return {**graph, **entry}


def backbone_of(core: Any) -> dict[str, Any]:
    """Return what the manifest says of the encoder; adapters fit beside one of the same fingerprint.

    It is that of the artifacts. Where a backbone exists only in memory or was trained along, and so has none, it is
    computed of the tensors that it has.
    """
    config, fingerprint = core.config, core.config.backbone_fingerprint
    if fingerprint is None or config.backbone_modified:
        tensors = sorted(core.backbone.state_dict().items())
        fingerprint = fingerprint_of((key, digest_of_tensor(key, tensor.cpu())) for key, tensor in tensors)
    return {
        "name_or_path": config.backbone_name_or_path,
        "revision": config.backbone_revision,
        "fingerprint": fingerprint,
        "model_type": core.backbone.config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": len(core.get_input_embeddings().weight),
        "type_vocab_size": getattr(core.backbone.config, "type_vocab_size", 0) or 0,
        "longest": positions_of(core.backbone).longest,
    }


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any] | None:
    """Save a tokenizer, and return what a process reads off it that has only its vocabulary; None without that."""
    tokenizer.save_pretrained(folder)
    if not (folder / VOCABULARY).is_file():
        logger.warning(
            f"the tokenizer {type(tokenizer).__name__} has no {VOCABULARY}, so the export reads no raw text"
        )
        return None
    prefix, suffix = special_tokens(tokenizer)
    longest = tokenizer.model_max_length
    return {
        "file": VOCABULARY,
        "pad_token_id": tokenizer.pad_token_id or 0,
        "unk_token_id": tokenizer.unk_token_id,
        "mask_token_id": tokenizer.mask_token_id,
        "mask_token": tokenizer.mask_token,
        "max_length": longest if longest and longest < LONGEST else None,
        "prefix": prefix,
        "suffix": suffix,
    }


def marker_ids(tokenizer: PreTrainedTokenizerBase | None, markers: Sequence[str]) -> list[list[int]]:
    """Return the token ids by which a head's mentions are marked; none without a tokenizer."""
    if tokenizer is None:
        return []
    (marked,) = marked_tokens(tokenizer, ["a a"], [[(0, 1), (2, 3)][: len(markers)]], markers)
    spans = zip(marked.openings, marked.insides, strict=True)
    return [marked.input_ids[opening:inside] for opening, (inside, _) in spans]


def stale(directory: Path, manifest: dict[str, Any]) -> Collection[str]:
    """Return the files of an older export in a directory that belong to it no longer."""
    try:
        older = read_export(directory).manifest["files"]
    except (OSError, ValueError):
        return ()
    return set(older) - set(manifest["files"])
