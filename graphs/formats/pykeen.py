"""PyKEEN's result directory: `training_triples/entity_to_id.tsv.gz`, and the entities' vectors, exported beside it.

The directory itself holds them only in `trained_model.pkl`, a pickle, which could run any code when it is read and so
never is.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from ._vectors import FIGURES, Options, Vectors, check_number, matrix, numbered_lines

LAYOUT = "training_triples/entity_to_id.tsv.gz and entity_embeddings.npy in a directory"
IDS, EXPORTS = (
    Path("training_triples", "entity_to_id.tsv.gz"),
    ("entity_embeddings.npy", "entity_embeddings.safetensors"),
)
EXPORT = 'numpy.save("entity_embeddings.npy", result.model.entity_representations[0]().detach().cpu().numpy())'


def recognises(source: Path, options: Options) -> bool:
    """Return whether a directory is PyKEEN's result."""
    return (source / IDS).is_file()


def read(source: Path, options: Options) -> Vectors:
    """Read the ids of a result directory and the vectors that were exported into it.

    Raises:
        OSError: there are no vectors, or no ids.
        ValueError: a file is malformed; the sentence names it and the line.
    """
    of_ids = options.ids or source / IDS
    if not of_ids.is_file():
        raise OSError(f"there is no file {str(of_ids)!r}; name a directory that PyKEEN saved a result to")
    of_vectors = options.vectors or next((source / name for name in EXPORTS if (source / name).is_file()), None)
    if of_vectors is None:
        raise OSError(
            f"{source} has no {EXPORTS[0]}, and trained_model.pkl is a pickle, which is not read since it could run "
            f"any code; where you trained, run {EXPORT}, and put the file there or name it by --vectors"
        )
    ids = _ids_of_rows(of_ids)
    vectors = matrix(of_vectors)
    check_number(ids, vectors, of_ids, of_vectors)
    return Vectors(ids, vectors, _origin(source))


def _ids_of_rows(path: Path) -> list[str]:
    """Return the labels, which are quoted as pandas does, in the order of the rows that the lines name."""
    lines = csv.reader((line for _, line in numbered_lines(path)), delimiter="\t", strict=True)
    labels: dict[int, str] = {}
    try:
        if (header := next(lines, [])) != ["id", "label"]:
            raise ValueError(f"the header must be id and label, and is {header}")
        for fields in lines:
            if len(fields) != 2 or not fields[0].isdecimal():
                raise ValueError(f"{fields} is not an id and a label")
            if int(fields[0]) in labels:
                raise ValueError(f"row {fields[0]} is {labels[int(fields[0])]!r}'s already")
            labels[int(fields[0])] = fields[1]
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}; let PyKEEN save it again") from error
    missing = next((row for row in range(len(labels)) if row not in labels), None)
    if missing is not None:
        raise ValueError(f"{path}: no line names row {missing} of {len(labels)}; let PyKEEN save it again")
    return [labels[row] for row in range(len(labels))]


def _origin(source: Path) -> dict[str, Any]:
    """Return the figures of a result, as far as results.json tells them."""
    try:
        results = json.loads((source / "results.json").read_text(encoding="utf-8"))
        both = results["metrics"]["both"]["realistic"]
        return {"trained by": "PyKEEN", **{name: float(both[key]) for name, key in FIGURES.items()}}
    except (OSError, ValueError, KeyError, TypeError):
        return {"trained by": "PyKEEN"}
