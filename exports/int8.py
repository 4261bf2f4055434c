"""8-bit graphs: weights per channel, activations by ranges that sentences of the user show, and what it costs.

Outliers are shared between activations and weights first. Every fifth sentence is kept out of the ranges and says how
far the features move, or the logits where a graph returns these alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import ExportedModel
from ..runtime.engines import library_of, open_graph
from ..runtime.manifest import write_manifest
from ..runtime.texts import Encoded
from .plans import MENTIONS
from .smoothing import PRODUCTS, products, smooth
from .tracing import quietly

__all__ = ["Calibration", "Labelled", "quantize"]

FEWEST = 10  # sentences from which ranges can be learned
BATCH = 8  # sentences of a batch
HELD_OUT = 5  # of so many sentences one measures
NARROWING = 2  # what has more than so many times as many inputs as outputs ends a feed-forward network
NO_HEAD = "KAdapterModel"
BLOCK = 32  # channels with a range of their own, in each token, where one for the whole tensor would not do
METRIC = ("KAdapterForSequenceClassification", "KAdapterForEntityPairClassification")  # whose answers are one label
Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Labelled:
    """Texts with labels, by which the effect of int8 on the head's task is measured.

    Args:
        texts: the texts.
        labels: the right label of each.
        entity_spans: the mentions of each, where the head reads mentions.
        where: where each comes from, for sentences about it; by default its number.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    entity_spans: Sequence[Any] | None = None
    where: Sequence[str] | None = None

    @property
    def places(self) -> Sequence[str]:
        """Where each comes from."""
        return self.where or [f"labelled text {number}" for number in range(1, len(self.texts) + 1)]


@dataclass(frozen=True)
class Calibration:
    """The sentences that int8 learns the ranges of values from.

    Args:
        sentences: the user's own, one text each.
        where: where they come from, for sentences about them.
        labelled: labelled texts of the head's task, if there are any.
    """

    sentences: Sequence[str]
    where: str = "the calibration"
    labelled: Labelled | None = None

    def check(self) -> None:
        """Raise ValueError for too few sentences or no labelled texts, ImportError where their library is missing."""
        if len(self.sentences) < FEWEST:
            raise ValueError(
                f"{self.where} has {len(self.sentences)} sentences, too few to learn ranges from; give {FEWEST} at "
                "least, better a hundred"
            )
        if self.labelled is not None and not len(self.labelled.texts):
            raise ValueError("there are no labelled texts to measure int8 by; give some, or leave them out")
        library_of("onnx")

    @property
    def parts(self) -> tuple[list[str], list[str]]:
        """The sentences that ranges are learned from, and those that measure."""
        learned = [sentence for number, sentence in enumerate(self.sentences) if number % HELD_OUT]
        return learned, list(self.sentences[::HELD_OUT])


def quantize(folder: Path, manifest: dict[str, Any], calibration: Calibration, log: Callable[[str], None]) -> None:
    """Replace the graphs of encoder and adapters in a folder by 8-bit ones, and note the effect in the manifest.

    Fusion and head, which are small, stay in float32.

    Raises:
        ValueError: a sentence is longer than the encoder allows, or labels are none of the head's.
    """
    learned, held_out = calibration.parts
    model = ExportedModel.from_directory(folder, verify=False)
    check_labelled(manifest["head"]["class"], manifest["head"]["labels"], calibration.labelled)
    measuring = batches_of(model, held_out)
    before, score = outputs_of(model, measuring), accuracy(model, calibration.labelled)
    for file, inputs in list(calibrating(model, batches_of(model, learned))):
        to_eight_bits(folder / file, inputs)
        log(f"{file}: int8, {(folder / file).stat().st_size / 1e6:.1f} MB")
    write_manifest(folder, manifest)
    model = ExportedModel.from_directory(folder, verify=False)
    change = logits_moved if model.single and manifest["head"]["class"] != NO_HEAD else features_moved
    moved = change(before, outputs_of(model, measuring), measuring)
    manifest["precision"] = "int8"
    manifest["int8"] = {"learned_from": len(learned), "measured_on": len(held_out), **moved}
    if score is not None:
        manifest["int8"]["accuracy"] = {"fp32": score, "int8": accuracy(model, calibration.labelled)}
    write_manifest(folder, manifest)
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in moved.items())
    log(f"int8 beside fp32 on {len(held_out)} sentences: {figures}")
    if score is not None:
        shares = manifest["int8"]["accuracy"]
        log(f"accuracy on labelled texts: fp32 {shares['fp32']:.4f}, int8 {shares['int8']:.4f}")


def batches_of(model: ExportedModel, sentences: Sequence[str]) -> list[Inputs]:
    """Return sentences as inputs of the encoder, in batches.

    A head's positions are those of the first tokens: they choose, and change no range.

    Raises:
        ValueError: a sentence is too long.
    """
    reader, head = model.reader(), model.manifest["head"]
    encoded = model.fitting(reader.plain(sentences))
    number = head["mentions"] or 2
    batches = []
    for first in range(0, len(encoded), BATCH):
        batch: list[Encoded] = encoded[first : first + BATCH]
        inputs = reader.batch(batch)
        if head["reads"] in ("entity_positions", "word_positions"):
            inputs[head["reads"]] = np.tile(np.arange(number), (len(batch), 1))
        if head["class"] == "KAdapterForMultipleChoice":
            inputs = {name: value[:, None] for name, value in inputs.items()}  # one choice each
        batches.append(inputs)
    return batches


def outputs_of(model: ExportedModel, batches: Sequence[Inputs]) -> list[np.ndarray]:
    """Return for each batch the fused features, or of a single graph with a head its logits."""
    outputs: list[Any] = [model(**dict[str, Any](batch)) for batch in batches]
    return [output.logits if output.last_hidden_state is None else output.last_hidden_state for output in outputs]


def features_moved(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], batches: Sequence[Inputs]
) -> dict[str, float]:
    """Return the mean and the lowest cosine of a feature vector with what it was."""
    pairs = [(real(one, batch), real(other, batch)) for one, other, batch in zip(before, after, batches, strict=True)]
    lengths = [np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1) for one, other in pairs]
    products = [(one * other).sum(axis=-1) for one, other in pairs]
    cosines = np.concatenate([*map(np.ravel, products)]) / np.maximum(np.concatenate([*map(np.ravel, lengths)]), 1e-12)
    return {"cosine_mean": float(cosines.mean()), "cosine_lowest": float(cosines.min())}


def logits_moved(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], batches: Sequence[Inputs]
) -> dict[str, float]:
    """Return the largest change of a logit as a share of the largest logit; one choice's cosine would be 1 always."""
    pairs = [(real(one, batch), real(other, batch)) for one, other, batch in zip(before, after, batches, strict=True)]
    there = [one > np.finfo(np.float32).min for one, _ in pairs]  # a parser rules words out by the smallest number
    largest = max(np.abs(one[kept]).max() for (one, _), kept in zip(pairs, there, strict=True))
    change = max(np.abs(one - other)[kept].max() for (one, other), kept in zip(pairs, there, strict=True))
    return {"logits_largest_change": float(change / max(largest, 1e-12))}


def real(values: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Return values of real tokens alone, where there is one for each token."""
    mask = inputs["attention_mask"]
    return values[mask == 1] if values.shape[: mask.ndim] == mask.shape else values


def calibrating(model: ExportedModel, batches: Sequence[Inputs]) -> Iterator[tuple[str, list[Inputs]]]:
    """Yield the file of each graph that becomes int8, and what sentences give it to read."""
    folder, manifest = model.export.directory, model.manifest
    encoder = open_graph(folder / manifest["encoder"]["file"], "onnx")
    filled = [{**batch, "token_type_ids": np.zeros_like(batch["input_ids"])} for batch in batches]
    if not model.single:  # whose encoder reads rows, of choices too
        filled = [{name: value.reshape(-1, value.shape[-1]) for name, value in batch.items()} for batch in filled]
    yield manifest["encoder"]["file"], [{name: batch[name] for name in encoder.inputs} for batch in filled]
    if model.single:
        return
    read = [{**encoder.run(batch), "attention_mask": batch["attention_mask"]} for batch in filled]
    for entry in manifest["adapters"].values():
        names = open_graph(folder / entry["file"], "onnx").inputs
        yield entry["file"], [{name: states[name] for name in names} for states in read]


def to_eight_bits(path: Path, inputs: Sequence[Inputs]) -> None:
    """Replace a graph by one whose products with weights are of 8 bits, by the ranges that these inputs show."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        batches = iter(inputs)

        def get_next(self) -> Inputs | None:
            return next(self.batches, None)

    prepared, written = (path.with_name(f"{path.name}.{step}") for step in ("prepared", "written"))
    with quietly():
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        smooth(prepared, inputs)
        quantization.quantize_static(
            str(prepared),
            str(written),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(PRODUCTS),  # norms and attention scores stay in float32
            nodes_to_exclude=narrowing(prepared),
            reduce_range=True,  # without VNNI sums of two products of 8 bits each would not fit into 16
            extra_options={"MatMulConstBOnly": True},
        )
        _by_block(written)
    prepared.unlink()
    os.replace(written, path)


def _by_block(path: Path) -> None:
    """Turn products whose weights are still of float32 into 8 bits, with ranges for blocks of a token's channels."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    eight_bits = {"bits": 8, "accuracy_level": 4}  # of weights, and, by this level, of activations
    blocks = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, **eight_bits)
    quantizer = MatMulNBitsQuantizer(onnx.load(str(path)), algo_config=blocks)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def narrowing(path: Path) -> list[str]:
    """Return the names of the products that end a feed-forward network.

    What they read has passed an activation and has outliers in single tokens, on which one range for a whole tensor is
    spent; so their ranges are of blocks of channels in each token.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    found = [(node.name, shapes[node.input[1]], axis) for node, axis in products(graph)]
    return [name for name, shape, axis in found if shape[axis] > NARROWING * shape[1 - axis]]


def check_labelled(head_class: str, labels: Sequence[str], labelled: Labelled | None) -> None:
    """Raise ValueError for labelled texts that say nothing about a head."""
    if labelled is None:
        return
    if head_class not in METRIC:
        raise ValueError(
            f"labelled texts measure a head that answers with one label, {' or '.join(METRIC)}, and this is a "
            f"{head_class}; leave them out"
        )
    mentions = MENTIONS.get(head_class, 0)
    spans = labelled.entity_spans or [()] * len(labelled.texts)
    for where, text, label, own in zip(labelled.places, labelled.texts, labelled.labels, spans, strict=True):
        if label not in labels:
            raise ValueError(f"{where} has the label {label!r}, and the head knows {list(labels)}")
        if len(own) != mentions:
            remedy = f"mark {mentions} mentions in [[...]]" if mentions else "leave out the brackets"
            raise ValueError(
                f"{where}: {text[:80]!r} marks {len(own)} mentions, and a {head_class} reads {mentions}; {remedy}"
            )


def accuracy(model: ExportedModel, labelled: Labelled | None) -> float | None:
    """Return the share of labelled texts that a model labels rightly; None where there are none."""
    if labelled is None:
        return None
    answers = model.predict(labelled.texts, labelled.entity_spans)
    right = [answer[0]["label"] == label for answer, label in zip(answers, labelled.labels, strict=True)]
    return sum(right) / len(right)
