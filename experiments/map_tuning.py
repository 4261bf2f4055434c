r"""Run the rows by which a knowledge map is judged: none, plugged in, tuned, trained with, and all controls.

    python experiments/map_tuning.py --recipe recipes/study_map_wiki80.yaml --data-dir DIR --backbone DIR --map MAP \
        --table TABLE --fac OUT_FAC --lin OUT_LIN -o OUT
    kadapter report OUT/rows --reference backbone
    kadapter report OUT/rows --reference backbone --only OUT/linked.txt

MAP is a general map (trainers/run_adapter.py, objective mention_masked_lm), TABLE its entity embeddings;
experiments/map_graphs.py makes graph and text for both. `random` maps have the shape of MAP, in a `shuffled` table
entities have each other's vectors. `plugged` rows train nothing, `tuned` rows the map alone, `trained` rows all but
the map. OUT/linked.txt has the ids of the measured examples with an entity that the table knows. An interrupted study
resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kadapter.trainers import run_task
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.downstream.arguments import parse_task_arguments
from kadapter.trainers.downstream.context import TaskContext, open_task, prepare_splits
from kadapter.trainers.downstream.run_record import trained_folder

SHUFFLED = ["--shuffle_entities", 0]
DROPPED = ["--save_artifact", False]
MEASURED = ["--do_train", False, *DROPPED]
TUNED = ["--do_train", True, "--freeze_head", True, "--freeze_map", False, *DROPPED]
TRAINED = ["--do_train", True, "--freeze_backbone", False, "--fusion", "add"]


def main(
    recipe: Annotated[Path, typer.Option(help="Flags of run_task.py that all rows share.")],
    data_dir: Annotated[Path, typer.Option(help="Directory of the task's corpus.")],
    backbone: Annotated[str, typer.Option(help="The encoder: Hub id or directory.")],
    general_map: Annotated[Path, typer.Option("--map", help="Artifact of a general map.")],
    table: Annotated[Path, typer.Option(help="Its entity embeddings.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory for all runs.")],
    fac: Annotated[Path | None, typer.Option(help="Artifact of a factual adapter, composed with the map.")] = None,
    lin: Annotated[Path | None, typer.Option(help="Artifact of a linguistic adapter, too.")] = None,
    rate: Annotated[str, typer.Option(help="Learning rate of models.")] = "1e-4",
    map_rate: Annotated[str, typer.Option(help="Learning rate of maps.")] = "1e-3",
    only: Annotated[list[str] | None, typer.Option(help="Rows to run; all by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.", min=1)] = 3,
    more: Annotated[list[str] | None, typer.Argument(help="After --: flags of run_task.py for all rows.")] = None,
) -> None:
    """Run every row, and write which examples have an entity."""
    shared = ["--recipe", recipe, "--data_dir", data_dir, "--backbone", backbone, *(more or [])]
    mapped = ["--adapters", general_map, "--entity_embeddings", table]
    adapters = [path for path in (fac, lin) if path is not None]
    for name, before, flags in rows(mapped, adapters):
        if only and name not in only:
            continue
        began = [] if before is None else ["--trained_model", output_dir / "rows" / before]
        trained = ["--learning_rate", map_rate if flags[: len(TUNED)] == TUNED else rate]
        seeded = ["--seeds", *range(seeds), "--row", name, "--resume_from_checkpoint", "last"]
        argv = [*shared, *flags, *began, *trained, *seeded, "--output_dir", output_dir / "rows" / name]
        run_task.main([str(flag) for flag in argv])
    write_linked([*shared, *mapped, *MEASURED], output_dir)


def rows(mapped: list, adapters: list[Path]) -> Iterator[tuple[str, str | None, list]]:
    """Yield every row: its name, the row whose model it begins with, and its own flags."""
    at_random = ["--adapters", "random", *mapped[1:]]
    yield "backbone", None, [*TRAINED, "--adapters", "none"]
    yield "plugged", "backbone", [*MEASURED, *mapped]
    yield "plugged random map", "backbone", [*MEASURED, *at_random]
    yield "plugged shuffled table", "backbone", [*MEASURED, *mapped, *SHUFFLED]
    yield "tuned", "backbone", [*TUNED, *mapped]
    yield "tuned random map", "backbone", [*TUNED, *at_random]
    yield "tuned shuffled table", "backbone", [*TUNED, *mapped, *SHUFFLED]
    yield "trained", None, [*TRAINED, *DROPPED, *mapped]
    yield "trained shuffled table", None, [*TRAINED, *DROPPED, *mapped, *SHUFFLED]
    if adapters:
        composed = ["--do_train", True, "--fusion", "gated"]
        yield "adapters", None, [*composed, "--adapters", *adapters]
        yield "adapters plugged", "adapters", [*MEASURED, *mapped]
        yield "adapters tuned", "adapters", [*TUNED, *mapped]
        yield "adapters tuned shuffled table", "adapters", [*TUNED, *mapped, *SHUFFLED]


def write_linked(argv: list, output_dir: Path) -> None:
    """Write the ids of the measured examples that have a slot for an entity."""
    flags = ["--trained_model", output_dir / "rows" / "backbone", "--seed", 0, "--output_dir", output_dir / "linked"]
    corpus, task_flags, run = parse_task_arguments([str(flag) for flag in [*argv, *flags]])
    folder = trained_folder(task_flags, run)
    context = TaskContext(corpus, task_flags, open_task(corpus, task_flags, folder), main=False)
    prepare_splits(context, run, folder)
    split = context.splits[corpus.eval_split]
    ids = split.rows["id"]
    pairs = zip(split.column("record"), split.examples["knowledge_slots"], strict=True)
    linked = sorted({ids[record] for record, slots in pairs if slots})
    replace_file(output_dir / "linked.txt", "\n".join(linked))
    print(f"{len(linked)} of {len(split.rows)} examples have an entity of the table: {output_dir / 'linked.txt'}")


if __name__ == "__main__":
    run_program(partial(typer.run, main))
