"""The knowledge map of a row and its table: opened once for all trials, checked, and described for reports."""

from __future__ import annotations

from typing import Any

from ...configuration_kadapter import KnowledgeAdapterConfig
from ...embeddings_kadapter import EntityEmbeddings
from ...map_kadapter import KnowledgeMapConfig, check_table
from ...processing_kadapter import KnowledgeSource
from ..common.knowledge import Knowledge
from .arguments import TaskArguments

__all__ = ["count_entities", "describe_knowledge", "maps_among", "open_knowledge", "stage"]


def maps_among(adapters: dict[str, dict[str, Any]]) -> dict[str, KnowledgeMapConfig]:
    """Return the typed configurations of the knowledge maps among the stored ones of adapters."""
    typed = {
        name: KnowledgeAdapterConfig.from_dict(values, f" of {name!r}")
        for name, values in adapters.items()
        if values.get("kind") == KnowledgeMapConfig.kind
    }
    return {name: config for name, config in typed.items() if isinstance(config, KnowledgeMapConfig)}


def open_knowledge(flags: TaskArguments, task_class: Any, adapters: dict[str, dict[str, Any]]) -> Knowledge | None:
    """Open the table of the map among a row's adapters; None where there is no map.

    `adapters` are the stored configurations of all adapters of the row.

    Raises:
        OSError: there is no such table.
        ValueError: there is a map without a table, a table without a map, several maps, a table that the map was not
            trained with, or a task without linked mentions.
    """
    maps = maps_among(adapters)
    _check_flags(flags, maps)
    if not maps:
        return None
    name, config = next(iter(maps.items()))
    if not task_class.id_columns:
        raise ValueError(
            f"the task {flags.task!r} has no linked mentions, so the knowledge map {name!r} has nothing to do; leave "
            "it out, or choose a task of marked mentions"
        )
    table = EntityEmbeddings.from_pretrained(str(flags.entity_embeddings))
    try:
        check_table(config, table)
    except ValueError as error:
        raise ValueError(f"--entity_embeddings {flags.entity_embeddings!r}, for the map {name!r}: {error}") from error
    missing = flags.missing_entity or config.missing_entity
    source = KnowledgeSource(table, config.entity_position, config.separator, missing)
    alone = flags.freeze_head and flags.freeze_backbone and flags.freeze_adapters  # trains the map, if anything
    return Knowledge(source, flags.shuffle_entities, task_class.ids_are_rows, required=alone)


def _check_flags(flags: TaskArguments, maps: dict[str, KnowledgeMapConfig]) -> None:
    """Refuse flags that do not go together with the maps of a row."""
    if len(maps) > 1:
        raise ValueError(
            f"the row has the knowledge maps {list(maps)}, and the mentions of a corpus are linked to one table; "
            "choose one of them"
        )
    for name, config in maps.items():
        if flags.entity_embeddings is None:
            source = config.knowledge_source
            raise ValueError(
                f"--entity_embeddings is missing: the knowledge map {name!r} needs the table that it was trained "
                f"with{f', {source!r}' if source else ''}"
            )
    names = ("entity_embeddings", "missing_entity", "shuffle_entities")
    flagged = {f"--{name}": getattr(flags, name) for name in names}
    flagged |= {"--freeze_map": None if flags.freeze_map else False}
    for flag, value in flagged.items():
        if value is not None and not maps:
            raise ValueError(
                f"{flag} {value} is of a knowledge map, and there is none among the adapters {_named(flags)}; name "
                "its artifact in --adapters, or leave the flag out"
            )


def _named(flags: TaskArguments) -> str:
    return " ".join(flags.adapters) or "none"


def count_entities(task: Any, splits: dict[str, Any], where: str, verbose: bool) -> None:
    """Print of each split how many mentions are linked, and how many of their entities the table lacks.

    Raises:
        ValueError: no mention of any split is linked, or the table knows none of the ids.
    """
    if task.knowledge is None:
        return
    ids = {split: [name for column in task.id_columns for name in rows[column]] for split, rows in splits.items()}
    try:
        task.knowledge.check(name for own in ids.values() for name in own)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for split, own in ids.items() if verbose else ():
        print(f"{split}: {task.knowledge.count(own)}")


def stage(flags: TaskArguments, trains: bool) -> str:
    """Return in words how the map of a row and its head came together, for the name of the row."""
    if not trains:
        return "plugged in"
    if not flags.freeze_map:
        return "task-specific" if flags.freeze_head else "trained along"
    return "head trained with it" if flags.freeze_backbone else "fine-tuned with it"


def describe_knowledge(knowledge: Knowledge) -> dict[str, Any]:
    """Describe a table and whose vectors its entities have, in plain values."""
    table = knowledge.table
    return {
        "table": table.name_or_path,
        "revision": table.revision,
        "sha256": table.sha256,
        "shuffled": knowledge.shuffle,
        "missing_entity": knowledge.source.missing_entity,
        "entity_position": knowledge.source.entity_position,
    }
