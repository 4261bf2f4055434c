"""The exported model: one encoder, any adapters and heads, each a graph of its own.

Dimensions: B batch, S sequence, n positions that a head reads, H encoder width, K adapters.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from .answers import Answers, Question
from .engines import Graph, open_graph
from .inputs import answered, as_rows, check_dimensions, check_names, checked, positions_read, taken_by
from .manifest import Export, read_export
from .parts import Adapter, Head, adapters_at, check_fused
from .passes import STATE, ExportedOutput, fused, run_encoder
from .rows import BASE, check_positions, names_of_rows
from .texts import Texts

__all__ = ["ExportedModel", "ExportedOutput"]

OWN_HEAD = "own"  # the head, or the fusion without any, of the directory that the model was read from
NO_CHOICE = "adapter_names and head choose among graphs, and this is a single one; export it without --single"


class ExportedModel(Answers):
    """An encoder, adapters and heads that were exported, run by ONNX Runtime or OpenVINO.

    Any number of threads may call it; adapters and heads come and go meanwhile, and a call that has begun keeps those
    that there were.
    """

    def __init__(self, export: Export, runtime: str, threads: int | None, verify: bool) -> None:
        self.export, self._runtime, self._threads = export, runtime, threads
        self.manifest = export.manifest
        self.single = self.manifest["single"]
        states = ["last_hidden_state", *(STATE.format(layer) for layer in self.manifest["encoder"]["layers"])]
        needed, offered = ((), taken_by(self.manifest["head"])) if self.single else (states, None)
        self._encoder = self._open(export, self.manifest["encoder"]["file"], verify, needed, offered)
        # Changes take turns and put a new dict in the place of the old one, which other threads go on reading.
        self._changing = threading.RLock()
        self._adapters: dict[str, Adapter] = {}
        self._heads: dict[str, Head] = {}
        self._active: list[str] | None = self.manifest["active_adapters"]
        self.texts: Texts | None = None
        settings = self.manifest.get("tokenizer")
        if settings is not None:
            self.texts = Texts(export.graph(settings["file"], verify), settings)
        if not self.single:
            self._adapters = {name: self._adapter(export, name, verify) for name in self.manifest["adapters"]}
            self._heads = {OWN_HEAD: self._head(export, OWN_HEAD, verify)}

    @classmethod
    def from_directory(
        cls,
        directory: str | os.PathLike,
        runtime: str | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> ExportedModel:
        """Return the model that `kadapter export` wrote to a directory.

        Args:
            directory: where it is.
            runtime: "onnx" or "openvino"; by default the runtime that it was exported for.
            threads: threads of a run; None for as many as there are cores.
            verify: whether files are compared with the hashes in the manifest.

        Raises:
            ImportError: the runtime is not installed.
            OSError: there is no such directory, or a file is missing.
            ValueError: a file is damaged or cut, or the manifest is of a newer format.
        """
        export = read_export(directory)
        return cls(export, runtime or export.manifest["runtime"], threads, verify)

    # ---- adapters and heads -----------------------------------------------------------------------------------------

    @property
    def adapters(self) -> list[str]:
        """The names of all adapters."""
        return list(self.manifest["adapters"] if self.single else self._adapters)

    @property
    def heads(self) -> list[str]:
        """The names of all heads; "own" is that of the directory that the model was read from."""
        return list(self._heads)

    def active_adapters(self) -> list[str]:
        """Return the names of the adapters that rows go through where none are named; added heads have their own."""
        return [name for name in self.adapters if self._active is None or name in self._active]

    def set_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Make exactly these adapters active.

        Raises:
            TypeError: they are no names.
            ValueError: there is no adapter of a name, or the graph is a single one.
        """
        with self._changing:
            self._active = self._known(adapter_names)

    def add_adapter(
        self, source: str | os.PathLike, adapter_name: str | None = None, verify: bool = True
    ) -> list[str]:
        """Add the adapters of an exported directory, or of one graph in it, active beside the others; their names.

        `adapter_name` renames a single one.

        Raises:
            OSError: there is no such directory or graph.
            TypeError: `adapter_name` is no name.
            ValueError: it is of another encoder, reads hidden states that the encoder does not return, is damaged, or
                a name is taken.
        """
        if adapter_name is not None:
            check_name("adapter_name", adapter_name)
        export, names = adapters_at(source)
        self._check_addition(export, f"the adapter of {str(source)!r}")
        if adapter_name is not None and len(names) != 1:
            raise ValueError(
                f"{str(source)!r} holds {names}, which adapter_name={adapter_name!r} can't rename; drop it"
            )
        renamed = {name: adapter_name or name for name in names}
        with self._changing:
            for new in renamed.values():
                if new in self._adapters:
                    raise ValueError(
                        f"there is an adapter {new!r} already; choose another adapter_name, delete_adapter it, or use "
                        "it by set_adapter"
                    )
            added = {new: self._adapter(export, old, verify) for old, new in renamed.items()}
            self._adapters = {**self._adapters, **added}
            if self._active is not None:
                self._active = [*self._active, *added]
        return list(added)

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Remove adapters.

        Raises:
            TypeError: they are no names.
            ValueError: there is no adapter of a name, or the graph is a single one.
        """
        with self._changing:
            names = self._known(adapter_names)
            self._adapters = {name: adapter for name, adapter in self._adapters.items() if name not in names}
            if self._active is not None:
                self._active = [name for name in self._active if name not in names]

    def add_head(self, directory: str | os.PathLike, head_name: str, verify: bool = True) -> None:
        """Add the fusion and head of another exported directory, by which `head=head_name` then answers.

        Where no adapters are named it goes through those that it was exported with, whichever are active. Those that
        the model lacks come along, by their own names or, where another adapter has that, by "HEAD_NAME-NAME".

        Raises:
            OSError: there is no such directory.
            TypeError: `head_name` is no name.
            ValueError: it is of another encoder, is damaged, a name is taken, or one of its adapters reads hidden
                states that the encoder does not return.
        """
        check_name("head_name", head_name)
        export = read_export(directory)
        self._check_addition(export, f"the head of {str(directory)!r}")
        with self._changing:
            if head_name in self._heads:
                raise ValueError(f"there is a head {head_name!r} already; choose another head_name or delete_head it")
            head = self._head(export, head_name, verify)
            adapters, names = self._with_adapters_of(export, head_name, verify)
            self._active = self.active_adapters()  # what comes along changes no other head
            self._adapters = adapters
            self._heads = {**self._heads, head_name: head.among(names, adapters)}

    def delete_head(self, head_name: str) -> None:
        """Remove a head; adapters that came with it stay.

        Raises:
            ValueError: there is none of that name.
        """
        with self._changing:
            self._head_named(head_name)
            self._heads = {name: head for name, head in self._heads.items() if name != head_name}

    # ---- running ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        adapter_names: Any = None,
        head: str | None = None,
        **inputs: Any,
    ) -> ExportedOutput:
        """Run encoder, adapters, fusion and head on a batch.

        Shapes: `input_ids`, `attention_mask` and `token_type_ids` (batch, sequence), of choices and passages (batch,
        number, sequence); `entity_positions`, `word_positions` or `positions` (batch, n), as the head reads them;
        `answer_mask` as `input_ids`. `adapter_names` names for each row the adapter that it goes through, "__base__"
        for none, or a list of adapters, whichever are active; `head` one of several heads. Without `adapter_names` all
        rows go through the active adapters, those of a head that was added through the adapters it was exported with.

        Raises:
            TypeError: a keyword is unknown or none of the head's, or token ids are no whole numbers.
            ValueError: an input has another shape, there are more tokens than the encoder takes, or `adapter_names`
                don't go with the batch or the adapters.
        """
        check_names(inputs, self._entry(head), self._encoder.inputs if self.single else None)
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        arrays = checked(inputs, self.manifest["backbone"])
        if self.single:
            return self._run_single(arrays, adapter_names, head)
        chosen, adapters = self._head_named(head), self._adapters
        shape, rows_of = as_rows(arrays)
        check_dimensions(chosen.entry["class"], shape)
        mask = rows_of["attention_mask"]
        rows = self._rows(adapter_names, shape[0], adapters, chosen)
        rows = [names for names in rows for _ in range(math.prod(shape[1:-1]))]  # of each choice or passage
        check_fused(chosen, adapters, rows)
        positions = positions_read(chosen.entry["reads"], chosen.entry["mentions"], mask, rows_of)
        output = fused(chosen, run_encoder(self._encoder, adapters, rows, rows_of), positions)
        if (logits := output.logits) is not None:
            answers = answered(chosen.entry["class"], logits, shape, mask, rows_of.get("answer_mask"))
            output.logits = None
            for name, values in answers.items():
                setattr(output, name, values)
        return output

    def logits_of(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Return the logits of each question, by one pass of the encoder whichever adapters and heads they ask.

        Raises:
            ValueError: an adapter or a head was removed since a question was read.
        """
        reader, encoded = self.reader(), [question.encoded for question in questions]
        if self.single:
            return list(np.asarray(self(**reader.batch(encoded, questions[0].positions)).logits))
        adapters, rows = self._adapters, [question.adapters for question in questions]
        heads = {name: self._head_named(name) for name in dict.fromkeys(question.head for question in questions)}
        names_of_rows(rows, len(rows), list(adapters))
        inputs = checked(reader.batch(encoded), self.manifest["backbone"])
        states = run_encoder(self._encoder, adapters, rows, inputs)
        logits: list[Any] = [None] * len(questions)
        for name, head in heads.items():
            own = np.array([row for row, question in enumerate(questions) if question.head == name])
            chosen, entry = states.of(own), head.entry
            if (key := questions[own[0]].positions) is not None:
                chosen.inputs[key] = reader.positions([encoded[row] for row in own])
            positions = positions_read(
                entry["reads"], entry["mentions"], chosen.inputs["attention_mask"], chosen.inputs
            )
            for row, values in zip(own, np.asarray(fused(head, chosen, positions).logits), strict=True):
                logits[row] = values
        return logits

    def _run_single(self, arrays: dict[str, np.ndarray], adapter_names: Any, head: str | None) -> ExportedOutput:
        if adapter_names is not None or head is not None:
            raise ValueError(NO_CHOICE)
        shape, entry = arrays["input_ids"].shape, self.manifest["head"]
        if (dims := self.manifest["encoder"]["inputs"]["input_ids"]) and len(shape) != len(dims):
            raise ValueError(f"input_ids has shape {shape} and the single graph reads ({', '.join(map(str, dims))})")
        if entry["reads"] in self._encoder.inputs:
            positions_read(entry["reads"], entry["mentions"], arrays["attention_mask"], arrays)  # which refuses shapes
            check_positions(arrays[entry["reads"]], shape[-1])
        outputs: dict[str, Any] = self._encoder.run(arrays)
        return ExportedOutput(**outputs)

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _rows(self, adapter_names: Any, batch: int, adapters: dict[str, Adapter], head: Head) -> list[tuple[str, ...]]:
        """Return the adapters of each text of a batch."""
        if adapter_names is None:
            return [head.usual(adapters, self._active)] * batch
        return names_of_rows(adapter_names, batch, list(adapters))

    def _known(self, adapter_names: str | Sequence[str]) -> list[str]:
        if self.single:
            raise ValueError("adapters of a single graph are part of it; export the artifact without --single")
        if not isinstance(adapter_names, str | Sequence):
            raise TypeError(f"adapter_names is {adapter_names!r}; give a name or a list of names of {self.adapters}")
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for name in names:
            if name not in self.adapters:
                raise ValueError(f"no adapter {name!r}; there are {self.adapters}")
        return names

    def _entry(self, head: str | None) -> dict[str, Any]:
        return self.manifest["head"] if self.single else self._head_named(head).entry

    def _asked(self, adapter_names: Any, head: str | None, texts: int) -> list[tuple[str, ...]]:
        if self.single:
            if adapter_names is not None or head is not None:
                raise ValueError(NO_CHOICE)
            return [()] * texts
        chosen, adapters = self._head_named(head), self._adapters
        rows = self._rows(adapter_names, texts, adapters, chosen)
        check_fused(chosen, adapters, rows)
        return rows

    def _head_named(self, head: str | None) -> Head:
        name, heads = OWN_HEAD if head is None else head, self._heads
        if name not in list(heads):
            raise ValueError(f"no head {name!r}; there are {list(heads)}")
        return heads[name]

    def _check_addition(self, export: Export, what: str) -> None:
        if self.single:
            raise ValueError(f"{what} can't be added to a single graph; export the model without --single")
        if export.manifest["single"]:
            raise ValueError(f"{what} is part of a single graph; export it without --single")
        ours, theirs = (each.manifest["backbone"]["fingerprint"] for each in (self.export, export))
        if ours != theirs:
            names = [each.manifest["backbone"]["name_or_path"] for each in (self.export, export)]
            raise ValueError(
                f"{what} belongs to another encoder: {names[1]} with fingerprint {theirs[:12]}, and this model has "
                f"{names[0]} with {ours[:12]}; add it to a model that was exported with its own encoder"
            )

    # ---- files ------------------------------------------------------------------------------------------------------

    def _open(
        self,
        export: Export,
        file: str | None,
        verify: bool,
        needed: Sequence[str] = (),
        offered: Sequence[str] | None = None,
    ) -> Graph:
        if file is None:
            raise ValueError(
                f"{export.directory} holds adapters alone, without an encoder and a head; export it without "
                "--adapters-only, or add it to a model by add_adapter"
            )
        return open_graph(export.graph(file, verify), self._runtime, self._threads, needed, offered)

    def _adapter(self, export: Export, name: str, verify: bool) -> Adapter:
        entry, there = export.manifest["adapters"][name], self.manifest["encoder"]["layers"]
        lacking = [layer for layer in entry["layers"] if layer not in there]
        if lacking:
            raise ValueError(
                f"adapter {name!r} of {export.directory} reads the hidden states {entry['layers']}, and the encoder "
                f"returns {there}; export the encoder with {' '.join(f'--tap {layer}' for layer in lacking)}"
            )
        offered = [*(STATE.format(layer) for layer in entry["layers"]), "attention_mask"]
        graph = self._open(export, entry["file"], verify, ["adapter_hidden_state"], offered)
        return Adapter(graph, entry["layers"], entry["features"], export.digest(entry["file"]))

    def _with_adapters_of(
        self, export: Export, head_name: str, verify: bool
    ) -> tuple[dict[str, Adapter], dict[str, str]]:
        """Return all adapters with those of a head, and by their own names the names that these have among them."""
        adapters, names = dict(self._adapters), dict[str, str]()
        for own in export.active_adapters:
            digest = export.digest(export.manifest["adapters"][own]["file"])
            free = [name for name in (own, f"{head_name}-{own}") if name not in adapters]
            alike = [name for name in (own, *adapters) if name in adapters and adapters[name].digest == digest]
            alike = [name for name in alike if name not in names.values()]
            if not alike and not free:
                raise ValueError(
                    f"head {head_name!r} was exported with an adapter {own!r} (SHA-256 {digest[:12]}...), and this "
                    f"model has others by the names {own!r} and '{head_name}-{own}'; choose another head_name, or "
                    "delete_adapter one of them"
                )
            names[own] = (alike or free)[0]
            if not alike:
                adapters[names[own]] = self._adapter(export, own, verify)
        return adapters, names

    def _head(self, export: Export, name: str, verify: bool) -> Head:
        entry = export.manifest["head"]
        return Head(name, self._open(export, (entry or {}).get("file"), verify, ["last_hidden_state"]), entry)


def check_name(argument: str, name: Any) -> None:
    """Raise TypeError or ValueError for what names no adapter or head."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} is {name!r}; give a string")
    if not name or name == BASE:
        raise ValueError(f"{argument}={name!r} names nothing, or in adapter_names no adapter; choose another")
